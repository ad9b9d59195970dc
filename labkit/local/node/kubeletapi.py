"""What a kubelet says over HTTP, to who asks through nodes/proxy: its pods, and what they use.

It is asked through the API server alone: nobody listens on port 10250 of a node.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import orjson

from labkit.local.client import Obj, timestamp
from labkit.local.node import volumes
from labkit.local.node.environment import ConfigError

if TYPE_CHECKING:
    from labkit.local.node.kubelet import Kubelet

Answer = tuple[int, bytes, bytes]
_TEXT = b"text/plain; charset=utf-8"


def answer(kubelet: Kubelet, path: str) -> Answer:
    """Code, body and content type for a GET."""
    asked = unquote(urlsplit(path).path).strip("/")
    if asked.partition("/")[0] == "logs":
        return _logs(kubelet, asked.removeprefix("logs"))
    match asked:
        case "healthz" | "healthz/ping" | "healthz/syncloop":
            return 200, b"ok", _TEXT
        case "pods":
            return _json(_pod_list([worker.pod for worker in kubelet.workers()]))
        case "runningpods":
            return _json(_pod_list([worker.pod for worker in kubelet.workers() if worker.containers.running]))
        case "stats/summary":
            return _json(_summary(kubelet))
        case "metrics/resource":
            return 200, ("\n".join(_resources(kubelet)) + "\n").encode(), b"text/plain; version=0.0.4; charset=utf-8"
    return 404, b"404 page not found\n", _TEXT


def _logs(kubelet: Kubelet, path: str) -> Answer:
    """A file or folder of the node's /var/log."""
    try:
        found = volumes.within(kubelet.host_disk(), f"/var/log{path}")
        if found.is_dir():
            names = sorted(entry.name + "/" * entry.is_dir() for entry in found.iterdir())
            lines = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in names)
            return 200, f"<pre>\n{lines}</pre>\n".encode(), b"text/html; charset=utf-8"
        return 200, found.read_bytes(), _TEXT
    except (ConfigError, OSError):
        return 404, b"404 page not found\n", _TEXT


def _json(obj: Obj) -> Answer:
    return 200, orjson.dumps(obj), b"application/json"


def _pod_list(pods: list[Obj]) -> Obj:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}


def cpu_seconds(cgroup: Path) -> float:
    """The processor time that a cgroup's processes have used."""
    try:
        lines = (cgroup / "cpu.stat").read_text().split("\n")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("usage_usec")), 0) / 1e6


def memory_bytes(cgroup: Path) -> int:
    """The working set of a cgroup's processes: the kernel's account, less the files that it could drop at once.

    Where the machine keeps no such account, the memory of its processes is summed up.
    """
    try:
        used = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().split("\n")
    except OSError:
        return sum(map(_proportional, _processes(cgroup)))
    return max(0, used - next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0))


def _processes(cgroup: Path) -> Iterator[str]:
    for folder, _, _ in os.walk(cgroup):
        try:
            yield from Path(folder, "cgroup.procs").read_text().split()
        except OSError:
            continue


def _proportional(pid: str) -> int:
    """A process's memory, with its part of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _use(cgroup: Path) -> Obj:
    now = timestamp()
    return {"cpu": {"time": now, "usageCoreNanoSeconds": int(cpu_seconds(cgroup) * 1e9)},
            "memory": {"time": now, "workingSetBytes": memory_bytes(cgroup)}}


def _summary(kubelet: Kubelet) -> Obj:
    pods = []
    for worker in kubelet.workers():
        states = worker.states
        containers = [{"name": name, "startTime": timestamp(states[name].started_at),
                       **_use(worker.sandbox.cgroup / name)} for name in sorted(list(worker.containers.running))]
        pods.append({"podRef": {"name": worker.name, "namespace": worker.namespace, "uid": worker.uid},
                     "startTime": (worker.pod.get("status") or {}).get("startTime"), "containers": containers,
                     **_use(worker.sandbox.cgroup)})
    return {"node": {"nodeName": kubelet.name, **_use(kubelet.cgroup(""))}, "pods": pods}


def _resources(kubelet: Kubelet) -> Iterator[str]:
    """Each sample with the moment that it is of, in milliseconds."""
    places = [(f'{{container="{name}",namespace="{worker.namespace}",pod="{worker.name}"}}',
               worker.sandbox.cgroup / name, worker.states[name].started_at)
              for worker in kubelet.workers() for name in sorted(list(worker.containers.running))]

    def head(name: str, kind: str, about: str) -> Iterator[str]:
        yield f"# HELP {name} [ALPHA] {about}"
        yield f"# TYPE {name} {kind}"

    def cpu(place: Path) -> str:
        return f"{cpu_seconds(place):.6f} {time.time() * 1000:.0f}"

    def memory(place: Path) -> str:
        return f"{memory_bytes(place)} {time.time() * 1000:.0f}"

    node = kubelet.cgroup("")
    name = "container_cpu_usage_seconds_total"
    yield from head(name, "counter", "Cumulative cpu time consumed by the container in core-seconds")
    yield from (f"{name}{labels} {cpu(place)}" for labels, place, _ in places)
    name = "container_memory_working_set_bytes"
    yield from head(name, "gauge", "Current working set of the container in bytes")
    yield from (f"{name}{labels} {memory(place)}" for labels, place, _ in places)
    name = "container_start_time_seconds"
    yield from head(name, "gauge", "Start time of the container since unix epoch in seconds")
    yield from (f"{name}{labels} {started:.3f}" for labels, _, started in places)
    yield from head("node_cpu_usage_seconds_total", "counter",
                    "Cumulative cpu time consumed by the node in core-seconds")
    yield f"node_cpu_usage_seconds_total {cpu(node)}"
    yield from head("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
    yield f"node_memory_working_set_bytes {memory(node)}"
