"""Garbage collection: what is owned goes with its owner.

Background: the owner is gone, its dependents follow. Foreground: the owner waits, with a finalizer, for
the dependents that block it. Orphan: the owner waits until nobody refers to it. Owners are told apart by
uid, so an object that only has the name of a former owner keeps nothing alive.
"""

from __future__ import annotations

from labkit.local.client import Obj, find, tolerating

from .base import Context, Controller
from .customs import kind_of, on_customs, resource_of
from .kinds import CLUSTER_SCOPED, OWNABLE
from .objects import deleting
from .queue import Key
from .store import key_of

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def owner_uids(obj: Obj) -> tuple[str, ...]:
    """Index: under the uid of each owner."""
    return tuple(reference["uid"] for reference in obj["metadata"].get("ownerReferences") or ())


class Garbage(Controller):
    """Watches every kind that can own or be owned. Its keys are (resource, namespace, name)."""

    component = "garbage-collector-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._resources = dict(OWNABLE)
        self._cluster_scoped = set(CLUSTER_SCOPED)
        for resource in OWNABLE.values():
            self._follow(resource)
        on_customs(self.stores, self._add_custom, self._drop_custom)

    def _add_custom(self, crd: Obj) -> None:
        resource = resource_of(crd)
        self._resources[kind_of(crd)] = resource
        if crd["spec"].get("scope") == "Cluster":
            self._cluster_scoped.add(resource)
        self._follow(resource)

    def _drop_custom(self, crd: Obj) -> None:
        if self._resources.pop(kind_of(crd), None):
            self.stores.forget(resource_of(crd))

    def _follow(self, resource: str) -> None:
        store = self.stores[resource]
        store.index("owners", owner_uids)
        store.subscribe(lambda old, new: self._on_change(resource, old, new))

    def _on_change(self, resource: str, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            assert old is not None
            self._name_dependents(old["metadata"]["uid"])
            for uid in owner_uids(old):
                self._name_waiting_owner(old, uid)
            return
        meta = new["metadata"]
        if (
            meta.get("ownerReferences")
            and (old is None or old["metadata"].get("ownerReferences") != meta["ownerReferences"])
        ) or (deleting(new) and meta.get("finalizers")):
            self.queue.add(self._work, (resource, *key_of(new)))
        if old is not None and owner_uids(old) != owner_uids(new):
            for uid in owner_uids(old):
                self._name_waiting_owner(old, uid)

    def _name_dependents(self, uid: str) -> None:
        for resource, dependent in self._dependents(uid):
            self.queue.add(self._work, (resource, *key_of(dependent)))

    def _name_waiting_owner(self, dependent: Obj, uid: str) -> None:
        for reference in dependent["metadata"].get("ownerReferences") or ():
            if reference["uid"] == uid and (resource := self._resource(reference)):
                key = self._owner_key(resource, dependent, reference)
                owner = self.stores[resource].get(key)
                if owner is not None and deleting(owner):
                    self.queue.add(self._work, (resource, *key))

    def _dependents(self, uid: str) -> list[tuple[str, Obj]]:
        return [
            (resource, obj) for resource in self._resources.values() for obj in self.stores[resource].by("owners", uid)
        ]

    def _resource(self, reference: Obj) -> str | None:
        group = reference["apiVersion"].rpartition("/")[0]
        return self._resources.get((group, reference["kind"]))

    def _owner_key(self, resource: str, dependent: Obj, reference: Obj) -> Key:
        namespace = "" if resource in self._cluster_scoped else dependent["metadata"].get("namespace", "")
        return namespace, reference["name"]

    def _work(self, key: tuple[str, str, str]) -> None:
        resource, namespace, name = key
        if resource not in self.stores:
            return
        obj = self.stores[resource].get((namespace, name))
        if obj is None:
            return
        finalizers = obj["metadata"].get("finalizers") or ()
        if deleting(obj) and ORPHAN in finalizers:
            self._orphan(resource, obj)
        elif deleting(obj) and FOREGROUND in finalizers:
            self._delete_dependents_first(resource, obj)
        elif not deleting(obj):
            self._check_owners(resource, obj)

    def _check_owners(self, resource: str, obj: Obj) -> None:
        solid, waiting, gone = [], [], []
        for reference in obj["metadata"].get("ownerReferences") or ():
            owner = self._find(obj, reference)
            if owner is None:
                gone.append(reference)
            elif deleting(owner) and FOREGROUND in (owner["metadata"].get("finalizers") or ()):
                waiting.append(reference)
            else:
                solid.append(reference)
        if solid:
            if gone or waiting:
                self._set_owners(resource, obj, solid)
        elif waiting:
            self._delete(resource, obj, "Foreground" if self._dependents(obj["metadata"]["uid"]) else "Background")
        elif gone:
            self._delete(resource, obj, "Background")

    def _find(self, obj: Obj, reference: Obj) -> Obj | None:
        """The owner; None only if the API says that it is not there, or is another of the same name."""
        resource = self._resource(reference)
        if resource is None:
            return reference | {"metadata": {}}
        namespace, name = key = self._owner_key(resource, obj, reference)
        owner = self.stores[resource].get(key) or find(self.context.client, resource, name, namespace or None)
        return owner if owner is not None and owner["metadata"]["uid"] == reference["uid"] else None

    def _delete(self, resource: str, obj: Obj, propagation: str) -> None:
        # A finalizer says that its deletion was begun with another wish: Kubernetes keeps to that.
        finalizers = obj["metadata"].get("finalizers") or ()
        wish = "Orphan" if ORPHAN in finalizers else "Foreground" if FOREGROUND in finalizers else propagation
        self.stores.delete(resource, obj, propagation=wish)

    def _delete_dependents_first(self, resource: str, owner: Obj) -> None:
        blocking = False
        for kind, dependent in self._dependents(owner["metadata"]["uid"]):
            reference = next(
                r for r in dependent["metadata"]["ownerReferences"] if r["uid"] == owner["metadata"]["uid"]
            )
            blocking = blocking or bool(reference.get("blockOwnerDeletion"))
            if not deleting(dependent):
                self.queue.add(self._work, (kind, *key_of(dependent)))
        if not blocking:
            self._finish(resource, owner, FOREGROUND)

    def _orphan(self, resource: str, owner: Obj) -> None:
        uid = owner["metadata"]["uid"]
        for kind, dependent in self._dependents(uid):
            self._set_owners(kind, dependent, [r for r in dependent["metadata"]["ownerReferences"] if r["uid"] != uid])
        self._finish(resource, owner, ORPHAN)

    def _finish(self, resource: str, owner: Obj, finalizer: str) -> None:
        left = [f for f in owner["metadata"]["finalizers"] if f != finalizer]
        self._patch_meta(resource, owner, {"finalizers": left or None})

    def _set_owners(self, resource: str, obj: Obj, references: list[Obj]) -> None:
        self._patch_meta(resource, obj, {"ownerReferences": references or None})

    def _patch_meta(self, resource: str, obj: Obj, change: Obj) -> None:
        with tolerating(404):
            self.stores.patch_metadata(resource, obj, change)
