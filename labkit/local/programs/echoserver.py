"""registry.k8s.io/echoserver: answers each request with what it saw of it."""

from __future__ import annotations

import os
import socket
from http import HTTPStatus

from labkit.local.programs.netexec import QuietServer, TextHandler


class EchoHandler(TextHandler):
    """The report of echoserver 1.10, of which labs read `client_address`."""

    def do_GET(self) -> None:  # noqa: N802
        """Say who asked, and how."""
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length).decode(errors="replace") if length else "-no body in request-"
        headers = "\n".join(f"\t{name.lower()}={value}" for name, value in sorted(self.headers.items()))
        self.send_text(HTTPStatus.OK, (
            f"\n\nHostname: {socket.gethostname()}\n\nPod Information:\n\t-no pod information available-\n\n"
            f"Server values:\n\tserver_version=labkit echoserver\n\n"
            f"Request Information:\n\tclient_address={self.client_address[0]}\n\tmethod={self.command}\n"
            f"\treal path={self.path}\n\trequest_version={self.request_version.removeprefix('HTTP/')}\n"
            f"\trequest_scheme=http\n\trequest_uri=http://{self.headers.get('host', '')}:8080{self.path}\n\n"
            f"Request Headers:\n{headers}\n\nRequest Body:\n\t{body}\n\n"))

    do_POST = do_PUT = do_GET  # noqa: N815


def main() -> None:
    """Serve on HTTP_PORT, else 8080."""
    QuietServer(("", int(os.environ.get("HTTP_PORT", "8080"))), EchoHandler).serve_forever()


if __name__ == "__main__":
    main()
