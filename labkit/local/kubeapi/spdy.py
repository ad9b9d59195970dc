"""SPDY/3.1 in a WebSocket: how kubectl forwards ports from 1.31 on.

Only the server's side of what port-forward uses: the client opens pairs of streams with the headers
"streamtype" (error, then data), "port" and "requestid"; a connection into the pod is opened for each
data stream. Frames are as in the SPDY/3.1 draft; the WebSocket's messages are just its bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from dataclasses import dataclass, field

from labkit.local.client import ApiError

from .backend import NodeBackend
from .request import Receive, Send

SPDY_PROTOCOL = "SPDY/3.1+portforward.k8s.io"

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

_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_FIN = 1


@dataclass
class _Stream:
    headers: dict[str, str]
    writer: asyncio.StreamWriter | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    backlog: list[bytes] = field(default_factory=list)
    ended: bool = False


class SpdyPortForward:
    """One port-forward session."""

    def __init__(self, backend: NodeBackend, namespace: str, pod: str) -> None:
        self._backend, self._namespace, self._pod = backend, namespace, pod
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = False                              # nothing is sent then: it would wait for a reader for ever
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Serve the session until the client leaves."""
        self._send_message = send
        await send({"type": "websocket.accept", "subprotocol": SPDY_PROTOCOL})
        buffer = bytearray()
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                buffer += message.get("bytes") or b""
                while len(buffer) >= 8 and len(buffer) >= (size := 8 + int.from_bytes(buffer[5:8], "big")):
                    frame = bytes(buffer[:size])
                    del buffer[:size]
                    await self._frame(frame)
        finally:
            self._gone = True
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for stream in self._streams.values():
                if stream.writer:
                    stream.writer.close()

    async def _frame(self, frame: bytes) -> None:
        flags, payload = frame[4], frame[8:]
        if not frame[0] & 0x80:
            await self._data(int.from_bytes(frame[:4], "big"), payload, bool(flags & _FIN))
            return
        kind = int.from_bytes(frame[2:4], "big")
        if kind == _SYN_STREAM:
            await self._open(payload, bool(flags & _FIN))
        elif kind == _PING:
            await self._control(_PING, payload)
        elif kind == _RST_STREAM:
            self._close(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF)
        elif kind == _HEADERS:
            self._headers(payload[4:])                  # keeps the decompressor in step

    async def _open(self, payload: bytes, fin: bool) -> None:
        number = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        stream = self._streams[number] = _Stream(self._headers(payload[10:]), ended=fin)
        none = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        await self._control(_SYN_REPLY, struct.pack(">I", number) + none)
        if stream.headers.get("streamtype") == "data":
            task = asyncio.ensure_future(self._connect(number, stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _headers(self, block: bytes) -> dict[str, str]:
        data = self._inflate.decompress(block)
        count, at = struct.unpack_from(">I", data)[0], 4
        texts = []
        for _ in range(2 * count):
            size = struct.unpack_from(">I", data, at)[0]
            texts.append(data[at + 4:at + 4 + size].decode("latin-1"))
            at += 4 + size
        return {k.lower(): v.split("\0")[0] for k, v in zip(texts[::2], texts[1::2], strict=True)}

    async def _connect(self, number: int, stream: _Stream) -> None:
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
            while data := await reader.read(32768):
                await self._send_data(number, data)
                await self._control(_WINDOW_UPDATE, struct.pack(">II", number, len(data)))
        except (ApiError, OSError, ValueError) as problem:
            if error is not None:
                await self._send_data(error, f"an error occurred forwarding {port} -> {port}: {problem}".encode())
        finally:
            with contextlib.suppress(Exception):
                await self._send_data(number, b"", fin=True)
                if error is not None:
                    await self._send_data(error, b"", fin=True)

    async def _data(self, number: int, payload: bytes, fin: bool) -> None:
        if (stream := self._streams.get(number)) is None:
            return
        if payload:
            await self._control(_WINDOW_UPDATE, struct.pack(">II", number, len(payload)))
            if stream.writer is None:
                stream.backlog.append(payload)
            else:
                stream.writer.write(payload)
                await stream.writer.drain()
        if fin:
            stream.ended = True
            if stream.writer is not None and stream.writer.can_write_eof():
                stream.writer.write_eof()

    def _close(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None and stream.writer is not None:
            stream.writer.close()

    async def _send_data(self, number: int, data: bytes, *, fin: bool = False) -> None:
        await self._send(struct.pack(">IB", number, _FIN if fin else 0) + len(data).to_bytes(3, "big") + data)

    async def _control(self, kind: int, payload: bytes) -> None:
        await self._send(struct.pack(">HHB", 0x8003, kind, 0) + len(payload).to_bytes(3, "big") + payload)

    async def _send(self, frame: bytes) -> None:
        if self._gone:
            return
        await self._send_message({"type": "websocket.send", "bytes": frame})
