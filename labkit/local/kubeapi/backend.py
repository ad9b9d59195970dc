"""What the API asks of nodes: logs, exec, port-forward. The server room wires in an implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class Process(Protocol):
    """A command that runs in a container."""

    async def write(self, data: bytes) -> None:
        """Write to its stdin; b"" closes it."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What it prints: (1, stdout) or (2, stderr), until it ends."""

    async def wait(self) -> int:
        """Its exit code, once it ended."""

    def resize(self, rows: int, cols: int) -> None:
        """Change its terminal's size."""

    def kill(self) -> None:
        """End it, because its client went away."""


class NodeBackend(Protocol):
    """Access to containers. Methods raise ApiError."""

    async def logs(self, namespace: str, pod: str, container: str, *, follow: bool, previous: bool,
                   tail: int | None, since_seconds: int | None, timestamps: bool,
                   limit_bytes: int | None) -> AsyncIterator[bytes]:
        """A container's log; raises before the first line when there is none."""

    async def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str], *,
                   stdin: bool, tty: bool) -> Process:
        """Start a command in a container."""

    async def attach(self, namespace: str, pod: str, container: str, *, stdin: bool, tty: bool) -> Process:
        """A container's own process: its standard files are the client's."""

    async def port_forward(self, namespace: str, pod: str,
                           port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port inside a pod."""

    async def dial(self, node: str | None, address: str, port: int, *,
                   tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an address from a node, or from any; TLS asks for nobody's name. Raises OSError."""

    async def kubelet(self, node: str, path: str) -> tuple[int, bytes, bytes]:
        """What a node's kubelet answers to a GET: code, body, content type."""
