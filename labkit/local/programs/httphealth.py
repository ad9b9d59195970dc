"""Small HTTP answers on many ports by one thread: health checks of node agents and of services."""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate

log = logging.getLogger(__name__)

Reply = tuple[int, str] | tuple[int, str, Mapping[str, str]]
Answer = Callable[[str], Reply]
"""From a request's path to a status and a body, and headers of its own where it has some."""
NOT_FOUND: Reply = (404, "404 page not found\n")

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
            reply = answer(request[1].partition("?")[0])
        except Exception:
            log.exception("Health answer failed")
            reply = (500, "internal error")
        status, body = reply[:2]
        data = body.encode()
        headers = {"Content-Type": "application/json" if body.startswith("{") else "text/plain; charset=utf-8",
                   "X-Content-Type-Options": "nosniff", **(reply[2] if len(reply) == 3 else {}),
                   "Date": formatdate(usegmt=True), "Content-Length": str(len(data)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n{head}\r\n".encode()
                           + (b"" if request[0] == "HEAD" else data))


def service_health(namespace: str, name: str, local: int, *, healthy: bool = True, today: bool = True) -> Reply:
    """What kube-proxy answers at a service's health check node port, byte for byte, whatever the path.

    Args:
        namespace: of the service.
        name: of the service.
        local: its ready endpoints on this node.
        healthy: whether the proxy itself keeps up.
        today: as since 1.28, where the proxy's own health counts; as in 1.20 otherwise.
    """
    lines = ["{", '\t"service": {', f'\t\t"namespace": {json.dumps(namespace)},',
             f'\t\t"name": {json.dumps(name)}', "\t},", f'\t"localEndpoints": {local}']
    if not today:
        return (200 if local else 503), "\n".join([*lines, "}"])
    body = "\n".join([*lines[:-1], lines[-1] + ",", f'\t"serviceProxyHealthy": {json.dumps(healthy)}', "}"])
    return (200 if local and healthy else 503), body, {"X-Load-Balancing-Endpoint-Weight": str(local)}


def proxy_health(path: str, updated: float, *, healthy: bool = True, eligible: bool = True, today: bool = True,
                 now: float | None = None) -> Reply:
    """What kube-proxy answers at its own health port.

    Args:
        path: of the request: /healthz, and since 1.28 also /livez.
        updated: when the rules were last written, as of time.time(); 0 for never.
        healthy: whether no change waits for too long.
        eligible: whether the node is to stay: not deleted, not tainted for it by the autoscaler.
        today: as since 1.28; as in 1.20 otherwise.
        now: time.time(), but for tests.
    """
    if path != "/healthz" and not (today and path == "/livez"):
        return NOT_FOUND
    now = time.time() if now is None else now
    if path == "/healthz":
        healthy = healthy and (eligible or not today)
    # "Last updated" is now, as long as all is well: that is what kube-proxy says, too.
    fields = f'"lastUpdated": "{_go_time(now if healthy else updated)}","currentTime": "{_go_time(now)}"'
    if today and path == "/healthz":
        fields += f', "nodeEligible": {json.dumps(eligible)}'
    return (200 if healthy else 503), f"{{{fields}}}"


def _go_time(when: float) -> str:
    """A time as Go prints it."""
    if not when:
        return "0001-01-01 00:00:00 +0000 UTC"
    fraction = f"{when:.6f}".partition(".")[2].rstrip("0")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when)) + (f".{fraction}" if fraction else "") + " +0000 UTC"


class ServiceHealth:
    """The health check node ports of load balancer services with the policy Local.

    A load balancer sends clients only to nodes that answer 200: those with an endpoint of the service.

    Args:
        servers: who listens.
        healthy: whether the proxy keeps up with changes.
        today: answer as kube-proxy does since 1.28; see `service_health`.
    """

    def __init__(self, servers: HealthServers, healthy: Callable[[], bool] = lambda: True, *,
                 today: bool = True) -> None:
        self._servers, self._healthy, self._today = servers, healthy, today
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

    def _answer(self, port: int) -> Reply:
        namespace, name, local = self._wanted.get(port, ("", "", 0))
        return service_health(namespace, name, local, healthy=self._healthy(), today=self._today)
