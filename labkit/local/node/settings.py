"""What a kubelet is told about its node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class NodeSettings:
    """A node's place in Azure and in its cluster.

    Attributes:
        version: Kubernetes' version, such as "v1.20.2".
        location, pool, mode, vm_size, node_resource_group, subscription: as AKS labels its nodes.
        labels: what its pool labels its nodes with besides.
        taints: "key=value:Effect", what its pool's nodes register with.
        dns_service_ip: the cluster's DNS.
        ca_pem: the authority that signed the API's certificate, for pods.
        bpf_objects: the folder of compiled programs, for privileged pods.
        external_ip: the node's own public address, where its pool has them.
        own_network: the cluster brings its own network: the node waits for a CNI plugin.
        token_seconds: how long service account tokens live at least; a kubelet renews them before.
    """

    version: str = "v1.20.2"
    location: str = "canadaeast"
    pool: str = "nodepool1"
    mode: str = "System"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    max_pods: int = 30
    vm_size: str = "Standard_D2s_v3"
    dns_service_ip: str = "10.0.0.10"
    api_service_ip: str = "10.0.0.1"
    cluster_domain: str = "cluster.local"
    resolver: str = "168.63.129.16"
    ca_pem: str = ""
    bpf_objects: Path | None = None
    external_ip: str | None = None
    own_network: bool = False
    token_seconds: int = 30 * 86400
    node_resource_group: str = "MC_labkit"
    subscription: str = "00000000-0000-0000-0000-000000000000"
