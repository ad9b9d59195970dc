"""What can go wrong between a client and Resource Manager, put between the two: an ASGI application around another.

Faults are rules, asked in order for each request; each says to which requests it applies and how often. All that
passes is written down, so that a test can say what was asked, and how often.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Exchange:
    """One request and its answer.

    Args:
        agent: who asked, by its own word.
        genuine: whether the answer is Resource Manager's own, and reached the client as it was.
    """

    method: str
    path: str
    query: str
    body: Any
    at: float
    agent: str = ""
    status: int = 0
    answer: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    genuine: bool = False


@dataclass
class Fault:
    """What happens to the requests that match.

    Args:
        method, path: which requests; a regular expression, searched in the path without case.
        times: how often; None means always.
        after: how many matching requests pass unharmed first.
        answer: what is answered instead.
        forward: whether the request reaches Resource Manager all the same: its answer is lost.
        cut: close the connection instead of answering.
        slow: seconds until anything is answered.
        change: changes the JSON of the real answer.
        on_hit: called at each hit, before all else.
    """

    method: str
    path: str
    times: int | None = 1
    after: int = 0
    answer: Response | None = None
    forward: bool = False
    cut: bool = False
    slow: float = 0.0
    change: Callable[[Any], Any] | None = None
    on_hit: Callable[[], object] | None = None
    hits: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)

    def applies(self, method: str, path: str) -> bool:
        """Whether it does, counting."""
        if self.method != method or not re.search(self.path, path, re.IGNORECASE):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


def error(status: int, code: str, message: str = "said by a test", *, flat: bool = False, **headers: str) -> Response:
    """An answer that refuses, nested as Resource Manager says it or flat as AKS does."""
    body = {"code": code, "message": message}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body if flat else {"error": body}, status, headers=named)


class Wire:
    """The application in between."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.faults: list[Fault] = []
        self.exchanges: list[Exchange] = []
        self.server: Any = None

    def add(self, method: str, path: str, **what: Any) -> Fault:
        """A rule more."""
        self.faults.append(Fault(method, path, **what))
        return self.faults[-1]

    def asked(self, method: str, path: str) -> list[Exchange]:
        """The requests that match."""
        return [e for e in self.exchanges if e.method == method and re.search(path, e.path, re.IGNORECASE)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        agent = dict(scope["headers"]).get(b"user-agent", b"").decode()
        exchange = Exchange(scope["method"], scope["path"], scope["query_string"].decode(), _json(body),
                            time.monotonic(), agent)
        self.exchanges.append(exchange)
        fault = next((f for f in self.faults if f.applies(exchange.method, exchange.path)), None)
        if fault is not None and fault.on_hit:
            fault.on_hit()
        if fault is not None and fault.slow:
            await asyncio.sleep(fault.slow)
        messages = await self._forward(scope, body) if fault is None or fault.forward or fault.change else []
        if fault is not None and fault.cut:
            self._cut(scope)
            return
        if fault is not None and fault.answer is not None:
            messages = await _collect(fault.answer, scope, b"")
        if fault is not None and fault.change is not None:
            changed = fault.change(_json(_body(messages)))
            messages = await _collect(JSONResponse(changed, messages[0]["status"], _headers(messages)), scope, b"")
        exchange.status, exchange.answer = messages[0]["status"], _json(_body(messages))
        exchange.headers = {key.decode().lower(): value.decode() for key, value in messages[0]["headers"]}
        exchange.genuine = fault is None or (fault.answer is None and fault.change is None)
        for message in messages:
            await send(message)

    async def _forward(self, scope: Scope, body: bytes) -> list[Message]:
        return await _collect(self.app, scope, body)

    def _cut(self, scope: Scope) -> None:
        for connection in list(self.server.server_state.connections):
            if connection.client == scope["client"]:
                connection.transport.abort()


async def _collect(app: ASGIApp, scope: Scope, body: bytes) -> list[Message]:
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages


def _body(messages: list[Message]) -> bytes:
    return b"".join(m.get("body", b"") for m in messages if m["type"] == "http.response.body")


def _headers(messages: list[Message]) -> dict[str, str]:
    kept = ("azure-asyncoperation", "location", "retry-after")
    return {k.decode(): v.decode() for k, v in messages[0]["headers"] if k.decode().lower() in kept}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
