"""The lab's sockets: one port on loopback, and one per cluster inside the lab's internet.

A connection to the loopback port is one of two things, told apart by its first byte. A TLS hello is
for Azure Resource Manager. The word CONNECT is a proxy request: to the name of a cluster's API it
turns into TLS on the same connection, without a hop, so that kubeconfigs can name the API as AKS
does; to any other address it is opened from the namespace of one of the lab's outside clients.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

from uvicorn import Config
from uvicorn.server import ServerState

from .upgrade import PromptProtocol

log = logging.getLogger(__name__)

_HELLO_TIMEOUT = 20.0  # seconds that a connection may stay silent before it has said what it wants
_MAX_HEAD = 8192
_TLS_HANDSHAKE = 0x16

Application = Callable[..., Awaitable[None]]
Dial = Callable[[str, str, int], Awaitable[socket.socket]]
"""(client's name, address, port) -> a socket that is connected from that outside client."""


class HttpService:
    """An ASGI application that accepted connections can be handed to.

    uvicorn's protocol does the HTTP; its Server is not used, because which application a connection
    is for is only known after its first bytes.
    """

    def __init__(self, application: Application, context: ssl.SSLContext) -> None:
        self._context = context
        self._state = ServerState()
        self._config = Config(
            application,
            ws="wsproto",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=120,
            ws_ping_interval=None,
            interface="asgi3",
            ws_max_size=64 * 1024 * 1024,
        )
        self._config.load()

    async def serve(self, connection: socket.socket) -> None:
        """Take over an accepted connection, TLS handshake included."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=_HELLO_TIMEOUT
            )
        except (OSError, ssl.SSLError) as error:
            log.debug("handshake failed: %s", error)
            connection.close()

    def _protocol(self) -> PromptProtocol:
        return PromptProtocol(config=self._config, server_state=self._state, app_state={})

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()


class Listener:
    """Accepts on a listening socket and gives each connection to `handle`."""

    def __init__(self, listening: socket.socket, handle: Callable[[socket.socket], Awaitable[None]]) -> None:
        listening.setblocking(False)
        self._socket, self._handle = listening, handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:  # out of descriptors, or the peer was gone already
                log.warning("accept: %s", error)
                await asyncio.sleep(0.05)
                continue
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._guard(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _guard(self, connection: socket.socket) -> None:
        try:
            await self._handle(connection)
        except (OSError, TimeoutError, ValueError) as error:
            log.debug("connection dropped: %s", error)
            connection.close()

    async def close(self) -> None:
        """Stop accepting; connections that were handed over live on with their service."""
        for task in (self._accepting, *self._tasks):
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        self._socket.close()


class FrontDoor:
    """What the loopback port does with a connection.

    Args:
        token: what an outside client's proxy authorisation must carry.
        dial: opens a connection from an outside client.
    """

    def __init__(self, token: str, dial: Dial) -> None:
        self._token, self._dial = token, dial
        self._arm: HttpService | None = None
        self._apis: dict[str, HttpService] = {}

    def open(self, arm: HttpService) -> None:
        """Serve direct TLS connections with this: Azure Resource Manager."""
        self._arm = arm

    def add_api(self, fqdn: str, service: HttpService) -> None:
        """Serve CONNECT fqdn:443 with this API."""
        self._apis[fqdn.lower()] = service

    def remove_api(self, fqdn: str) -> None:
        """Stop serving a name."""
        self._apis.pop(fqdn.lower(), None)

    async def handle(self, connection: socket.socket) -> None:
        """Find out what the connection wants, and hand it over."""
        async with asyncio.timeout(_HELLO_TIMEOUT):
            await _readable(connection)
            first = connection.recv(1, socket.MSG_PEEK)
            if not first:
                connection.close()
                return
            head = b"" if first[0] == _TLS_HANDSHAKE else await _read_head(connection)
        if first[0] == _TLS_HANDSHAKE:
            assert self._arm, "the door is not open yet"
            await self._arm.serve(connection)
            return
        method, target, headers = _parse_head(head)
        if method != "CONNECT":
            await _answer(
                connection,
                "400 Bad Request",
                "This port speaks TLS: use https://, or CONNECT as an HTTP proxy.",
            )
            return
        host, _, port = target.rpartition(":")
        if service := self._apis.get(host.lower()):
            await _answer(connection, "200 Connection established")
            await service.serve(connection)
            return
        await self._tunnel(connection, host, int(port), headers.get("proxy-authorization", ""))

    async def _tunnel(self, connection: socket.socket, host: str, port: int, authorization: str) -> None:
        name = self._client_of(authorization)
        if host.endswith(".azmk8s.io"):
            await _answer(
                connection,
                "404 Not Found",
                f"No cluster of this lab has the API name {host}. `labkit status` lists them.",
            )
        elif name is None:
            await _answer(
                connection,
                "407 Proxy Authentication Required",
                "Connections from an outside client need Proxy-Authorization: Basic client:token.",
                {"Proxy-Authenticate": 'Basic realm="labkit outside client"'},
            )
        else:
            try:
                upstream = await self._dial(name, host, port)
            except LookupError as error:
                await _answer(connection, "404 Not Found", str(error))
            except (OSError, TimeoutError) as error:
                await _answer(
                    connection,
                    "502 Bad Gateway",
                    f"{name} could not connect to {host}:{port}: {error or 'timed out'}",
                )
            else:
                await _answer(connection, "200 Connection established")
                await _splice(connection, upstream)

    def _client_of(self, authorization: str) -> str | None:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, _, token = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if hmac.compare_digest(token, self._token) else None


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _read_head(connection: socket.socket) -> bytes:
    """The request's head; a client says nothing after it before it has the answer."""
    loop, head = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in head:
        chunk = await loop.sock_recv(connection, _MAX_HEAD)
        head += chunk
        if not chunk or len(head) > _MAX_HEAD:
            raise ValueError("no request head")
    return head


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3:
        raise ValueError("no request line")
    fields = (line.partition(":") for line in lines[1:] if line)
    return words[0].upper(), words[1], {name.strip().lower(): value.strip() for name, _, value in fields}


async def _answer(
    connection: socket.socket, status: str, text: str | None = None, headers: dict[str, str] | None = None
) -> None:
    """Answer a proxy request; with a text the connection ends."""
    loop = asyncio.get_running_loop()
    body = (text + "\n").encode() if text else b""
    fields = dict(headers or {})
    if text:
        fields |= {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    head = "".join([f"HTTP/1.1 {status}\r\n", *(f"{k}: {v}\r\n" for k, v in fields.items()), "\r\n"])
    await loop.sock_sendall(connection, head.encode() + body)
    if text:
        connection.close()


async def _splice(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until both ends are done."""
    loop = asyncio.get_running_loop()

    async def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, 65536):
                await loop.sock_sendall(sink, data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    try:
        await asyncio.gather(copy(one, other), copy(other, one))
    finally:
        one.close()
        other.close()


def listen_on_loopback(port: int) -> socket.socket:
    """The lab's one port on the host. Raises OSError where it is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError:
        listening.close()
        raise
    listening.listen(512)
    return listening
