"""agnhost, the part of it that labs use: netexec, pause, serve-hostname, connect.

The real one is Kubernetes' own test image (registry.k8s.io/e2e-test-images/agnhost); the paths and
their answers are the same, so a manifest written for it works here and on AKS.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = "2.47"


class NetexecHandler(BaseHTTPRequestHandler):
    """What netexec answers over HTTP."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: the body must not wait for the head's acknowledgement
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer by the path's name."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        answers: dict[str, Callable[[], str]] = {
            "/": lambda: f"NOW: {time.strftime('%Y-%m-%d %H:%M:%S %z', time.gmtime())}",
            "/clientip": lambda: f"{self.client_address[0]}:{self.client_address[1]}",
            "/echo": lambda: query.get("msg", ""),
            "/healthz": lambda: "",
            "/hostname": socket.gethostname,
            "/hostName": socket.gethostname,
            "/header": lambda: self.headers.get(query.get("key", ""), ""),
        }
        if url.path == "/shell":
            self._send(*_shell(query.get("shellCommand") or query.get("cmd", "")))
        elif url.path == "/exit":
            self._send(HTTPStatus.OK, "")
            threading.Thread(target=_exit_soon, args=(int(query.get("code", "0")),)).start()
        elif answer := answers.get(url.path):
            self._send(HTTPStatus.OK, answer())
        else:
            self._send(HTTPStatus.NOT_FOUND, "404 page not found\n")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """/echo answers the body."""
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
        if urlsplit(self.path).path == "/echo":
            self._send(HTTPStatus.OK, parse_qs(body).get("msg", [body])[0])
        else:
            self._send(HTTPStatus.NOT_FOUND, "404 page not found\n")

    def _send(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """One line a request, to standard output, as agnhost logs: who asked for what."""
        print(f"GET {self.path.partition('?')[0]} from {self.client_address[0]}:{self.client_address[1]}", flush=True)


class QuietServer(ThreadingHTTPServer):
    """A server for many short connections; a client that goes away is no news."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of broken connections; all else is an error of ours and shall be seen."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _shell(command: str) -> tuple[HTTPStatus, str]:
    import json

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    answer = {"output": done.stdout + done.stderr}
    if done.returncode:
        answer["error"] = f"exit status {done.returncode}"
    return HTTPStatus.OK, json.dumps(answer)


def _exit_soon(code: int) -> None:
    import os

    time.sleep(0.1)
    os._exit(code)


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


def netexec(options: argparse.Namespace) -> None:
    """Serve HTTP and UDP until the end."""
    if options.udp_port > 0:
        threading.Thread(target=_udp, args=(options.udp_port,), daemon=True).start()
    print(f"Started HTTP server on port {options.http_port}, UDP server on port {options.udp_port}", flush=True)
    QuietServer(("", options.http_port), NetexecHandler).serve_forever()


def serve_hostname(options: argparse.Namespace) -> None:
    """Answer every request with the pod's name."""

    class Handler(NetexecHandler):
        def do_GET(self) -> None:
            self._send(HTTPStatus.OK, socket.gethostname())

    QuietServer(("", options.port), Handler).serve_forever()


def connect(options: argparse.Namespace) -> None:
    """Open one TCP connection; agnhost's words for what went wrong, and its exit code."""
    host, _, port = options.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), options.timeout).close()
    except TimeoutError:
        sys.exit("TIMEOUT")
    except ConnectionRefusedError:
        sys.exit("REFUSED")
    except socket.gaierror:
        sys.exit("DNS")
    except OSError as error:
        sys.exit(f"OTHER: {error}")


def pause(_: argparse.Namespace) -> None:
    """Wait for a signal."""
    print("Paused", flush=True)
    signal.pause()


def _seconds(text: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def main(argv: list[str] | None = None) -> None:
    """Run one of agnhost's commands."""
    parser = argparse.ArgumentParser(prog="agnhost", description=f"agnhost {VERSION}, as the lab has it")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("netexec", help="HTTP and UDP server that says who asked")
    one.add_argument("--http-port", type=int, default=8080)
    one.add_argument("--udp-port", type=int, default=8081)
    one.set_defaults(run=netexec)
    one = commands.add_parser("serve-hostname", help="HTTP server that answers its host's name")
    one.add_argument("--port", type=int, default=9376)
    one.set_defaults(run=serve_hostname)
    one = commands.add_parser("connect", help="try one TCP connection")
    one.add_argument("address", metavar="HOST:PORT")
    one.add_argument("--timeout", type=_seconds, default=5.0)
    one.set_defaults(run=connect)
    commands.add_parser("pause", help="do nothing").set_defaults(run=pause)
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    options.run(options)


if __name__ == "__main__":
    main()
