"""kube-proxy on and off, by Azure's preview API: only clusters that bring their own network may.

The property `kubeProxyConfig` is in no stable version of the API, nor in the SDK's stable models. The SDK takes
another version of the API and a plain dictionary all the same, and passes both on as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.azure.reading import Resource
from labkit.plan import Log

if TYPE_CHECKING:
    from labkit.azure.arm import Azure

PREVIEW = "2026-08-02-preview"
"""The newest version of the API that knows kubeProxyConfig."""
_READ_ONLY = frozenset({"provisioningState", "powerState", "fqdn", "privateFQDN", "azurePortalFQDN", "maxAgentPools",
                        "currentKubernetesVersion", "resourceUID", "status", "eTag", "currentOrchestratorVersion",
                        "effectiveOutboundIPs", "issuerURL", "principalId", "tenantId", "nodeImageVersion"})
"""What only Azure sets, wherever it is; and nodeImageVersion, which nodes would be rolled back to."""


@dataclass(frozen=True)
class KubeProxySwitch:
    """kube-proxy of one cluster.

    Args:
        azure: the subscription.
        group: the cluster's resource group.
        name: the cluster.
    """

    azure: Azure
    group: str
    name: str

    def set(self, enabled: bool, log: Log) -> None:
        """Switch it, and wait until that is done.

        Args:
            enabled: whether kube-proxy shall run.
            log: hears how the operation stands.

        Raises:
            AzureError: Azure refuses, such as with KubeProxyConfigDisabledBYOCNIOnly.
        """
        self.azure.switch_kube_proxy(self.group, self.name, enabled, log)

    def command(self, enabled: bool) -> str:
        """The same by `az`."""
        return command(self.group, self.name, enabled)


def command(group: str, name: str, enabled: bool) -> str:
    """The switch by `az`; it takes the extension aks-preview, of 0.5.117 or later.

    The file and the option are as learn.microsoft.com/azure/aks/configure-kube-proxy has them.

    Args:
        group: the cluster's resource group.
        name: the cluster.
        enabled: whether kube-proxy shall run.
    """
    return ("az extension add --upgrade --name aks-preview\n"
            f"echo '{json.dumps({'enabled': enabled})}' > kube-proxy.json\n"
            f"az aks update --resource-group {group} --name {name} --kube-proxy-config kube-proxy.json")


def body(cluster: Resource, *, enabled: bool) -> Resource:
    """The request that changes kube-proxy and nothing else.

    Args:
        cluster: as Azure returned it.
        enabled: whether kube-proxy shall run.
    """
    kept: Resource = _writable({k: cluster[k] for k in ("location", "tags", "sku", "identity", "properties")
                                if k in cluster})
    kept["properties"].setdefault("networkProfile", {})["kubeProxyConfig"] = {"enabled": enabled}
    return kept


def _writable(value: Any) -> Any:
    """The same without what only Azure sets."""
    if isinstance(value, dict):
        return {key: entry if key == "tags" else _writable(entry)
                for key, entry in value.items() if key not in _READ_ONLY}
    return [_writable(entry) for entry in value] if isinstance(value, list) else value
