"""What the controllers know of the cluster: one watch for each resource, shared, indexed.

A store also learns from the answers to the controllers' own writes, so a controller never acts on a
state older than what it did itself; Kubernetes' controllers keep "expectations" for that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

from labkit.local.client import ApiError, Client, EventType, Obj, PatchType, Subscription, find

from .queue import Key

IndexKeys = Callable[[Obj], Iterable[Hashable]]
Subscriber = Callable[[Obj | None, Obj | None], None]
"""Called with (before, now); None stands for "did not exist" or "is gone"."""


def key_of(obj: Obj) -> Key:
    """(namespace, name) of an object."""
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


class Store:
    """The objects of one resource, as last seen."""

    def __init__(self) -> None:
        self._objects: dict[Key, Obj] = {}
        self._indexers: dict[str, IndexKeys] = {}
        self._indexes: dict[str, dict[Hashable, dict[Key, Obj]]] = {}
        self._subscribers: list[Subscriber] = []
        self._deleted: set[str] = set()

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Obj]:
        return iter(list(self._objects.values()))

    def get(self, key: Key) -> Obj | None:
        """The object of this key, or None."""
        return self._objects.get(key)

    def by(self, index: str, value: Hashable) -> list[Obj]:
        """The objects that the index files under `value`, oldest knowledge first."""
        return list(self._indexes[index].get(value, {}).values())

    def count(self, index: str, value: Hashable) -> int:
        """How many objects the index files under `value`."""
        return len(self._indexes[index].get(value, ()))

    def index(self, name: str, keys: IndexKeys) -> None:
        """File objects under what `keys` returns; naming an index twice keeps the first."""
        if name in self._indexers:
            return
        self._indexers[name] = keys
        self._indexes[name] = {}
        for key, obj in self._objects.items():
            self._refile(name, key, (), tuple(keys(obj)), obj)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell `subscriber` of every change, and of what is known already."""
        self._subscribers.append(subscriber)
        for obj in list(self._objects.values()):
            subscriber(None, obj)

    def on_event(self, event: EventType, obj: Obj) -> None:
        """Take in a watch event."""
        uid = obj["metadata"]["uid"]
        if event == "DELETED":
            self._deleted.discard(uid)
            self.remove(obj)
        elif uid not in self._deleted:
            self.put(obj)

    def put(self, obj: Obj) -> None:
        """Take in an object, unless what is known is as new."""
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None:
            if int(old["metadata"]["resourceVersion"]) >= int(obj["metadata"]["resourceVersion"]):
                return
            if old["metadata"]["uid"] != obj["metadata"]["uid"]:
                self.remove(old)
                old = None
        self._objects[key] = obj
        for name, keys in self._indexers.items():
            self._refile(name, key, tuple(keys(old)) if old is not None else (), tuple(keys(obj)), obj)
        for subscriber in self._subscribers:
            subscriber(old, obj)

    def remove(self, obj: Obj, *, until_event: bool = False) -> None:
        """Forget an object; with `until_event`, also what the watch still has to say before its end."""
        key = key_of(obj)
        old = self._objects.get(key)
        if old is None or old["metadata"]["uid"] != obj["metadata"]["uid"]:
            return
        if until_event:
            self._deleted.add(old["metadata"]["uid"])
        del self._objects[key]
        for name, keys in self._indexers.items():
            self._refile(name, key, tuple(keys(old)), (), old)
        for subscriber in self._subscribers:
            subscriber(old, None)

    def _refile(self, name: str, key: Key, old: tuple[Hashable, ...], new: tuple[Hashable, ...], obj: Obj) -> None:
        index = self._indexes[name]
        if old != new:
            for value in old:
                entry = index.get(value)
                if entry is not None:
                    entry.pop(key, None)
                    if not entry:
                        del index[value]
        for value in new:
            index.setdefault(value, {})[key] = obj


class Stores:
    """The stores of a cluster, and the verbs that keep them up to date."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._stores: dict[str, Store] = {}
        self._watches: dict[str, Subscription] = {}
        self._started = False

    def __getitem__(self, resource: str) -> Store:
        store = self._stores.get(resource)
        if store is None:
            store = self._stores[resource] = Store()
            if self._started:
                self._watch(resource)
        return store

    def __contains__(self, resource: str) -> bool:
        return resource in self._stores

    def start(self) -> None:
        """Begin to watch everything that was asked for so far."""
        self._started = True
        for resource in list(self._stores):
            self._watch(resource)

    def stop(self) -> None:
        """End all watches."""
        self._started = False
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    def forget(self, resource: str) -> None:
        """End the watch of a resource that is no longer served."""
        if watch := self._watches.pop(resource, None):
            watch.close()
        self._stores.pop(resource, None)

    def _watch(self, resource: str) -> None:
        self._watches[resource] = self.client.watch(resource, self._stores[resource].on_event)

    def _learn(self, resource: str, obj: Obj) -> Obj:
        if resource in self._stores and "uid" in obj.get("metadata", {}):
            self._stores[resource].put(obj)
        return obj

    def create(self, resource: str, obj: Obj) -> Obj:
        """Create; see Client."""
        return self._learn(resource, self.client.create(resource, obj, obj["metadata"].get("namespace")))

    def update(self, resource: str, obj: Obj, *, subresource: str | None = None) -> Obj:
        """Replace; see Client."""
        return self._learn(resource, self.client.update(resource, obj, subresource=subresource))

    def patch(
        self,
        resource: str,
        key: Key,
        patch: Obj | list[Obj],
        *,
        type: PatchType = "merge",
        subresource: str | None = None,
    ) -> Obj:
        """Patch; see Client."""
        return self._learn(
            resource,
            self.client.patch(resource, key[1], patch, key[0] or None, type=type, subresource=subresource),
        )

    def patch_metadata(self, resource: str, obj: Obj, change: Obj) -> Obj:
        """Change metadata of exactly this version of this object."""
        this = {field: obj["metadata"][field] for field in ("uid", "resourceVersion")}
        return self.patch(resource, key_of(obj), {"metadata": {**this, **change}})

    def update_status(self, resource: str, obj: Obj, status: Obj) -> Obj:
        """Replace the status of an object, if it differs."""
        if obj.get("status") == status:
            return obj
        return self.update(resource, {**obj, "status": status}, subresource="status")

    def delete(
        self, resource: str, obj: Obj, *, grace_period: int | None = None, propagation: str | None = None
    ) -> bool:
        """Delete exactly this object; False if it was gone already."""
        (namespace, name), uid = key_of(obj), obj["metadata"]["uid"]
        found = True
        try:
            self.client.delete(
                resource, name, namespace or None, grace_period=grace_period, propagation=propagation, uid=uid
            )
        except ApiError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise
            found = False
        if resource in self._stores:
            now = find(self.client, resource, name, namespace or None)
            if now is not None and now["metadata"]["uid"] == uid:
                self._stores[resource].put(now)
            else:
                self._stores[resource].remove(obj, until_event=True)
        return found
