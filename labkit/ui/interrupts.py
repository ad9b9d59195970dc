"""An interrupt that comes while Python loads a module waits until it is loaded.

A library that is loaded halfway stays broken in its process: each cell that needs it would fail until the kernel is
started anew.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, Final

__all__ = ["install"]

_AGAIN_SECONDS: Final = 0.05


def install(shell: Any) -> None:
    """Have a kernel's cells be interrupted between imports only.

    Args:
        shell: IPython's.
    """
    shell.events.register("pre_run_cell", _before_cell)


def _before_cell(_: object) -> None:
    # Jupyter's kernel sets a handler for each cell, and takes it away after it: here it has just done so.
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler if isinstance(handler, _Patient) else _Patient(handler))


class _Patient:
    """A handler of interrupts that waits for the end of an import, and then does what the one before it does."""

    def __init__(self, then: Any) -> None:
        self._then = then

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            self._then(number, frame)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
