"""The four kinds of patch, and what they are applied to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonpatch
import orjson
from jsonpointer import JsonPointerException

from labkit.local.client import ApiError, Obj, copy_of

from . import apply, decoding, errors, subresources
from .kinds import Kind, Served
from .machinery import Machinery
from .store import Entry
from .strategic import strategic_merge

CONTENT_TYPES = {
    "application/json-patch+json": "json", "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic", "application/apply-patch+yaml": "apply",
    "application/apply-patch+json": "apply"}


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386; `target` is changed in place."""
    if not isinstance(patch, dict):
        return patch
    out = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def json_patch(target: Obj, patch: list[Obj]) -> Obj:
    """RFC 6902, with Kubernetes' answers to patches that do not fit."""
    if not isinstance(patch, list):
        raise errors.bad_request("error decoding patch: json: cannot unmarshal object into Go value of type"
                                 " jsonpatch.Patch")
    if all(isinstance(one, dict) for one in patch):     # Kubernetes takes a value that is not there for null
        patch = [{"value": None, **one} if one.get("op") in ("add", "replace", "test") else one for one in patch]
    try:
        out = jsonpatch.apply_patch(target, patch, in_place=True)
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError) as e:
        raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request") from e
    return _object(out)


def editor(kind: Kind, patch: Any, type_: str) -> Callable[[Obj], Obj]:
    """The patch as a function of the object."""
    match type_:
        case "json":
            return lambda obj: json_patch(obj, patch)
        case "merge":
            _must_be_object(patch)
            return lambda obj: _object(merge_patch(obj, patch))
        case "strategic":
            _must_be_object(patch)
            if kind.crd:
                raise errors.unsupported_media_type(("application/json-patch+json", "application/merge-patch+json",
                                                     "application/apply-patch+yaml"))
            return lambda obj: _object(strategic_merge(obj, patch, kind.kind))
    raise errors.bad_request(f"unknown patch type {type_}")


def _must_be_object(patch: Any) -> None:
    if not isinstance(patch, dict):
        raise errors.bad_request(f"error decoding patch: json: cannot unmarshal {errors.go_type(patch)} into Go value"
                                 " of type map[string]interface {}")


def _must_be_declared(served: Served, namespace: str, name: str, applied: Any) -> None:
    """An apply never drops fields: it refuses what the kind does not have."""
    if isinstance(applied, dict) and (unknown := decoding.settle(served, applied)):
        fields = "\n".join(f".{path}: field not declared in schema" for path in unknown)
        where = f"{namespace}/{name}" if namespace else f"/{name}"
        about = f"{served.group}/{served.version}" if served.group else f"/{served.version}"
        raise ApiError(500, "", f"failed to create typed patch object ({where}; {about}, Kind={served.kind.kind}):"
                       f" {fields if len(unknown) == 1 else 'errors:' + chr(10) + fields}")


def _unfit(error: ApiError, patch: Any, out: Obj, type_: str) -> ApiError:
    """A patch that leads to a value of a wrong type, as Kubernetes says it: of the patch, or of all that came out."""
    if not isinstance(wrong := error.__cause__, decoding.WrongTypeError):
        return error
    value, why = (errors.go_print(patch), wrong.converted()) if type_ == "strategic" \
        else (orjson.dumps(out).decode(), str(wrong))
    about = errors.bad_value("patch", value, why)
    return ApiError(422, "Invalid", f' "" is invalid: {about}', {
        "causes": [{"reason": about.reason, "message": about.message, "field": about.field}]})


def _object(obj: Any) -> Obj:
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise errors.bad_request("the patched object is no Kubernetes object")
    return obj


def patch_object(machinery: Machinery, kind: Kind, namespace: str, name: str, patch: Any, type_: str, *,
                 sub: str | None, manager: str, force: bool, dry_run: bool = False, served: Served | None = None,
                 check: Callable[[Obj], None] | None = None) -> tuple[Entry, bool]:
    """Patch an object: the entry, and whether it was created (an apply creates what is missing).

    `check` sees the patched object, at the version that is served, and may raise or tidy it.
    """
    served = served or Served(kind, kind.group, kind.version)
    if type_ == "apply":
        _must_be_declared(served, namespace, name, patch)
        return apply.server_side_apply(machinery, served, namespace, name, patch, sub=sub, manager=manager,
                                       force=force, dry_run=dry_run)
    change = editor(kind, patch, type_)

    def edit(obj: Obj) -> Obj:
        if sub == "scale":
            scale = change(subresources.scale_of(kind, obj))
            return subresources.set_scale(kind, obj, scale)
        before = copy_of(obj) if obj["metadata"].get("managedFields") else None
        out = change(served.to_wire(obj)) if served.to_wire else change(obj)
        if check is not None:
            try:
                check(out)
            except ApiError as error:
                raise _unfit(error, patch, out, type_) from error
        obj = served.from_wire(out) if served.from_wire else out
        if before is not None:
            apply.note_update(before, obj, manager, sub, served.api_version)
        return obj

    return machinery.change(kind, namespace, name, edit, sub=None if sub == "scale" else sub, dry_run=dry_run), False
