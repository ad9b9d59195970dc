"""nginx, as far as a lab uses it: the welcome page, files below the document root, and its access log."""

from __future__ import annotations

import signal
import sys
import time
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from labkit.local.programs.netexec import QuietServer

ROOT = Path("/usr/share/nginx/html")
WELCOME = b"""<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>If you see this page, the nginx web server is successfully installed and
working. Further configuration is required.</p>
<p><em>Thank you for using nginx.</em></p>
</body>
</html>
"""


class NginxHandler(SimpleHTTPRequestHandler):
    """Static files, and nginx' combined log format on standard output."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "nginx/1.27.0", ""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments, directory=str(ROOT))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The welcome page where no volume put an index there."""
        if self.path.split("?")[0] in ("/", "/index.html") and not (ROOT / "index.html").exists():
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(WELCOME)))
            self.end_headers()
            self.wfile.write(WELCOME)
        else:
            super().do_GET()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """'203.0.113.10 - - [time] "GET / HTTP/1.1" 200 …'."""
        now = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        agent = self.headers.get("user-agent", "-") if hasattr(self, "headers") else "-"
        who, status = self.client_address[0], getattr(code, "value", code)
        print(f'{who} - - [{now}] "{self.requestline}" {status} {size} "-" "{agent}" "-"', flush=True)

    def log_message(self, format: str, *args: object) -> None:
        """Errors go to standard error."""
        print(format % args, file=sys.stderr, flush=True)


def main() -> None:
    """Serve on port 80."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda *_: sys.exit(0))
    QuietServer(("", 80), NginxHandler).serve_forever()


if __name__ == "__main__":
    main()
