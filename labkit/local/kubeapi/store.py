"""Objects in memory, one SQLite row for each, and the recent past for watches.

A write is one SQLite statement in a write-ahead log, done before the answer: a daemon that is killed
loses nothing. A deletion leaves its row as a tombstone until the next ones, because the row carries
the resource version, and versions must grow across restarts too.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import orjson

from labkit.local.client import EventType, Obj

REMEMBERED = 2048
"""Events kept for each resource; a watch from further back gets 410 Gone and lists again."""

_TOMBSTONES = 256


class Entry:
    """A stored object with its JSON, which is serialised once."""

    __slots__ = ("obj", "raw", "rv")

    def __init__(self, obj: Obj, raw: bytes, rv: int) -> None:
        self.obj, self.raw, self.rv = obj, raw, rv


@dataclass(frozen=True)
class Event:
    """One write: the states before and after; a deletion's `new` is the last state with its own version."""

    type: EventType
    old: Entry | None
    new: Entry

    @cached_property
    def line(self) -> bytes:
        """The event as a watch sends it, shared by all watches."""
        return b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.new.raw)


Listener = Callable[[Event], None]


@dataclass
class Shelf:
    """All objects of one resource."""

    by_namespace: dict[str, dict[str, Entry]] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    floor: int = 0
    """A watch can start from this version or a later one."""
    listeners: dict[int, Listener] = field(default_factory=dict)

    def find(self, namespace: str, name: str) -> Entry | None:
        """One entry."""
        names = self.by_namespace.get(namespace)
        return names.get(name) if names else None

    def entries(self, namespace: str | None) -> Iterator[tuple[tuple[str, str], Entry]]:
        """Entries in the order of namespace and name, as etcd keeps them."""
        for ns in sorted(self.by_namespace) if namespace is None else (namespace,):
            names = self.by_namespace.get(ns)
            for name in sorted(names or ()):
                yield (ns, name), names[name]  # type: ignore[index]

    def count(self) -> int:
        """How many objects there are."""
        return sum(map(len, self.by_namespace.values()))


class Store:
    """The objects of one cluster. Not for use from several threads."""

    def __init__(self, database: Path, cluster: str) -> None:
        self._db = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._cluster = cluster
        self._shelves: dict[str, Shelf] = {}
        self._next_listener = 0
        self._tombstones = 0
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS kube_objects (cluster TEXT, resource TEXT, namespace TEXT, name TEXT,"
            " version INTEGER NOT NULL, body BLOB, PRIMARY KEY (cluster, resource, namespace, name)) WITHOUT ROWID")
        self.rv = self._load()

    def _load(self) -> int:
        rv = 0
        rows = self._db.execute("SELECT resource, namespace, name, version, body FROM kube_objects WHERE cluster=?",
                                (self._cluster,))
        for resource, namespace, name, version, body in rows:
            rv = max(rv, version)
            if body is not None:
                entry = Entry(orjson.loads(body), body, version)
                self.shelf(resource).by_namespace.setdefault(namespace, {})[name] = entry
        for shelf in self._shelves.values():
            shelf.floor = rv
        self.rv = rv
        self._bury()
        return rv

    def shelf(self, resource: str) -> Shelf:
        """The shelf of a resource; made when first asked for."""
        try:
            return self._shelves[resource]
        except KeyError:
            new = self._shelves[resource] = Shelf(floor=getattr(self, "rv", 0))
            return new

    def find(self, resource: str, namespace: str, name: str) -> Entry | None:
        """One object's entry, if it is there."""
        return self.shelf(resource).find(namespace, name)

    def put(self, resource: str, namespace: str, name: str, obj: Obj) -> Entry:
        """Write an object (which becomes the store's own) and tell the listeners."""
        rv = self.rv + 1
        obj["metadata"]["resourceVersion"] = str(rv)
        raw = orjson.dumps(obj)
        shelf = self.shelf(resource)
        self._db.execute("INSERT OR REPLACE INTO kube_objects VALUES (?,?,?,?,?,?)",
                         (self._cluster, resource, namespace, name, rv, raw))
        self.rv = rv
        entry = Entry(obj, raw, rv)
        names = shelf.by_namespace.setdefault(namespace, {})
        old = names.get(name)
        names[name] = entry
        self._tell(shelf, Event("MODIFIED" if old else "ADDED", old, entry))
        return entry

    def remove(self, resource: str, namespace: str, name: str, last: Obj | None = None) -> Entry:
        """Delete an object; `last` is its final state where that differs from what is stored."""
        shelf = self.shelf(resource)
        old = shelf.by_namespace[namespace][name]
        rv = self.rv + 1
        self._db.execute("UPDATE kube_objects SET body=NULL, version=? WHERE cluster=? AND resource=?"
                         " AND namespace=? AND name=?", (rv, self._cluster, resource, namespace, name))
        self.rv = rv
        names = shelf.by_namespace[namespace]
        del names[name]
        if not names:
            del shelf.by_namespace[namespace]
        base = last or old.obj
        obj = {**base, "metadata": {**base["metadata"], "resourceVersion": str(rv)}}
        entry = Entry(obj, orjson.dumps(obj), rv)
        self._tell(shelf, Event("DELETED", old, entry))
        self._tombstones += 1
        if self._tombstones > _TOMBSTONES:
            self._bury()
        return entry

    def _bury(self) -> None:
        """Drop tombstones, but for the one that carries the current version."""
        self._db.execute("DELETE FROM kube_objects WHERE cluster=? AND body IS NULL AND version < ?",
                         (self._cluster, self.rv))
        self._tombstones = 0

    def _tell(self, shelf: Shelf, event: Event) -> None:
        if len(shelf.events) == REMEMBERED:
            shelf.floor = shelf.events[0].new.rv
        shelf.events.append(event)
        for listener in tuple(shelf.listeners.values()):
            listener(event)

    def listen(self, resource: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` in every later write of a resource, inside the write; returns what ends it."""
        self._next_listener += 1
        token = self._next_listener
        listeners = self.shelf(resource).listeners
        listeners[token] = listener
        return lambda: (listeners.pop(token, None), None)[1]

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def erase(self) -> None:
        """Forget the cluster."""
        self._db.execute("DELETE FROM kube_objects WHERE cluster=?", (self._cluster,))
        self._shelves.clear()
