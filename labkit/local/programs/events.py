"""Watches of many resources, handled by one thread: what node agents are built around."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from labkit.local.client import EventType, Obj
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.kubewatch import Watch

Handler = Callable[[str, Obj], None]


class Events:
    """Collects events from the threads of watches, for the one thread that calls `handle`."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._queue: queue.SimpleQueue[tuple[Handler, str, Obj] | None] = queue.SimpleQueue()
        self._watches: list[tuple[Watch, bool]] = []

    def watch(self, resource: str, handler: Handler, *, optional: bool = False, **selectors: Any) -> None:
        """Watch a resource; the API may not have an optional one (no such definition)."""
        def put(event: EventType, obj: Obj) -> None:
            self._queue.put((handler, event, obj))
        self._watches.append((self._client.watch(resource, put, **selectors), optional))

    def stop_on_signals(self) -> threading.Event:
        """What SIGTERM and SIGINT set; `handle` returns early then."""
        stop = threading.Event()

        def terminate(*_: object) -> None:
            stop.set()
            self._queue.put(None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, terminate)
        return stop

    def handle(self, timeout: float) -> bool:
        """Wait for events, hand over all that are there, and say whether there was any."""
        try:
            item = self._queue.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return False
        handled = False
        while True:
            if item is not None:
                handler, event, obj = item
                handler(event, obj)
                handled = True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return handled

    @property
    def synced(self) -> bool:
        """Whether all that was there at the start has been handled."""
        return self._queue.empty() and all(
            watch.synced.is_set() or (optional and _refused(watch)) for watch, optional in self._watches)

    def failing(self) -> tuple[float, str]:
        """For how many seconds the worst watch has not reached the API, and why; (0, "") when all is well."""
        worst: tuple[float, str] = (0.0, "")
        for watch, optional in self._watches:
            since = watch.failing_since
            if since is not None and not (optional and _refused(watch)):
                worst = max(worst, (time.monotonic() - since, watch.last_error))
        return worst


def _refused(watch: Watch) -> bool:
    """Whether the API answers that it does not have the resource, unlike not answering."""
    return watch.failing_since is not None and "connect to API server" not in watch.last_error
