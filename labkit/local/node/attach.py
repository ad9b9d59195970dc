"""`kubectl attach` and `kubectl run -i`: a container's own standard files.

What a container prints is its log, so that an attached client sees it without taking it from anybody. What a
client types goes to the pipe that the container has as its stdin, or to its terminal.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from labkit.local.client import Obj
from labkit.local.node.streams import Typed

_PIDFD_GETFD = 438  # everywhere but on alpha
_libc = ctypes.CDLL(None, use_errno=True)


def ends_with_its_client(container: Obj) -> bool:
    """Whether stdin ends once the first client that was attached to it has ended it (or has gone)."""
    return bool(container.get("stdin") and container.get("stdinOnce") and not container.get("tty"))


def reading_only(argv: Sequence[str]) -> list[str]:
    """A command whose stdin is a pipe that can end: containers get it open for writing, too, which never ends."""
    return ["/bin/sh", "-c", 'exec "$@" < /proc/self/fd/0', "sh", *argv]


def terminal_of(shim: int) -> int:
    """A copy of the descriptor by which a container's shim holds its terminal.

    Raises:
        OSError: when there is none: the container ended.
    """
    for entry in Path(f"/proc/{shim}/fd").iterdir():
        if os.readlink(entry).endswith("ptmx"):
            process = os.pidfd_open(shim)
            try:
                if (found := _libc.syscall(_PIDFD_GETFD, process, int(entry.name), 0)) < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                return int(found)
            finally:
                os.close(process)
    raise FileNotFoundError(f"process {shim} holds no terminal")


class Attached(Typed):
    """A client's view of a container's process: `kubeapi.Process`.

    Args:
        log: what the container prints, as it comes.
        stdin: a descriptor to write to, which becomes this object's own; None for a client that only reads.
        tty: whether it is a terminal's.
        close: called when the client ends stdin, or goes.
    """

    def __init__(self, log: AsyncIterator[bytes], stdin: int | None, *, tty: bool, close: Callable[[], None]) -> None:
        super().__init__(stdin, tty=tty)
        self._log, self._close = log, close

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What the container prints, until it ends."""
        async for chunk in self._log:
            yield 1, chunk

    async def wait(self) -> int:
        """The container's end is no failure of the attachment: clients read the exit code from the pod's status."""
        return 0

    def kill(self) -> None:
        """The client is done with stdin; the container lives on."""
        self._end_stdin()

    def _end_stdin(self) -> None:
        if self._stdin is not None:
            super()._end_stdin()
            self._close()
