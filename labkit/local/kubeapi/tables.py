"""Server-side tables: what `kubectl get` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.local.client import Obj

from .kinds import Kind, Served
from .printers import PRINTERS
from .request import Request
from .store import Entry
from .words import age, json_path

if TYPE_CHECKING:
    from .api import Api


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Priority 1 shows with -o wide only."""

    name: str
    cell: Callable[[Obj], Any]
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""

    def definition(self) -> Obj:
        """The column as clients read it."""
        return {"name": self.name, "type": self.type, "format": self.format, "description": self.description,
                "priority": self.priority}


_NAME = Column("Name", lambda o: o["metadata"]["name"], format="name",
               description="Name must be unique within a namespace.")
_AGE = Column("Age", lambda o: age(o["metadata"].get("creationTimestamp")), description="Age of the object.")


def _as_table(accept: str) -> bool:
    return "as=Table" in accept


def wants_table(request: Request) -> bool:
    """Whether the client prefers a Table."""
    return _as_table(request.header(b"accept"))


def wants_partial(request: Request) -> bool:
    """Whether the client wants metadata only."""
    return "as=PartialObjectMetadata" in request.header(b"accept")


def columns_of(served: Served) -> Sequence[Column]:
    """The kind's columns."""
    kind = served.kind
    if kind.crd is not None:
        return _custom_columns(kind, served.version)
    if (specs := PRINTERS.get(kind.resource)) is None:
        return (_NAME, Column("Created At", lambda o: o["metadata"].get("creationTimestamp"), "date"))
    out = []
    for spec in specs:
        name, cell, priority = spec[0], spec[1], spec[2] if len(spec) > 2 else 0
        number = spec[3] if len(spec) > 3 else "string"
        out.append(Column(name, cell, number, "name" if name == "Name" else "", priority))
    return out


def _custom_columns(kind: Kind, version: str) -> Sequence[Column]:
    assert kind.crd is not None
    extra = kind.crd["columns"].get(version)
    if not extra:
        return (_NAME, _AGE)
    out = [_NAME]
    for c in extra:
        out.append(Column(c["name"], _path_cell(c["jsonPath"], c.get("type", "string")), c.get("type", "string"),
                          c.get("format", ""), c.get("priority", 0), c.get("description", "")))
    return out


def _path_cell(path: str, type_: str) -> Callable[[Obj], Any]:
    def cell(obj: Obj) -> Any:
        value = json_path(obj, path)
        if type_ == "date":
            return age(value) if value else None
        return value

    return cell


def table_for(api: Api, served: Served, entries: Sequence[Entry], request: Request, version: str) -> Obj:
    """Entries as a Table."""
    columns = columns_of(served)
    include = request.query.get("includeObject", "Metadata")
    rows = []
    for entry in entries:
        row: Obj = {"cells": [c.cell(entry.obj) for c in columns]}
        if include == "Object":
            row["object"] = served.to_wire(entry.obj) if served.to_wire else entry.obj
        elif include != "None":
            row["object"] = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                             "metadata": entry.obj["metadata"]}
        rows.append(row)
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
            "columnDefinitions": [c.definition() for c in columns], "rows": rows}
