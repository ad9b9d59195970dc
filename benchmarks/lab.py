"""The lab itself: starting, creating a cluster, switching it, idling, services at scale."""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from labkit.lab import Lab
from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle, report


def start(paths: LabPaths) -> Row:
    """`labkit up` until the API answers."""
    started = time.perf_counter()
    info = lifecycle.up(paths, port=0)
    report.fetch(paths, info)
    return Row("`labkit up` to first answer", time.perf_counter() - started, "s", 2, "goal")


def create(lab: Lab) -> Row:
    """From the create call to all system pods ready."""
    started = time.perf_counter()
    lab.ensure("cluster")
    while not _all_ready(lab):
        time.sleep(0.05)
    return Row("create call to all system pods ready", time.perf_counter() - started, "s", 6, "goal")


def switch(lab: Lab, paths: LabPaths) -> list[Row]:
    """Two nodes to eBPF, from the answer to the last patch."""
    plan = lab.enable_ebpf()
    began = {}

    for step in plan.steps:
        if step.verify().ok:
            continue
        step.apply(lambda *_: None)
        began[step.id] = time.perf_counter()
    last = max(began.values())
    while _data_planes(paths) != {"Calico eBPF"}:
        time.sleep(0.01)
    return [Row("two nodes switched to eBPF after the last patch", time.perf_counter() - last, "s", 2, "goal")]


def idle(paths: LabPaths, seconds: float = 15) -> list[Row]:
    """The daemon with one cluster and nothing to do."""
    info = lifecycle.running(paths)
    assert info
    before = report.fetch(paths, info)["lab"]["cpu_seconds"]
    time.sleep(seconds)
    after = report.fetch(paths, info)["lab"]
    share = (after["cpu_seconds"] - before) / seconds * 100
    against = "kube control plane 1.20.2, recorded"
    return [
        Row("daemon idle, one core", share, "%", 7, against),
        Row("daemon memory, one cluster", after["memory_mb"], "MB", 436, against),
    ]


def scale(lab: Lab, count: int = 5000) -> list[Row]:
    """Services created through the Python client and answered for on every node."""
    started = time.perf_counter()
    timings = lab.bench.first_packet(counts=(10,), samples=200)
    base = _p50(timings)
    created = time.perf_counter()
    many = lab.bench.first_packet(counts=(10_000,), samples=200)
    return [Row("first-packet p50 at 10,000 services, eBPF", _p50(many) / base, "x", 1.2, "goal; of that at 10 services")] + [
        Row("(time taken)", time.perf_counter() - created + created - started, "s", 600, "budget")
    ]


def _p50(result: Any) -> float:
    return statistics.median(s.value for s in result.samples)


def _all_ready(lab: Lab) -> bool:
    pods = lab.kube.list("pods")
    conditions = [{c["type"]: c["status"] for c in p.get("status", {}).get("conditions", [])} for p in pods]
    return bool(pods) and all(c.get("Ready") == "True" for c in conditions)


def _data_planes(paths: LabPaths) -> set[str]:
    info = lifecycle.running(paths)
    assert info
    return {n["data_plane"] for c in report.fetch(paths, info)["clusters"] for n in c["nodes"]}


_ = (json, ThreadPoolExecutor, Path)
