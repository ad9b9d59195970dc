"""A cluster for tests: the real API and the real controllers; only kubelets and cloud are stand-ins."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.local.client import ApiError, EventType, Obj, timestamp
from labkit.local.controllers import ClusterSettings, Controllers
from labkit.local.controllers.objects import with_condition
from labkit.local.kubeapi import Api

TEMPLATE = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "web", "image": "nginx:1", "ports": [{"name": "http", "containerPort": 8080}]}]},
}


class BookCloud:
    """Keeps books of what the load-balancer controller asked for."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.frontends: dict[str, tuple[str, ...]] = {}
        self.by_client: set[str] = set()
        self.ports: dict[str, dict[tuple[str, int], tuple[str, ...]]] = {}      # those with other nodes
        self.answers: dict[str | int, bool | None] = {}  # to probes, by node or port; well where nothing else is said
        self.probed: set[tuple[int, str | None]] = set()
        self.asked: set[str] = set()
        self.used: set[str] = set()                  # nodes that ever were behind a frontend
        self._next = itertools.count(20)

    def allocate_public_ip(self, name: str, wish: str | None = None) -> str:
        if wish:
            if wish in {ip for owner, ip in self.addresses.items() if owner != name}:
                raise ValueError(f"the public address {wish} is in use")
            self.addresses[name] = wish
        return self.addresses.setdefault(name, f"192.0.2.{next(self._next)}")

    def release_public_ip(self, ip: str) -> None:
        self.addresses = {name: known for name, known in self.addresses.items() if known != ip}

    def set_frontend(self, ip: str, node_ips: Sequence[str], *, by_client: bool = False,
                     ports: Mapping[tuple[str, int], Sequence[str]] | None = None) -> None:
        self.frontends[ip] = tuple(node_ips)
        self.ports[ip] = {port: tuple(nodes) for port, nodes in (ports or {}).items()}
        self.used.update(node_ips)
        (self.by_client.add if by_client else self.by_client.discard)(ip)

    def remove_frontend(self, ip: str) -> None:
        self.frontends.pop(ip, None)

    async def probe(self, node_ip: str, port: int, path: str | None) -> bool | None:
        self.probed.add((port, path))
        self.asked.add(node_ip)
        if (answer := self.answers.get(port, self.answers.get(node_ip, True))) is None:
            await asyncio.sleep(3600)
        return answer


