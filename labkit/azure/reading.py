"""One subscription, read through Azure's SDKs: nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from labkit.azure import versions
from labkit.azure.refusals import explained
from labkit.errors import AzureError, AzureNotFoundError
from labkit.plan import Log

if TYPE_CHECKING:
    from labkit.azure.sdk import Patience

Resource = dict[str, Any]
"""An Azure resource as JSON."""

_COMPUTE_API = "2021-07-01"  # the last that has both usages and skus
_LOCKS_API = "2020-05-01"


class Subscription:
    """What there is in a subscription.

    Args:
        url: Azure Resource Manager.
        subscription: its id.
        credential: makes a credential.
        ca_bundle: certificates to trust; None means the system's.
        poll_seconds: how often to ask about operations, where the server does not say.
        scope: what tokens are for; None means the URL's own.
        patience: how long to wait for answers; None means the usual.
    """

    def __init__(self, url: str, subscription: str, credential: Callable[[], Any],
                 ca_bundle: str | None = None, poll_seconds: float = 10.0, *, scope: str | None = None,
                 patience: Patience | None = None) -> None:
        self._url, self._credential, self._scope = url, credential, scope or f"{url}/.default"
        self.subscription = subscription
        self._ca_bundle, self._poll, self._patience = ca_bundle, poll_seconds, patience
        self._aks_client: Any = None
        self._groups_client: Any = None

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        for client in (self._aks_client, self._groups_client):
            if client is not None:
                client.close()
        self._aks_client = self._groups_client = None

    # Resource groups

    def group(self, name: str) -> Resource | None:
        """A resource group, or None."""
        return self._find(f"Reading the resource group {name}",
                          lambda: self._resources.resource_groups.get(name))

    def groups(self, tag: str | None = None) -> list[Resource]:
        """The subscription's resource groups; with `tag`, those that carry it."""
        with explained("Listing resource groups"):
            found = [dict(g.as_dict()) for g in self._resources.resource_groups.list()]
        return [g for g in found if tag is None or tag in (g.get("tags") or {})]

    def contents(self, group: str) -> list[Resource]:
        """All resources of a group, of whatever kind."""
        with explained(f"Listing what is in the resource group {group}"):
            return [dict(r.as_dict()) for r in self._resources.resources.list_by_resource_group(group)]

    def locks(self, group: str) -> list[str]:
        """The names of the locks on a group and on what is in it."""
        path = f"resourceGroups/{group}/providers/Microsoft.Authorization/locks"
        found = self._list(path, f"Asking for locks on the resource group {group}", {"api-version": _LOCKS_API})
        return [str(lock["name"]) for lock in found]

    # Clusters

    def versions(self, location: str) -> tuple[versions.Version, ...]:
        """The Kubernetes versions that a location offers, newest first."""
        with explained(f"Asking which Kubernetes versions {location} offers"):
            return versions.parse(self._aks.managed_clusters.list_kubernetes_versions(location).as_dict())

    def cluster(self, group: str, name: str) -> Resource | None:
        """A cluster, or None; also None where its group does not exist."""
        return self._find(f"Reading the cluster {name}", lambda: self._aks.managed_clusters.get(group, name))

    def clusters(self, group: str | None = None) -> list[Resource]:
        """The clusters of a group, or of the subscription."""
        with explained("Listing clusters"):
            operations = self._aks.managed_clusters
            found = operations.list_by_resource_group(group) if group else operations.list()
            return [dict(cluster.as_dict()) for cluster in found]

    def credentials(self, group: str, name: str, *, admin: bool = True) -> bytes:
        """A kubeconfig of a cluster.

        Args:
            group: its resource group.
            name: its name.
            admin: the cluster's own administrator; False means who is logged in (with Microsoft Entra ID that
                takes kubelogin).

        Raises:
            AzureNotFoundError: there is no such cluster.
            AzureError: the cluster gives none.
        """
        clusters = self._aks.managed_clusters
        with explained(f"Fetching the credentials of {name}"):
            if admin:
                answer = clusters.list_cluster_admin_credentials(group, name)
            else:
                answer = clusters.list_cluster_user_credentials(group, name, format="exec")
        for entry in answer.kubeconfigs or []:
            return bytes(entry.value)
        raise AzureError(f"The cluster {name} gave no credentials.", "local accounts may be disabled on it.",
                         "enable local accounts, or use kubelogin with user credentials.",
                         code="NoCredentials")

    def registered(self, provider: str) -> str:
        """A resource provider's registration state, such as "Registered"."""
        with explained(f"Asking whether {provider} is registered"):
            return str(self._resources.providers.get(provider).registration_state)

    def usages(self, location: str) -> dict[str, tuple[int, int]]:
        """What of the compute quota is used, and the limit, by the quota's name: "cores" is the region's vCPUs."""
        path = f"providers/Microsoft.Compute/locations/{location}/usages"
        found = self._list(path, f"Asking for the quota in {location}", {"api-version": _COMPUTE_API})
        return {u["name"]["value"]: (int(u["currentValue"]), int(u["limit"])) for u in found}

    def sizes(self, location: str) -> dict[str, dict[str, Any]]:
        """The VM sizes of a location by name, with their family, capabilities and restrictions."""
        query = {"api-version": _COMPUTE_API, "$filter": f"location eq '{location}'"}
        found = self._list("providers/Microsoft.Compute/skus", f"Asking for the VM sizes of {location}", query)
        return {sku["name"]: sku for sku in found if sku.get("resourceType") == "virtualMachines"}

    def _list(self, path: str, what: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """A list of a provider that has no SDK here: by the pipeline of one that is."""
        from azure.core.rest import HttpRequest

        found: list[dict[str, Any]] = []
        url: str | None = f"{self._url}/subscriptions/{self.subscription}/{path}"
        asked: Mapping[str, str] | None = query
        with explained(what):
            while url:
                response = self._resources.send_request(HttpRequest("GET", url, params=asked))
                response.raise_for_status()
                page = response.json()
                found += page.get("value") or []
                url, asked = page.get("nextLink"), None
        return found

    # The SDKs

    def containers(self, api_version: str) -> Any:
        """A client of its own for another version of the containers' API; whoever takes it closes it."""
        from azure.mgmt.containerservice import ContainerServiceClient

        return ContainerServiceClient(self._credential(), self.subscription, api_version=api_version,
                                      **self._options())

    @property
    def _aks(self) -> Any:
        if self._aks_client is None:
            from azure.mgmt.containerservice import ContainerServiceClient

            self._aks_client = ContainerServiceClient(self._credential(), self.subscription, **self._options())
        return self._aks_client

    @property
    def _resources(self) -> Any:
        if self._groups_client is None:
            from azure.mgmt.resource.resources import ResourceManagementClient

            self._groups_client = ResourceManagementClient(self._credential(), self.subscription, **self._options())
        return self._groups_client

    def _options(self) -> dict[str, Any]:
        from labkit.azure import sdk

        return sdk.options(self._url, self._scope, self._ca_bundle, self._poll, self._patience or sdk.Patience())

    def _telling(self, log: Log) -> Any:
        from labkit.azure import sdk

        return sdk.telling(log)

    def _find(self, what: str, read: Callable[[], Any]) -> Resource | None:
        try:
            with explained(what):
                return dict(read().as_dict())
        except AzureNotFoundError:
            return None
