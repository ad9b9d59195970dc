"""What a node agent put back, as an event on its node: `kubectl get events`, `kubectl describe node`."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence

from labkit.local.client import ApiError, Obj
from labkit.local.dataplane.repaired import REASON, message
from labkit.local.programs.kubeclient import HttpClient

log = logging.getLogger(__name__)

PERIOD = float(os.environ.get("LABKIT_REPAIR_PERIOD", "5"))
"""Seconds between two looks at what the kernel holds; a test's may be shorter."""
_ATTEMPTS = 5        # the way to the API may be what was just put back


class Repairs:
    """Writes events about this node, in a thread of its own: an agent never waits for the API to say something.

    Args:
        client: the API.
        component: who reports, such as "calico-node".
        node: the node's name.
    """

    def __init__(self, client: HttpClient, component: str, node: str) -> None:
        self._client, self._component, self._node = client, component, node
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, repaired: Sequence[str]) -> None:
        """Record what was put back; the same again raises the count of the first."""
        if not repaired:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="repairs", daemon=True)
            self._thread.start()
        self._queue.put(message(repaired))

    def _run(self) -> None:
        while True:
            text = self._queue.get()
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._record(text)
                    break
                except ApiError as error:
                    log.debug("event %s not recorded: %s", REASON, error.message)
                    time.sleep(attempt)
            self._client.close()

    def _record(self, text: str) -> None:
        facts = hashlib.sha256(f"{self._component}/{self._node}/{text}".encode()).hexdigest()
        name, now = f"{self._node}.{facts[:16]}", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            seen = self._client.get("events", name, "default")
        except ApiError as error:
            if error.code != 404:
                raise
            self._client.create("events", self._event(name, text, now), "default")
        else:
            self._client.patch("events", name, {"count": seen.get("count", 1) + 1, "lastTimestamp": now}, "default")

    def _event(self, name: str, text: str, now: str) -> Obj:
        return {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
            # Agents know their node by its name, and write that as the uid: kubectl describe looks for both.
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._node},
            "reason": REASON, "message": text, "type": "Warning", "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": self._component, "host": self._node},
            "reportingComponent": self._component, "reportingInstance": self._node,
        }
