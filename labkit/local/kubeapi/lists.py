"""Lists in chunks, and deletion of collections."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import orjson

from labkit.local.client import Obj, tolerating

from . import errors
from .kinds import Kind, Served
from .machinery import DeleteOptions
from .request import Reply, Request, json_reply
from .selectors import exact_name, predicate
from .store import Entry, Store
from .tables import table_for, wants_partial, wants_table

if TYPE_CHECKING:
    from .api import Api


def matching(store: Store, kind: Kind, namespace: str, labels: str | None,
             fields: str | None) -> Iterator[tuple[tuple[str, str], Entry]]:
    """What selectors select, in order, of one namespace or of all; one that names an object does not scan for it."""
    matches = predicate(labels, fields, kind.fields)
    shelf, where = store.shelf(kind.resource), namespace if kind.namespaced else ""
    entries: Iterable[tuple[tuple[str, str], Entry]] = shelf.entries(where or None)
    if (name := exact_name(fields, kind.fields)) and (where or not kind.namespaced):
        entries = [((where, name), found)] if (found := shelf.find(where, name)) else []
    return ((key, entry) for key, entry in entries if matches is None or matches(entry.obj))


def select(api: Api, served: Served, namespace: str, request: Request) -> tuple[list[Entry], Obj]:
    """The entries that a list request asks for, and the list's metadata."""
    store = api.machinery.store
    labels, fields = request.query.get("labelSelector"), request.query.get("fieldSelector")
    metadata: Obj = {"resourceVersion": str(store.rv)}
    entries = matching(store, served.kind, namespace, labels, fields)
    limit, after = request.number("limit") or 0, _after(request.query.get("continue", ""))
    out: list[Entry] = []
    last: tuple[str, str] | None = None
    left = 0
    for key, entry in entries:
        if after is not None and key <= after:
            continue
        if limit and len(out) == limit:
            left += 1
            if labels or fields:            # how many more there are is told of whole lists alone
                break
            continue
        out.append(entry)
        last = key
    if left and last:
        metadata["continue"] = base64.urlsafe_b64encode(
            orjson.dumps({"v": "meta.k8s.io/v1", "rv": store.rv, "start": last})).decode()
        if not (labels or fields):
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
    return _list_of(served, metadata, raws)


def _list_of(served: Served, metadata: Obj, raws: Iterable[bytes]) -> Reply:
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
        with tolerating(404):
            api.machinery.remove(served.kind, meta.get("namespace", ""), meta["name"], options)
    return _list_of(served, metadata, (e.raw for e in entries))
