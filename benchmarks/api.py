"""The Kubernetes API: creates, watches and lists, from the official Python client.

Give another API server's kubeconfig in BENCH_KUBECONFIG (a real kube-apiserver, say) and it is measured in
turns with the lab's; without it the baseline is what kube-apiserver 1.20.2 with etcd did on a 2-core machine.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import urllib3
from kubernetes import client, config, watch

from benchmarks.table import Row

_ONE, _MANY = 400, 1600


@dataclass(frozen=True)
class ApiFigures:
    """What one API server did."""

    one_client: float  # creates per second
    sixteen_threads: float  # creates per second
    watch_ms: float  # from the create's answer to the event, median
    services_seconds: float  # 5,000 services created from 16 threads
    list_seconds: float  # and listed


# measured with kube-apiserver 1.20.2 and etcd on two cores, when none is given to measure
RECORDED = ApiFigures(one_client=340, sixteen_threads=700, watch_ms=1.0, services_seconds=26, list_seconds=0.5)


def measure(kubeconfig: str) -> ApiFigures:
    """Measure an API server; what is created goes with its namespace."""
    api_client = config.new_client_from_config(kubeconfig)
    api_client.configuration.connection_pool_maxsize = 32
    api_client = client.ApiClient(api_client.configuration)
    core = client.CoreV1Api(api_client)
    with _namespace(core) as namespace:
        one = _creates(core, namespace, "one", _ONE, threads=1)
        many = _creates(core, namespace, "many", _MANY, threads=16)
        watched = _watch_latency(core, namespace)
    with _namespace(core) as namespace:
        started = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda i: core.create_namespaced_service(namespace, _service(i)), range(5000)))
        created = time.perf_counter() - started
        started = time.perf_counter()
        core.list_namespaced_service(namespace, _preload_content=False).read()
        listed = time.perf_counter() - started
    return ApiFigures(one, many, watched * 1000, created, listed)


def rows(kubeconfig: str) -> list[Row]:
    """The lab's API beside another."""
    ours, against = measure(kubeconfig), "kube-apiserver 1.20.2 + etcd, recorded"
    theirs = RECORDED
    if other := os.environ.get("BENCH_KUBECONFIG"):
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # such a server often signs for itself
        theirs, against = measure(other), "the other API server, this run"
    return [
        Row("API creates, one Python client", ours.one_client, "/s", theirs.one_client, against, "more"),
        Row("API creates, 16 threads", ours.sixteen_threads, "/s", theirs.sixteen_threads, against, "more"),
        Row("write seen by a watcher after its answer, p50", ours.watch_ms, "ms", 1,
            f"goal ({theirs.watch_ms:.2g} ms: {against})"),
        Row("5,000 services created, 16 threads", ours.services_seconds, "s", theirs.services_seconds, against),
        Row("list 5,000 services", ours.list_seconds, "s", theirs.list_seconds, against),
    ]


def _creates(core: client.CoreV1Api, namespace: str, prefix: str, count: int, threads: int) -> float:
    def create(number: int) -> None:
        core.create_namespaced_config_map(
            namespace,
            client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"{prefix}-{number}"), data={"key": "value"}),
        )

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(create, range(count)))
    return count / (time.perf_counter() - started)


def _watch_latency(core: client.CoreV1Api, namespace: str) -> float:
    seen: dict[str, float] = {}
    listening = threading.Event()

    def follow() -> None:
        stream = watch.Watch()
        version = core.list_namespaced_config_map(namespace, limit=1).metadata.resource_version
        listening.set()
        for event in stream.stream(
            core.list_namespaced_config_map, namespace, resource_version=version, timeout_seconds=20
        ):
            seen[event["object"].metadata.name] = time.perf_counter()
            if event["object"].metadata.name == "last":
                stream.stop()

    thread = threading.Thread(target=follow)
    thread.start()
    listening.wait(10)
    time.sleep(0.5)
    answered: dict[str, float] = {}
    for name in [f"watched-{i}" for i in range(50)] + ["last"]:
        core.create_namespaced_config_map(
            namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name))
        )
        answered[name] = time.perf_counter()
        time.sleep(0.01)
    thread.join(25)
    return median(max(0.0, seen[n] - answered[n]) for n in answered if n in seen)


def _service(number: int) -> client.V1Service:
    spec = client.V1ServiceSpec(selector={"app": "none"}, ports=[client.V1ServicePort(port=80)])
    return client.V1Service(metadata=client.V1ObjectMeta(name=f"s-{number}"), spec=spec)


@contextmanager
def _namespace(core: client.CoreV1Api) -> Iterator[str]:
    name = f"bench-{uuid.uuid4().hex[:6]}"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    try:
        yield name
    finally:
        core.delete_namespace(name)
        while name in {n.metadata.name for n in core.list_namespace().items}:
            time.sleep(0.2)
