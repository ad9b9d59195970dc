"""Lists in chunks, and deletion of collections."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import orjson

from labkit.local.client import ApiError, Obj

from . import errors
from .kinds import Served
from .machinery import DeleteOptions
from .request import Reply, Request, json_reply
from .selectors import exact_name, predicate
from .store import Entry
from .tables import table_for, wants_partial, wants_table

if TYPE_CHECKING:
    from .api import Api


def select(api: Api, served: Served, namespace: str, request: Request) -> tuple[list[Entry], Obj]:
    """The entries that a list request asks for, and the list's metadata."""
    kind = served.kind
    store = api.machinery.store
    labels, fields = request.query.get("labelSelector"), request.query.get("fieldSelector")
    matches = predicate(labels, fields, kind.fields)
    metadata: Obj = {"resourceVersion": str(store.rv)}
    shelf = store.shelf(kind.resource)
    if (name := exact_name(fields, kind.fields)) and (namespace or not kind.namespaced):
        found = shelf.find(namespace if kind.namespaced else "", name)
        return ([found] if found and matches and matches(found.obj) else []), metadata
    entries = shelf.entries((namespace or None) if kind.namespaced else None)
    limit, after = request.number("limit") or 0, _after(request.query.get("continue", ""))
    if not limit and after is None:
        return [e for _, e in entries if matches is None or matches(e.obj)], metadata
    out: list[Entry] = []
    last: tuple[str, str] | None = None
    left = 0
    for key, entry in entries:
        if (after is not None and key <= after) or (matches is not None and not matches(entry.obj)):
            continue
        if limit and len(out) == limit:
            left += 1
            if matches is not None:
                break
            continue
        out.append(entry)
        last = key
    if left and last:
        metadata["continue"] = base64.urlsafe_b64encode(
            orjson.dumps({"v": "meta.k8s.io/v1", "rv": store.rv, "start": last})).decode()
        if matches is None:
            metadata["remainingItemCount"] = left
    return out, metadata


def _after(token: str) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        start = orjson.loads(base64.urlsafe_b64decode(token))["start"]
        return (str(start[0]), str(start[1]))
    except (ValueError, KeyError, TypeError, IndexError):
        raise errors.bad_request("continue key is not valid: the continue token is malformed") from None


def list_reply(api: Api, served: Served, namespace: str, request: Request) -> Reply:
    """A list, as objects, as their metadata, or as a Table."""
    entries, metadata = select(api, served, namespace, request)
    if wants_table(request):
        table = table_for(api, served, entries, request, metadata["resourceVersion"])
        table["metadata"] = metadata
        return json_reply(table)
    if wants_partial(request):
        return json_reply({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                           "items": [partial(e.obj) for e in entries]})
    raws = [e.raw for e in entries] if served.to_wire is None else \
        [orjson.dumps(served.to_wire(e.obj)) for e in entries]
    return Reply(200, b'{"kind":"%bList","apiVersion":"%b","metadata":%b,"items":[%b]}' % (
        served.kind.kind.encode(), served.api_version.encode(), orjson.dumps(metadata), b",".join(raws)))


def partial(obj: Obj) -> Obj:
    """An object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def delete_collection(api: Api, served: Served, namespace: str, request: Request, options: DeleteOptions) -> Reply:
    """Delete all that a selector selects."""
    if served.kind.namespaced and not namespace:
        raise errors.method_not_allowed()
    entries, metadata = select(api, served, namespace, request)
    for entry in entries:
        meta = entry.obj["metadata"]
        try:
            api.machinery.remove(served.kind, meta.get("namespace", ""), meta["name"], options)
        except ApiError as error:
            if error.code != 404:
                raise
    return Reply(200, b'{"kind":"%bList","apiVersion":"%b","metadata":%b,"items":[%b]}' % (
        served.kind.kind.encode(), served.api_version.encode(), orjson.dumps(metadata),
        b",".join(e.raw for e in entries)))
