"""Logs, commands and connections: what goes into a container and comes out of it."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import fcntl
import os
import signal
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from labkit.local.node.runtime import Launcher, signal_process

_CHUNK = 65536
_POLL = 0.1  # seconds between looks at a log that is followed


def _since(stamp: bytes) -> float:
    """The seconds of a log line's time."""
    return calendar.timegm(time.strptime(stamp[:19].decode(), "%Y-%m-%dT%H:%M:%S"))


def render(line: bytes, timestamps: bool) -> bytes:
    """A log file's line ("time stream F|P text") as `kubectl logs` shows it."""
    stamp, _, rest = line.partition(b" ")
    _, _, rest = rest.partition(b" ")
    kind, _, text = rest.partition(b" ")
    shown = text + (b"" if kind == b"P" else b"\n")
    return stamp + b" " + shown if timestamps else shown


async def read_log(path: Path, *, running: Callable[[], bool], follow: bool, tail: int | None,
                   since_seconds: int | None, timestamps: bool, limit_bytes: int | None) -> AsyncIterator[bytes]:
    """A container's log, and with `follow` what is added to it while the container runs."""
    left = limit_bytes if limit_bytes is not None else 1 << 62
    with path.open("rb") as file:
        lines = file.read().split(b"\n")
        rest = lines.pop()
        if since_seconds is not None:
            oldest = time.time() - since_seconds
            lines = [line for line in lines if _since(line) >= oldest]
        if tail is not None:
            lines = lines[len(lines) - tail:] if tail < len(lines) else lines
        while True:
            data = b"".join(render(line, timestamps) for line in lines)[:left]
            left -= len(data)
            if data:
                yield data
            if left <= 0 or not follow:
                return
            alive = running()  # asked before the last read, so that nothing written at the end is missed
            more = file.read()
            if not more:
                if not alive:
                    return
                await asyncio.sleep(_POLL)
            *lines, rest = (rest + more).split(b"\n")


class Typed:
    """What a client types, on its way to a pipe or to a terminal.

    Args:
        stdin: a descriptor to write to, which becomes this object's own; None where nobody types.
        tty: whether it is a terminal's.
    """

    def __init__(self, stdin: int | None, *, tty: bool) -> None:
        self._stdin, self._tty = stdin, tty
        if stdin is not None:
            os.set_blocking(stdin, False)

    async def write(self, data: bytes) -> None:
        """Write to its stdin; b"" ends it."""
        if not data and not self._tty:
            self._end_stdin()
            return
        data = data or b"\x04"  # what a terminal has for an end of file
        while data and self._stdin is not None:
            try:
                data = data[os.write(self._stdin, data):]
            except BlockingIOError:
                await asyncio.sleep(0.005)
            except OSError:
                return  # it reads no more

    def resize(self, rows: int, cols: int) -> None:
        """Change its terminal's size."""
        if self._tty and self._stdin is not None:
            with contextlib.suppress(OSError):  # its last user left
                fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def _end_stdin(self) -> None:
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None


class Exec(Typed):
    """A command that runs in a container: `kubeapi.Process`."""

    def __init__(self, launcher: Launcher, number: int, pid: int, files: dict[int, int], stdin: int | None,
                 *, tty: bool) -> None:
        super().__init__(stdin, tty=tty)
        self._pid = pid
        self._queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._open = set(files)
        self._code = asyncio.ensure_future(launcher.exit_code(number))
        loop = asyncio.get_running_loop()
        for fd, stream in files.items():
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._readable, fd, stream)

    @classmethod
    async def start(cls, launcher: Launcher, spec: dict[str, Any], *, stdin: bool, tty: bool) -> Exec:
        """Start it.

        Args:
            launcher: what forks it.
            spec: the container's process, its cgroup, and what to run as whom.
            stdin: whether it will be written to.
            tty: whether it gets a terminal.

        Raises:
            SandboxError: when it cannot be started.
        """
        if tty:
            answer = await launcher.request("exec", {**spec, "tty": True})
            terminal = answer["fds"][0]
            return cls(launcher, answer["id"], answer["pid"], {terminal: 1}, terminal, tty=True)
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        given, kept = [in_read, out_write, err_write], {out_read: 1, err_read: 2}
        try:
            answer = await launcher.request("exec", {**spec, "tty": False}, given)
        except BaseException:
            for fd in (*kept, in_write):
                os.close(fd)
            raise
        finally:
            for fd in given:
                os.close(fd)
        if not stdin:
            os.close(in_write)
        return cls(launcher, answer["id"], answer["pid"], kept, in_write if stdin else None, tty=False)

    def _readable(self, fd: int, stream: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose last user left
            data = b""
        if data:
            self._queue.put_nowait((stream, data))
            return
        self._close(fd)

    def _close(self, fd: int) -> None:
        if fd not in self._open:
            return
        asyncio.get_running_loop().remove_reader(fd)
        self._open.discard(fd)
        if fd == self._stdin:
            self._stdin = None
        os.close(fd)
        if not self._open:
            self._queue.put_nowait(None)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What it prints, until it and all that it started have closed their output."""
        ended: asyncio.Future[int] = asyncio.ensure_future(asyncio.shield(self._code))
        try:
            while True:
                get: asyncio.Future[Any] = asyncio.ensure_future(self._queue.get())
                await asyncio.wait([get, ended], return_when=asyncio.FIRST_COMPLETED)
                if not get.done():  # it ended; what it left in the background may hold its output for ever
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(get, 0.2)
                if not get.done() or get.cancelled():
                    return
                item = get.result()
                if item is None:
                    return
                yield item
        finally:
            ended.cancel()

    async def wait(self) -> int:
        """Its exit code."""
        code = await asyncio.shield(self._code)
        for fd in list(self._open):
            self._close(fd)
        self._end_stdin()
        return code

    def kill(self) -> None:
        """End it and what it started."""
        if not self._code.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
            signal_process(self._pid, signal.SIGKILL)


async def collect(process: Exec, limit: int = 10_000) -> tuple[int, str]:
    """Wait for a command and take what it printed, at most `limit` bytes of it."""
    printed = b""
    async for _, data in process.output():
        printed = (printed + data)[:limit]
    return await process.wait(), printed.decode(errors="replace")
