"""The verbs, for every kind alike: create, replace, change, remove.

Pure Kubernetes semantics over the store: names, uids, conflicts, generations, status apart from spec,
finalizers, graceful deletion. What a kind does of its own is its Strategy's.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from labkit.local.client import ApiError, Obj, copy_of, timestamp

from . import errors, meta
from .kinds import BUILT_IN, REVIEWS, Kind, Registry
from .store import Entry, Store
from .strategies import Strategy, strategies_for


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete."""

    grace_period: int | None = None
    propagation: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False


class Machinery:
    """One cluster's objects under Kubernetes' rules. Every verb raises ApiError.

    Args:
        database: where objects are kept.
        cluster: the cluster's key within the database.
        version: the Kubernetes version to be, such as "v1.20.2".
    """

    def __init__(self, database: Path, cluster: str, version: str) -> None:
        self.version = version
        self.minor = int(re.match(r"v?1\.(\d+)", version)[1])  # type: ignore[index]
        self.registry = Registry()
        for kind in BUILT_IN + REVIEWS:
            self.registry.add(kind)
        self.store = Store(database, cluster)
        self.strategies = strategies_for(self)
        self._plain = Strategy(self)
        for resource, strategy in self.strategies.items():
            for _, entry in self.store.shelf(resource).entries(None):
                strategy.loaded(entry.obj)

    def strategy(self, kind: Kind) -> Strategy:
        """What the kind does of its own."""
        return self.strategies.get(kind.resource) or (self.strategies["*"] if kind.crd else self._plain)

    # reading

    def entry(self, kind: Kind, namespace: str, name: str) -> Entry:
        """One object's entry.

        Raises:
            ApiError: NotFound.
        """
        found = self.store.find(kind.resource, namespace if kind.namespaced else "", name)
        if found is None:
            raise errors.not_found(kind, name)
        return found

    # writing

    def create(self, kind: Kind, obj: Obj, namespace: str, *, dry_run: bool = False) -> Entry:
        """Create an object from `obj`, which becomes the store's own."""
        m = obj.setdefault("metadata", {})
        if not isinstance(m, dict):
            raise errors.bad_request(f"{kind.kind} in version \"{kind.version}\" cannot be handled as a {kind.kind}:"
                                     " json: cannot unmarshal metadata into Go value of type v1.ObjectMeta")
        namespace = self._settle_namespace(kind, m, namespace)
        if m.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        name = m.get("name")
        if not name and (base := m.get("generateName")):
            name = m["name"] = meta.generated_name(base)
        obj = {**(about := {"apiVersion": kind.api_version, "kind": kind.kind}), **obj, **about}
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            m.pop(key, None)
        m["uid"] = str(uuid.uuid4())
        m["creationTimestamp"] = timestamp()
        if kind.generation or kind.crd:
            m["generation"] = 1
        found = meta.meta_errors(kind, m)
        if not found and self.store.find(kind.resource, namespace, m["name"]) is not None:
            raise errors.already_exists(kind, m["name"])
        strategy = self.strategy(kind)
        self._admit_namespace(kind, namespace, m.get("name", ""))
        strategy.default(kind, obj)
        strategy.prepare_create(kind, obj)
        found = found + strategy.validate(kind, obj, None)
        if found:
            raise errors.invalid(kind, m.get("name") or "", found)
        strategy.allocate(kind, obj, None)
        if dry_run:
            return Entry(obj, orjson.dumps(obj), 0)
        entry = self.store.put(kind.resource, namespace, m["name"], obj)
        strategy.stored(kind, entry.obj, None)
        return entry

    def _settle_namespace(self, kind: Kind, m: Obj, namespace: str) -> str:
        if not kind.namespaced:
            m.pop("namespace", None)
            return ""
        given = m.get("namespace") or namespace
        if namespace and given != namespace:
            raise errors.bad_request("the namespace of the provided object does not match the namespace sent on the"
                                     " request")
        if not given:
            raise errors.bad_request("an empty namespace may not be set during creation")
        m["namespace"] = given
        return str(given)

    def _admit_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        """Nothing is created in a namespace that is absent or going away."""
        if not kind.namespaced:
            return
        found = self.store.find("namespaces", "", namespace)
        if found is None:
            raise errors.not_found(self.registry.kind("namespaces"), namespace)
        if "deletionTimestamp" in found.obj["metadata"]:
            raise ApiError(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: unable to create new content in'
                           f" namespace {namespace} because it is being terminated",
                           {**errors.details(kind, name), "causes": [
                               {"reason": "NamespaceTerminating",
                                "message": f"namespace {namespace} is being terminated",
                                "field": "metadata.namespace"}]})

    def replace(self, kind: Kind, namespace: str, name: str, obj: Obj, *, sub: str | None = None,
                dry_run: bool = False) -> Entry:
        """Replace an object, or one part of it, by `obj`, which becomes the store's own."""
        old = self.entry(kind, namespace, name)
        m = obj.setdefault("metadata", {})
        if kind.crd and sub is None and not m.get("resourceVersion"):
            raise errors.invalid(kind, name, [errors.FieldError(
                "FieldValueInvalid", "metadata.resourceVersion",
                "Invalid value: 0x0: must be specified for an update")])
        return self.save(kind, old, obj, sub=sub, dry_run=dry_run)

    def change(self, kind: Kind, namespace: str, name: str, edit: Callable[[Obj], Obj], *, sub: str | None = None,
               dry_run: bool = False) -> Entry:
        """Change an object by a function from a copy of it to the new one."""
        old = self.entry(kind, namespace, name)
        return self.save(kind, old, edit(copy_of(old.obj)), sub=sub, dry_run=dry_run)

    def save(self, kind: Kind, old: Entry, new: Obj, *, sub: str | None = None, dry_run: bool = False) -> Entry:
        """Write a changed object: what every update and patch ends in."""
        m, was = new["metadata"], old.obj["metadata"]
        name = was["name"]
        if m.get("name", name) != name:
            raise errors.bad_request(f"the name of the object ({m['name']}) does not match the name on the URL"
                                     f" ({name})")
        if m.get("namespace", was.get("namespace")) != was.get("namespace") and m.get("namespace"):
            raise errors.bad_request(f"the namespace of the object ({m['namespace']}) does not match the namespace on"
                                     f" the URL ({was.get('namespace')})")
        if (rv := m.get("resourceVersion")) and rv != was["resourceVersion"]:
            raise errors.conflict(kind, name)
        if (uid := m.get("uid")) and uid != was["uid"]:
            raise errors.precondition(kind, name, "UID", uid, was["uid"])
        for key in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp",
                    "deletionGracePeriodSeconds", "generation", "resourceVersion", "generateName"):
            if key in was:
                m[key] = was[key]
            else:
                m.pop(key, None)
        new["apiVersion"], new["kind"] = kind.api_version, kind.kind
        strategy = self.strategy(kind)
        new = strategy.separate(kind, new, old.obj, sub)
        m = new["metadata"]
        if sub is None:
            strategy.default(kind, new)
        strategy.prepare_update(kind, new, old.obj, sub)
        if new == old.obj:
            return old
        found = meta.meta_errors(kind, m) + strategy.validate(kind, new, old.obj, sub)
        if "deletionTimestamp" in was and (added := set(m.get("finalizers") or ()) - set(was.get("finalizers") or ())):
            names = ", ".join(map(errors.go_value, sorted(added)))
            found.append(errors.denied("metadata.finalizers", "no new finalizers can be added if the object is being"
                                       f" deleted, found new finalizers []string{{{names}}}"))
        if found:
            raise errors.invalid(kind, name, found)
        if sub is None:
            strategy.allocate(kind, new, old.obj)
        if (kind.generation or kind.crd) and _desired(new) != _desired(old.obj):
            m["generation"] = was.get("generation", 0) + 1
        if dry_run:
            return Entry(new, orjson.dumps(new), old.rv)
        namespace = was.get("namespace", "")
        if "deletionTimestamp" in m and not m.get("finalizers") and strategy.may_go(new):
            return self._drop(kind, namespace, name, new)
        entry = self.store.put(kind.resource, namespace, name, new)
        strategy.stored(kind, entry.obj, old.obj)
        return entry

    def remove(self, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> tuple[Entry, bool]:
        """Delete an object, or begin to: its last state, and whether it is gone."""
        old = self.entry(kind, namespace, name)
        was = old.obj["metadata"]
        if options.uid and options.uid != was["uid"]:
            raise errors.precondition(kind, name, "UID", options.uid, was["uid"])
        if options.resource_version and options.resource_version != was["resourceVersion"]:
            raise errors.precondition(kind, name, "ResourceVersion", options.resource_version, was["resourceVersion"])
        strategy = self.strategy(kind)
        strategy.check_delete(kind, old.obj)
        grace = strategy.grace_period(old.obj, options.grace_period)
        finalizers = list(was.get("finalizers") or ())
        if propagation := options.propagation or strategy.PROPAGATION:
            finalizers = [f for f in finalizers if f not in ("orphan", "foregroundDeletion")]
            finalizers += {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(propagation, [])
        asked = {**old.obj, "metadata": {**was, "deletionGracePeriodSeconds": grace}}
        if not finalizers and not grace and strategy.may_go(asked):
            if options.dry_run:
                return old, True
            return self._drop(kind, was.get("namespace", ""), name), True
        new = copy_of(old.obj)
        m = new["metadata"]
        if finalizers:
            m["finalizers"] = finalizers
        if "deletionTimestamp" not in m or grace < m.get("deletionGracePeriodSeconds", 0):
            m["deletionTimestamp"] = timestamp(time.time() + grace)
            m["deletionGracePeriodSeconds"] = grace
            if kind.generation or kind.crd:
                m["generation"] = m.get("generation", 0) + 1
        strategy.prepare_delete(new)
        if new == old.obj:
            return old, False
        if options.dry_run:
            return Entry(new, orjson.dumps(new), old.rv), False
        entry = self.store.put(kind.resource, was.get("namespace", ""), name, new)
        strategy.stored(kind, entry.obj, old.obj)
        return entry, False

    def _drop(self, kind: Kind, namespace: str, name: str, last: Obj | None = None) -> Entry:
        entry = self.store.remove(kind.resource, namespace, name, last)
        self.strategy(kind).removed(kind, entry.obj)
        return entry

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def _desired(obj: Obj) -> Obj:
    """What an object asks for: all but metadata and status."""
    return {k: v for k, v in obj.items() if k not in ("metadata", "status")}
