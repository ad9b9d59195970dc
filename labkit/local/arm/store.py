"""The books of Resource Manager, in the lab's database.

Resources are kept as the JSON that clients get back, so nothing is lost between two spellings of it.
Every change is one statement and written before it is answered: a daemon that is killed forgets nothing.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Resource = dict[str, Any]
OperationKind = Literal["create", "update", "delete", "start", "stop", "delete-group", "abort"]
Status = Literal["InProgress", "Succeeded", "Failed", "Canceled"]

_SCHEMA = """
create table if not exists arm_resource (id text primary key, type text not null, body blob not null);
create table if not exists arm_cluster_key (key integer primary key autoincrement, id text not null unique);
create table if not exists arm_operation (
    id text primary key, kind text not null, target text not null, location text not null,
    status text not null, started text not null, ended text, code text, message text);
create table if not exists arm_provider (namespace text primary key, state text not null);
"""


@dataclass(frozen=True, slots=True)
class Operation:
    """A long-running operation.

    Args:
        target: the id of the resource that it changes.
        code: of the error, where it failed.
        message: of the error, where it failed.
    """

    id: str
    kind: OperationKind
    target: str
    location: str
    status: Status = "InProgress"
    started: str = ""
    ended: str | None = None
    code: str | None = None
    message: str | None = None

    def finished(self, code: str | None = None, message: str | None = None) -> Operation:
        """The same, ended now: with an error, or well."""
        status: Status = "Failed" if code else "Succeeded"
        return replace(self, status=status, ended=timestamp(), code=code, message=message)


class ArmStore:
    """Resources, operations and provider registrations.

    Args:
        database: the lab's, in autocommit mode; who opened it closes it.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self._db.executescript(_SCHEMA)

    def get(self, id: str) -> Resource | None:
        """A resource by id; ids compare without case."""
        row = self._db.execute("select body from arm_resource where id = ?", (id.lower(),)).fetchone()
        return orjson.loads(row[0]) if row else None

    def put(self, resource: Resource) -> None:
        """Create or replace a resource under its own id."""
        self._db.execute("insert or replace into arm_resource values (?, ?, ?)",
                         (resource["id"].lower(), resource["type"].lower(), orjson.dumps(resource)))

    def remove(self, id: str) -> None:
        """Forget a resource."""
        self._db.execute("delete from arm_resource where id = ?", (id.lower(),))

    def resources(self, type: str, under: str = "") -> list[Resource]:
        """Resources of a type, by name; of one group where `under` is its id."""
        rows = self._db.execute("select id, body from arm_resource where type = ? order by id",
                                (type.lower(),))
        prefix = under.lower() + "/" if under else ""
        return [orjson.loads(body) for id, body in rows if id.startswith(prefix)]

    def key(self, id: str) -> str:
        """The short key of a cluster; one that is new gets a key that no cluster ever had."""
        found = self._db.execute("select key from arm_cluster_key where id = ?", (id.lower(),)).fetchone()
        if found:
            return f"c{found[0]}"
        row = self._db.execute("insert into arm_cluster_key (id) values (?)", (id.lower(),))
        return f"c{row.lastrowid}"

    def free_key(self, id: str) -> None:
        """The cluster is gone: the next one of this name gets another key."""
        self._db.execute("delete from arm_cluster_key where id = ?", (id.lower(),))

    def begin(self, kind: OperationKind, target: str, location: str) -> Operation:
        """Write down that an operation starts."""
        operation = Operation(str(uuid.uuid4()), kind, target, location, started=timestamp())
        self.save(operation)
        return operation

    def save(self, operation: Operation) -> None:
        """Write down how an operation stands."""
        o = operation
        self._db.execute(
            "insert or replace into arm_operation values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (o.id, o.kind, o.target, o.location, o.status, o.started, o.ended, o.code, o.message))

    def operation(self, id: str) -> Operation | None:
        """An operation by its GUID."""
        return next(self._operations("where id = ?", id), None)

    def in_flight(self) -> list[Operation]:
        """What had begun and has not ended, oldest first."""
        return [*self._operations("where status = ? order by started", "InProgress")]

    def _operations(self, where: str, argument: str) -> Iterator[Operation]:
        columns = "id, kind, target, location, status, started, ended, code, message"
        for row in self._db.execute(f"select {columns} from arm_operation {where}", (argument,)):
            yield Operation(*row)

    def provider_state(self, namespace: str) -> str:
        """Registered, unless someone unregistered it."""
        found = self._db.execute("select state from arm_provider where namespace = ?",
                                 (namespace.lower(),)).fetchone()
        return str(found[0]) if found else "Registered"

    def set_provider_state(self, namespace: str, state: str) -> None:
        """Register or unregister a resource provider."""
        self._db.execute("insert or replace into arm_provider values (?, ?)", (namespace.lower(), state))


def timestamp() -> str:
    """Now, as Azure writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
