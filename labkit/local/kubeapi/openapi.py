"""OpenAPI documents for kubectl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from .request import Reply, Request, json_reply

if TYPE_CHECKING:
    from .api import Api


def answer(api: Api, request: Request, rest: list[str]) -> Reply:
    """/openapi/v2 and /openapi/v3."""
    if rest == ["v2"]:
        accept = request.header(b"accept")
        if "protobuf" in accept and "json" not in accept:
            return Reply(200, _minimal_protobuf(api.version),
                         b"application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        return json_reply({"swagger": "2.0", "info": {"title": "Kubernetes", "version": api.version}, "paths": {},
                           "definitions": {}})
    if rest == ["v3"]:
        return json_reply({"paths": {}})
    raise errors.page_not_found()


def _minimal_protobuf(version: str) -> bytes:
    """An OpenAPI v2 document without definitions, as gnostic's protobuf.

    From it kubectl validates nothing itself, and takes merge keys from its own types.
    """
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    info = field(1, b"Kubernetes") + field(2, version.encode())
    return field(1, b"2.0") + field(2, info) + field(8, b"") + field(9, b"")
