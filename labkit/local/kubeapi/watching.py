"""From a write to those who watch: what an event means under a selector, and delivery in process."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import orjson

from labkit.local.client import EventType, Handler, Obj

from .selectors import Predicate
from .store import Entry, Event

log = logging.getLogger(__name__)


def seen_through(event: Event, matches: Predicate | None) -> tuple[EventType, Entry] | None:
    """The event for a watcher with a selector, None where it never saw the object.

    An object that begins to match is ADDED, one that no longer matches is DELETED.
    """
    if matches is None:
        return event.type, event.new
    before = event.old is not None and matches(event.old.obj)
    now = event.type != "DELETED" and matches(event.new.obj)
    if now:
        return ("MODIFIED" if before else "ADDED"), event.new
    if not before:
        return None
    if event.type == "DELETED":
        return "DELETED", event.new
    assert event.old is not None
    old = event.old.obj
    last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(event.new.rv)}}
    return "DELETED", Entry(last, orjson.dumps(last), event.new.rv)


class Deliveries:
    """Calls handlers in the order of the writes, never inside a write.

    A handler that writes causes events itself. They are queued behind the current one, so no handler
    is entered twice and everybody sees the same order. With a running event loop the queue is emptied
    by `call_soon`; without one (a plain script or test) when the outermost write returns.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Callable[[], bool], Handler, EventType, Obj]] = deque()
        self._scheduled = False
        self._draining = False

    def add(self, wanted: Callable[[], bool], handler: Handler, type_: EventType, obj: Obj) -> None:
        """Queue a call; it is left out if `wanted` is false by then."""
        self._queue.append((wanted, handler, type_, obj))
        if self._scheduled or self._draining:
            return
        try:
            asyncio.get_running_loop().call_soon(self._drain)
            self._scheduled = True
        except RuntimeError:
            self._drain()

    def _drain(self) -> None:
        self._scheduled = False
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                wanted, handler, type_, obj = self._queue.popleft()
                if wanted():
                    try:
                        handler(type_, obj)
                    except Exception:           # one handler's fault is not the others'
                        log.exception("a watch handler failed on %s %s", type_, obj["metadata"].get("name"))
        finally:
            self._draining = False


class LocalSubscription:
    """A watch in process."""

    def __init__(self) -> None:
        self.open = True
        self.stop: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Stop the watch; no call to the handler follows."""
        self.open = False
        self.stop()
