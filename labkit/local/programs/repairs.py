"""What a node agent put back, as an event on its node: `kubectl get events`, `kubectl describe node`."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence

from labkit.local.dataplane.repaired import REASON, message
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.recorder import Recorder

PERIOD = float(os.environ.get("LABKIT_REPAIR_PERIOD", "5"))
"""Seconds between two looks at what the kernel holds; a test's may be shorter."""
_ATTEMPTS = 5


class Repairs:
    """Writes events about this node, in a thread of its own: an agent never waits for the API to say something.

    Args:
        client: the API.
        component: who reports, such as "calico-node".
        node: the node's name.
    """

    def __init__(self, client: HttpClient, component: str, node: str) -> None:
        # The way to the API may be what was just put back.
        self._client, self._recorder = client, Recorder(client, component, node, patience=_ATTEMPTS)
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
            self._recorder.about_node(REASON, self._queue.get(), normal=False)
            self._client.close()
