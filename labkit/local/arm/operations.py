"""Long-running operations: started by a request, carried out by a task, finished across restarts.

An operation is written down before its request is answered. When the daemon comes back after a crash,
`resume` runs again what had begun: everything that operations call is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from .clusters import ClusterError, Clusters
from .identity import guid
from .pools import pool_spec
from .store import ArmStore, Operation, OperationKind
from .validation import CLUSTER_TYPE, spec_of

log = logging.getLogger(__name__)

GROUP_TYPE = "Microsoft.Resources/resourceGroups"


class Operations:
    """Runs operations against the books and the clusters.

    Args:
        store: where resources and operations are written down.
        clusters: who does the work.
    """

    def __init__(self, store: ArmStore, clusters: Clusters) -> None:
        self._store, self._clusters = store, clusters
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, kind: OperationKind, target: str, location: str) -> Operation:
        """Write an operation down and begin it; from the event loop."""
        operation = self._store.begin(kind, target, location)
        self._spawn(operation)
        return operation

    def resume(self) -> None:
        """Take up what was in flight when the daemon went away; from the event loop, any number of times."""
        for operation in self._store.in_flight():
            if operation.id not in self._tasks:
                log.info("resuming %s of %s", operation.kind, operation.target)
                self._spawn(operation)

    async def wait(self, id: str, seconds: float) -> None:
        """Return when an operation has ended, or after this long."""
        if task := self._tasks.get(id):
            await asyncio.wait([task], timeout=seconds)

    async def abort(self, operation: Operation) -> Operation:
        """Stop an operation where it is; the resource says so, and the next request may carry on from there."""
        if task := self._tasks.get(operation.id):
            task.cancel()
            await asyncio.wait([task])
        if resource := self._store.get(operation.target):
            _set_state(resource, "Canceled")
            self._store.put(resource)
        aborted = operation.finished("Canceled", "The operation was aborted.")
        self._store.save(replace(aborted, status="Canceled"))
        done = self._store.begin("abort", operation.target, operation.location).finished()
        self._store.save(done)
        return done

    async def close(self) -> None:
        """Leave what is in flight as it is: the next daemon resumes it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, operation: Operation) -> None:
        task = asyncio.get_running_loop().create_task(self._run(operation), name=f"arm {operation.kind}")
        self._tasks[operation.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(operation.id, None))

    async def _run(self, operation: Operation) -> None:
        try:
            await self._carry_out(operation)
        except ClusterError as error:
            self._fail(operation, error.code, error.message)
        except Exception as error:
            log.exception("%s of %s failed", operation.kind, operation.target)
            self._fail(operation, "InternalOperationError",
                       f"{type(error).__name__}: {error}. The daemon's log has the traceback.")
        else:
            self._store.save(operation.finished())

    def _fail(self, operation: Operation, code: str, message: str) -> None:
        if resource := self._store.get(operation.target):
            _set_state(resource, "Failed")
            self._store.put(resource)
        self._store.save(operation.finished(code, message))

    async def _carry_out(self, operation: Operation) -> None:
        resource = self._store.get(operation.target)
        if resource is None:
            if operation.kind in ("delete", "delete-group"):
                return
            raise ClusterError("The resource went away before the operation on it ended.", "ResourceNotFound")
        if operation.kind == "delete-group":
            await self._delete_group(resource)
        elif operation.kind == "delete":
            await self._delete_cluster(resource)
        else:
            await self._change_cluster(operation.kind, operation.target)

    async def _change_cluster(self, kind: OperationKind, id: str) -> None:
        resource = self._store.get(id) or {}
        key = self._store.key(id)
        spec = spec_of(resource, key)
        if kind == "create" or not _is_built(resource):
            # A creation that failed is tried again by the next PUT, as in Azure.
            _fill_in(resource, await self._clusters.create(spec))
        if kind == "update":
            await self._clusters.set_kube_proxy(key, spec.kube_proxy)
            await self._scale(resource, key)
        elif kind == "stop":
            await self._clusters.stop(key)
        elif kind == "start":
            await self._clusters.start(key)
        latest = self._store.get(id) or resource  # tags may have changed meanwhile
        latest["properties"] = resource["properties"]
        _set_state(latest, "Succeeded", power="Stopped" if kind == "stop" else "Running")
        self._store.put(latest)

    async def _scale(self, resource: dict[str, Any], key: str) -> None:
        profiles = resource["properties"]["agentPoolProfiles"]
        for profile in profiles:
            leaving = profile["provisioningState"] == "Deleting"
            pool = pool_spec(profile)
            await self._clusters.scale(key, replace(pool, count=0) if leaving else pool)
        resource["properties"]["agentPoolProfiles"] = [
            p for p in profiles if p["provisioningState"] != "Deleting"]

    async def _delete_cluster(self, resource: dict[str, Any]) -> None:
        id = resource["id"]
        await self._clusters.delete(self._store.key(id))
        for group in self._store.resources(GROUP_TYPE):
            if group.get("managedBy", "").lower() == id.lower():
                self._store.remove(group["id"])
        self._store.remove(id)
        self._store.free_key(id)

    async def _delete_group(self, group: dict[str, Any]) -> None:
        for cluster in self._store.resources(CLUSTER_TYPE, group["id"]):
            _set_state(cluster, "Deleting")
            self._store.put(cluster)
            await self._delete_cluster(cluster)
        self._store.remove(group["id"])


def _set_state(resource: dict[str, Any], state: str, power: str | None = None) -> None:
    properties = resource["properties"]
    properties["provisioningState"] = state
    if power:
        properties["powerState"] = {"code": power}
    for profile in properties.get("agentPoolProfiles", ()):
        profile["provisioningState"] = state
        if power:
            profile["powerState"] = {"code": power}


def _is_built(resource: dict[str, Any]) -> bool:
    return "effectiveOutboundIPs" in resource["properties"]["networkProfile"]["loadBalancerProfile"]


def _fill_in(resource: dict[str, Any], outbound: str) -> None:
    """What a cluster's resource says once it exists."""
    properties = resource["properties"]
    subscription = resource["id"].split("/")[2]
    node_group = f"/subscriptions/{subscription}/resourceGroups/{properties['nodeResourceGroup']}/providers"
    properties["networkProfile"]["loadBalancerSku"] = "Standard"  # Azure answers PUT and GET in two casings
    properties["networkProfile"]["loadBalancerProfile"]["effectiveOutboundIPs"] = [
        {"id": f"{node_group}/Microsoft.Network/publicIPAddresses/{outbound}"}]
    properties["identityProfile"] = {"kubeletidentity": {
        "resourceId": f"{node_group}/Microsoft.ManagedIdentity/userAssignedIdentities/"
                      f"{resource['name']}-agentpool",
        "clientId": guid(f"{resource['id']} kubelet client"),
        "objectId": guid(f"{resource['id']} kubelet object")}}
