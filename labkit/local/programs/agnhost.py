"""agnhost, the part of it that labs and Kubernetes' own tests use.

The real one is Kubernetes' test image (registry.k8s.io/e2e-test-images/agnhost); commands, paths and
their answers are the same, so a manifest written for it works here and on AKS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler

from labkit.local.programs import agnhost_checks, netexec
from labkit.local.programs.netexec import QuietServer, TextHandler

VERSION = "2.47"


def serve_hostname(options: argparse.Namespace) -> None:
    """Answer every request with the pod's name, by HTTP, or by plain TCP and UDP."""
    name = socket.gethostname()

    class Handler(TextHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_text(HTTPStatus.OK, name, **({"Connection": "close"} if options.close else {}))

    if options.udp:
        threading.Thread(target=_name_by_udp, args=(options.port, name), daemon=True).start()
    if options.tcp:
        threading.Thread(target=_name_by_tcp, args=(options.port, name), daemon=True).start()
    if options.tcp or options.udp:
        signal.pause()
    QuietServer(("", options.port), Handler).serve_forever()


def _name_by_udp(port: int, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        while True:
            _, client = sock.recvfrom(16)
            sock.sendto(name.encode(), client)


def _name_by_tcp(port: int, name: str) -> None:
    with socket.create_server(("", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(name.encode())


def porter(options: argparse.Namespace) -> None:
    """On each port named by a variable SERVE_PORT_<port>, answer its value."""
    for name, value in os.environ.items():
        if name.startswith("SERVE_PORT_"):
            handler = _constant(value, as_json=options.json_response)
            server = QuietServer(("", int(name.removeprefix("SERVE_PORT_"))), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.pause()


def _constant(value: str, *, as_json: bool) -> type[TextHandler]:
    class Handler(TextHandler):
        def do_GET(self) -> None:  # noqa: N802
            text = json.dumps({"Method": self.command, "Body": value}) if as_json else value
            self.send_text(HTTPStatus.OK, text)

        do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    return Handler


def test_webserver(options: argparse.Namespace) -> None:
    """Serve the container's files, as they are."""
    QuietServer(("", options.port), partial(_Files, directory="/")).serve_forever()


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def connect(options: argparse.Namespace) -> None:
    """Open one connection; agnhost's words for what went wrong, and its exit code."""
    host, colon, port = options.address.rpartition(":")
    if not colon or not port.isdigit():
        sys.exit(f"UNKNOWN: address {options.address}: missing port in address")
    kind = {"tcp": (socket.SOCK_STREAM, 0), "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP)}[options.protocol]
    try:
        with socket.socket(socket.AF_INET, *kind) as sock:
            sock.settimeout(options.timeout or None)
            sock.connect((host, int(port)))
    except TimeoutError:
        sys.exit("TIMEOUT")
    except ConnectionRefusedError as error:
        sys.exit("REFUSED" if options.protocol == "tcp" else f"OTHER: {error}")
    except socket.gaierror as error:
        sys.exit(f"DNS: {error}")
    except OSError as error:
        sys.exit(f"OTHER: {error}")


def pause(_: argparse.Namespace) -> None:
    """Wait for a signal."""
    print("Paused", flush=True)
    signal.pause()


def dns_suffix(_: argparse.Namespace) -> None:
    """The domains that names are looked up in."""
    print(",".join(_resolv("search")))


def dns_server_list(_: argparse.Namespace) -> None:
    """The servers that names are looked up by."""
    print(",".join(_resolv("nameserver")))


def _resolv(option: str) -> list[str]:
    with open("/etc/resolv.conf") as lines:
        return [word for line in lines for name, *words in [line.split() or [""]] if name == option for word in words]


def etc_hosts(_: argparse.Namespace) -> None:
    """The hosts file."""
    with open("/etc/hosts") as lines:
        print(lines.read())


def main(argv: list[str] | None = None) -> None:
    """Run one of agnhost's commands."""
    parser = argparse.ArgumentParser(prog="agnhost", description=f"agnhost {VERSION}, as the lab has it")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("netexec", help="HTTP and UDP server that says who asked")
    one.add_argument("--http-port", type=int, default=8080)
    one.add_argument("--udp-port", type=int, default=8081)
    one.add_argument("--http-override", default="", help="answer every request as this path")
    one.set_defaults(run=netexec.serve)
    one = commands.add_parser("serve-hostname", help="server that answers its host's name")
    one.add_argument("--port", type=int, default=9376)
    for option in ("--http", "--tcp", "--udp", "--close"):
        one.add_argument(option, nargs="?", const=True, default=False, type=lambda text: text == "true")
    one.set_defaults(run=serve_hostname)
    one = commands.add_parser("porter", help="answer on ports that the environment names")
    one.add_argument("--json-response", action="store_true")
    one.set_defaults(run=porter)
    one = commands.add_parser("test-webserver", help="server of the container's files")
    one.add_argument("--port", type=int, default=80)
    one.set_defaults(run=test_webserver)
    one = commands.add_parser("connect", help="try one connection")
    one.add_argument("address", metavar="HOST:PORT")
    one.add_argument("--timeout", type=netexec.seconds, default=0.0)
    one.add_argument("--protocol", choices=("tcp", "sctp"), default="tcp")
    one.set_defaults(run=connect)
    agnhost_checks.add_commands(commands)
    for name, run in (("pause", pause), ("dns-suffix", dns_suffix), ("dns-server-list", dns_server_list),
                      ("etc-hosts", etc_hosts)):  # fmt: skip
        commands.add_parser(name, help=str(run.__doc__).rstrip(".").lower()).set_defaults(run=run)
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    options.run(options)


if __name__ == "__main__":
    main()
