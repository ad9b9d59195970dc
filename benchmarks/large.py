"""A large cluster: 20 nodes, 300 pods, 10,000 services; and what a change of one of them costs in eBPF mode.

A change is one write of an endpoint slice. It is effective on a node when the node's kernel has the new back end in
its map, which is what a packet meets; all nodes' maps are looked at every millisecond.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from labkit.bench import services, stats, workload
from labkit.bench.workload import BACKEND_PORT, NAMESPACE
from labkit.kube import Kube
from labkit.lab import Lab
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.bpfsys import Map
from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle, report

NODES, PODS, COUNTS = 20, 300, (10, 100, 1000, 10_000)
_PORTS = (8080, 8081)
_ROUND = 10.0  # seconds: whole rounds of what the nodes do every five and ten, while it changes and while it rests
_TURNS = 3      # of the fewest and the most: a neighbour on the core makes one up to half as slow


@dataclass(frozen=True)
class _Changes:
    """What changes of one service among `services` took, in milliseconds."""

    services: int
    effective: tuple[float, ...]
    cpu: float


def rows(paths: LabPaths) -> list[Row]:
    """Build the cluster, fill it, and change one service among more and more."""
    with contextlib.closing(Lab.open("local", cluster="Large", resource_group="Large", node_count=NODES)) as lab:
        started = time.perf_counter()
        lab.ensure("ebpf")
        nodes = time.perf_counter() - started
        started = time.perf_counter()
        _fill(lab.kube)
        pods = time.perf_counter() - started
        with _kernel(paths) as kernel:
            measured, programmed = [], 0.0
            for count in COUNTS:
                started = time.perf_counter()
                addresses = services.scale(lab.kube, count)
                keys = [maps.frontend_key(address, 80, 6) for address in addresses.values()]
                kernel.wait(lambda keys=keys: all(kernel.have(key) for key in (keys[0], keys[-1])))  # type: ignore[misc]
                programmed = time.perf_counter() - started
                turns = _TURNS if count in (COUNTS[0], COUNTS[-1]) else 1
                measured.append(_pooled([_change(lab.kube, kernel, count, paths) for _ in range(turns)]))
        megabytes = _memory(paths)
        lab.run(lab.clean_up())
    few, many = measured[0], measured[-1]
    slope, _ = stats.slope([m.services for m in measured], [stats.median(m.effective) * 1000 for m in measured])
    low, high = stats.median_interval(many.effective)
    return [
        Row(f"{NODES} nodes created and switched to eBPF", nodes, "s", 60, "goal"),
        Row(f"{PODS} pods running", pods, "s", 60, "goal"),
        Row(f"from {COUNTS[-2]:,} to {COUNTS[-1]:,} services, programmed on {NODES} nodes", programmed, "s", 120,
            "goal"),
        Row(f"memory of all that ({PODS} pods, {COUNTS[-1]:,} services, {NODES} nodes)", megabytes, "MB", 8000, "goal"),
        Row(f"one of {many.services:,} services changes, effective on {NODES} nodes, p50", stats.median(many.effective),
            "ms", 50, f"goal; 95 % interval {low:.1f} to {high:.1f} ms"),
        Row("the same", stats.median(many.effective), "ms", stats.median(few.effective) * 1.2,
            f"1.2 × that among {few.services}; {slope:.2f} µs for each service more"),
        Row("CPU of one change, all nodes and the control plane", many.cpu, "ms", few.cpu * 1.2,
            f"1.2 × that among {few.services}"),
    ]


def _pooled(turns: list[_Changes]) -> _Changes:
    return _Changes(turns[0].services, tuple(ms for turn in turns for ms in turn.effective),
                    stats.median([turn.cpu for turn in turns]))


class _Kernel:
    """Every node's maps of services."""

    def __init__(self, paths: LabPaths) -> None:
        folders = sorted(paths.bpffs.glob("*/*/maps"))
        self.nodes = [(Map(folder / "cali_v4_nat_fe"), Map(folder / "cali_v4_nat_be")) for folder in folders]
        assert len(self.nodes) == NODES, folders

    def have(self, frontend: bytes) -> bool:
        return all(frontends.get(frontend) for frontends, _ in self.nodes)

    def send_to(self, frontend: bytes, backend: bytes) -> bool:
        return all((found := frontends.get(frontend)) and backends.get(struct.pack("=4sI", found[:4], 0)) == backend
                   for frontends, backends in self.nodes)

    def wait(self, holds: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.001)

    def close(self) -> None:
        for node in self.nodes:
            for kernel in node:
                kernel.close()


