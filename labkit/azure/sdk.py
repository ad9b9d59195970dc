"""How Azure's SDKs are set up: whom to ask, how patient to be, and to say so when they wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from azure.core.pipeline.policies import RetryPolicy
from azure.mgmt.core.polling.arm_polling import ARMPolling

from labkit.plan import Log

_log: ContextVar[Log | None] = ContextVar("labkit_azure_log", default=None)


@dataclass(frozen=True)
class Patience:
    """How long Azure may take to answer one request, in seconds, and how often a request is sent again.

    Args:
        connect: to open a connection.
        read: between two pieces of an answer.
        backoff: the unit of the pauses between attempts, where the answer does not name one.
        attempts: after answers that say "later" (429) or that the server is at fault (5xx).
    """

    connect: float = 20.0
    read: float = 60.0
    backoff: float = 0.8
    attempts: int = 6


@contextlib.contextmanager
def telling(log: Log) -> Iterator[None]:
    """While this lasts, say when the SDK waits before it asks again.

    Args:
        log: where to say it.
    """
    before = _log.set(log)
    try:
        yield
    finally:
        _log.reset(before)


class TellingRetry(RetryPolicy[Any, Any]):
    """The SDK's retries, which honour Retry-After, with a line for each wait."""

    def sleep(self, settings: dict[str, Any], transport: Any, response: Any = None) -> None:
        """Wait, and say why."""
        if (log := _log.get()) is not None:
            seconds = (self.get_retry_after(response) if response else None) or self.get_backoff_time(settings)
            said = f"answers {response.http_response.status_code}" if response else "does not answer"
            log(f"Azure {said}; asked again in {seconds:.0f} s")
        if response is not None:
            response.http_response.close()  # begun as a stream and never read: the SDK leaves its connection open
        super().sleep(settings, transport, response)


class Foreground(ARMPolling):
    """The SDK's way to follow an operation, in the thread of who waits: an interrupt ends it, and nothing goes on.

    The SDK's poller starts a thread of its own unless the operation is over; so it is told that it is.
    """

    def __init__(self, interval: float) -> None:
        super().__init__(interval)
        self._released = False
        self._hear: Callable[[str], None] = lambda status: None

    def to_the_end(self, hear: Callable[[str], None]) -> None:
        """Follow the operation.

        Args:
            hear: called with its status, at once and about every second.
        """
        self._hear, self._released = hear, True
        self._hear(str(self.status()))
        self.run()

    def finished(self) -> bool:
        """Whether it is over; before `to_the_end` always."""
        return not self._released or bool(super().finished())

    def _sleep(self, delay: float) -> None:
        end = time.monotonic() + delay
        while (left := end - time.monotonic()) > 0:
            self._hear(str(self.status()))
            time.sleep(min(left, 1.0))


def options(url: str, scope: str, ca_bundle: str | None, poll: float, patience: Patience) -> dict[str, Any]:
    """The keyword arguments of every client.

    Args:
        url: Azure Resource Manager.
        scope: what tokens are for.
        ca_bundle: certificates to trust; None means the system's.
        poll: seconds between two questions about an operation, where the answer does not name them.
        patience: how long to wait for answers.
    """
    retry = TellingRetry(retry_status=patience.attempts, retry_backoff_factor=patience.backoff)
    found: dict[str, Any] = {
        "base_url": url, "credential_scopes": [scope], "polling_interval": poll, "retry_policy": retry,
        "connection_timeout": patience.connect, "read_timeout": patience.read,
    }
    if ca_bundle:
        found["connection_verify"] = ca_bundle
    return found
