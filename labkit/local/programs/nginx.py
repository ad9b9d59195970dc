"""nginx and Apache's httpd, as far as a lab uses them: a welcome page, files below the document root, an access log."""

from __future__ import annotations

import signal
import sys
import time
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from labkit.local.programs.netexec import QuietServer

_WELCOME = b"""<!DOCTYPE html>
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
    root, welcome = Path("/usr/share/nginx/html"), _WELCOME
    form = '{who} - - [{now}] "{line}" {status} {size} "-" "{agent}" "-"'

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments, directory=str(self.root))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The welcome page where no volume put an index there."""
        if self.path.split("?")[0] in ("/", "/index.html") and not (self.root / "index.html").exists():
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(self.welcome)))
            self.end_headers()
            self.wfile.write(self.welcome)
        else:
            super().do_GET()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """'203.0.113.10 - - [time] "GET / HTTP/1.1" 200 …'."""
        now = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        agent = self.headers.get("user-agent", "-") if hasattr(self, "headers") else "-"
        who, status = self.client_address[0], getattr(code, "value", code)
        line = self.form.format(who=who, now=now, line=self.requestline, status=status, size=size, agent=agent)
        print(line, flush=True)

    def log_message(self, format: str, *args: object) -> None:
        """Errors go to standard error."""
        print(format % args, file=sys.stderr, flush=True)


class HttpdHandler(NginxHandler):
    """Static files, and the common log format on standard output."""

    server_version = "Apache/2.4.62 (Unix)"
    root, welcome = Path("/usr/local/apache2/htdocs"), b"<html><body><h1>It works!</h1></body></html>\n"
    form = '{who} - - [{now}] "{line}" {status} {size}'


def main(handler: type[NginxHandler]) -> None:
    """Serve on port 80."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda *_: sys.exit(0))
    QuietServer(("", 80), handler).serve_forever()


if __name__ == "__main__":
    main(HttpdHandler if "httpd" in sys.argv else NginxHandler)
