"""Objects as Go would decode them: unknown fields are dropped, or refused; a wrong type always is.

Kubernetes decodes into structs, so it cannot store a field that it does not know, nor text where a number
belongs. `settle` does the same to a document, by the types in `models`. Quantities become text, as Go
writes them.
"""

from __future__ import annotations

from typing import Any

from labkit.local.client import ApiError, Obj

from . import errors
from .kinds import Served
from .models import Field, Model, class_of, model
from .schema import prune

_GO_TYPES = {"string": "string", "integer": "int32", "number": "float64", "boolean": "bool", "time": "string",
             "bytes": "[]uint8"}
_WARNED = 10
"""Kubernetes sends no more warnings than that for one object."""


class WrongTypeError(Exception):
    """A value that does not fit its field."""

    def __init__(self, value: Any, where: str, wanted: str) -> None:
        super().__init__(f"json: cannot unmarshal {errors.go_type(value)} into Go struct field {where} of type"
                         f" {wanted}")
        self._value, self._wanted = value, wanted

    def converted(self) -> str:
        """The same in the words of what Kubernetes reads a strategic merge patch's result by."""
        value, wanted = self._value, self._wanted
        given = {str: "string", bool: "bool", int: "int64", float: "float64", dict: "map", list: "slice"}[type(value)]
        for start, words in (("[]", "cannot restore slice from"), ("map[", "cannot restore map from"),
                             ("v1.", "cannot restore struct from:")):
            if wanted.startswith(start):
                return f"{words} {given}"
        return f"unrecognized type: {wanted}" if isinstance(value, str) else f"cannot convert {given} to {wanted}"


def settle(served: Served, obj: Obj) -> list[str]:
    """Drop what a kind's type does not have, in place; the paths of what was dropped.

    Raises:
        ApiError: BadRequest, for a value of a wrong type.
    """
    if served.kind.crd is not None:
        schema = served.kind.crd["schemas"].get(served.version)
        return [] if schema is None else prune(schema, obj)
    name = class_of(served.group, served.version, served.kind.kind)
    if name is None:
        return []
    dropped: list[str] = []
    try:
        _object(model(name), obj, "", dropped)
    except WrongTypeError as error:
        raise _refusal(served, str(error)) from error
    return dropped


def strict_error(served: Served, unknown: list[str]) -> ApiError:
    """The refusal of unknown fields under fieldValidation=Strict."""
    return _refusal(served, f"strict decoding error: {', '.join(unknown_texts(unknown))}")


def unknown_texts(unknown: list[str]) -> list[str]:
    """One message for each unknown field."""
    return [f'unknown field "{path}"' for path in unknown[:_WARNED]]


def _refusal(served: Served, why: str) -> ApiError:
    kind = served.kind.kind
    return errors.bad_request(f'{kind} in version "{served.version}" cannot be handled as a {kind}: {why}')


def _object(type_: Model, value: Any, at: str, dropped: list[str]) -> None:
    if type_.name == "V1JSONSchemaProps":               # its vendor extensions are no fields in the models
        return
    fields = type_.fields
    unknown = None
    for key, one in value.items():
        if (field := fields.get(key)) is None:
            unknown = [*(unknown or ()), key]
        elif one is not None and field.kind != "any":
            path = f"{at}.{key}" if at else key
            if field.outer:
                _outer(field.outer, field, one, path, type_, dropped)
            else:
                _one(field, one, path, type_, dropped)
                if field.kind == "quantity":
                    value[key] = str(one)
    for key in unknown or ():
        dropped.append(f"{at}.{key}" if at else key)
        del value[key]


def _outer(outer: str, field: Field, value: Any, at: str, holder: Model, dropped: list[str]) -> None:
    """A list or a map."""
    this, _, inner = outer.partition(" of ")
    if this.startswith("list"):
        if not isinstance(value, list):
            raise _wrong(value, holder, at, "[]" + _go_type(field))
        pairs = [(f"{at}[{i}]", one) for i, one in enumerate(value)]
    else:
        if not isinstance(value, dict):
            raise _wrong(value, holder, at, "map[string]" + _go_type(field))
        pairs = [(f"{at}.{key}", one) for key, one in value.items()]
    for path, one in pairs:
        if one is None:
            if field.kind == "string" and not inner and isinstance(value, dict):
                value[path[len(at) + 1:]] = ""          # as Go reads null into a map of strings
            continue
        if inner:
            _outer(inner, field, one, path, holder, dropped)
        else:
            _one(field, one, path, holder, dropped, at)
            if field.kind == "quantity" and isinstance(value, dict):
                value[path[len(at) + 1:]] = str(one)


def _one(field: Field, value: Any, at: str, holder: Model, dropped: list[str], said: str = "") -> None:
    """A single value; `said` is the path that Go's message has for an item, its list's."""
    kind = field.kind
    if field.is_model:
        if not isinstance(value, dict):
            raise _wrong(value, holder, said or at, "v1." + _go_type(field))
        _object(model(kind), value, at, dropped)
        return
    match kind:
        case "string" | "time" | "bytes":
            fits = isinstance(value, str)
        case "integer":
            fits = isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            fits = isinstance(value, bool)
        case "number":
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        case "any":
            fits = True
        case _:                                         # a quantity, an integer or a string
            fits = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not fits:
        raise _wrong(value, holder, said or at, _GO_TYPES.get(kind, "string"))


def _go_type(field: Field) -> str:
    return model(field.kind).short if field.is_model else _GO_TYPES.get(field.kind, "string")


def _wrong(value: Any, holder: Model, at: str, wanted: str) -> WrongTypeError:
    """In the words of Go's decoder."""
    where = ".".join(part.partition("[")[0] for part in at.split("."))
    return WrongTypeError(value, f"{holder.short}.{where}", wanted)