@contextlib.contextmanager
def _kernel(paths: LabPaths) -> Iterator[_Kernel]:
    kernel = _Kernel(paths)
    try:
        yield kernel
    finally:
        kernel.close()


def _fill(kube: Kube) -> None:
    """Two back ends for every service, and pods that only are there; with the system's own there are enough."""
    nodes = [node["metadata"]["name"] for node in kube.list("nodes")]
    workload.ensure(kube)
    services.ensure_backend(kube, nodes[-1])
    second = kube.get("pods", "backend", NAMESPACE)
    kube.apply({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "backend-2", "namespace": NAMESPACE, "labels": {"app": "backend"}},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": nodes[0]}, "terminationGracePeriodSeconds": 0,
                 "containers": [{k: second["spec"]["containers"][0][k] for k in ("name", "image", "args")}]},
    })
    idle = PODS - len(kube.list("pods"))
    kube.apply({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "idle", "namespace": NAMESPACE},
        "spec": {"replicas": idle, "selector": {"matchLabels": {"app": "idle"}}, "template": {
            "metadata": {"labels": {"app": "idle"}},
            "spec": {"terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "idle", "image": "registry.k8s.io/pause:3.9"}]}}},
    })
    deadline = time.monotonic() + 300
    while kube.get("deployments.apps", "idle", NAMESPACE).get("status", {}).get("readyReplicas", 0) < idle:
        assert time.monotonic() < deadline, "the pods did not start"
        time.sleep(0.2)


def _slice(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
        "metadata": {"name": "changes", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "changes"}},
        "addressType": "IPv4", "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.224.0.99"], "conditions": {"ready": True}}],
    }


def _change(kube: Kube, kernel: _Kernel, count: int, paths: LabPaths) -> _Changes:
    kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "changes", "namespace": NAMESPACE},
                "spec": {"ports": [{"port": 80, "targetPort": BACKEND_PORT}]}})
    frontend = maps.frontend_key(kube.get("services", "changes", NAMESPACE)["spec"]["clusterIP"], 80, 6)
    kube.apply(_slice(_PORTS[1]))
    kernel.wait(lambda: kernel.send_to(frontend, maps.backend("10.224.0.99", _PORTS[1])))
    quiet = _settled(paths)
    took: list[float] = []
    before, began = _cpu(paths), time.perf_counter()
    while time.perf_counter() - began < _ROUND:  # many, so that little of the error of `quiet` falls on each
        port = _PORTS[len(took) % 2]
        started = time.perf_counter()
        kube.patch("endpointslices.discovery.k8s.io", "changes", {"ports": [{"port": port, "protocol": "TCP"}]},
                   NAMESPACE)
        kernel.wait(lambda port=port: kernel.send_to(frontend, maps.backend("10.224.0.99", port)))  # type: ignore[misc]
        took.append((time.perf_counter() - started) * 1000)
    spent = _cpu(paths) - before - quiet * (time.perf_counter() - began)
    return _Changes(count, tuple(took), spent * 1000 / len(took))


def _settled(paths: LabPaths) -> float:
    """The cores that go into nothing, once the nodes have done what there was to do: twice the same, nearly."""
    deadline = time.monotonic() + 180
    last = quiet = float("inf")
    while True:
        before = _cpu(paths)
        time.sleep(_ROUND)
        last, quiet = quiet, (_cpu(paths) - before) / _ROUND
        if quiet < 0.5 and last - quiet < 0.03:
            return (last + quiet) / 2
        assert time.monotonic() < deadline, f"the nodes do not come to rest: {quiet:.2f} cores"


def _cpu(paths: LabPaths) -> float:
    """CPU seconds of all nodes and the daemon so far."""
    info = lifecycle.running(paths)
    assert info
    nodes = next(line for line in (paths.cgroup / "cpu.stat").read_text().splitlines() if line.startswith("usage_usec"))
    return int(nodes.split()[1]) / 1e6 + float(report.fetch(paths, info)["lab"]["cpu_seconds"])


def _memory(paths: LabPaths) -> float:
    """Megabytes of all processes of the lab, what they share counted once."""
    info = lifecycle.running(paths)
    assert info
    kilobytes = float(report.fetch(paths, info)["lab"]["memory_mb"]) * 1024
    for procs in paths.cgroup.rglob("cgroup.procs"):
        for pid in procs.read_text().split():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024
