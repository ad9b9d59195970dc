"""All objects of a new cluster, in the order in which they can be created."""

from __future__ import annotations

from labkit.local.arm.clusters import ClusterSpec
from labkit.local.client import Obj

from .calico import calico
from .metrics import metrics_server
from .objects import meta
from .releases import release_for
from .system import api_service, dns, kube_proxy, namespaces, roles


def manifests(spec: ClusterSpec, api_address: str) -> list[Obj]:
    """What a cluster begins with.

    Args:
        spec: the cluster.
        api_address: the API's public address, behind the service `kubernetes`.
    """
    release = release_for(spec.minor)
    objects = [*namespaces(), *_classes(), *api_service(spec, api_address), *roles(), *kube_proxy(spec)]
    if spec.network_policy == "calico":
        objects += calico(release, spec.minor)
    return objects + dns(spec, release) + metrics_server()


def _classes() -> list[Obj]:
    def priority(name: str, value: int) -> Obj:
        return {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": meta(name),
                "value": value, "description": "Used for system critical pods that must not be moved."}

    return [priority("system-cluster-critical", 2_000_000_000),
            priority("system-node-critical", 2_000_001_000)]
