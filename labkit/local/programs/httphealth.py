"""Small HTTP answers on many ports by one thread: health checks of node agents and of services."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Answer = Callable[[str], tuple[int, str]]
"""From a request's path to a status and a body."""

_REASONS = {200: "OK", 404: "Not Found", 500: "Internal Server Error", 503: "Service Unavailable"}


class HealthServers:
    """HTTP servers that answer GET at once, from what is known."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._open: dict[tuple[str, int], tuple[socket.socket, Answer]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def serve(self, host: str, port: int, answer: Answer) -> None:
        """Listen on a port, or change what a port answers.

        Raises:
            OSError: the port is taken.
        """
        with self._lock:
            if (host, port) in self._open:
                self._open[host, port] = (self._open[host, port][0], answer)
                return
            listener = socket.create_server((host, port), backlog=64)
            listener.setblocking(False)
            self._open[host, port] = (listener, answer)
            self._selector.register(listener, selectors.EVENT_READ, (host, port))

    def stop(self, host: str, port: int) -> None:
        """Stop listening on a port."""
        with self._lock:
            listener, _ = self._open.pop((host, port), (None, None))
            if listener:
                self._selector.unregister(listener)
                listener.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():     # epoll takes up listeners that come while it waits
                with contextlib.suppress(OSError):
                    connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    with connection:
                        self._answer(connection, key.data)

    def _answer(self, connection: socket.socket, where: tuple[str, int]) -> None:
        connection.settimeout(1)
        request = connection.recv(4096).decode(errors="replace").split(" ")
        _, answer = self._open.get(where, (None, None))
        if answer is None or len(request) < 2:
            return
        try:
            status, body = answer(request[1].partition("?")[0])
        except Exception:
            log.exception("Health answer failed")
            status, body = 500, "internal error"
        kind = "application/json" if body.startswith("{") else "text/plain; charset=utf-8"
        data = body.encode()
        connection.sendall((f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\nContent-Type: {kind}\r\n"
                            "X-Content-Type-Options: nosniff\r\nConnection: close\r\n"
                            f"Content-Length: {len(data)}\r\n\r\n").encode() + data)


class ServiceHealth:
    """The health check node ports of load balancer services with the policy Local.

    A load balancer sends clients only to nodes that answer 200: those with an endpoint of the service.
    """

    def __init__(self, servers: HealthServers) -> None:
        self._servers = servers
        self._wanted: dict[int, tuple[str, str, int]] = {}
        self._open: set[int] = set()

    def sync(self, wanted: dict[int, tuple[str, str, int]]) -> None:
        """Serve exactly these: port to namespace, name and number of local endpoints."""
        self._wanted = wanted
        for port in self._open - set(wanted):
            self._servers.stop("0.0.0.0", port)
            self._open.discard(port)
        for port in set(wanted) - self._open:
            try:
                self._servers.serve("0.0.0.0", port, lambda _, port=port: self._answer(port))  # type: ignore[misc]
                self._open.add(port)
            except OSError as error:
                namespace, name, _ = wanted[port]
                log.error('Failed to start healthcheck for "%s/%s" on port %d: %s', namespace, name, port,
                          error)

    def _answer(self, port: int) -> tuple[int, str]:
        namespace, name, local = self._wanted.get(port, ("", "", 0))
        body = (f'{{"service": {{"namespace": "{namespace}", "name": "{name}"}}, "localEndpoints": {local}}}')
        return (200 if local else 503), body
