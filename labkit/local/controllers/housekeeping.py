"""What grows old: Events are kept for an hour."""

from __future__ import annotations

from labkit.local.client import Obj

from .base import Controller
from .objects import age

SWEEP = 300.0


class Housekeeping(Controller):
    """Deletes old Events, now and then; nothing watches them, which keeps their creation cheap."""

    component = "event-ttl-controller"

    def start(self) -> None:
        """Begin to sweep."""
        self.queue.add_after(self._sweep, None, min(SWEEP, self.settings.event_ttl))

    def _sweep(self, _: object) -> None:
        self.queue.add_after(self._sweep, None, min(SWEEP, self.settings.event_ttl))
        for event in self.context.client.list("events"):
            if age(_last(event)) >= self.settings.event_ttl:
                self.queue.add(
                    self._drop,
                    (event["metadata"]["namespace"], event["metadata"]["name"], event["metadata"]["uid"]),
                )

    def _drop(self, key: tuple[str, str, str]) -> None:
        namespace, name, uid = key
        self.stores.delete("events", {"metadata": {"namespace": namespace, "name": name, "uid": uid}})


def _last(event: Obj) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
