"""Kubernetes' refusals, in Kubernetes' words.

Clients match on `reason` and `code`, people read the message: both are the API's contract, so they
are spelled once, here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.local.client import ApiError, Obj

from .kinds import Kind


def details(kind: Kind, name: str) -> Obj:
    """A Status body's details: which object the refusal is about."""
    out: Obj = {"name": name} if name else {}
    if kind.group:
        out["group"] = kind.group
    out["kind"] = kind.plural
    return out


def not_found(kind: Kind, name: str) -> ApiError:
    """404: there is no such object."""
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', details(kind, name))


def page_not_found() -> ApiError:
    """404 for a path that no resource serves; kubectl says "the server doesn't have a resource type"."""
    return ApiError(404, "NotFound", "the server could not find the requested resource",
                    {"causes": [{"reason": "UnexpectedServerResponse", "message": "404 page not found"}]})


def already_exists(kind: Kind, name: str) -> ApiError:
    """409 of a create."""
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', details(kind, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(kind: Kind, name: str, why: str = MODIFIED) -> ApiError:
    """409 of an update whose resourceVersion, or precondition, is not the current one."""
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}',
                    details(kind, name))


def precondition(kind: Kind, name: str, what: str, asked: str, current: str) -> ApiError:
    """409 of a write that was meant for another object or version, by its "UID" or "ResourceVersion"."""
    return conflict(kind, name, f"Precondition failed: {what} in precondition: {asked}, {what} in object meta:"
                    f" {current}")


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    """403."""
    return ApiError(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', details(kind, name))


def bad_request(message: str) -> ApiError:
    """400: what was sent cannot be understood."""
    return ApiError(400, "BadRequest", message)


def method_not_allowed() -> ApiError:
    """405."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    """406: there is no answer in a form that the client would take."""
    return ApiError(406, "NotAcceptable", "only the following media types are accepted: " + ", ".join(accepted))


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    """415; clients fall back to a type in the list."""
    return ApiError(415, "UnsupportedMediaType",
                    "the body of the request was in an unknown format - accepted media types include: "
                    + ", ".join(accepted))


def gone(asked: int, oldest: int) -> ApiError:
    """410: a watch from a version older than what is remembered; the client lists again."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def unauthorized() -> ApiError:
    """401: no token, or one that nobody issued."""
    return ApiError(401, "Unauthorized", "Unauthorized")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field's mistake, as Kubernetes' field.Error prints it."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def go_value(value: Any) -> str:
    """A value as Go's field.Error prints it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def go_print(value: Any) -> str:
    """A value as Go prints it with %v."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{go_print(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(go_print, value)) + "]"
    if value is None:
        return "<nil>"
    return go_value(value) if isinstance(value, bool) else str(value)


def required(field: str, why: str = "") -> FieldError:
    """A field that must be there and is not."""
    return FieldError("FieldValueRequired", field, "Required value" + (f": {why}" if why else ""))


def bad_value(field: str, value: Any, why: str) -> FieldError:
    """A value that the field does not take."""
    return FieldError("FieldValueInvalid", field, f"Invalid value: {go_value(value)}: {why}")


def unsupported(field: str, value: Any, known: Iterable[str]) -> FieldError:
    """A value outside an enumeration."""
    return FieldError("FieldValueNotSupported", field, f"Unsupported value: {go_value(value)}: supported values: "
                      + ", ".join(go_value(k) for k in sorted(known)))


def denied(field: str, why: str) -> FieldError:
    """A field that may not be set, or not be changed."""
    return FieldError("FieldValueForbidden", field, f"Forbidden: {why}")


def duplicate(field: str, value: Any) -> FieldError:
    """A key that occurs twice."""
    return FieldError("FieldValueDuplicate", field, f"Duplicate value: {go_value(value)}")


def missing_ref(field: str, value: Any) -> FieldError:
    """A name that refers to nothing."""
    return FieldError("FieldValueNotFound", field, f"Not found: {go_value(value)}")


def invalid(kind: Kind, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422 with one cause for each field."""
    texts = [str(e) for e in errors]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    about = {**details(kind, name), "kind": kind.kind,
             "causes": [{"reason": e.reason, "message": e.message, "field": e.field} for e in errors]}
    return ApiError(422, "Invalid", f'{kind.group_kind} "{name}" is invalid: {text}', about)


def go_type(value: Any) -> str:
    """A JSON value's type in the words of Go's decoder."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
