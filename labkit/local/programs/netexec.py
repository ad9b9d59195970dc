"""agnhost's netexec: an HTTP and UDP server that says who asked, and that asks others itself (`/dial`)."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

DIAL_SECONDS = 5.0
Query = dict[str, str]


def seconds(text: str) -> float:
    """A duration as Go writes it, of one unit: "500ms", "3s", "1m".

    Raises:
        ValueError: it is none.
    """
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


class QuietServer(ThreadingHTTPServer):
    """A server for many short connections; a client that goes away is no news."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of broken connections; all else is an error of ours and shall be seen."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class TextHandler(BaseHTTPRequestHandler):
    """Answers that are text; a line a request on standard output, as agnhost logs: who asked for what."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: the body must not wait for the head's acknowledgement
    disable_nagle_algorithm = True

    def send_text(self, status: int, text: str, **headers: str) -> None:
        """Answer, and leave out the body where only the head was asked for."""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The path without its query, and the client."""
        print(f"GET {self.path.partition('?')[0]} from {self.client_address[0]}:{self.client_address[1]}", flush=True)


class NetexecHandler(TextHandler):
    """What netexec answers over HTTP."""

    override: ClassVar[str] = ""

    def do_GET(self) -> None:
        """Answer by the path's name."""
        self._answer({})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """The same; a form's fields are parameters too."""
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
        self._answer({name: values[0] for name, values in parse_qs(body).items()} or {"msg": body})

    def _answer(self, form: Query) -> None:
        url = urlsplit(self.override or self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()} | form
        texts: dict[str, Callable[[], str]] = {
            "/": lambda: f"NOW: {time.strftime('%Y-%m-%d %H:%M:%S %z', time.gmtime())}",
            "/clientip": lambda: f"{self.client_address[0]}:{self.client_address[1]}",
            "/healthz": lambda: "",
            "/hostname": socket.gethostname,
            "/hostName": socket.gethostname,
            "/header": lambda: self.headers.get(query.get("key", ""), ""),
            "/shell": lambda: _shell(query.get("shellCommand") or query.get("cmd", "")),
        }
        actions: dict[str, Callable[[Query], None]] = {
            "/dial": self._dial, "/echo": self._echo, "/exit": self._exit, "/redirect": self._redirect,
            "/shutdown": lambda _: os._exit(0),
        }
        if text := texts.get(url.path):
            self.send_text(HTTPStatus.OK, text())
        elif action := actions.get(url.path):
            action(query)
        else:
            self.send_text(HTTPStatus.NOT_FOUND, "404 page not found\n")

    def _echo(self, query: Query) -> None:
        self.send_text(int(query.get("code") or HTTPStatus.OK), query.get("msg", ""))

    def _redirect(self, query: Query) -> None:
        self.send_text(int(query.get("code") or HTTPStatus.FOUND), "", Location=query.get("location", ""))

    def _exit(self, query: Query) -> None:
        """Leave after `wait`, with `timeout` for connections that are open."""
        code, grace = int(query.get("code") or 0), seconds(query.get("timeout") or "0")
        time.sleep(seconds(query.get("wait") or "0"))
        if not grace:
            os._exit(code)
        self.send_text(HTTPStatus.OK, "")
        self.close_connection = True
        self.server.shutdown()
        threading.Timer(grace, os._exit, (code,)).start()

    def _dial(self, query: Query) -> None:
        """Ask another server `tries` times, and tell what it answered: what a test learns a pod's reach by."""
        host, port, request = query.get("host", ""), query.get("port", ""), query.get("request", "")
        dial = {"": dial_http, "http": dial_http, "udp": dial_udp}.get(query.get("protocol", "").lower())
        if not request:
            return self.send_text(HTTPStatus.BAD_REQUEST, "request parameter not specified. <nil>\n")
        if dial is None:
            return self.send_text(HTTPStatus.BAD_REQUEST, f"unsupported protocol. {query['protocol']}\n")
        try:
            tries, address = int(query.get("tries") or 1), (host, int(port))
        except ValueError as error:
            return self.send_text(HTTPStatus.BAD_REQUEST, f"host and/or port param are invalid. {error}\n")
        found: dict[str, list[str]] = {}
        for _ in range(tries):
            try:
                answer = dial(request, address)
                found.setdefault("responses", []).append(answer)
            except OSError as error:
                found.setdefault("errors", []).append(str(error))
        return self.send_text(HTTPStatus.OK, json.dumps(found))


def dial_http(request: str, address: tuple[str, int]) -> str:
    """One GET on a connection of its own.

    Raises:
        OSError: no answer within five seconds.
    """
    connection = http.client.HTTPConnection(*address, timeout=DIAL_SECONDS)
    try:
        connection.request("GET", f"/{request}")
        return connection.getresponse().read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(repr(error)) from error
    finally:
        connection.close()


def dial_udp(request: str, address: tuple[str, int]) -> str:
    """One datagram, and the one that comes back.

    Raises:
        OSError: none came within five seconds.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DIAL_SECONDS)
        sock.connect(address)
        sock.send(request.encode())
        return sock.recv(2048).decode(errors="replace")


def _shell(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    said = {"output": done.stdout + done.stderr}
    if done.returncode:
        said["error"] = f"exit status {done.returncode}"
    return json.dumps({name: text for name, text in said.items() if text})


def _udp(port: int) -> None:
    """hostname, clientip and echo, a datagram each."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        while True:
            data, client = sock.recvfrom(65536)
            word, _, rest = data.decode(errors="replace").strip().partition(" ")
            answers = {"hostname": socket.gethostname(), "clientip": f"{client[0]}:{client[1]}", "echo": rest}
            if (answer := answers.get(word.lower())) is not None:
                sock.sendto(answer.encode(), client)


def serve(options: argparse.Namespace) -> None:
    """Serve HTTP and UDP until the end."""
    if options.udp_port > 0:
        threading.Thread(target=_udp, args=(options.udp_port,), daemon=True).start()
    print(f"Started HTTP server on port {options.http_port}, UDP server on port {options.udp_port}", flush=True)
    handler = type("Handler", (NetexecHandler,), {"override": options.http_override})
    QuietServer(("", options.http_port), handler).serve_forever()
    signal.pause()  # `/exit` ended the server, and ends the process when its time is up
