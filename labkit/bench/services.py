"""Many services, quickly: created through the Kubernetes API, all with the same back end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from labkit.bench import workload
from labkit.bench.workload import BACKEND_PORT, NAMESPACE
from labkit.errors import AlreadyExistsError
from labkit.kube import Kube

LABEL = "labkit.dev/scale"
_THREADS = 16


def name(number: int) -> str:
    """A service's name by its number."""
    return f"scale-{number:05d}"


def manifest(number: int) -> dict[str, Any]:
    """A service; its selector matches the one back end."""
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name(number), "namespace": NAMESPACE, "labels": {LABEL: "true"}},
        "spec": {"selector": {"app": "backend"}, "ports": [{"port": 80, "targetPort": BACKEND_PORT}]},
    }


def ensure_backend(kube: Kube, node: str) -> None:
    """Run the one pod behind all services."""
    if kube.find("pods", "backend", NAMESPACE) is None:
        kube.apply({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "backend", "namespace": NAMESPACE, "labels": {"app": "backend"}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "backend", "image": "registry.k8s.io/e2e-test-images/agnhost:2.47",
                    "args": ["netexec", f"--http-port={BACKEND_PORT}"],
                }],
            },
        })
    workload.wait_ready(kube, ("backend",))


def scale(kube: Kube, count: int, progress: Callable[[int], None] | None = None) -> dict[str, str]:
    """Have exactly `count` services.

    Args:
        kube: the cluster.
        count: how many.
        progress: hears how many there are now, now and then.

    Returns:
        Their cluster addresses by name.
    """
    there = _addresses(kube)
    wanted = {name(i): i for i in range(count)}
    missing = [number for n, number in wanted.items() if n not in there]
    extra = [n for n in there if n not in wanted]

    def create(number: int) -> tuple[str, str]:
        try:
            made = kube.create(manifest(number))
        except AlreadyExistsError:
            made = kube.get("services", name(number), NAMESPACE)
        return made["metadata"]["name"], made["spec"]["clusterIP"]

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        deletions = [pool.submit(kube.delete, "services", n, NAMESPACE) for n in extra]
        for done, (made, address) in enumerate(pool.map(create, missing), start=1):
            there[made] = address
            if progress and done % 100 == 0:
                progress(done)
        for deletion in deletions:
            deletion.result()
    return {n: there[n] for n in wanted}


def _addresses(kube: Kube) -> dict[str, str]:
    found = kube.list("services", NAMESPACE, label_selector=f"{LABEL}=true")
    return {s["metadata"]["name"]: s["spec"]["clusterIP"] for s in found}
