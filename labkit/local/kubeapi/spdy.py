"""SPDY/3.1, the server's side of what Kubernetes' clients use of it.

kubectl forwards ports by it in a WebSocket from 1.31 on; older ones speak it instead of a WebSocket, for exec
and attach, too. Frames are as in the SPDY/3.1 draft; the messages that carry them are just its bytes. Clients
number their streams and say in headers what each is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from labkit.local.client import ApiError

from .backend import NodeBackend
from .request import Receive, Send

SPDY_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
PLAIN_PROTOCOL = "portforward.k8s.io"
COMMAND_PROTOCOL = "v4.channel.k8s.io"
"""The version of exec and attach whose outcome is a Status; every kubectl since 1.4 offers it."""

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow"
    " authorization cache-control connection content-base content-encoding content-language content-length"
    " content-location content-md5 content-range content-type date etag expect expires from host if-match"
    " if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma"
    " proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade"
    " user-agent vary via warning www-authenticate method get status 200|OK version HTTP/1.1 url public set-cookie"
    " keep-alive origin")
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative"
    " Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500"
    " Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec"
    " 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml"
    ",application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
    "iso-8859-1,utf-,*,enq=0.")
DICTIONARY = b"".join(struct.pack(">I", len(w)) + w.replace("|", " ").encode() for w in _WORDS.split(" ")) \
    + _TEXT.encode()
"""The draft's dictionary of header names, which both sides' compressors start from."""

_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 6, 8, 9
_FIN = 1
_LARGEST = 32768


@dataclass(frozen=True, slots=True)
class Frame:
    """What a client said on one of its streams.

    Args:
        stream: the stream's number.
        headers: those it was opened with, names in small letters; None for data on one that is open.
        data: what came.
        ended: whether the client sends no more on it.
        reset: whether it is gone.
    """

    stream: int
    headers: dict[str, str] | None = None
    data: bytes = b""
    ended: bool = False
    reset: bool = False


class Connection:
    """Frames over the messages of an ASGI WebSocket."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send_message = receive, send
        self._gone = False                              # nothing is sent then: it would wait for a reader for ever
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    async def accept(self, protocol: str) -> None:
        """Complete the upgrade."""
        await self._send_message({"type": "websocket.accept", "subprotocol": protocol})

    async def frames(self) -> AsyncIterator[Frame]:
        """What the client says, until it leaves; streams are acknowledged and pings answered on the way."""
        buffer = bytearray()
        try:
            while (message := await self._receive())["type"] != "websocket.disconnect":
                buffer += message.get("bytes") or b""
                while len(buffer) >= 8 and len(buffer) >= (size := 8 + int.from_bytes(buffer[5:8], "big")):
                    raw = bytes(buffer[:size])
                    del buffer[:size]
                    if (frame := await self._understand(raw)) is not None:
                        yield frame
        finally:
            self._gone = True

    async def _understand(self, raw: bytes) -> Frame | None:
        payload, ended = raw[8:], bool(raw[4] & _FIN)
        number = int.from_bytes((payload if raw[0] & 0x80 else raw)[:4], "big") & 0x7FFFFFFF
        if not raw[0] & 0x80:
            if payload:
                await self._control(_WINDOW_UPDATE, struct.pack(">II", number, len(payload)))
            return Frame(number, data=payload, ended=ended)
        kind = int.from_bytes(raw[2:4], "big")
        if kind == _SYN_STREAM:
            headers = self._headers(payload[10:])
            none = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            await self._control(_SYN_REPLY, struct.pack(">I", number) + none)
            return Frame(number, headers, ended=ended)
        if kind == _RST_STREAM:
            return Frame(number, reset=True)
        if kind == _PING:
            await self._control(_PING, payload)
        elif kind == _HEADERS:
            self._headers(payload[4:])                  # keeps the decompressor in step
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        data = self._inflate.decompress(block)
        count, at = struct.unpack_from(">I", data)[0], 4
        texts = []
        for _ in range(2 * count):
            size = struct.unpack_from(">I", data, at)[0]
            texts.append(data[at + 4:at + 4 + size].decode("latin-1"))
            at += 4 + size
        return {k.lower(): v.split("\0")[0] for k, v in zip(texts[::2], texts[1::2], strict=True)}

    async def send(self, stream: int, data: bytes = b"", *, ended: bool = False) -> None:
        """Send on a stream, in frames that fit."""
        parts = [data[at:at + _LARGEST] for at in range(0, len(data), _LARGEST)] or [b""]
        for i, part in enumerate(parts):
            last = ended and i == len(parts) - 1
            await self._send(struct.pack(">IB", stream, _FIN if last else 0) + len(part).to_bytes(3, "big") + part)

    async def close(self) -> None:
        """End the connection."""
        await self._send_message({"type": "websocket.close", "code": 1000})

    async def _control(self, kind: int, payload: bytes) -> None:
        await self._send(struct.pack(">HHB", 0x8003, kind, 0) + len(payload).to_bytes(3, "big") + payload)

    async def _send(self, frame: bytes) -> None:
        if not self._gone:
            await self._send_message({"type": "websocket.send", "bytes": frame})


