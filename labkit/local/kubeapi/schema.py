"""Structural schemas of custom resources: pruning, defaults, validation. Pure."""

from __future__ import annotations

import re
from typing import Any

from labkit.local.client import Obj, copy_of

from . import errors
from .errors import FieldError

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,)}
_META = ("apiVersion", "kind", "metadata")


def prune(schema: Obj, value: Any, at: str = "", *, root: bool = True) -> list[str]:
    """Remove fields that the schema does not know, in place; the paths of what was removed."""
    gone: list[str] = []
    if isinstance(value, list):
        for i, one in enumerate(value):
            gone += prune(schema.get("items") or {}, one, f"{at}[{i}]", root=False)
    if not isinstance(value, dict):
        return gone
    known, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    for key in list(value):
        path = f"{at}.{key}" if at else key
        if root and key in _META:
            continue
        if key in known:
            gone += prune(known[key], value[key], path, root=bool(known[key].get("x-kubernetes-embedded-resource")))
        elif isinstance(extra, dict):
            gone += prune(extra, value[key], path, root=False)
        elif not (extra or schema.get("x-kubernetes-preserve-unknown-fields")):
            gone.append(path)
            del value[key]
    return gone


def apply_defaults(schema: Obj, value: Any) -> None:
    """Fill in defaults, in place."""
    if isinstance(value, list):
        for one in value:
            apply_defaults(schema.get("items") or {}, one)
        return
    if not isinstance(value, dict):
        return
    for key, child in (schema.get("properties") or {}).items():
        if "default" in child and (key not in value or (value[key] is None and not child.get("nullable"))):
            value[key] = copy_of(child["default"])
        if key in value:
            if value[key] is None and not child.get("nullable"):
                del value[key]
            else:
                apply_defaults(child, value[key])
    if isinstance(extra := schema.get("additionalProperties"), dict):
        for key, one in value.items():
            if key not in (schema.get("properties") or {}):
                apply_defaults(extra, one)


def schema_errors(schema: Obj, value: Any, at: str = "") -> list[FieldError]:
    """What is wrong with a value, field by field."""
    if value is None:
        return [] if schema.get("nullable") or not at else [errors.bad_value(
            at, None, f'{at} in body must be of type {schema.get("type", "object")}: "null"')]
    if schema.get("x-kubernetes-int-or-string"):
        ok = isinstance(value, int | str) and not isinstance(value, bool)
        return [] if ok else [_type_error(at, value, "integer or string")]
    wanted = schema.get("type")
    if wanted and at and not _is_type(value, wanted):
        return [_type_error(at, value, wanted)]
    out: list[FieldError] = []
    if (enum := schema.get("enum")) and value not in enum:
        out.append(errors.unsupported(at, value, map(str, enum)))
    if isinstance(value, dict):
        out += [errors.required(f"{at}.{key}" if at else key) for key in schema.get("required") or ()
                if key not in value]
        known = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        for key, one in value.items():
            if key in known and not (not at and key in _META):
                out += schema_errors(known[key], one, f"{at}.{key}" if at else key)
            elif isinstance(extra, dict) and key not in known:
                out += schema_errors(extra, one, f"{at}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            out += schema_errors(schema.get("items") or {}, one, f"{at}[{i}]")
        out += _size_errors(schema, len(value), value, at, "minItems", "maxItems", "items")
    elif isinstance(value, str):
        out += _size_errors(schema, len(value), value, at, "minLength", "maxLength", "chars long")
        if (pattern := schema.get("pattern")) and not _matches(pattern, value):
            out.append(errors.bad_value(at, value, f"{at} in body should match '{pattern}'"))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if (low := schema.get("minimum")) is not None and value < low:
            out.append(errors.bad_value(at, value, f"{at} in body should be greater than or equal to {low}"))
        if (high := schema.get("maximum")) is not None and value > high:
            out.append(errors.bad_value(at, value, f"{at} in body should be less than or equal to {high}"))
    return out


def _is_type(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(wanted, (object,)))


def _type_error(at: str, value: Any, wanted: str) -> FieldError:
    found = "integer" if isinstance(value, int) and not isinstance(value, bool) else errors.go_type(value)
    found = {"bool": "boolean"}.get(found, found)
    return FieldError("FieldValueTypeInvalid", at, f"Invalid value: {errors.go_value(found)}: {at} in body must be of"
                      f" type {wanted}: {errors.go_value(found)}")


def _size_errors(schema: Obj, size: int, value: Any, at: str, low: str, high: str, what: str) -> list[FieldError]:
    if (least := schema.get(low)) is not None and size < least:
        return [errors.bad_value(at, value, f"{at} in body should have at least {least} {what}")]
    if (most := schema.get(high)) is not None and size > most:
        return [errors.bad_value(at, value, f"{at} in body should have at most {most} {what}")]
    return []


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:                # Go's syntax is not quite Python's: better to accept than to refuse wrongly
        return True
