"""GET /metrics: what the API server has been asked, in Prometheus' text, under the names of Kubernetes' own.

Everything here was counted. What a real API server says beside that (etcd, Go's runtime, flow control) is left out.
"""

from __future__ import annotations

import os
import resource
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .request import Reply, Request

if TYPE_CHECKING:
    from .api import Api

_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 1.75, 2, 2.5, 3,
            3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60)
_NAMES = ("component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version")
_LONG = ("log", "exec", "attach", "portforward", "proxy")

Labels = tuple[str, ...]


class Metrics:
    """The counters of one API server; they begin with it."""

    def __init__(self) -> None:
        self._requests: Counter[Labels] = Counter()
        self._durations: dict[Labels, list[int]] = {}
        self._seconds: defaultdict[Labels, float] = defaultdict(float)
        self._running: Counter[Labels] = Counter()

    def begin(self, request: Request) -> None:
        """A request that lasts has begun: a watch, or a connection."""
        if request.target:
            self._running[_labels(request)] += 1

    def end(self, request: Request) -> None:
        """It has ended."""
        if request.target:
            self._running[_labels(request)] -= 1

    def count(self, request: Request, code: int, content_type: bytes, seconds: float) -> None:
        """A request was answered; one for a path that is not there counts nowhere, as in Kubernetes."""
        if request.target is None and code >= 400:
            return
        labels = _labels(request)
        self._requests[(*labels, str(code), content_type.decode())] += 1
        counts = self._durations.get(labels)
        if counts is None:
            counts = self._durations[labels] = [0] * (len(_BUCKETS) + 1)
        counts[bisect_left(_BUCKETS, seconds)] += 1
        self._seconds[labels] += seconds

    def answer(self, api: Api) -> Reply:
        """All of it."""
        minor = api.machinery.minor
        lines = [*self._text(minor), *_objects(api, minor), *_process(), *_build(api.version)]
        return Reply(200, ("\n".join(lines) + "\n").encode(), b"text/plain; version=0.0.4; charset=utf-8")

    def _text(self, minor: int) -> Iterator[str]:
        yield from _head("apiserver_request_total", "counter", "Counter of apiserver requests broken out for each verb,"
                         " dry run value, group, version, resource, scope, component, and HTTP response code.")
        totals: Counter[str] = Counter()
        for (*labels, code, content_type), value in self._requests.items():
            more = (("code", code), ("contentType", content_type)) if minor < 21 else (("code", code),)
            totals[_braces(labels, more)] += value
        yield from (f"apiserver_request_total{braces} {value}" for braces, value in sorted(totals.items()))
        name = "apiserver_request_duration_seconds"
        yield from _head(name, "histogram", "Response latency distribution in seconds for each verb, dry run value,"
                         " group, version, resource, subresource, scope and component.")
        for about, counts in sorted(self._durations.items()):
            below = 0
            for bucket, count in zip((*map(str, _BUCKETS), "+Inf"), counts, strict=True):
                below += count
                yield f"{name}_bucket{_braces(about, (('le', bucket),))} {below}"
            yield f"{name}_sum{_braces(about)} {self._seconds[about]:.9f}"
            yield f"{name}_count{_braces(about)} {below}"
        name = "apiserver_longrunning_gauge" if minor < 23 else "apiserver_longrunning_requests"
        yield from _head(name, "gauge", "Gauge of all active long-running apiserver requests broken out by verb, group,"
                         " version, resource, scope and component.")
        yield from (f"{name}{_braces(about)} {value}" for about, value in sorted(self._running.items()))


def _labels(request: Request) -> Labels:
    """In the order of _NAMES."""
    dry_run = request.query.get("dryRun", "") if request.query else ""
    if request.target is None:
        return ("", dry_run, "", "", "", request.path.rstrip("/") or "/", request.method, "")
    served, namespace, name, sub = request.target
    scope = "resource" if name or request.method == "POST" else "namespace" if namespace else "cluster"
    return ("apiserver", dry_run, served.group, served.kind.plural, scope, sub or "", _verb(request, name, sub),
            served.version)


def _verb(request: Request, name: str, sub: str | None) -> str:
    method = request.method
    if sub in _LONG and sub != "log":
        return "CONNECT"
    if method == "GET" and request.query and request.flag("watch"):
        return "WATCH"
    if method == "GET" and not name:
        return "LIST"
    if method == "PATCH" and request.header(b"content-type").startswith("application/apply-patch"):
        return "APPLY"
    return method


def _braces(labels: Iterable[str], more: Iterable[tuple[str, str]] = ()) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in (
        *zip(_NAMES, labels, strict=True), *more)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _head(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def _objects(api: Api, minor: int) -> Iterator[str]:
    name = "etcd_object_counts" if minor < 22 else "apiserver_storage_objects"
    yield from _head(name, "gauge", "Number of stored objects at the time of last check split by kind.")
    for kind in sorted(api.machinery.registry.kinds):
        yield f'{name}{{resource="{kind}"}} {api.machinery.store.shelf(kind).count()}'


def _process() -> Iterator[str]:
    """Of the lab's daemon, which is every cluster's API server and its controllers."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    for name, kind, about, value in (
            ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.",
             f"{used.ru_utime + used.ru_stime:.2f}"),
            ("process_open_fds", "gauge", "Number of open file descriptors.", len(os.listdir("/proc/self/fd"))),
            ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
             pages * os.sysconf("SC_PAGE_SIZE")),
            ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.",
             f"{started:.2f}")):
        yield from _head(name, kind, about)
        yield f"{name} {value}"


def _build(version: str) -> Iterator[str]:
    major, minor = version.lstrip("v").split(".")[:2]
    yield from _head("kubernetes_build_info", "gauge", "A metric with a constant '1' value labeled by major, minor, git"
                     " version and compiler from which Kubernetes was built.")
    yield f'kubernetes_build_info{{compiler="labkit",git_version="{version}",major="{major}",minor="{minor}"}} 1'
