"""exec, attach and port-forward over WebSocket, in Kubernetes' channel protocols, and over SPDY.

Every message's first byte is its channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome, 4 the terminal's
size. Version 5 adds 255, which closes a channel; that is how a client ends stdin.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson

from labkit.local.client import ApiError, Obj

from . import errors
from .backend import NodeBackend, Process
from .kinds import Served
from .pod_logs import pick_container
from .request import Receive, Request, Send, error_reply
from .spdy import PLAIN_PROTOCOL, SPDY_PROTOCOL, CommandStreams, SpdyPortForward

if TYPE_CHECKING:
    from .api import Api

Session = Callable[[Receive, Send], Awaitable[None]]

_CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io",
             "base64.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io")
_FORWARD_CHANNELS = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")  # ports know no version 5, as on a kubelet
_CLOSE = 255


async def open_session(api: Api, request: Request, served: Served, namespace: str, name: str,
                       sub: str | None) -> Session:
    """What speaks on an upgraded connection; raises before the upgrade what is wrong.

    Raises:
        ApiError: when the pod has no such container, or does not run.
    """
    pod = api.machinery.entry(served.kind, namespace, name).obj
    if served.kind.resource != "pods" or sub not in ("exec", "attach", "portforward"):
        raise errors.page_not_found()
    backend = api.node_backend
    if not pod["spec"].get("nodeName") or backend is None:
        raise errors.bad_request(f"pod {name} does not have a host assigned")
    if sub == "portforward":
        if request.spdy or SPDY_PROTOCOL in request.subprotocols:
            return SpdyPortForward(backend, namespace, name, PLAIN_PROTOCOL if request.spdy else SPDY_PROTOCOL)
        return _port_forward(backend, request, namespace, name)
    if (phase := pod.get("status", {}).get("phase")) in ("Succeeded", "Failed"):
        raise errors.bad_request(f"cannot {sub} into a container in a completed pod; current phase is {phase}")
    container = pick_container(pod, request.query.get("container", ""))
    protocol = next((p for p in request.subprotocols if p in _CHANNELS), None)
    stdin, tty = _flag(request, "stdin"), _flag(request, "tty")
    streams = (stdin, _flag(request, "stdout"), _flag(request, "stderr") and not tty, True, tty)
    wanted = {channel for channel, is_wanted in enumerate(streams) if is_wanted}
    argv = [v for k, v in request.query_lists if k == "command"]
    if sub == "exec" and not argv:
        raise errors.bad_request("you must specify at least 1 command for the container")

    async def session(receive: Receive, send: Send) -> None:
        channels = CommandStreams(receive, send, wanted) if request.spdy else Channels(receive, send, protocol)
        try:
            await channels.accept()
        except ConnectionError:
            return
        try:
            process = await (backend.attach(namespace, name, container, stdin=stdin, tty=tty) if sub == "attach"
                             else backend.exec(namespace, name, container, argv, stdin=stdin, tty=tty))
        except ApiError as error:       # as a kubelet: it upgrades first, and then says what is wrong
            await channels.send(3, _said(channels, orjson.loads(error_reply(error).body)))
            await channels.close()
            return
        await _run(process, channels, argv)

    return session


def _flag(request: Request, name: str) -> bool:
    return request.query.get(name, "false").lower() in ("true", "1")


class Channels:
    """Messages with a channel number, over an ASGI WebSocket."""

    def __init__(self, receive: Receive, send: Send, protocol: str | None) -> None:
        self._receive, self._send, self.protocol = receive, send, protocol
        self._base64 = bool(protocol and "base64" in protocol)

    async def accept(self) -> None:
        """Complete the upgrade."""
        await self._send({"type": "websocket.accept", "subprotocol": self.protocol})

    async def send(self, channel: int, data: bytes) -> None:
        """Send on a channel."""
        if self._base64:
            await self._send({"type": "websocket.send", "text": f"{channel}{base64.b64encode(data).decode()}"})
        else:
            await self._send({"type": "websocket.send", "bytes": bytes((channel,)) + data})

    async def receive(self) -> tuple[int, bytes] | None:
        """The next message; None when the client went away. A closed channel is (255, its number)."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            text = message.get("text")
            data: bytes = message.get("bytes") or (text.encode() if text else b"")
            if not data:
                continue
            if self._base64:
                return data[0] - ord("0"), base64.b64decode(data[1:])
            return data[0], data[1:]

    async def close(self) -> None:
        """Say goodbye; the client may have done so first."""
        with contextlib.suppress(Exception):
            await self._send({"type": "websocket.close", "code": 1000})


