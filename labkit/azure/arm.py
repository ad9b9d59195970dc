"""Azure Resource Manager: the only module that knows Azure's SDKs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from labkit.azure import versions
from labkit.azure.refusals import explained
from labkit.azure.settings import SIZE_FALLBACKS, ClusterSettings
from labkit.errors import AzureError, AzureNotFoundError
from labkit.plan import Log

_COMPUTE_API = "2021-07-01"  # the last that has both usages and skus

Resource = dict[str, Any]
"""An Azure resource as JSON."""


class Azure:
    """One subscription.

    Args:
        url: Azure Resource Manager.
        subscription: its id.
        credential: makes a credential.
        ca_bundle: certificates to trust; None means the system's.
        poll_seconds: how often to ask about operations, where the server does not say.
    """

    def __init__(self, url: str, subscription: str, credential: Callable[[], Any],
                 ca_bundle: str | None = None, poll_seconds: float = 10.0) -> None:
        self._url, self._credential = url, credential
        self.subscription = subscription
        self._ca_bundle, self._poll = ca_bundle, poll_seconds
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

    def create_group(self, name: str, location: str, tags: Mapping[str, str]) -> Resource:
        """Create a resource group, or change its tags."""
        with explained(f"Creating the resource group {name}"):
            group = self._resources.resource_groups.create_or_update(
                name, {"location": location, "tags": dict(tags)})
            return dict(group.as_dict())

    def delete_group(self, name: str, log: Log) -> None:
        """Delete a resource group and all that is in it; it need not exist."""
        with explained(f"Deleting the resource group {name}"):
            try:
                self._follow(self._resources.resource_groups.begin_delete(name), f"delete group {name}", log)
            except Exception as error:
                if getattr(error, "status_code", None) != 404:
                    raise

    def groups(self, tag: str | None = None) -> list[Resource]:
        """The subscription's resource groups; with `tag`, those that carry it."""
        with explained("Listing resource groups"):
            found = [dict(g.as_dict()) for g in self._resources.resource_groups.list()]
        return [g for g in found if tag is None or tag in (g.get("tags") or {})]

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

    def create_cluster(self, settings: ClusterSettings, log: Log) -> Resource:
        """Create a cluster and wait until it is there.

        Where the subscription may not use the size, others of the same shape are tried in turn.

        Raises:
            AzureError: Azure refuses.
        """
        version = versions.choose(self.versions(settings.location), settings.kubernetes_version,
                                  settings.location)
        sizes = [settings.node_vm_size, *(s for s in SIZE_FALLBACKS if s != settings.node_vm_size)]
        for size, following in zip(sizes, [*sizes[1:], None], strict=True):
            log(f"Kubernetes {version}, {settings.node_count} × {size}, in {settings.location}")
            try:
                with explained(f"Creating the cluster {settings.name}"):
                    poller = self._aks.managed_clusters.begin_create_or_update(
                        settings.resource_group, settings.name, settings.body(version, size))
                    self._follow(poller, f"create cluster {settings.name}", log)
                    return dict(poller.result().as_dict())
            except AzureError as error:
                if following is None or not size_refused(error):
                    raise
                log(f"{size} is not allowed in this subscription; trying {following}")
        raise AssertionError("unreachable: the last size either returns or raises")

    def delete_cluster(self, group: str, name: str, log: Log) -> None:
        """Delete a cluster; it need not exist."""
        with explained(f"Deleting the cluster {name}"):
            try:
                poller = self._aks.managed_clusters.begin_delete(group, name)
                self._follow(poller, f"delete cluster {name}", log)
            except Exception as error:
                if getattr(error, "status_code", None) != 404:
                    raise

    def stop_cluster(self, group: str, name: str, log: Log) -> None:
        """Stop a cluster: its objects are kept, its machines are not paid for."""
        with explained(f"Stopping the cluster {name}"):
            self._follow(self._aks.managed_clusters.begin_stop(group, name), f"stop cluster {name}", log)

    def start_cluster(self, group: str, name: str, log: Log) -> None:
        """Start a cluster that was stopped."""
        with explained(f"Starting the cluster {name}"):
            self._follow(self._aks.managed_clusters.begin_start(group, name), f"start cluster {name}", log)

    def credentials(self, group: str, name: str) -> bytes:
        """The admin kubeconfig of a cluster.

        Raises:
            AzureNotFoundError: there is no such cluster.
            AzureError: the cluster gives none.
        """
        with explained(f"Fetching the credentials of {name}"):
            answer = self._aks.managed_clusters.list_cluster_admin_credentials(group, name)
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
        found = self._compute(f"locations/{location}/usages", f"Asking for the quota in {location}")
        return {u["name"]["value"]: (int(u["currentValue"]), int(u["limit"])) for u in found}

    def sizes(self, location: str) -> dict[str, dict[str, Any]]:
        """The VM sizes of a location by name, with their family, capabilities and restrictions."""
        found = self._compute("skus", f"Asking for the VM sizes of {location}",
                              {"$filter": f"location eq '{location}'"})
        return {sku["name"]: sku for sku in found if sku.get("resourceType") == "virtualMachines"}

    def _compute(self, path: str, what: str, query: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """A list of Microsoft.Compute's, which has no SDK here: by the pipeline of one that is."""
        from azure.core.rest import HttpRequest

        found: list[dict[str, Any]] = []
        url: str | None = f"{self._url}/subscriptions/{self.subscription}/providers/Microsoft.Compute/{path}"
        asked: dict[str, str] | None = {"api-version": _COMPUTE_API, **(query or {})}
        with explained(what):
            while url:
                response = self._resources.send_request(HttpRequest("GET", url, params=asked))
                response.raise_for_status()
                page = response.json()
                found += page.get("value") or []
                url, asked = page.get("nextLink"), None
        return found

    # The SDKs

    @property
    def _aks(self) -> Any:
        if self._aks_client is None:
            from azure.mgmt.containerservice import ContainerServiceClient

            self._aks_client = ContainerServiceClient(
                self._credential(), self.subscription, polling_interval=self._poll, **self._options())
        return self._aks_client

    @property
    def _resources(self) -> Any:
        if self._groups_client is None:
            from azure.mgmt.resource.resources import ResourceManagementClient

            self._groups_client = ResourceManagementClient(
                self._credential(), self.subscription, polling_interval=self._poll, **self._options())
        return self._groups_client

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"base_url": self._url, "credential_scopes": [f"{self._url}/.default"]}
        if self._ca_bundle:
            options["connection_verify"] = self._ca_bundle
        return options

    def _find(self, what: str, read: Callable[[], Any]) -> Resource | None:
        try:
            with explained(what):
                return dict(read().as_dict())
        except AzureNotFoundError:
            return None

    def _follow(self, poller: Any, what: str, log: Log) -> None:
        """Wait for a long-running operation, saying how it stands."""
        begin, said = time.monotonic(), ""
        while not poller.done():
            status = str(poller.status())
            if status != said:
                log(f"{what}: {status} after {time.monotonic() - begin:.0f} s")
                said = status
            poller.wait(timeout=min(self._poll, 2.0))
        poller.result()
        log(f"{what}: {poller.status()} after {time.monotonic() - begin:.1f} s")


def size_refused(error: AzureError) -> bool:
    """Whether Azure refused because of the VM size."""
    return "VMSizeNotSupported" in error.code or "not allowed in your subscription" in error.why
