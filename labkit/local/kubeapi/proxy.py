"""pods/proxy, services/proxy and nodes/proxy: a request to the API that goes on to a pod, a service or a node.

It leaves from the node, as it does where a tunnel brings the API server's packets to the nodes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import httptools

from labkit.local.client import ApiError, Obj

from . import errors
from .backend import NodeBackend
from .kinds import Served
from .request import Receive, Reply, Request, Send, while_connected

if TYPE_CHECKING:
    from .api import Api

KUBELET_PORT = 10250
_CONNECT_SECONDS = 30.0
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
                         b"trailer", b"transfer-encoding", b"upgrade"))
_LINK = re.compile(rb"""(<[^>]*?\s(?:action|background|cite|classid|codebase|data|formaction|href|icon|longdesc"""
                   rb"""|manifest|poster|profile|src|usemap)\s*=\s*["']?)(/[^"'\s>]*)(["'\s>])""", re.IGNORECASE)
_OURS = frozenset((b"host", b"authorization", b"content-length", b"accept-encoding"))


@dataclass(frozen=True)
class _Place:
    """Where a request goes on to; a node of None is any."""

    node: str | None
    address: str
    port: int
    tls: bool


def split_name(kind: str, name: str) -> tuple[str, str, str]:
    """(scheme, name, port) of "name", "name:port" or "scheme:name:port".

    Raises:
        ApiError: BadRequest for another form.
    """
    parts = name.split(":")
    if len(parts) <= 3:
        scheme, own, port = ["", *parts, ""][:3] if len(parts) < 3 else parts
        if own and scheme in ("", "http", "https"):
            return scheme, own, port
    raise errors.bad_request(f'invalid {kind} request "{name}"')


async def answer(api: Api, request: Request, served: Served, namespace: str, name: str, body: bytes) -> object:
    """What stands behind the resource answers.

    Raises:
        ApiError: there is nothing to ask, or it does not answer.
    """
    segments = request.raw_path.split("/")
    depth = 8 if namespace else 6                   # "", api, v1, namespaces, x, pods, p, proxy
    prefix, rest = "/".join(segments[:depth]), segments[depth:]
    path = "/" + "/".join(rest) if rest else ""
    scheme, own, port = split_name(served.kind.kind.lower(), name)
    backend = api.node_backend
    if backend is None:
        raise ApiError(503, "ServiceUnavailable", "the cluster has no nodes")
    if served.kind.resource == "nodes":
        api.machinery.entry(served.kind, "", own)
        if port in ("", str(KUBELET_PORT)):
            return Reply(*await backend.kubelet(own, path or "/"))
    place = _place(api, served, namespace, own, port, scheme, name)
    if not path:
        query = "?" + request.raw_query if request.raw_query else ""
        return Reply(301, b"", b"text/plain; charset=utf-8", ((b"location", f"{prefix}/{query}".encode()),))
    return await _Exchange(request, place, prefix).open(backend, path, body)


async def to_service(api: Api, request: Request, namespace: str, name: str, port: str, body: bytes) -> object:
    """A service answers the request as it is, at the path that it has here.

    Raises:
        ApiError: there is nothing to ask, or it does not answer.
    """
    if api.node_backend is None:
        raise _unavailable("the cluster has no nodes")
    place = _endpoint(api, namespace, name, port, f"{name}:{port}", tls=False)
    return await _Exchange(request, place, "").open(api.node_backend, request.raw_path, body)


def _place(api: Api, served: Served, namespace: str, name: str, port: str, scheme: str, asked: str) -> _Place:
    tls = scheme == "https"
    if served.kind.resource == "services":
        return _endpoint(api, namespace, name, port, asked, tls)
    obj = api.machinery.entry(served.kind, namespace, name).obj
    status = obj.get("status") or {}
    if served.kind.resource == "nodes":
        node = name
        addresses = {a["type"]: a["address"] for a in status.get("addresses") or ()}
        address = addresses.get("InternalIP", "")
        if not address:
            raise ApiError(500, "InternalError", "no preferred addresses found; known addresses: []")
    else:
        node, address = obj["spec"].get("nodeName"), status.get("podIP", "")
        if not port:
            ports = [p["containerPort"] for c in obj["spec"]["containers"] for p in c.get("ports") or ()]
            port = str(ports[0]) if ports else "443" if tls else "80"
    if not address or ipaddress.ip_address(address).is_loopback:
        raise errors.bad_request("address not allowed")
    return _Place(node, address, _number(port, address), tls)


def _number(port: str, address: str) -> int:
    if port.isdigit() and 0 < int(port) < 65536:
        return int(port)
    why = "invalid port" if port.isdigit() else "unknown port"
    raise _unreachable(f"dial tcp: address {address}:{port}: {why}" if port.isdigit()
                       else f"dial tcp: lookup tcp/{port}: {why}")


def _endpoint(api: Api, namespace: str, name: str, port: str, asked: str, tls: bool) -> _Place:
    """A ready address of the service, by chance, as the API server picks one: from its Endpoints."""
    registry = api.machinery.registry
    if port.isdigit():
        ports = api.machinery.entry(registry.kind("services"), namespace, name).obj["spec"].get("ports") or ()
        found = next((p for p in ports if p["port"] == int(port)), None)
        if found is None:
            raise _unavailable(f'no service port {port} found for service "{name}"')
        port = found.get("name", "")
    endpoints = api.machinery.entry(registry.kind("endpoints"), namespace, name).obj
    subsets: list[Obj] = endpoints.get("subsets") or []
    if not subsets:
        raise _unavailable(f'no endpoints available for service "{name}"')
    choices = [(address, entry["port"]) for subset in subsets for entry in subset.get("ports") or ()
               if entry.get("name", "") == port for address in subset.get("addresses") or ()]
    if not choices:
        raise _unavailable(f'no endpoints available for service "{asked}"')
    address, number = random.choice(choices)
    return _Place(address.get("nodeName"), address["ip"], number, tls)


def _unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)


def _unreachable(why: str) -> ApiError:
    return _unavailable(f"error trying to reach service: {why}")


class _Exchange:
    """One request that goes on, and its answer, which is passed on as it comes."""

    def __init__(self, request: Request, place: _Place, prefix: str) -> None:
        self._request, self._place, self._prefix = request, place, prefix
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: deque[bytes] = deque()
        self._has_head = self._complete = False
        self.code, self.content_type = 0, b""

    async def open(self, backend: NodeBackend, path: str, body: bytes) -> _Exchange:
        """Send the request, and read the answer's head.

        Raises:
            ApiError: ServiceUnavailable, when nobody answers.
        """
        place = self._place
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                self._reader, self._writer = await backend.dial(place.node, place.address, place.port, tls=place.tls)
        except TimeoutError:
            raise _unreachable(f"dial tcp {place.address}:{place.port}: i/o timeout") from None
        except OSError as error:
            why = os.strerror(error.errno).lower() if error.errno else str(error)
            raise _unreachable(f"dial tcp {place.address}:{place.port}: connect: {why}") from error
        try:
            self._writer.write(self._head(path, body) + body)
            await self._writer.drain()
            while not self._has_head:
                await self._read()
        except (OSError, httptools.HttpParserError) as error:
            self._writer.close()
            raise _unreachable(str(error) or "EOF") from error
        except BaseException:
            self._writer.close()
            raise
        self.code = self._parser.get_status_code()
        self.content_type = dict(self._headers).get(b"content-type", b"")
        return self

    def _head(self, path: str, body: bytes) -> bytes:
        request, place = self._request, self._place
        query = "?" + request.raw_query if request.raw_query else ""
        client = request.client or "127.0.0.1"
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP | _OURS]
        headers += [(b"host", f"{place.address}:{place.port}".encode()), (b"x-forwarded-for", client.encode()),
                    (b"x-forwarded-uri", (self._prefix + path).encode()), (b"connection", b"close")]
        if body or request.method in ("POST", "PUT", "PATCH"):
            headers.append((b"content-length", b"%d" % len(body)))
        lines = [f"{request.method} {path}{query} HTTP/1.1".encode(),
                 *(b"%b: %b" % (name.title(), value) for name, value in headers), b"", b""]
        return b"\r\n".join(lines)

    async def _read(self) -> None:
        """Read on; what has neither a length nor chunks ends with its connection."""
        data = await self._reader.read(65536)
        if data:
            self._parser.feed_data(data)
        elif not self._has_head:
            raise ConnectionError("EOF")
        else:
            self._complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Of the parser; 100 Continue and the like are not the answer."""
        if self._parser.get_status_code() < 200:
            self._headers.clear()
            return
        self._has_head = True
        self._complete = self._request.method == "HEAD"

    def on_body(self, data: bytes) -> None:
        """Of the parser."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """Of the parser."""
        self._complete = self._has_head

    async def run(self, receive: Receive, send: Send) -> None:
        """Pass the answer on until it, or the client, ends."""
        headers = [(name, self._rewritten(value) if name == b"location" else value) for name, value in self._headers
                   if name not in _HOP_BY_HOP and not name.startswith(b"access-control-")]
        try:
            await while_connected(self._pump(headers, send), receive)
        finally:
            self._writer.close()

    async def _pump(self, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        if self.content_type.partition(b";")[0].strip() == b"text/html" and self._request.method != "HEAD":
            await self._pump_page(headers, send)
            return
        await send({"type": "http.response.start", "status": self.code, "headers": headers})
        while True:
            while self._chunks:
                await send({"type": "http.response.body", "body": self._chunks.popleft(), "more_body": True})
            if self._complete:
                break
            await self._read()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump_page(self, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        """A page whose links within what is behind the proxy stay behind it."""
        while not self._complete:
            await self._read()
        page = _LINK.sub(lambda m: m[1] + self._rewritten(m[2]) + m[3], b"".join(self._chunks))
        kept = [(name, value) for name, value in headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": self.code,
                    "headers": [*kept, (b"content-length", b"%d" % len(page))]})
        await send({"type": "http.response.body", "body": page, "more_body": False})

    def _rewritten(self, location: bytes) -> bytes:
        """A redirect within what is behind the proxy stays behind it."""
        url = urlsplit(location.decode("latin-1"))
        here = (f"{self._place.address}:{self._place.port}", self._request.header(b"host"))
        if (url.netloc and url.netloc not in here) or not url.path.startswith("/") \
                or url.path.startswith(self._prefix):
            return location
        return urlunsplit(("", "", self._prefix + url.path, url.query, url.fragment)).encode()
