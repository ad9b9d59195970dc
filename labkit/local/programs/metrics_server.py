"""metrics-server: what nodes and pods use, as the API metrics.k8s.io, which `kubectl top` asks.

The real one reads all kubelets every 15 seconds, whether or not somebody asks. This one reads them when somebody asks,
twice within two seconds, and answers from that for 15 seconds: a lab that nobody asks has nothing to do.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from labkit.local.client import ApiError, Obj, timestamp
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.netexec import QuietServer

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
PORT = 4443
WINDOW = 2.0  # seconds between the two readings of a measurement
RESOLUTION = 15.0  # seconds for which a measurement is answered from
YOUNGEST = 10.0  # seconds that a container must have run: what it used in less says little
_ROOT = f"/apis/{GROUP}/{VERSION}"
_SAMPLE = re.compile(r"^(node|container)_(\w+?)(?:_total)?"
                     r'(?:\{container="([^"]*)",namespace="([^"]*)",pod="([^"]*)"\})?'
                     r" ([\d.e+]+)(?: (\d+))?$", re.MULTILINE)

Key = tuple[str, ...]
"""(node,) or (namespace, pod, container)."""


@dataclass
class Point:
    """What a kubelet says of a node or of a container at one moment: seconds, and bytes."""

    at: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    started: float = 0.0


@dataclass(frozen=True)
class Usage:
    """What was used over a window: seconds since the epoch at its end, its length, cores, bytes."""

    at: float
    window: float
    cores: float
    memory: int


@dataclass(frozen=True)
class Measurement:
    """All that is known: by node, and by pod and container. A pod is there with all its containers or not at all."""

    nodes: Mapping[str, Usage] = field(default_factory=dict)
    pods: Mapping[tuple[str, str], Mapping[str, Usage]] = field(default_factory=dict)


def parse(node: str, text: str) -> dict[Key, Point]:
    """What a kubelet's /metrics/resource says."""
    points: dict[Key, Point] = {}
    for what, name, container, namespace, pod, value, at in _SAMPLE.findall(text):
        point = points.setdefault((node,) if what == "node" else (namespace, pod, container), Point())
        if name == "cpu_usage_seconds":
            point.cpu, point.at = float(value), int(at) / 1000
        elif name == "memory_working_set_bytes":
            point.memory = int(float(value))
        elif name == "start_time_seconds":
            point.started = float(value)
    return points


def measure(first: Mapping[Key, Point], last: Mapping[Key, Point]) -> Measurement:
    """What was used between two readings."""
    nodes: dict[str, Usage] = {}
    pods: dict[tuple[str, str], dict[str, Usage]] = {}
    unknown: set[tuple[str, str]] = set()
    for key, point in last.items():
        usage = _usage(first.get(key), point)
        if len(key) == 1:
            if usage:
                nodes[key[0]] = usage
        elif usage:
            pods.setdefault((key[0], key[1]), {})[key[2]] = usage
        else:
            unknown.add((key[0], key[1]))
    return Measurement(nodes, {pod: containers for pod, containers in pods.items() if pod not in unknown})


def _usage(before: Point | None, now: Point) -> Usage | None:
    if before is None or now.at <= before.at or now.cpu < before.cpu or now.at - now.started < YOUNGEST:
        return None
    window = now.at - before.at
    return Usage(now.at, window, (now.cpu - before.cpu) / window, now.memory)


class Meter:
    """Measures when somebody asks, and not again for a while.

    Args:
        read: reads all kubelets.
        now, sleep: of `time`, but for tests.
    """

    def __init__(self, read: Callable[[], dict[Key, Point]], now: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._read, self._now, self._sleep = read, now, sleep
        self._lock = threading.Lock()
        self._measured: float | None = None
        self._known = Measurement()

    def latest(self) -> Measurement:
        """What is known, measured anew where that is old."""
        with self._lock:  # who asks meanwhile gets the same measurement
            if self._measured is None or self._now() - self._measured >= RESOLUTION:
                first = self._read()
                self._sleep(WINDOW)
                self._known = measure(first, self._read())
                self._measured = self._now()
            return self._known


def read_kubelets(client: HttpClient) -> dict[Key, Point]:
    """What all kubelets say; one that does not answer is left out. They are asked through the API."""
    points: dict[Key, Point] = {}
    for node in client.list("nodes"):
        name = node["metadata"]["name"]
        connection = client.take()
        try:
            answer = client.stream(connection, f"/api/v1/nodes/{name}/proxy/metrics/resource")
            points |= parse(name, answer.read().decode())
        except (ApiError, OSError) as error:
            print(f"Failed to scrape node {name}: {error}", file=sys.stderr, flush=True)
        finally:
            connection.close()
    return points


# The API's objects ------------------------------------------------------------------------------------


def cpu_text(cores: float) -> str:
    """Cores as a quantity in its shortest form: "250m", "1234567n"."""
    nano = round(cores * 1e9)
    for size, suffix in ((10**9, ""), (10**6, "m"), (10**3, "u")):
        if nano % size == 0:
            return f"{nano // size}{suffix}"
    return f"{nano}n"


def memory_text(size: int) -> str:
    """Bytes as a quantity in its shortest form: "12Mi", "1028Ki"."""
    if not size:
        return "0"
    for power, suffix in ((30, "Gi"), (20, "Mi"), (10, "Ki")):
        if size % (1 << power) == 0:
            return f"{size >> power}{suffix}"
    return str(size)


def _used(usage: Usage) -> Obj:
    return {"cpu": cpu_text(usage.cores), "memory": memory_text(usage.memory)}


def _metrics(of: Obj, measured: Usage, **more: Any) -> Obj:
    """Metrics of an object, without their kind: a list's items have none."""
    meta = {key: of["metadata"][key] for key in ("name", "namespace", "labels") if of["metadata"].get(key)}
    return {"metadata": {**meta, "creationTimestamp": timestamp()}, "timestamp": timestamp(measured.at),
            "window": f"{measured.window:.3f}".rstrip("0").rstrip(".") + "s", **more}


def node_metrics(node: Obj, known: Measurement) -> Obj | None:
    """A node's NodeMetrics, where it was measured."""
    usage = known.nodes.get(node["metadata"]["name"])
    return _metrics(node, usage, usage=_used(usage)) if usage else None


def pod_metrics(pod: Obj, known: Measurement) -> Obj | None:
    """A pod's PodMetrics, where it was measured."""
    containers = known.pods.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))
    if not containers:
        return None
    return _metrics(pod, next(iter(containers.values())),
                    containers=[{"name": name, "usage": _used(usage)} for name, usage in containers.items()])


