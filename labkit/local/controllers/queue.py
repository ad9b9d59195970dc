"""Work for the event loop: deduplicated keys, in slices that leave the loop free for the API.

All controllers of a cluster share one queue. A key is worked on once however often it was named
meanwhile, failures come back with a growing delay, and a slice of work ends after a few milliseconds so
that a burst of changes does not hold up whoever talks to the API.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from labkit.local.client import ApiError

log = logging.getLogger(__name__)

SLICE = 0.002
FIRST_RETRY, LAST_RETRY = 0.005, 30.0
EXPECTED = {"Conflict", "NotFound", "AlreadyExists"}
"""Reasons that come from others changing things meanwhile; they are retried without a word."""

Key = tuple[str, str]
"""(namespace, name); the namespace is "" for what belongs to the whole cluster."""
Work = Callable[[Any], None]
Item = tuple[Work, Any]


class WorkQueue:
    """Runs `work(key)` for each item, in order of arrival, on the running event loop."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._queued: set[Item] = set()
        self._timers: dict[Item, asyncio.TimerHandle] = {}
        self._failures: dict[Item, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slice: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin, with what was queued before."""
        self._loop = asyncio.get_running_loop()
        self._wake()

    def stop(self) -> None:
        """End: no work starts after this."""
        for handle in (self._slice, *self._timers.values()):
            if handle:
                handle.cancel()
        self._items.clear()
        self._queued.clear()
        self._timers.clear()
        self._loop = self._slice = None

    def add(self, work: Work, key: Any) -> None:
        """Do it soon; once, if it waits already."""
        item = (work, key)
        if item not in self._queued:
            self._queued.add(item)
            self._items.append(item)
            self._wake()

    def add_after(self, work: Work, key: Any, seconds: float) -> None:
        """Do it in a while; the earliest of several wishes counts."""
        if not self._loop:
            return
        item, when = (work, key), self._loop.time() + seconds
        old = self._timers.get(item)
        if old and old.when() <= when:
            return
        if old:
            old.cancel()
        self._timers[item] = self._loop.call_at(when, self._due, item)

    def _due(self, item: Item) -> None:
        self._timers.pop(item, None)
        self.add(*item)

    def _wake(self) -> None:
        if self._loop and not self._slice and self._items:
            self._slice = self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._slice = None
        end = time.perf_counter() + SLICE
        while self._items:
            item = self._items.popleft()
            self._queued.discard(item)
            try:
                item[0](item[1])
            except Exception as error:
                self._retry(item, error)
            else:
                self._failures.pop(item, None)
            if time.perf_counter() > end:
                break
        self._wake()

    def _retry(self, item: Item, error: Exception) -> None:
        failures = self._failures[item] = self._failures.get(item, 0) + 1
        if not isinstance(error, ApiError):
            log.exception("%s %s failed", getattr(item[0], "__qualname__", item[0]), item[1])
        elif error.reason not in EXPECTED:
            log.warning("%s %s: %s", getattr(item[0], "__qualname__", item[0]), item[1], error)
        self.add_after(*item, min(FIRST_RETRY * 2 ** min(failures - 1, 20), LAST_RETRY))
