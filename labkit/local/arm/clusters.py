"""What Azure Resource Manager asks of whatever runs the clusters.

The resource manager keeps the books: names, states, operations. A cluster itself is the server's to
build and take down, behind the small `Clusters` interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One agent pool.

    Args:
        name: such as "nodepool1"; part of its nodes' names.
        count: how many nodes it shall have.
        vm_size: Azure's name of the machine, such as "Standard_D2s_v3".
        mode: "System" or "User".
        max_pods: what a node can hold.
        labels: extra labels of its nodes.
        taints: "key=value:Effect", as Azure writes them.
        enable_node_public_ip: whether each of its nodes has a public address of its own.
    """

    name: str
    count: int
    vm_size: str
    mode: str = "System"
    max_pods: int = 30
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    enable_node_public_ip: bool = False


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A managed cluster as it was asked for, with Azure's defaults filled in.

    Args:
        key: its short name within the lab ("c1"), never used twice.
        network_policy: "calico", or "none".
        pod_cidr: where pods' addresses are from: the subnet, or a range that the network does not know.
        kube_proxy: whether AKS runs kube-proxy on the nodes.
        fqdn: the API's name, without a port.
    """

    key: str
    name: str
    resource_group: str
    location: str
    kubernetes_version: str
    fqdn: str
    pools: tuple[PoolSpec, ...]
    network_plugin: str = "azure"
    network_policy: str = "none"
    service_cidr: str = "10.0.0.0/16"
    dns_service_ip: str = "10.0.0.10"
    pod_cidr: str = "10.224.0.0/16"
    kube_proxy: bool = True

    @property
    def minor(self) -> int:
        """20 for Kubernetes 1.20.2."""
        return int(self.kubernetes_version.split(".")[1])


class ClusterError(Exception):
    """A cluster could not be built, changed or removed.

    Args:
        message: what happened and what to do; it becomes the operation's error, word for word.
        code: the error code that ARM's clients see.
    """

    def __init__(self, message: str, code: str = "LocalLabError") -> None:
        super().__init__(message)
        self.message, self.code = message, code


class Clusters(Protocol):
    """Who builds clusters.

    Every method is idempotent: after a crash of the daemon, an operation that was in flight is run
    again from its start. Failures are raised as ClusterError.
    """

    async def create(self, spec: ClusterSpec) -> str:
        """Build the cluster, or finish building it.

        Returns:
            Once its nodes are there: the address that its own connections to the internet come from.
        """

    async def scale(self, key: str, pool: PoolSpec) -> None:
        """Give a pool as many nodes as it asks for. A pool of a new name is made; 0 takes its last node away."""

    async def set_kube_proxy(self, key: str, enabled: bool) -> None:
        """Run kube-proxy on the nodes, or take it away."""

    async def stop(self, key: str) -> None:
        """Take the nodes away and keep the objects."""

    async def start(self, key: str) -> None:
        """Bring a stopped cluster's nodes back."""

    async def delete(self, key: str) -> None:
        """Take the cluster down with all that belongs to it; unknown keys are fine."""

    def kubeconfig(self, key: str, *, admin: bool) -> bytes:
        """A kubeconfig file; KeyError where the cluster's API is not there yet."""