class CommandStreams:
    """exec and attach: streams in place of the channels of a WebSocket, with the same numbers.

    Args:
        receive, send: the connection's messages.
        wanted: the channels for which the client opens a stream.
    """

    NAMES = ("stdin", "stdout", "stderr", "error", "resize")
    CLOSED = 255
    protocol = COMMAND_PROTOCOL
    PATIENCE = 30.0
    """Seconds for a client to open its streams, as a kubelet has."""

    def __init__(self, receive: Receive, send: Send, wanted: set[int]) -> None:
        self._connection = Connection(receive, send)
        self._frames = self._connection.frames()
        self._wanted, self._streams, self._channels = wanted, dict[int, int](), dict[int, int]()
        self._early: list[Frame] = []

    async def accept(self) -> None:
        """Complete the upgrade, and wait for the streams.

        Raises:
            ConnectionError: the client left, or opened too few.
        """
        await self._connection.accept(self.protocol)
        try:
            async with asyncio.timeout(self.PATIENCE):
                while not self._wanted <= self._streams.keys():
                    frame = await anext(self._frames)
                    if frame.headers is None:
                        self._early.append(frame)
                        continue
                    channel = self.NAMES.index(frame.headers.get("streamtype", ""))
                    self._streams[channel], self._channels[frame.stream] = frame.stream, channel
        except (TimeoutError, StopAsyncIteration, ValueError) as error:
            raise ConnectionError("the client did not open its streams") from error

    async def send(self, channel: int, data: bytes) -> None:
        """Send on a channel that the client asked for."""
        if channel in self._streams:
            await self._connection.send(self._streams[channel], data)

    async def receive(self) -> tuple[int, bytes] | None:
        """The next message; None when the client went away. A closed channel is (255, its number)."""
        while True:
            try:
                frame = self._early.pop(0) if self._early else await anext(self._frames)
            except StopAsyncIteration:
                return None
            channel = self._channels.get(frame.stream)
            if channel is None:
                continue
            if frame.ended:
                self._early.insert(0, Frame(frame.stream, reset=True))
            if frame.data:
                return channel, frame.data
            if frame.reset:
                return self.CLOSED, bytes((channel,))

    async def close(self) -> None:
        """End every stream, then the connection."""
        with contextlib.suppress(Exception):
            for stream in self._streams.values():
                await self._connection.send(stream, ended=True)
            await self._connection.close()


@dataclass
class _Forwarded:
    headers: dict[str, str]
    writer: asyncio.StreamWriter | None = None
    backlog: list[bytes] = field(default_factory=list)
    ended: bool = False


class SpdyPortForward:
    """One port-forward session.

    The client opens pairs of streams with the headers "streamtype" (error, then data), "port" and "requestid"; a
    connection into the pod is opened for each data stream.
    """

    def __init__(self, backend: NodeBackend, namespace: str, pod: str, protocol: str) -> None:
        self._backend, self._namespace, self._pod, self._protocol = backend, namespace, pod, protocol
        self._streams: dict[int, _Forwarded] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Serve the session until the client leaves."""
        self._connection = Connection(receive, send)
        await self._connection.accept(self._protocol)
        try:
            async for frame in self._connection.frames():
                await self._take(frame)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for stream in self._streams.values():
                if stream.writer:
                    stream.writer.close()

    async def _take(self, frame: Frame) -> None:
        if frame.headers is not None:
            stream = self._streams[frame.stream] = _Forwarded(frame.headers, ended=frame.ended)
            if stream.headers.get("streamtype") == "data":
                task = asyncio.ensure_future(self._connect(frame.stream, stream))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        elif frame.reset:
            if (gone := self._streams.pop(frame.stream, None)) is not None and gone.writer is not None:
                gone.writer.close()
        elif (known := self._streams.get(frame.stream)) is not None:
            await self._data(known, frame)

    async def _connect(self, number: int, stream: _Forwarded) -> None:
        port = stream.headers.get("port", "0")
        error = next((n for n, s in self._streams.items() if s.headers.get("streamtype") == "error"
                      and s.headers.get("requestid") == stream.headers.get("requestid")), None)
        try:
            reader, writer = await self._backend.port_forward(self._namespace, self._pod, int(port))
            stream.writer = writer
            writer.write(b"".join(stream.backlog))
            stream.backlog.clear()
            if stream.ended and writer.can_write_eof():
                writer.write_eof()
            while data := await reader.read(_LARGEST):
                await self._connection.send(number, data)
        except (ApiError, OSError, ValueError) as problem:
            if error is not None:
                await self._connection.send(error, f"an error occurred forwarding {port} -> {port}: {problem}".encode())
        finally:
            with contextlib.suppress(Exception):
                await self._connection.send(number, ended=True)
                if error is not None:
                    await self._connection.send(error, ended=True)

    async def _data(self, stream: _Forwarded, frame: Frame) -> None:
        if frame.data:
            if stream.writer is None:
                stream.backlog.append(frame.data)
            else:
                stream.writer.write(frame.data)
                await stream.writer.drain()
        if frame.ended:
            stream.ended = True
            if stream.writer is not None and stream.writer.can_write_eof():
                stream.writer.write_eof()
