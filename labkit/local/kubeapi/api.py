"""One cluster's API server: the verbs in process, and the ASGI application that serves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labkit.local.client import ApiError, Handler, Obj, PatchType, Subscription, copy_of

from . import patches, subresources
from .aggregation import Aggregation
from .auth import Authenticate, ServiceAccountTokens, User
from .backend import NodeBackend
from .http import HttpSurface
from .kinds import Kind, Served
from .lists import matching
from .machinery import DeleteOptions, Machinery
from .metrics import Metrics
from .openapi import Documents
from .selectors import predicate
from .store import Event
from .watching import Deliveries, LocalSubscription, seen_through
from .wire import add_builtin_versions


class Api:
    """The API server of one cluster; implements `labkit.local.client.Client`.

    The verbs are for the thread of the event loop only. A write is on disk when it returns. Handlers of
    `watch` are called after the write that caused them returned, in the order of writes, from
    `loop.call_soon`; so a handler may itself write. Without a running loop they are called before the
    outermost verb returns.

    A resource may carry a subresource where Kubernetes creates one: `create("pods/binding", …)`,
    `create("pods/eviction", …)`, `create("serviceaccounts/token", …)`, with the object's name in
    metadata.name.

    Args:
        database: its file; one table of it is used.
        cluster: the cluster's key in that table.
        version: the Kubernetes version to be.
    """

    def __init__(self, database: Path, cluster: str, *, version: str = "v1.20.2") -> None:
        self.node_backend: NodeBackend | None = None
        self.authenticate: Authenticate = lambda token: None
        self.machinery = Machinery(database, cluster, version)
        add_builtin_versions(self.machinery.registry, self.machinery.minor)
        self.tokens = ServiceAccountTokens(self.machinery.store)
        self.openapi = Documents(self.machinery.registry, version)
        self.metrics = Metrics()
        self._deliveries = Deliveries()
        self.aggregation = Aggregation(self)
        self._http = HttpSurface(self)

    @property
    def version(self) -> str:
        """The Kubernetes version, such as "v1.20.2"."""
        return self.machinery.version

    def user_of(self, token: str) -> User | None:
        """Whom a bearer token stands for: a service account of this cluster, or whom `authenticate` knows."""
        return self.tokens.check(token) or self.authenticate(token)

    def resource_of(self, api_version: str, kind: str) -> str:
        """The resource of a manifest's apiVersion and kind.

        Raises:
            ApiError: NotFound, in kubectl's words, when nothing serves it.
        """
        return self.served_of(api_version, kind).kind.resource

    def served_of(self, api_version: str, kind: str) -> Served:
        """A kind at the version that a manifest names."""
        group, _, version = api_version.rpartition("/")
        for one in self.machinery.registry.served.get((group, version), {}).values():
            if one.kind.kind == kind:
                return one
        raise ApiError(404, "NotFound", f'no matches for kind "{kind}" in version "{api_version}"')

    def count(self) -> int:
        """How many objects the cluster has."""
        return sum(self.machinery.store.shelf(r).count() for r in self.machinery.registry.kinds)

    # labkit.local.client.Client

    def get(self, resource: str, name: str, namespace: str | None = None) -> Obj:
        """Read one object."""
        kind, sub = self._kind(resource)
        if sub == "scale":
            return subresources.scale_of(kind, self.machinery.entry(kind, namespace or "", name).obj)
        return self.machinery.entry(kind, namespace or "", name).obj

    def list(self, resource: str, namespace: str | None = None, *, label_selector: str | None = None,
             field_selector: str | None = None) -> list[Obj]:
        """Read all objects, of one namespace or of all."""
        kind, _ = self._kind(resource)
        found = matching(self.machinery.store, kind, namespace or "", label_selector, field_selector)
        return [entry.obj for _, entry in found]

    def create(self, resource: str, obj: Obj, namespace: str | None = None) -> Obj:
        """Create an object; its metadata.namespace serves where `namespace` is None."""
        kind, sub = self._kind(resource)
        if sub is not None:
            meta = obj.get("metadata") or {}
            where = namespace or meta.get("namespace") or ""
            return subresources.post(self, kind, sub, where, meta.get("name", ""), obj)
        return self.machinery.create(kind, copy_of(obj), namespace or "").obj

    def update(self, resource: str, obj: Obj, *, subresource: str | None = None) -> Obj:
        """Replace an object; a metadata.resourceVersion that is not current is a Conflict."""
        kind, sub = self._kind(resource)
        meta = obj["metadata"]
        return self.machinery.replace(kind, meta.get("namespace", ""), meta["name"], copy_of(obj),
                                      sub=subresource or sub).obj

    def patch(self, resource: str, name: str, patch: Obj | Sequence[Obj], namespace: str | None = None, *,
              type: PatchType = "merge", subresource: str | None = None, field_manager: str = "labkit",
              force: bool = True) -> Obj:
        """Patch an object; with type "apply" it is created where there is none."""
        kind, sub = self._kind(resource)
        return patches.patch_object(self.machinery, kind, namespace or "", name, copy_of(patch), type,
                                    sub=subresource or sub, manager=field_manager, force=force)[0].obj

    def delete(self, resource: str, name: str, namespace: str | None = None, *, grace_period: int | None = None,
               propagation: str | None = None, uid: str | None = None) -> None:
        """Delete an object; `uid` is a precondition."""
        kind, _ = self._kind(resource)
        self.machinery.remove(kind, namespace or "", name, DeleteOptions(grace_period, propagation, uid))

    def watch(self, resource: str, handler: Handler, *, namespace: str | None = None,
              label_selector: str | None = None, field_selector: str | None = None) -> Subscription:
        """Call `handler` with ADDED for what is there, before this returns; then with every change."""
        kind, _ = self._kind(resource)
        subscription = LocalSubscription()
        matches = predicate(label_selector, field_selector, kind.fields)

        def listener(event: Event) -> None:
            if namespace and event.new.obj["metadata"].get("namespace") != namespace:
                return
            if seen := seen_through(event, matches):
                self._deliveries.add(lambda: subscription.open, handler, seen[0], seen[1].obj)

        there = self.list(resource, namespace, label_selector=label_selector, field_selector=field_selector)
        subscription.stop = self.machinery.store.listen(kind.resource, listener)
        for obj in there:
            handler("ADDED", obj)
        return subscription

    def _kind(self, resource: str) -> tuple[Kind, str | None]:
        name, _, sub = resource.partition("/")
        if name == "events.events.k8s.io":
            name = "events"
        return self.machinery.registry.kind(name), sub or None

    # ASGI

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Serve one HTTP request or WebSocket."""
        await self._http(scope, receive, send)

    def close(self) -> None:
        """Stop; watches over HTTP end."""
        self._http.close()
        self.machinery.close()

    def erase(self) -> None:
        """Delete the cluster's objects from the database: the cluster is no more."""
        self.machinery.store.erase()

