from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.local.client import ApiError, Obj
from labkit.local.fabric import Fabric, netns
from labkit.local.kubeapi import Api
from labkit.local.launcher.kernel import remove_cgroup
from labkit.local.node import Kubelet, Nodes, NodeSettings
from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle


class Lab:
    """One cluster with one node, without controllers: pods are bound by the tests."""

    def __init__(self, home: Path) -> None:
        self.home, self.paths = home, LabPaths(home)
        self.fabric = Fabric(self.paths)
        self.fabric.ensure_internet()
        self.vnet = self.fabric.ensure_vnet("c1", "192.0.2.10")
        self.net = self.vnet.add_node("aks-nodepool1-12345678-vmss000000", 0)
        self.api = Api(home / "lab.db", "c1")
        for name in ("default", "kube-node-lease"):
            self.api.create("namespaces", {"metadata": {"name": name}})
        self.api.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        self.nodes = Nodes(self.api)
        self.api.node_backend = self.nodes
        self.kubelet = self.make_kubelet()

    def make_kubelet(self) -> Kubelet:
        kubelet = Kubelet(self.api, self.net, self.vnet, self.paths, "c1", NodeSettings(ca_pem="lab ca"))
        self.nodes.add(kubelet)
        return kubelet

    def pod(self, name: str, script: str = "sleep 1000", *, image: str = "busybox:1.36", spec: Obj | None = None,
            **container: Any) -> Obj:
        container = {"name": "main", "image": image, "command": ["sh", "-c", script], **container}
        return self.api.create("pods", {
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": self.net.name, "containers": [container], "terminationGracePeriodSeconds": 1,
                     **(spec or {})}})

    def status(self, name: str) -> Obj:
        return self.api.get("pods", name, "default").get("status", {})

    def state(self, name: str) -> Obj:
        return (self.status(name).get("containerStatuses") or [{"state": {}}])[0]

    def ready(self, name: str) -> bool:
        conditions = {c["type"]: c["status"] for c in self.status(name).get("conditions", [])}
        return conditions.get("Ready") == "True"

    def gone(self, name: str) -> bool:
        try:
            self.api.get("pods", name, "default")
        except ApiError:
            return True
        return False

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> float:
        started = time.perf_counter()
        while not condition():
            assert time.perf_counter() - started < seconds, [p["status"] for p in self.api.list("pods")]
            await asyncio.sleep(0.005)
        return time.perf_counter() - started

    async def log(self, name: str, container: str = "main", **options: Any) -> str:
        asked = {"follow": False, "previous": False, "tail": None, "since_seconds": None, "timestamps": False,
                 "limit_bytes": None, **options}
        lines = await self.nodes.logs("default", name, container, **asked)
        return b"".join([data async for data in lines]).decode()

    async def says(self, name: str, text: str, seconds: float = 60.0) -> str:
        """A pod's log, once it has the text."""
        started = time.perf_counter()
        while text not in (printed := await self.log(name)):
            assert time.perf_counter() - started < seconds, printed
            await asyncio.sleep(0.01)
        return printed

    async def run(self, name: str, argv: list[str], stdin: bytes | None = None, *,
                  container: str = "main", tty: bool = False) -> tuple[int, str]:
        process = await self.nodes.exec("default", name, container, argv, stdin=stdin is not None, tty=tty)
        if stdin is not None:
            await process.write(stdin)
            await process.write(b"")
        printed = b"".join([data async for _, data in process.output()])
        return await process.wait(), printed.decode()

    def close(self) -> None:
        async def stop() -> None:
            await self.kubelet.stop(kill_pods=True)

        asyncio.run(stop())
        self.api.close()
        assert remove_cgroup(self.paths.cgroup), "no process is left"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    home = tmp_path / "lab"
    home.mkdir()
    try:
        lab = Lab(home)
        yield lab
        lab.close()
    finally:
        lifecycle.down(LabPaths(home))
        assert netns.names(LabPaths(home).prefix) == []
