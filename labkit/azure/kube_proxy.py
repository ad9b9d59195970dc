"""kube-proxy on and off, by Azure's preview API: only clusters that bring their own network may.

The property `kubeProxyConfig` is in no stable version of the API, nor in the SDK's stable models. The SDK takes
another version of the API and a plain dictionary all the same, and passes both on as they are.
"""

from __future__ import annotations

import json
from typing import Any

from labkit.azure.arm import Azure
from labkit.azure.refusals import explained
from labkit.errors import AzureNotFoundError
from labkit.plan import Log

PREVIEW = "2026-08-02-preview"
"""The newest version of the API that knows kubeProxyConfig."""
Resource = dict[str, Any]
_READ_ONLY = ("provisioningState", "powerState", "fqdn", "azurePortalFQDN", "currentKubernetesVersion",
              "maxAgentPools", "resourceUID")


class KubeProxySwitch:
    """kube-proxy of one cluster.

    Args:
        azure: the subscription.
        group: the cluster's resource group.
        name: the cluster.
    """

    def __init__(self, azure: Azure, group: str, name: str) -> None:
        self._azure, self._group, self._name = azure, group, name

    def set(self, enabled: bool, log: Log) -> None:
        """Switch it, and wait for the operation: read the cluster, change one property, write it.

        Args:
            enabled: whether kube-proxy shall run.
            log: hears how the operation stands.

        Raises:
            AzureError: Azure refuses, such as with KubeProxyConfigDisabledBYOCNIOnly.
        """
        found = self._azure.cluster(self._group, self._name)
        if found is None:
            raise AzureNotFoundError(f"There is no cluster {self._name} in {self._group}.",
                                     code="ResourceNotFound", status=404)
        what = f"Switching kube-proxy of {self._name} {'on' if enabled else 'off'}"
        with explained(what), self._azure.containers(PREVIEW) as client:
            poller = client.managed_clusters.begin_create_or_update(
                self._group, self._name, body(found, enabled=enabled))
            said = ""
            while not poller.done():
                if (status := str(poller.status())) != said:
                    log(f"{what}: {status}")
                    said = status
                poller.wait(timeout=2.0)
            poller.result()
        log(f"{what}: {poller.status()}")

    def command(self, enabled: bool) -> str:
        """The same by `az`; it takes the extension aks-preview.

        Args:
            enabled: whether kube-proxy shall run.
        """
        return ("az extension add --name aks-preview\n"
                f"echo '{json.dumps({'enabled': enabled})}' > kube-proxy.json\n"
                f"az aks update --resource-group {self._group} --name {self._name} "
                "--kube-proxy-config kube-proxy.json")


def body(cluster: Resource, *, enabled: bool) -> Resource:
    """The request that changes kube-proxy and nothing else.

    Args:
        cluster: as Azure returned it.
        enabled: whether kube-proxy shall run.
    """
    properties: dict[str, Any] = {k: v for k, v in cluster["properties"].items() if k not in _READ_ONLY}
    network = {**(properties.get("networkProfile") or {}), "kubeProxyConfig": {"enabled": enabled}}
    kept: Resource = {k: cluster[k] for k in ("location", "tags", "sku", "identity") if k in cluster}
    return {**kept, "properties": {**properties, "networkProfile": network}}
