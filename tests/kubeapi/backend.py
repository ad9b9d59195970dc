"""A node backend whose containers are processes of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from labkit.local.client import ApiError


class HostProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.size: tuple[int, int] | None = None

    async def write(self, data: bytes) -> None:
        assert self._process.stdin
        if data:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        else:
            self._process.stdin.close()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()

        async def pump(channel, stream):
            while data := await stream.read(4096):
                await queue.put((channel, data))
            await queue.put(None)

        pumps = [asyncio.ensure_future(pump(1, self._process.stdout)),
                 asyncio.ensure_future(pump(2, self._process.stderr))]
        open_streams = len(pumps)
        while open_streams:
            if (item := await queue.get()) is None:
                open_streams -= 1
            else:
                yield item

    async def wait(self) -> int:
        return await self._process.wait()

    def resize(self, rows: int, cols: int) -> None:
        self.size = (rows, cols)

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


class HostBackend:
    """Implements NodeBackend."""

    async def logs(self, namespace, pod, container, *, follow, previous, tail, since_seconds, timestamps,
                   limit_bytes) -> AsyncIterator[bytes]:
        if previous:
            raise ApiError(400, "BadRequest", f'previous terminated container "{container}" in pod "{pod}" not found')

        async def lines() -> AsyncIterator[bytes]:
            for i in range(5)[-(tail or 5):]:
                yield f"line {i}\n".encode()
            if follow:
                await asyncio.sleep(0.2)
                yield b"later\n"
        return lines()

    async def exec(self, namespace, pod, container, argv, *, stdin, tty) -> HostProcess:
        pipe = asyncio.subprocess.PIPE
        if argv[0] == "no-such-command":
            raise ApiError(500, "InternalError", "OCI runtime exec failed: executable file not found in $PATH")
        return HostProcess(await asyncio.create_subprocess_exec(
            *argv, stdin=pipe if stdin else asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe))

    async def attach(self, namespace, pod, container, *, stdin, tty) -> HostProcess:
        return await self.exec(namespace, pod, container, ["tr", "a-z", "A-Z"], stdin=stdin, tty=tty)

    async def port_forward(self, namespace, pod, port):
        if port == 9:
            raise ApiError(400, "BadRequest", "connection refused in the pod")

        async def echo(reader, writer):
            try:
                while data := await reader.read(65536):
                    writer.write(data.upper())
                    await writer.drain()
            finally:                            # also when the server ends first
                writer.close()

        ours, theirs = socket.socketpair()
        self._echo = asyncio.ensure_future(echo(*await asyncio.open_connection(sock=theirs)))
        return await asyncio.open_connection(sock=ours)

    async def dial(self, node, address, port, *, tls):
        assert (node, address, tls) == ("n1", "10.224.0.6", False)
        return await asyncio.open_connection("127.0.0.1", port)

    async def kubelet(self, node, path):
        return 200, f"{node} {path}".encode(), b"text/plain"
