"""HTTP as the lab's sockets speak it: uvicorn's, that acknowledges at once and also upgrades to SPDY.

kubectl asked for SPDY/3.1 where it now asks for a WebSocket: exec and attach before 1.30, port-forward
before 1.31. An application sees such a connection as a WebSocket whose messages are its bytes as they come,
with "spdy" among the scope's extensions.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SPDY = b"spdy/3.1"
_UNREAD = 64
"""Messages that wait for the application before the connection is read no further."""


class PromptProtocol(HttpToolsProtocol):
    """HTTP that acknowledges at once.

    urllib3 leaves Nagle's algorithm on for connections through a proxy, which ours are, and sends a request's
    head and body apart: each write would wait 40 ms for our delayed acknowledgement of the head.
    """

    def data_received(self, data: bytes) -> None:
        """Acknowledge what came, then handle it."""
        if (connection := self.transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().data_received(data)

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() == SPDY or super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the protocol that it asked for."""
        if self._get_upgrade() != SPDY:
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        url = httptools.parse_url(self.url)
        scope = {
            **self.scope,
            "type": "websocket",
            "path": url.path.decode("ascii"),
            "query_string": url.query or b"",
            "subprotocols": [value.decode() for name, value in self.headers if name == b"x-stream-protocol-version"],
            "extensions": {"spdy": {}, "websocket.http.response": {}},
        }
        RawConnection(self, scope).start()


class RawConnection(asyncio.Protocol):
    """A connection after its upgrade, for one ASGI application."""

    def __init__(self, http: PromptProtocol, scope: dict[str, Any]) -> None:
        self.transport = http.transport
        self._app, self._scope, self._loop = http.app, scope, http.loop
        self._connections, self._tasks = http.connections, http.tasks
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()

    def start(self) -> None:
        """Take the connection over."""
        self._messages.put_nowait({"type": "websocket.connect"})
        self._connections.add(self)  # type: ignore[arg-type]
        self.transport.set_protocol(self)
        task = self._loop.create_task(self._serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        finally:
            self.transport.close()

    def shutdown(self) -> None:
        """The server ends: so does the connection, which uvicorn has among its own."""
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """A message for the application, and no more than it can hold."""
        self._messages.put_nowait({"type": "websocket.receive", "bytes": data})
        if self._messages.qsize() > _UNREAD:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application; whoever waits to write waits no longer."""
        self._connections.discard(self)
        self._messages.put_nowait({"type": "websocket.disconnect", "code": 1006})
        self._writable.set()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    async def _receive(self) -> dict[str, Any]:
        message = await self._messages.get()
        if self._messages.qsize() <= _UNREAD and not self.transport.is_closing():
            self.transport.resume_reading()
        return message

    async def _send(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "websocket.accept":
                chosen = f"X-Stream-Protocol-Version: {p}\r\n" if (p := message.get("subprotocol")) else ""
                self._write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"
                            f"{chosen}\r\n".encode())
            case "websocket.send":
                self._write(message["bytes"])
                await self._writable.wait()
            case "websocket.http.response.start":
                head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in message["headers"])
                status = HTTPStatus(message["status"])
                self._write(f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}Connection: close\r\n\r\n".encode())
            case "websocket.http.response.body":
                self._write(message["body"])
                self.transport.close()
            case "websocket.close":
                self.transport.close()

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)