def table(items: list[Obj], known: Measurement) -> Obj:
    """What `kubectl get podmetrics` prints."""
    columns = (("Name", "name"), ("cpu", ""), ("memory", ""), ("Window", "duration"))
    rows = []
    for item in items:
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace")
        used = known.pods[namespace, name].values() if namespace else [known.nodes[name]]
        cores, memory = sum(usage.cores for usage in used), sum(usage.memory for usage in used)
        rows.append({"cells": [name, cpu_text(cores), memory_text(memory), item["window"]],
                     "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                                "metadata": item["metadata"]}})
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "rows": rows, "columnDefinitions": [
        {"name": name, "type": "string", "format": form, "description": "", "priority": 0} for name, form in columns]}


class Metrics:
    """The API's two resources.

    Args:
        client: the cluster's API, which knows the nodes, the pods and their labels.
        meter: what they use.
    """

    def __init__(self, client: HttpClient, meter: Meter) -> None:
        self._client, self._meter = client, meter
        self.close = client.close

    def answer(self, url: str, *, as_table: bool = False) -> Obj:
        """The answer to a GET.

        Raises:
            ApiError: nothing is there, or nothing is known of it yet.
        """
        path, query = urlsplit(url).path, {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
        if query.get("watch", "false") not in ("false", "0"):
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        of: Callable[[Obj, Measurement], Obj | None] = pod_metrics
        kind = "PodMetrics"
        match [unquote(part) for part in path.removeprefix(_ROOT).strip("/").split("/")]:
            case ["nodes", *name]:
                resource, namespace, of, kind = "nodes", None, node_metrics, "NodeMetrics"
            case ["namespaces", namespace, "pods", *name]:
                resource = "pods"
            case ["pods"]:
                resource, namespace, name = "pods", None, []
            case _:
                raise ApiError(404, "NotFound", "the server could not find the requested resource")
        about: Obj = {"kind": kind, "apiVersion": f"{GROUP}/{VERSION}"}
        if name:
            asked, known = self._client.get(resource, name[0], namespace), self._meter.latest()
            found = of(asked, known)
            if found is None:
                full = f"{namespace}/{name[0]}" if namespace else name[0]
                raise ApiError(404, "NotFound", f'{kind.lower()}.{GROUP} "{full}" not found', {
                    "name": full, "group": GROUP, "kind": kind.lower()})
            return table([found], known) if as_table else {**about, **found}
        known = self._meter.latest()
        there = self._client.list(resource, namespace, label_selector=query.get("labelSelector"),
                                  field_selector=query.get("fieldSelector"))
        items = [found for obj in there if (found := of(obj, known))]
        return table(items, known) if as_table else {**about, "kind": f"{kind}List", "metadata": {}, "items": items}


class Handler(BaseHTTPRequestHandler):
    """The API over HTTP, and whether the server is well."""

    metrics: ClassVar[Metrics]

    def do_GET(self) -> None:
        """Answer by the path."""
        if self.path in ("/readyz", "/livez", "/healthz"):
            self._send(200, b"ok", "text/plain; charset=utf-8")
            return
        try:
            code, answer = 200, self.metrics.answer(self.path, as_table="as=Table" in self.headers.get("accept", ""))
        except ApiError as error:
            code, answer = error.code, error.status()
        finally:
            self.metrics.close()  # this thread ends with the request
        self._send(code, orjson.dumps(answer), "application/json")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a log tells of what went wrong."""


def main() -> int:
    """Serve until stopped."""
    client = HttpClient.in_cluster(user_agent="metrics-server")
    Handler.metrics = Metrics(client, Meter(lambda: read_kubelets(client)))
    server = QuietServer(("", PORT), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"Serving on [::]:{PORT}", file=sys.stderr, flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
