"""What cluster to create: the article's parameters are the defaults."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from labkit.errors import AzureError

ARTICLE_VERSION = "1.20.2"
SIZE_FALLBACKS = ("Standard_D2s_v5", "Standard_D2ds_v5", "Standard_D2as_v5")
"""Tried in turn where a subscription may not use the article's size: all have two vCPUs and 8 GiB."""


@dataclass(frozen=True)
class ClusterSettings:
    """What `az aks create` takes, as far as the course uses it.

    Args:
        name: the cluster.
        resource_group: the group that it is in.
        location: Azure's region.
        kubernetes_version: None means the article's where the location offers it, else the newest that
            is generally available.
        node_count: nodes of the one pool.
        node_vm_size: their size.
        network_plugin: "azure" is Azure CNI: pods have addresses of the VNet. "none" is bring your own: nodes
            are not ready before somebody installs a network.
        pod_cidr: where pods' addresses are from where the network plugin is "none"; the VNet must not have it.
        network_policy: "calico", or "none" for a cluster without Calico.
        tags: on the resource group and on the cluster.
    """

    name: str = "MyCalicoCluster"
    resource_group: str = "CalicoDemoRG"
    location: str = "canadaeast"
    kubernetes_version: str | None = None
    node_count: int = 2
    node_vm_size: str = "Standard_D2s_v3"
    network_plugin: Literal["azure", "kubenet", "none"] = "azure"
    network_policy: Literal["calico", "azure", "none"] = "calico"
    pod_cidr: str = "192.168.0.0/16"
    tags: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", self.name):
            raise AzureError(f"{self.name!r} is not a name for a cluster.",
                             "it takes 1 to 63 letters, digits, '-' and '_', a letter or digit at both ends.",
                             "choose another name.", code="InvalidParameter")
        if not 1 <= self.node_count <= 20:
            raise AzureError(f"{self.node_count} nodes are not what this course is for.",
                             "it takes 1 to 20; each costs money on Azure.", "use 2, as the article does.",
                             code="InvalidParameter")

    @property
    def context(self) -> str:
        """The kubeconfig context that `az aks get-credentials --admin` makes."""
        return f"{self.name}-admin"

    def vanilla(self) -> ClusterSettings:
        """The same cluster without Calico, beside this one: what the article compares with."""
        return replace(self, name=f"{self.name}-vanilla", network_policy="none")

    def body(self, version: str, vm_size: str) -> dict[str, Any]:
        """The request that creates it.

        Args:
            version: the Kubernetes version that was chosen.
            vm_size: the size that was chosen.
        """
        profile: dict[str, Any] = {"networkPlugin": self.network_plugin, "loadBalancerSku": "standard"}
        if self.network_policy != "none":
            profile["networkPolicy"] = self.network_policy
        if self.network_plugin == "none":
            profile["podCidr"] = self.pod_cidr
        return {
            "location": self.location,
            "tags": dict(self.tags),
            "sku": {"name": "Base", "tier": "Free"},
            "identity": {"type": "SystemAssigned"},
            "properties": {
                "kubernetesVersion": version,
                "dnsPrefix": dns_prefix(self.name, self.resource_group),
                "enableRBAC": True,
                "agentPoolProfiles": [{
                    "name": "nodepool1", "mode": "System", "type": "VirtualMachineScaleSets",
                    "count": self.node_count, "vmSize": vm_size, "osType": "Linux",
                }],
                "networkProfile": profile,
            },
        }

    def command(self, version: str | None, vm_size: str | None = None) -> str:
        """The twin: `az aks create …`, as the article types it."""
        lines = [
            "az aks create",
            f"--resource-group {self.resource_group}",
            f"--name {self.name}",
            f"--node-count {self.node_count}",
            *([f"--kubernetes-version {version}"] if version else []),
            "--enable-managed-identity",
            "--load-balancer-sku standard",
            f"--node-vm-size {vm_size or self.node_vm_size}",
            f"--network-plugin {self.network_plugin}",
            *([f"--network-policy {self.network_policy}"] if self.network_policy != "none" else []),
            *([f"--pod-cidr {self.pod_cidr}"] if self.network_plugin == "none" else []),
            "--generate-ssh-keys",
            *(["--tags " + " ".join(f"{k}={v}" for k, v in self.tags.items())] if self.tags else []),
        ]
        return " \\\n  ".join(lines)


def dns_prefix(name: str, group: str) -> str:
    """The prefix of the API's name: some letters of each name, as `az` takes them, and digits that differ by cluster.

    Args:
        name: the cluster.
        group: its resource group.
    """
    def letters(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9-]", "", text)

    digits = hashlib.sha256(f"{group}/{name}".lower().encode()).hexdigest()[:6]
    return f"{letters(name)[:10]}-{letters(group)[:16]}-{digits}".strip("-").lower()
