"""Events, as Kubernetes records them: one object for what repeats, with a count."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from labkit.local.client import ApiError, Client, Obj, timestamp, tolerating
from labkit.local.recorder import event_of

log = logging.getLogger(__name__)

REMEMBERED = 4096
COMBINED = "(combined from similar events): "
SIMILAR, SIMILAR_WINDOW = 10, 600.0
"""Beyond this many different messages for one reason within the window, they share one event."""


@dataclass
class _Similar:
    since: float
    messages: set[str] = field(default_factory=set)


@dataclass
class _Seen:
    name: str
    count: int


class Recorder:
    """Writes events about objects. A failure to write one is logged and forgotten, as in Kubernetes."""

    def __init__(self, client: Client, component: str) -> None:
        self._client, self._component = client, component
        self._seen: OrderedDict[tuple[str, ...], _Seen] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()

    def normal(self, obj: Obj, reason: str, message: str) -> None:
        """Record what is as it should be."""
        self._record(obj, "Normal", reason, message)

    def warning(self, obj: Obj, reason: str, message: str) -> None:
        """Record what is not."""
        self._record(obj, "Warning", reason, message)

    def _record(self, obj: Obj, kind: str, reason: str, message: str) -> None:
        alike = self._combine((obj["metadata"]["uid"], kind, reason), message)
        if alike:
            message = COMBINED + message
        key = (obj["metadata"]["uid"], kind, reason, COMBINED if alike else message)
        try:
            seen = self._seen.get(key)
            if seen is None or not self._repeat(obj, seen, message):
                self._remember(key, self._create(obj, kind, reason, message))
        except ApiError as error:
            log.debug("event %s for %s not recorded: %s", reason, obj["metadata"]["name"], error)

    def _combine(self, group: tuple[str, ...], message: str) -> bool:
        """Whether there were so many different messages like this that it shares an event with others."""
        similar, clock = self._similar.get(group), time.monotonic()
        if similar is None or clock - similar.since > SIMILAR_WINDOW:
            similar = self._similar[group] = _Similar(clock)
        self._similar.move_to_end(group)
        while len(self._similar) > REMEMBERED:
            self._similar.popitem(last=False)
        if message not in similar.messages and len(similar.messages) < SIMILAR:
            similar.messages.add(message)
        return message not in similar.messages

    def _remember(self, key: tuple[str, ...], seen: _Seen) -> None:
        self._seen[key] = seen
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def _repeat(self, obj: Obj, seen: _Seen, message: str) -> bool:
        change = {"count": seen.count + 1, "lastTimestamp": timestamp(), "message": message}
        with tolerating(404):
            self._client.patch("events", seen.name, change, _namespace(obj))
            seen.count += 1
            return True
        return False

    def _create(self, obj: Obj, kind: str, reason: str, message: str) -> _Seen:
        name = f"{obj['metadata']['name']}.{time.time_ns():x}"
        self._client.create("events", event_of(obj, name, reason, message, component=self._component,
                                               normal=kind == "Normal"), _namespace(obj))
        return _Seen(name, 1)


def _namespace(obj: Obj) -> str:
    return obj["metadata"].get("namespace") or "default"
