"""Echoes small messages, and asks for them. It runs inside the measuring pods, on any Python 3.

    echo.py serve PORT
    echo.py requests|connections HOST PORT OPENS SECONDS MOST

A client exchanges messages over one connection that stays, or over one connection for each. Those before the moment
OPENS (monotonic clock) are warm-up; then it times each exchange for SECONDS, or until there were MOST.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from array import array

SIZE = 64
"""Bytes of a message."""
_MESSAGE = b"x" * SIZE


def serve(port: int) -> None:
    """Echo on every connection until it ends."""
    listener = socket.create_server(("", port), backlog=1024)
    while True:
        threading.Thread(target=_echo, args=(listener.accept()[0],), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            while True:
                data = connection.recv(SIZE)
                if not data:
                    return
                connection.sendall(data)
        except OSError:
            return


def _exchange(connection: socket.socket) -> None:
    connection.sendall(_MESSAGE)
    left = len(_MESSAGE)
    while left:
        part = connection.recv(left)
        if not part:
            raise ConnectionError("the server hung up")
        left -= len(part)


def _connect(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def client(kind: str, host: str, port: int, opens: float, seconds: float, most: int) -> None:
    """Exchange messages, and print how many there were, in how many seconds, and microseconds of each."""
    times = array("d")
    kept = _connect(host, port)
    ports = [kept.getsockname()[1]]

    def once() -> None:
        if kind == "requests":
            _exchange(kept)
        else:
            with _connect(host, port) as connection:
                _exchange(connection)
                ports.append(connection.getsockname()[1])

    # A connection costs a port for a minute, so there are few to warm up with.
    warm = 20 if kind == "connections" else most
    while time.monotonic() < opens and warm:
        once()
        warm -= 1
    time.sleep(max(0.0, opens - time.monotonic()))
    began = now = time.perf_counter()
    while now - began < seconds and len(times) < most:
        before = now
        once()
        now = time.perf_counter()
        times.append(1e6 * (now - before))
    kept.close()
    ordered = sorted(times)
    print(json.dumps({
        "exchanges": len(times), "seconds": now - began, "ports": ports,
        "us": {str(p): ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    client(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
