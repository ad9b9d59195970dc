"""Ports of this machine for servers that a test starts by number."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that the kernel gives to whoever connects: what is free stays free until the server has it. Each of
# pytest-xdist's workers has a thousand of its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
_NEXT = (21_000 + 1000 * _WORKER + number % 1000 for number in itertools.count(os.getpid()))


def free_port() -> int:
    """One that nobody has, and that nobody else is going to be given."""
    for port in itertools.islice(_NEXT, 1000):
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            try:
                stream.bind(("", port))
                datagrams.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
