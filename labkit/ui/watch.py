"""Asking on and on while something else happens, to see whether anybody notices."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Watch"]

#: A notebook that was left open must not ask for ever.
LONGEST_SECONDS = 1800.0


class Watch:
    """Calls a question in a thread of its own, again and again, and counts what came back.

    Args:
        ask: returns whether there was an answer; an exception counts as none.
        pause: seconds between questions.
    """

    def __init__(self, ask: Callable[[], bool], pause: float = 0.2) -> None:
        self._ask, self._pause = ask, pause
        self.asked = self.failed = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while not self._stopped.wait(self._pause) and time.monotonic() < end:
            try:
                answered = self._ask()
            except Exception:  # whatever a change of the data plane does to a client is what we count
                answered = False
            self.asked += 1
            self.failed += not answered

    def stop(self) -> int:
        """Stop asking; return how many questions had no answer."""
        self._stopped.set()
        self._thread.join(timeout=30)
        return self.failed

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"{self.asked} asked, {self.failed} without an answer"
