"""What the course makes and deletes in a subscription: resource groups and clusters, each an operation to follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.azure import kube_proxy, states, versions
from labkit.azure.following import Follower, interruptible
from labkit.azure.journal import Journal, Operation
from labkit.azure.reading import Resource, Subscription
from labkit.azure.refusals import explained
from labkit.azure.settings import ClusterSettings
from labkit.azure.sizes import after_refusal
from labkit.errors import AzureError, AzureNotFoundError
from labkit.plan import Log

if TYPE_CHECKING:
    from labkit.azure.sdk import Patience

PROVIDERS = ("Microsoft.ContainerService", "Microsoft.Compute", "Microsoft.Network", "Microsoft.ManagedIdentity")
"""The resource providers that a cluster needs."""


class Azure(Subscription):
    """One subscription, to read and to change.

    Args:
        journal: the folder where operations under way are written down; None means the usual one. The other
            arguments are those of `Subscription`.
    """

    def __init__(self, url: str, subscription: str, credential: Callable[[], Any],
                 ca_bundle: str | None = None, poll_seconds: float = 10.0, *, scope: str | None = None,
                 journal: Path | None = None, patience: Patience | None = None) -> None:
        super().__init__(url, subscription, credential, ca_bundle, poll_seconds, scope=scope, patience=patience)
        self._follower = Follower(Journal(subscription, journal), poll_seconds)

    # Resource groups

    def create_group(self, name: str, location: str, tags: Mapping[str, str]) -> Resource:
        """Create a resource group, or change its tags."""
        with explained(f"Creating the resource group {name}"):
            group = self._resources.resource_groups.create_or_update(
                name, {"location": location, "tags": dict(tags)})
            return dict(group.as_dict())

    def tag_group(self, name: str, tags: Mapping[str, str]) -> None:
        """Set tags of a resource group; those that it has besides stay."""
        with explained(f"Tagging the resource group {name}"):
            groups = self._resources.resource_groups
            before = groups.get(name).as_dict().get("tags") or {}
            groups.update(name, {"tags": {**before, **tags}})

    def delete_group(self, name: str, log: Log) -> None:
        """Delete a resource group and all that is in it, and wait until it is gone; it need not exist."""
        operation = Operation("delete-group", name, name)
        with interruptible(operation, "What is in the group costs money until it is gone."), self._telling(log):
            if self.group(name) is None:
                return
            self._delete(operation, self._resources.resource_groups.begin_delete, (name,),
                         lambda: self.group(name), log)

    # Clusters

    def create_cluster(self, settings: ClusterSettings, log: Log) -> Resource:
        """Create a cluster and wait until it is there; what is under way already is followed, not begun again.

        Where the subscription may not use the size, others of the same shape are tried in turn; likewise older
        versions where the newest is refused and none was asked for. A cluster that is stopped is started.

        Raises:
            AzureError: Azure refuses, or the operation failed.
            OperationInterruptedError: somebody interrupted the wait.
        """
        group, name = settings.resource_group, settings.name
        operation = Operation("create", group, name)
        with interruptible(operation, f"The cluster {name} costs money as soon as it has nodes."), self._telling(log):
            found, followed = self._settled(operation, log)
            if states.power(found) == "Stopped":
                self.start_cluster(group, name, log)
                return self._there(group, name)
            if found is not None and states.of(found) == "Succeeded" and followed:
                return found
            self._register(log)
            return self._create(settings, operation, log)

    def delete_cluster(self, group: str, name: str, log: Log) -> None:
        """Delete a cluster and wait until it is gone; it need not exist.

        What is under way on it is aborted first: Azure deletes nothing in the middle of another operation.
        """
        operation = Operation("delete", group, name)
        with interruptible(operation, f"The cluster {name} costs money until it is gone."), self._telling(log):
            state = states.of(self.cluster(group, name))
            if state is None:
                self._forget(group, name)
                return
            if state in states.BUSY and state != "Deleting":
                log(f"{name} is {state}: that is aborted first")
                self.abort(group, name, log)
            self._delete(operation, self._aks.managed_clusters.begin_delete, (group, name),
                         lambda: self.cluster(group, name), log)
            self._forget(group, name)

    def start_cluster(self, group: str, name: str, log: Log) -> None:
        """Start a cluster that was stopped."""
        self._simple(Operation("start", group, name), self._aks.managed_clusters.begin_start, log)

    def switch_kube_proxy(self, group: str, name: str, enabled: bool, log: Log) -> None:
        """Switch kube-proxy on or off, on a cluster that brings its own network; nothing else of it changes.

        Args:
            group: the cluster's resource group.
            name: the cluster.
            enabled: whether kube-proxy shall run.
            log: hears how the operation stands.

        Raises:
            AzureError: Azure refuses, such as with KubeProxyConfigDisabledBYOCNIOnly.
        """
        found = self.cluster(group, name)
        if found is None:
            raise AzureNotFoundError(f"There is no cluster {name} in {group}.", code="ResourceNotFound", status=404)
        changed = kube_proxy.body(found, enabled=enabled)
        with self.containers(kube_proxy.PREVIEW) as client:
            begin = client.managed_clusters.begin_create_or_update
            self._simple(Operation(_switching(enabled), group, name),
                         lambda group, name, **resume: begin(group, name, changed, **resume), log)

    def abort(self, group: str, name: str, log: Log) -> None:
        """Abort what is under way on a cluster, and wait until nothing is; an operation that ends first is fine."""
        try:
            self._simple(Operation("abort", group, name),
                         self._aks.managed_clusters.begin_abort_latest_operation, log)
        except AzureNotFoundError:
            return
        except AzureError as error:
            if error.status != 409:
                raise
            log(f"it cannot be aborted any more: {error.why}")
        self._follower.forget(Operation("create", group, name))
        self._rest(group, name, log)

    # Creating, step by step

    def _settled(self, operation: Operation, log: Log) -> tuple[Resource | None, bool]:
        """The cluster once nothing is under way on it, and whether that was its creation and was followed."""
        group, name = operation.group, operation.name
        found, followed = self.cluster(group, name), False
        state = states.of(found)
        if state is None:
            self._forget(group, name)
        elif state not in states.BUSY:
            self._follower.forget(operation)
        else:
            log(f"{name} is {state} already: that is followed, nothing is begun anew")
            if state == "Creating":
                self._follow_creation(operation, lambda **resume: self._aks.managed_clusters.begin_create_or_update(
                    group, name, {}, **resume), log, anew=False)
            found = self._rest(group, name, log)
            if found is None and state != "Deleting":
                raise states.deleted_meanwhile(name)
            followed = state != "Deleting"
        return found, followed

    def _create(self, settings: ClusterSettings, operation: Operation, log: Log) -> Resource:
        group, name = settings.resource_group, settings.name
        choices = versions.choices(self.versions(settings.location), settings.kubernetes_version, settings.location)
        version, size = choices[0], settings.node_vm_size
        tried = [size]
        while True:
            log(f"Kubernetes {version}, {settings.node_count} × {size}, in {settings.location}")
            body = settings.body(version, size)
            try:
                return self._follow_creation(
                    operation, lambda body=body, **resume: self._aks.managed_clusters.begin_create_or_update(
                        group, name, body, **resume), log)
            except AzureError as error:
                if (lost := self._taken_all_the_same(error, operation, log)) is not None:
                    return lost
                if following := versions.after_refusal(error, choices, version):
                    log(f"Kubernetes {version} is refused ({error.why}); trying {following}")
                    version = following
                elif another := after_refusal(error, tried):
                    log(f"{size} is refused ({error.why}); trying {another}")
                    size = another
                    tried.append(another)
                else:
                    raise

    def _follow_creation(self, operation: Operation, begin: Callable[..., Any], log: Log, *,
                         anew: bool = True) -> Resource:
        """The cluster as its creation left it; nothing where there was none to take up."""
        with explained(f"Creating the cluster {operation.name}"):
            try:
                made = self._follower.follow(operation, begin, log, lambda: states.describe(
                    self.cluster(operation.group, operation.name)), anew=anew)
            except Exception as error:
                # Not the request itself, but the operation or what it made is not found: somebody deleted it.
                request = getattr(getattr(error, "response", None), "request", None)
                if getattr(error, "status_code", None) == 404 and getattr(request, "method", "PUT") == "GET":
                    raise states.deleted_meanwhile(operation.name) from error
                raise
            return dict(made.as_dict()) if made is not None else {}

    def _taken_all_the_same(self, error: AzureError, operation: Operation, log: Log) -> Resource | None:
        """The cluster where Azure had accepted the request and only its answer was lost; else None.

        The SDK repeats a request whose answer was lost; Azure then says 409, an operation is in progress.
        """
        if not (error.status == 409 or (error.status or 500) >= 500):
            return None
        state = states.of(self.cluster(operation.group, operation.name))
        if state not in states.BUSY - {"Deleting"}:
            return None
        log(f"the answer was lost ({error.code or error.status}), but Azure has taken the request: that is followed")
        found = self._rest(operation.group, operation.name, log)
        if found is None:
            raise states.deleted_meanwhile(operation.name)
        if states.of(found) != "Succeeded":
            raise states.failed(found)
        return found

    def _register(self, log: Log) -> None:
        """Register the resource providers that a cluster needs; the SDK would do it too, but silently."""
        for provider in PROVIDERS:
            try:
                if self.registered(provider) == "Registered":
                    continue
                log(f"registering {provider}: once for each subscription, a minute or two")
                with explained(f"Registering {provider}"):
                    self._resources.providers.register(provider)
                self._follower.until(provider, lambda p=provider: self.registered(p),  # type: ignore[misc]
                                     frozenset({"NotRegistered", "Registering", "Unregistered", "Unregistering"}), log)
            except AzureError as error:
                if error.status not in (403, 404):
                    raise
                log(f"{provider}: {error.why}")  # who may not look or register may still create

    # Operations

    def _simple(self, operation: Operation, method: Callable[..., Any], log: Log) -> None:
        group, name = operation.group, operation.name
        with interruptible(operation, "The cluster is as it was until then."), self._telling(log):
            if not (busy := states.of(self.cluster(group, name)) in states.BUSY):
                self._follower.forget(operation)  # what an earlier kernel has begun is over
            try:
                with explained(f"{operation!s}".capitalize()):
                    self._follower.follow(operation, lambda **resume: method(group, name, **resume), log)
            except AzureError as error:
                # Busy before: what is under way is somebody else's, and this was refused because of it.
                if busy or self._taken_all_the_same(error, operation, log) is None:
                    raise

    def _delete(self, operation: Operation, method: Callable[..., Any], where: tuple[str, ...],
                read: Callable[[], Resource | None], log: Log) -> None:
        """Delete something that is there; a request whose answer was lost counts, if Azure has taken it."""
        if not (deleting := states.of(read()) == "Deleting"):
            self._follower.forget(operation)  # of an earlier one of that name
        try:
            with explained(f"{operation!s}".capitalize()):
                self._follower.follow(operation, lambda **resume: method(*where, **resume), log,
                                      anew=not deleting)
        except AzureNotFoundError:
            self._follower.forget(operation)  # it was gone before us
        except AzureError:
            if states.of(read()) not in ("Deleting", None):
                raise
            log("the answer was lost, but Azure has taken the request: that is followed")
            if self._deleted(operation, read, log) is not None:
                raise  # it was taken, and has failed
        self._deleted(operation, read, log)

    def _deleted(self, operation: Operation, read: Callable[[], Resource | None], log: Log) -> str | None:
        """The state in which a deletion leaves something; None where it is gone, as it should be."""
        return self._follower.until(operation.name, lambda: states.of(read()), frozenset({"Deleting"}), log)

    def _rest(self, group: str, name: str, log: Log) -> Resource | None:
        """The cluster once nothing is under way on it."""
        self._follower.until(name, lambda: states.of(self.cluster(group, name)), states.BUSY, log)
        return self.cluster(group, name)

    def _there(self, group: str, name: str) -> Resource:
        if (found := self.cluster(group, name)) is None:
            raise states.deleted_meanwhile(name)
        return found

    def _forget(self, group: str, name: str) -> None:
        for verb in ("create", "delete", "start", "abort", *map(_switching, (True, False))):
            self._follower.forget(Operation(verb, group, name))


def _switching(enabled: bool) -> str:
    """The verb of an operation that switches kube-proxy."""
    return f"switch kube-proxy {'on' if enabled else 'off'} in"
