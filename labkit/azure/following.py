"""Long-running operations: begin one, or take up one that was begun before; say how it stands; let go when asked.

Azure answers at once with a promise. Whoever waits for it may be interrupted, restarted or cut off; the operation
does not mind. So it is written down as soon as it is accepted, and forgotten when its end was seen.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from labkit.azure.journal import Entry, Journal, Operation
from labkit.errors import OperationInterruptedError
from labkit.plan import Log

_HEARTBEAT = 30.0  # seconds of silence, at most


TYPICAL = {
    # one recorded creation took 214 s (Azure's CLI tests, 2022-10-07); in 2019 it was 18 min (kubedex.com:
    # google-gke-vs-azure-aks-automation-and-reliability)
    "create": "4 to 10 min",
    "delete": "3 to 10 min",  # more than 8 min 30 s in a log of 2020-12-01 (Azure/terraform-azurerm-aks#74)
    # estimates: nobody has measured these with labkit yet
    "delete-group": "1 to 10 min", "start": "2 to 10 min", "abort": "1 to 5 min",
}
"""How long operations usually take on AKS. Read in 2026-11; none is the local lab's, where they take seconds."""


class Follower:
    """Follows operations to their ends.

    Args:
        journal: where they are written down.
        poll: seconds between two looks, where Azure does not say.
    """

    def __init__(self, journal: Journal, poll: float) -> None:
        self._journal, self._poll = journal, poll

    def forget(self, operation: Operation) -> None:
        """What the journal says of an operation is no longer true: its resource is gone."""
        self._journal.forget(operation)

    def follow(self, operation: Operation, begin: Callable[..., Any], log: Log,
               look: Callable[[], str] | None = None, *, anew: bool = True) -> Any:
        """Begin an operation, or take it up where it was begun before, and wait for its end.

        Args:
            operation: which.
            begin: the SDK's method that begins it; with `continuation_token` it resumes.
            log: hears how it stands.
            look: what else there is to say of the resource while it lasts.
            anew: whether to begin it where it cannot be taken up; else the answer is None.

        Raises:
            azure.core.exceptions.HttpResponseError: it failed, or could not be followed; what was not seen to
                end stays written down.
        """
        from labkit.azure.sdk import Foreground

        entry, poller = self._journal.entry(operation), None
        polling = Foreground(self._poll)
        if entry is not None:
            with contextlib.suppress(ValueError):  # a token of another version of the SDK
                poller = begin(continuation_token=entry.token, polling=polling)
                log(f"{operation}: begun at {entry.began:%H:%M:%S} UTC, followed again")
        if poller is None and not anew:
            self._journal.forget(operation)
            return None
        if poller is None:
            poller = begin(polling=polling)
            entry = Entry(poller.continuation_token(), datetime.now(UTC))
            if complaint := self._journal.remember(operation, entry.token):
                log(complaint)
        assert entry is not None  # either read or just made
        try:
            polling.to_the_end(_said(operation, entry, log, look))
            result = poller.result()
        except Exception as error:
            if _is_over(error):
                self._journal.forget(operation)
            raise
        self._journal.forget(operation)
        log(f"{operation}: {poller.status()} after {_duration(_since(entry))}")
        return result

    def until(self, what: str, read: Callable[[], str | None], busy: frozenset[str], log: Log) -> str | None:
        """Look at a resource until nothing is under way on it; for operations that nobody here has begun.

        Args:
            what: the resource, for the log.
            read: its provisioning state; None means that it is not there.
            busy: the states to wait out.
            log: hears how it stands.

        Returns:
            The state that it came to rest in; None where it is gone.
        """
        begin, due, said = time.monotonic(), 0.0, ""
        while (state := read()) in busy:
            elapsed = time.monotonic() - begin
            if state != said or elapsed >= due:
                log(f"{what} is {state} for {_duration(elapsed)}")
                said, due = str(state), elapsed + _HEARTBEAT
            time.sleep(self._poll)
        return state


def _said(operation: Operation, entry: Entry, log: Log, look: Callable[[], str] | None) -> Callable[[str], None]:
    """What hears an operation's status every second, and says it when it changes and every half minute."""
    said, due = "", _since(entry) + _HEARTBEAT

    def hear(status: str) -> None:
        nonlocal said, due
        elapsed = _since(entry)
        if status != said or elapsed >= due:
            more = f"; {look()}" if look is not None and said else ""
            usual = f" (on AKS usually {known})" if (known := TYPICAL.get(operation.verb)) else ""
            log(f"{operation}: {status} for {_duration(elapsed)}{usual}{more}")
            said, due = status, elapsed + _HEARTBEAT

    return hear


@contextlib.contextmanager
def interruptible(operation: Operation, what_stays: str) -> Iterator[None]:
    """Turn an interrupt of the kernel into words: Azure goes on whether anybody waits or not.

    Args:
        operation: which.
        what_stays: what exists, or may exist, and costs money.
    """
    begin = time.monotonic()
    try:
        yield
    except KeyboardInterrupt as error:
        raise OperationInterruptedError(
            f"You stopped waiting for {operation!s}, after {_duration(time.monotonic() - begin)}.",
            f"the operation goes on in Azure without you. {what_stays}",
            f"run the same again to follow it to its end{_ways_out(operation)}", code="Interrupted") from error


def _is_over(error: Exception) -> bool:
    """Whether an error says that there is nothing left to follow, rather than that we could not look."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    # 200 is the answer "it has failed"; 404 and 410: Azure knows no such operation, or its resource is gone.
    return status in (200, 404, 410)


def _ways_out(operation: Operation) -> str:
    if operation.verb in ("delete", "delete-group"):
        return "."
    return ("; `lab.run(lab.abort())` aborts it (`az aks operation-abort --resource-group "
            f"{operation.group} --name {operation.name}`); `lab.run(lab.clean_up())` deletes what there is.")


def _since(entry: Entry) -> float:
    return max(0.0, (datetime.now(UTC) - entry.began).total_seconds())


def _duration(seconds: float) -> str:
    """In words: "8.1 s", "2 min 10 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
