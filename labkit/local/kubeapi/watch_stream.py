"""A watch over HTTP: one JSON document a line, from a version on, until the client goes or its time is up."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING

import orjson

from labkit.local.client import EventType, Obj

from . import errors
from .kinds import Served
from .lists import partial
from .request import Receive, Request, Send, disconnected
from .selectors import predicate
from .store import Entry, Event
from .tables import table_for, wants_partial, wants_table
from .watching import seen_through

if TYPE_CHECKING:
    from .api import Api

_BACKLOG = 20_000
"""Events that may wait for a slow client; then its watch ends and it lists again."""

_BOOKMARK_SECONDS = 60.0


class Watch:
    """One watch request. What is wrong with it is raised when it is made, before anything is sent."""

    code, content_type = 200, b"application/json"

    def __init__(self, api: Api, served: Served, namespace: str, request: Request) -> None:
        self._api, self._served, self._namespace, self._request = api, served, namespace, request
        kind, query = served.kind, request.query
        self._matches = predicate(query.get("labelSelector"), query.get("fieldSelector"), kind.fields)
        self._shelf = api.machinery.store.shelf(kind.resource)
        self._table, self._partial = wants_table(request), wants_partial(request)
        self._table_started = False
        self._bookmarks = request.flag("allowWatchBookmarks")
        self._seconds = float(request.number("timeoutSeconds") or random.uniform(1800, 3600))
        self._lines: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        asked = query.get("resourceVersion", "")
        try:
            since = int(asked or 0)
        except ValueError:
            raise errors.bad_request(f'Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
                                     ) from None
        self._stop = None
        if since and since < self._shelf.floor:
            self._lines.append(_line("ERROR", errors.gone(since, self._shelf.floor).status()))
            self._ended = True
            return
        initial = query.get("sendInitialEvents") == "true"
        if not since or initial:
            for _, entry in self._shelf.entries((namespace or None) if kind.namespaced else None):
                if self._matches is None or self._matches(entry.obj):
                    self._push("ADDED", entry, None)
            if initial and self._bookmarks:
                self._lines.append(self._bookmark(initial=True))
        else:
            for event in self._shelf.events:
                if event.new.rv > since:
                    self._on_event(event)
        self._stop = api.machinery.store.listen(kind.resource, self._on_event)

    async def run(self, receive: Receive, send: Send) -> None:
        """Send events until the end."""
        loop = asyncio.get_running_loop()
        gone = loop.create_task(self._disconnected(receive))
        deadline = loop.time() + self._seconds
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [
                (b"content-type", self.content_type), (b"cache-control", b"no-cache, private")]})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            while not gone.done():
                while self._lines:
                    if len(self._lines) == 1:
                        chunk = self._lines.popleft()
                    else:
                        chunk = b"".join(self._lines)
                        self._lines.clear()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                left = deadline - loop.time()
                if self._ended or left <= 0:
                    break
                self._wake = loop.create_future()
                timer = loop.call_later(min(left, _BOOKMARK_SECONDS), self._rouse)
                try:
                    await self._wake
                finally:
                    timer.cancel()
                    self._wake = None
                if not self._lines and self._bookmarks and not self._ended:
                    self._lines.append(self._bookmark())
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            if self._stop:
                self._stop()

    def end(self) -> None:
        """End the watch from the server's side."""
        self._ended = True
        self._rouse()

    async def _disconnected(self, receive: Receive) -> None:
        await disconnected(receive)
        self.end()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _on_event(self, event: Event) -> None:
        if self._namespace and event.new.obj["metadata"].get("namespace") != self._namespace:
            return
        if seen := seen_through(event, self._matches):
            self._push(seen[0], seen[1], event)
            if len(self._lines) > _BACKLOG:
                self._ended = True
            self._rouse()

    def _push(self, type_: EventType, entry: Entry, event: Event | None) -> None:
        if self._table:
            table = table_for(self._api, self._served, [entry], self._request, str(entry.rv))
            if self._table_started:
                table["columnDefinitions"] = None
            self._table_started = True
            self._lines.append(_line(type_, table))
        elif self._partial:
            self._lines.append(_line(type_, partial(entry.obj)))
        elif self._served.to_wire is not None:
            self._lines.append(_line(type_, self._served.to_wire(entry.obj)))
        elif event is not None and event.type == type_ and event.new is entry:
            self._lines.append(event.line)
        else:
            self._lines.append(b'{"type":"%b","object":%b}\n' % (type_.encode(), entry.raw))

    def _bookmark(self, *, initial: bool = False) -> bytes:
        meta: Obj = {"resourceVersion": str(self._api.machinery.store.rv), "creationTimestamp": None}
        if initial:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        if self._table:
            return _line("BOOKMARK", {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                                      "columnDefinitions": None, "rows": []})
        return _line("BOOKMARK", {"kind": self._served.kind.kind, "apiVersion": self._served.api_version,
                                  "metadata": meta})


def _line(type_: str, obj: Obj) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (type_.encode(), orjson.dumps(obj))