class Kubelets:
    """Runs pods in name only: bound pods are Running and ready at once, deleted ones gone at once.

    `hold` names apps whose pods never get ready; `end` maps apps to the phase that their pods end in.
    """

    def __init__(self, api: Api) -> None:
        self.api, self.hold, self.end, self.linger = api, set[str](), dict[str, str](), False
        self._ips = itertools.count(10)
        self.history: list[tuple[EventType, str]] = []

    def start(self) -> None:
        self.api.watch("pods", self._on_pod)

    def _on_pod(self, event: EventType, pod: Obj) -> None:
        self.history.append((event, pod["metadata"]["name"]))
        if event != "DELETED" and pod["spec"].get("nodeName"):
            asyncio.get_running_loop().call_soon(self._step, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _step(self, namespace: str, name: str) -> None:
        try:
            pod = self.api.get("pods", name, namespace)
            if pod["metadata"].get("deletionTimestamp"):
                if not self.linger:
                    self.api.delete("pods", name, namespace, grace_period=0)
            elif pod["status"].get("phase", "Pending") == "Pending":
                self._run(pod)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    def _run(self, pod: Obj) -> None:
        app = (pod["metadata"].get("labels") or {}).get("app", "")
        phase = self.end.get(app, "Running")
        good = phase == "Running" and app not in self.hold
        conditions = with_condition(
            pod["status"].get("conditions"), {"type": "Ready", "status": "True" if good else "False"}
        )
        self.api.update(
            "pods",
            {
                **pod,
                "status": {
                    **pod["status"],
                    "phase": phase,
                    "podIP": f"10.224.1.{next(self._ips)}",
                    "conditions": conditions,
                },
            },
            subresource="status",
        )

    def set_ready(self, namespace: str, name: str, value: bool) -> None:
        pod = self.api.get("pods", name, namespace)
        conditions = with_condition(
            pod["status"].get("conditions"), {"type": "Ready", "status": "True" if value else "False"}
        )
        self.api.update("pods", {**pod, "status": {**pod["status"], "conditions": conditions}}, subresource="status")


class World:
    """The whole of it; `run` starts the controllers and gives a coroutine the cluster."""

    def __init__(self, database: Path) -> None:
        self.api = Api(database, "c1")
        self.cloud = BookCloud()
        self.kubelets = Kubelets(self.api)
        self.settings = ClusterSettings(node_check=0.05, orphan_grace=0.1, probe_interval=0.01, backoff=0.05)
        for name in ("default", "kube-system", "kube-node-lease"):
            self.api.create("namespaces", {"metadata": {"name": name}})
        self.node("node0")
        self.node("node1")

    def node(self, name: str, **more: Any) -> Obj:
        number = int(name[-1])
        body = {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **more.get("labels", {})}},
            "spec": more.get("spec", {}),
        }
        self.api.create("nodes", body)
        return self.api.patch(
            "nodes",
            name,
            {
                "status": {
                    "addresses": [{"type": "InternalIP", "address": f"10.224.0.{4 + 31 * number}"}],
                    "allocatable": more.get("allocatable", {"cpu": "4", "memory": "8Gi", "pods": "110"}),
                    "conditions": [{"type": "Ready", "status": more.get("ready", "True"),
                                    "lastTransitionTime": timestamp()}],
                }
            },
            subresource="status",
        )

    def node_ready(self, name: str) -> None:
        """The node's kubelet speaks again."""
        node = self.api.get("nodes", name)
        self.api.patch(
            "nodes",
            name,
            {
                "status": {
                    "conditions": with_condition(
                        node["status"]["conditions"],
                        {
                            "type": "Ready",
                            "status": "True",
                            "reason": "KubeletReady",
                            "lastHeartbeatTime": timestamp(),
                        },
                    )
                }
            },
            subresource="status",
        )

    def run(self, body: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            controllers = self.controllers = Controllers(self.api, cloud=self.cloud, settings=self.settings)
            self.kubelets.start()
            controllers.start()
            try:
                await body(self)
            finally:
                controllers.stop()

        try:
            asyncio.run(asyncio.wait_for(main(), 120))
        finally:
            self.api.close()

    async def until(self, claim: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait for the claim to hold; what it returned."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            if result := claim():
                return result
            assert asyncio.get_running_loop().time() < end, "it did not come true in time"
            await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Wait until nothing has changed for a while."""
        last = -1
        while (count := self._version()) != last:
            last = count
            await asyncio.sleep(0.05)

    def _version(self) -> int:
        return max(
            int(obj["metadata"]["resourceVersion"])
            for kind in (
                "pods",
                "events",
                "deployments.apps",
                "replicasets.apps",
                "daemonsets.apps",
                "jobs.batch",
                "nodes",
                "services",
                "endpoints",
            )
            for obj in [*self.api.list(kind), {"metadata": {"resourceVersion": "0"}}]
        )

    def pods(self, app: str = "web", namespace: str = "default") -> list[Obj]:
        return [
            pod
            for pod in self.api.list("pods", namespace, label_selector=f"app={app}")
            if not pod["metadata"].get("deletionTimestamp")
        ]

    def ready(self, app: str = "web") -> list[Obj]:
        return [
            pod
            for pod in self.pods(app)
            if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())
        ]

    def workload(self, resource: str, kind: str, name: str = "web", **spec: Any) -> Obj:
        """Create a workload of the usual template."""
        api_version = "batch/v1" if kind == "Job" else "apps/v1"
        body: Obj = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"template": TEMPLATE, **spec},
        }
        if kind != "Job":
            body["spec"].setdefault("selector", {"matchLabels": {"app": "web"}})
        return self.api.create(resource, body)

    def events(self, reason: str) -> list[Obj]:
        return [event for event in self.api.list("events") if event["reason"] == reason]
