"""Effects: sandboxes and containers, by way of the launcher. What a container runtime is to a kubelet.

Everything that is needed to find a running pod again is in files below the node's folder, so that a
daemon that was killed adopts it: processes by number and start time, exit codes by file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.local import launcher
from labkit.local.launcher import kernel
from labkit.local.node.status import Ended

_LAUNCHER = str(Path(launcher.__file__).with_name("__main__.py"))
_REQUEST_TIMEOUT = 20.0


class SandboxError(Exception):
    """A sandbox or container could not be started; the text is the reason, as the node words it."""


@dataclass(frozen=True)
class Running:
    """A container's processes: its first one, and the shim that keeps its log."""

    pid: int
    shim: int
    started: float


class Launcher:
    """The daemon's end of a launcher process, which is started when it is first needed."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}

    async def request(self, op: str, spec: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Ask for a fork. The answer's "fds" are descriptors that came with it, and the caller's own.

        Raises:
            SandboxError: when it was refused.
        """
        loop = asyncio.get_running_loop()
        control = self._ensure()
        self._next += 1
        number = self._next
        answer = self._waiting[number] = loop.create_future()
        if op == "exec":
            self._exits[number] = loop.create_future()
        packet = json.dumps({**spec, "op": op, "id": number}).encode()
        try:
            for _ in range(200):
                try:
                    socket.send_fds(control, [packet], list(fds))
                    break
                except BlockingIOError:  # many at once: the launcher is behind
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                result = await answer
        except (OSError, TimeoutError) as error:
            raise SandboxError(f"the node's launcher does not answer: {error!r}") from error
        finally:
            self._waiting.pop(number, None)
        if "error" in result:
            self._exits.pop(number, None)
            raise SandboxError(result["error"])
        return {**result, "id": number}

    async def exit_code(self, number: int) -> int:
        """Wait for the end of what an exec request started."""
        try:
            return await self._exits[number]
        finally:
            self._exits.pop(number, None)

    def close(self) -> None:
        """End the launcher; what it started goes on."""
        if self._socket is None:
            return
        self._hang_up()
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            self._process = None
        for waiting in self._waiting.values():
            waiting.cancel()
        for running in self._exits.values():
            running.cancel()

    def _ensure(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _LAUNCHER, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, start_new_session=True, cwd="/", env={"PATH": os.defpath},
            )
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable)
        self._socket = ours
        return ours

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._lost()
            return
        message = json.loads(data)
        if "exit" in message:
            future = self._exits.get(message["id"])
            if future and not future.done():
                future.set_result(message["exit"])
        elif (waiting := self._waiting.get(message["id"])) and not waiting.done():
            waiting.set_result({**message, "fds": fds})
        else:
            for fd in fds:  # nobody waits for it any more
                os.close(fd)

    def _hang_up(self) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def _lost(self) -> None:
        """The launcher died; the next request starts another."""
        self._hang_up()
        if self._process:
            self._process.poll()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result({"error": "the node's launcher died"})
        for running in self._exits.values():
            if not running.done():
                running.set_result(137)


class PodFiles:
    """Where a pod's files are, and what they say.

    Args:
        folder: the pod's own, below the node's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folders."""
        (self.folder / "containers").mkdir(parents=True, exist_ok=True)
        (self.folder / "volumes").mkdir(exist_ok=True)

    def record(self, facts: dict[str, Any]) -> None:
        """Write down what an adopting daemon must know of the sandbox."""
        path = self.folder / "sandbox.json.new"
        path.write_text(json.dumps(facts))
        path.rename(self.folder / "sandbox.json")

    def sandbox(self) -> dict[str, Any] | None:
        """What `record` wrote."""
        try:
            return dict(json.loads((self.folder / "sandbox.json").read_text()))
        except (OSError, ValueError):
            return None

    def container(self, name: str) -> Path:
        """A container's folder; its attempts' files are in it: 0.log, 0.state, 0.exit."""
        folder = self.folder / "containers" / name
        folder.mkdir(exist_ok=True)
        return folder

    def attempts(self, name: str) -> list[int]:
        """The attempts at running a container whose files are there."""
        folder = self.folder / "containers" / name
        if not folder.is_dir():
            return []
        return sorted({int(path.stem) for path in folder.iterdir() if path.stem.isdigit()})

    def log(self, name: str, attempt: int) -> Path:
        """The log of one attempt."""
        return self.folder / "containers" / name / f"{attempt}.log"

    def exit(self, name: str, attempt: int) -> Ended | None:
        """How an attempt ended, if it did and its shim wrote it down."""
        try:
            facts = json.loads((self.container(name) / f"{attempt}.exit").read_text())
        except (OSError, ValueError):
            return None
        return Ended(facts["code"], facts["signal"], facts["started"], facts["finished"])

    def has_run(self, name: str, attempt: int) -> bool:
        """Whether an attempt came as far as a running process."""
        return (self.container(name) / f"{attempt}.state").exists()

    def running(self, name: str, attempt: int) -> Running | None:
        """An attempt's processes, if its shim is alive."""
        try:
            facts = json.loads((self.container(name) / f"{attempt}.state").read_text())
        except (OSError, ValueError):
            return None
        if not same_process(facts["shim"], facts["shim_start"]):
            return None
        return Running(facts["pid"], facts["shim"], facts["started"])

    def forget(self, name: str, attempt: int) -> None:
        """Remove an old attempt's files."""
        for path in self.container(name).glob(f"{attempt}.*"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def same_process(pid: int, started: int) -> bool:
    """Whether a process is still the one that it was."""
    try:
        return kernel.start_time(pid) == started and _state(pid) != "Z"
    except (OSError, ValueError):
        return False


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def process_end(pid: int) -> None:
    """Wait until a process, whoever's child it is, has ended."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = loop.create_future()

    def readable() -> None:
        loop.remove_reader(fd)
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def signal_process(pid: int, number: int) -> None:
    """Send a signal, to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