async def _run(process: Process, channels: Channels | CommandStreams, argv: list[str]) -> None:
    try:
        reader = asyncio.ensure_future(_feed(process, channels))
        writer = asyncio.ensure_future(_drain(process, channels))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():                       # the client went away before the command ended
                return
            await writer
            code = await process.wait()
            if outcome := _said(channels, _outcome(code, argv)):
                await channels.send(3, outcome)
            await channels.close()
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
    finally:
        process.kill()


async def _feed(process: Process, channels: Channels | CommandStreams) -> None:
    while (message := await channels.receive()) is not None:
        channel, data = message
        if channel == 0 and data:
            await process.write(data)
        elif channel == _CLOSE and data[:1] == b"\0":
            await process.write(b"")
        elif channel == 4:
            with contextlib.suppress(orjson.JSONDecodeError, KeyError):
                size = orjson.loads(data)
                process.resize(size["Height"], size["Width"])


async def _drain(process: Process, channels: Channels | CommandStreams) -> None:
    async for channel, data in process.output():
        if data:
            await channels.send(channel, data)


def _said(channels: Channels | CommandStreams, status: Obj) -> bytes:
    """What the third channel says of how it went: before version 4 only what went wrong, in words."""
    if channels.protocol and channels.protocol.startswith(("v4", "v5")):
        return orjson.dumps(status)
    return b"" if status["status"] == "Success" else str(status["message"]).encode()


def _outcome(code: int, argv: list[str]) -> Obj:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": f"command terminated with non-zero exit code: error executing command {argv}, exit code {code}",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


def _port_forward(backend: NodeBackend, request: Request, namespace: str, name: str) -> Session:
    """Channels 2i (data) and 2i+1 (errors) for the i-th port."""
    asked = [p for k, v in request.query_lists if k == "ports" for p in v.split(",")]
    try:
        ports = [int(p) for p in asked]
    except ValueError:
        raise errors.bad_request(f"unable to parse query parameter ports: {','.join(asked)}") from None
    if not ports or not all(0 < p < 65536 for p in ports):
        raise errors.bad_request("query parameter \"ports\" is required")
    protocol = next((p for p in request.subprotocols if p in _FORWARD_CHANNELS), None)

    async def session(receive: Receive, send: Send) -> None:
        channels = Channels(receive, send, protocol)
        await channels.accept()
        writers: dict[int, asyncio.StreamWriter] = {}
        pumps: list[asyncio.Task[None]] = []
        try:
            for i, port in enumerate(ports):
                for channel in (2 * i, 2 * i + 1):
                    await channels.send(channel, struct.pack("<H", port))
                try:
                    reader, writers[2 * i] = await backend.port_forward(namespace, name, port)
                except (ApiError, OSError) as error:
                    await channels.send(2 * i + 1, f"an error occurred forwarding {port} -> {port}: {error}".encode())
                    continue
                pumps.append(asyncio.ensure_future(_pump(reader, channels, 2 * i)))
            incoming = asyncio.ensure_future(_forward(channels, writers))
            # it ends with the last port, or with the client; without a port the client sees the errors and the end
            ports_end = asyncio.gather(*pumps, return_exceptions=True)
            pumps.append(incoming)
            await asyncio.wait((ports_end, incoming), return_when=asyncio.FIRST_COMPLETED)
            await channels.close()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in writers.values():
                writer.close()

    return session


async def _pump(reader: asyncio.StreamReader, channels: Channels, channel: int) -> None:
    while data := await reader.read(65536):
        await channels.send(channel, data)


async def _forward(channels: Channels, writers: dict[int, asyncio.StreamWriter]) -> None:
    while (message := await channels.receive()) is not None:
        channel, data = message
        if writer := writers.get(channel):
            writer.write(data)
            await writer.drain()
