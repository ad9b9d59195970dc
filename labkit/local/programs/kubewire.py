"""What the API's answers, and its silence, mean to a program in a pod."""

from __future__ import annotations

import http.client
import socket
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import orjson

from labkit.local.client import ApiError, Obj


class Unreachable(ApiError):  # noqa: N818 - a state of the world, as Go's clients word it
    """The API did not answer: no route, no name, no listener, or no certificate to trust."""

    def __init__(self, url: str, error: Exception) -> None:
        said = _lookup(url, error) if isinstance(error, socket.gaierror) else str(error)
        super().__init__(503, "ServiceUnavailable", f"failed to connect to API server {url}: {said}")


def decode(status: int, payload: bytes) -> Obj:
    """An answer's object.

    Raises:
        ApiError: it is a refusal.
    """
    try:
        body = orjson.loads(payload) if payload else {}
    except orjson.JSONDecodeError:
        body = {"message": payload[:200].decode(errors="replace").strip()}
    if status >= 400:
        if not isinstance(body, dict):
            body = {}
        message = body.get("message") or http.client.responses.get(status, str(status))
        raise ApiError(status, body.get("reason", ""), message, body.get("details"))
    return cast(Obj, body)


def name_server() -> str | None:
    """The first of the pod's own resolv.conf."""
    with suppress(OSError):
        words = (line.split() for line in Path("/etc/resolv.conf").read_text().splitlines())
        return next((w[1] for w in words if len(w) > 1 and w[0] == "nameserver"), None)
    return None


def _lookup(url: str, error: socket.gaierror) -> str:
    """A name that was not found in the words of Go's resolver, which logs of Calico's real programs have."""
    if server := name_server():
        why = "i/o timeout" if error.errno == socket.EAI_AGAIN else "no such host"
        return f"dial tcp: lookup {urlsplit(url).hostname} on {server}:53: {why}"
    return str(error)
