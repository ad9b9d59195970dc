"""A request as the API understands it, and the ways to answer one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import yaml

from labkit.local import jwt
from labkit.local.client import ApiError, Obj

from . import errors, protobuf
from .kinds import Served

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

JSON_TYPES = ("application/json", "application/yaml", protobuf.MEDIA_TYPE)
LARGEST_BODY = 3 * 1024 * 1024


class _Yaml(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a date stays text."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()}


@dataclass
class Request:
    """One HTTP request, without its body."""

    method: str
    path: str
    query: dict[str, str]
    query_lists: list[tuple[str, str]]
    headers: dict[bytes, bytes]
    subprotocols: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    spdy: bool = False
    raw_path: str = ""
    raw_query: str = ""
    client: str = ""
    target: tuple[Served, str, str, str | None] | None = None
    """What it is for, once that is known: kind, namespace, name, subresource."""

    @classmethod
    def of(cls, scope: Any) -> Request:
        """From an ASGI scope."""
        raw = scope["query_string"]
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True) if raw else []
        return cls(scope.get("method", "GET"), scope["path"], dict(pairs), pairs, dict(scope["headers"]),
                   list(scope.get("subprotocols") or ()), spdy="spdy" in (scope.get("extensions") or ()),
                   raw_path=scope.get("raw_path", b"").decode("latin-1"), raw_query=raw.decode("latin-1"),
                   client=(scope.get("client") or ("",))[0])

    @property
    def parts(self) -> list[str]:
        """The path's segments, decoded."""
        return [unquote(p) if "%" in p else p for p in self.path.split("/") if p]

    def header(self, name: bytes) -> str:
        """A header, or ""."""
        return self.headers.get(name, b"").decode("latin-1")

    def token(self) -> str:
        """The bearer token, also from where browsers put it for a WebSocket."""
        value = self.header(b"authorization")
        if value[:7].lower() == "bearer ":
            return value[7:].strip()
        for one in self.subprotocols:
            if one.startswith("base64url.bearer.authorization.k8s.io."):
                return jwt.decode(one.rpartition(".")[2]).decode()
        return ""

    def flag(self, name: str) -> bool:
        """Whether a query parameter is there and not false: Kubernetes takes any other word for yes."""
        return self.query.get(name, "false").lower() not in ("false", "0")

    def number(self, name: str) -> int | None:
        """A numeric query parameter."""
        value = self.query.get(name)
        if not value:
            return None
        try:
            return int(value)
        except ValueError:
            raise errors.bad_request(f'strconv.ParseInt: parsing "{value}": invalid syntax') from None

    def warning_headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer tells beside itself; kubectl prints it as "Warning: …"."""
        quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in self.warnings)
        return [(b"warning", f'299 - "{text}"'.encode()) for text in quoted]

    @property
    def manager(self) -> str:
        """The field manager: as asked, else the user agent's name."""
        return self.query.get("fieldManager") or self.header(b"user-agent").partition("/")[0] or "unknown"

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be stored."""
        value = self.query.get("dryRun")
        if value not in (None, "", "All"):
            raise ApiError(422, "Invalid", f' "" is invalid: dryRun: Unsupported value: "{value}": supported values:'
                           ' "All"')
        return value == "All"


async def read_body(receive: Receive) -> bytes:
    """A request's body.

    Raises:
        ApiError: when it is too large.
    """
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > LARGEST_BODY:
            raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {LARGEST_BODY}")
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode(body: bytes, content_type: str) -> Any:
    """A body as data.

    Raises:
        ApiError: 415 for a format that is not spoken here, 400 for one that is malformed.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("", "application/json") or kind.endswith("+json") or kind == "application/x-www-form-urlencoded":
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as e:
            raise errors.bad_request("the object provided is unrecognized (must be of type Status): couldn't get"
                                     f" version/kind; json parse error: {e}") from None
    if kind == "application/yaml" or kind.endswith("+yaml"):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
        try:
            return yaml.load(body, _Yaml)
        except yaml.YAMLError as e:
            raise errors.bad_request(f"error converting YAML to JSON: {e}") from None
    if kind == protobuf.MEDIA_TYPE:
        return protobuf.decode(body)
    raise errors.unsupported_media_type(JSON_TYPES)


async def disconnected(receive: Receive) -> None:
    """Return when the client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do what answers a client, until it is done or the client goes."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer."""

    code: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body)), *self.headers]
        if not any(name == b"cache-control" for name, _ in self.headers):
            headers.append((b"cache-control", b"no-cache, private"))
        await send({"type": "http.response.start", "status": self.code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(obj: Obj, code: int = 200) -> Reply:
    """An answer of JSON."""
    return Reply(code, orjson.dumps(obj))


def error_reply(error: ApiError) -> Reply:
    """A refusal."""
    return Reply(error.code, orjson.dumps(error.status()))
