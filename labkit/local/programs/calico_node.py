"""calico-node: Felix on one node, and the `calico-node -bpf …` command that shows what it programmed."""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping

from labkit.local.client import ApiError
from labkit.local.dataplane import policy_log
from labkit.local.programs import logs
from labkit.local.programs.events import Events
from labkit.local.programs.felix import Felix
from labkit.local.programs.httphealth import HealthServers
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.repairs import PERIOD, Repairs

log = logging.getLogger("calico-node")

TICK = 10.0
HANDOVER = 0.1           # seconds between looks for kube-proxy's rules while eBPF waits for them
SETTLE = 1.0             # seconds that a program on the node's network has to write its first rules
CHECK_API = 5.0
API_PATIENCE = 10.0     # seconds without the API until the pod says that it is not ready
STUCK = 90.0            # seconds without a turn of the main loop until the pod says that it is not live
_USAGE = """calico-node: node agent of Calico

  calico-node                  run Felix
  calico-node -felix-ready     exit 0 if Felix is ready (-felix-live: alive)
  calico-node -bpf …           show the eBPF maps: nat dump, conntrack dump, routes dump, counters dump …
  calico-node -v               print the version
"""


def main(argv: list[str] | None = None) -> int:
    """Run Felix, or one of the commands that calico-node has."""
    arguments = sys.argv[1:] if argv is None else argv
    match arguments:
        case ["-bpf", *rest]:
            from labkit.local.dataplane import ebpf_cli
            return ebpf_cli.main(rest)
        case ["-v" | "--version", *_]:
            print(os.environ.get("CALICO_VERSION", "v3.17.2"))
            return 0
        case ["-h" | "--help", *_]:
            print(_USAGE)
            return 0
    for flag, path in (("-felix-ready", "/readiness"), ("-felix-live", "/liveness")):
        if flag in arguments:
            return _probe(path)
    return run()


def run() -> int:
    """Run Felix until stopped."""
    logs.set_up(logs.Felix(), getattr(logging, os.environ.get("FELIX_LOGSEVERITYSCREEN", "INFO").upper(),
                                      logging.INFO))
    client = _client(os.environ)
    events = Events(client)
    stop = events.stop_on_signals()

    log.info("Felix starting up: version %s", os.environ.get("CALICO_VERSION", "v3.17.2"))
    health = HealthServers()
    name = os.environ.get("NODE_NAME") or socket.gethostname()
    felix = Felix(name, os.environ, health, Repairs(client, "calico-node", name))
    api = ApiCheck(client)
    _serve_health(health, felix, events, api)
    node = _wait_for_api(client, felix.api.node, stop)
    if stop.is_set():
        return 0
    if not _detect_address(os.environ, node):
        return 1
    felix.api.subscribe(events)
    policy_log.start()
    api.start(stop)
    next_tick, next_look = time.monotonic() + TICK, time.monotonic() + PERIOD
    timeout = 0.02
    while not stop.is_set():
        events.handle(timeout)
        if felix.mode is None and not events.synced:
            timeout = 0.02
            continue
        now = time.monotonic()
        if now >= next_tick:
            next_tick = now + TICK
            felix.tick()
        else:
            felix.apply()
        if felix.api.disturbed_at and now >= felix.api.disturbed_at + SETTLE:
            felix.settle()
        if now >= next_look:
            felix.look_after()
            next_look = time.monotonic() + PERIOD
        wake = min(next_tick, next_look, felix.api.disturbed_at + SETTLE if felix.api.disturbed_at else next_tick)
        pause = HANDOVER if felix.handing_over else 1.0 if felix.trouble else TICK
        timeout = min(pause, wake - time.monotonic())
    log.info("Felix stops; its data plane stays")
    return 0


def _client(environment: Mapping[str, str]) -> HttpClient:
    """The API where Calico's own variables say, else as a pod finds it."""
    if endpoint := environment.get("K8S_API_ENDPOINT"):
        return HttpClient(endpoint, token=environment.get("K8S_API_TOKEN"), timeout=5,
                          ca_file=environment.get("K8S_CA_FILE"), user_agent="calico-node")
    return HttpClient.in_cluster(user_agent="calico-node", timeout=5)


class ApiCheck:
    """Asks the API now and then on a new connection.

    A watch that is established survives where a new connection would fail, for as long as the kernel
    remembers how to translate it; so only a new one tells whether the API can still be reached.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._failing_since = time.monotonic()
        self.error = "has not answered yet"

    def start(self, stop: threading.Event) -> None:
        """Begin, in a thread of its own."""
        self.error = ""
        threading.Thread(target=self._run, args=(stop,), name="api-check", daemon=True).start()

    def failing(self) -> float:
        """For how many seconds the API has not been reached."""
        return time.monotonic() - self._failing_since if self.error else 0.0

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(CHECK_API if not self.error else 2.0):
            try:
                self._client.version()
                if self.error:
                    log.info("Connection to the API server is back")
                self.error = ""
            except ApiError as error:
                if not self.error:
                    self._failing_since = time.monotonic()
                if error.message != self.error:
                    log.error("%s", error.message[:1].upper() + error.message[1:])
                self.error = error.message
            self._client.close()


def _wait_for_api(client: HttpClient, node: str, stop: threading.Event) -> dict[str, object]:
    """Wait until the API gives this node's object; like calico-node's start-up it does not give up."""
    said = ""
    while not stop.is_set():
        try:
            return client.get("nodes", node)
        except ApiError as error:
            if error.message != said:
                log.warning("Hit error connecting to datastore - retry error=%s", error.message)
                if "connect to API server" in error.message:
                    log.error("%s", error.message[:1].upper() + error.message[1:])
            said = error.message
            stop.wait(0.5)
    return {}


def _serve_health(health: HealthServers, felix: Felix, events: Events, api: ApiCheck) -> None:
    def answer(path: str) -> tuple[int, str]:
        if path == "/liveness":
            stuck = felix.turned_at and time.monotonic() - felix.turned_at > STUCK
            return (503, "felix is stuck\n") if stuck else (200, "felix is live\n")
        if path != "/readiness":
            return 404, "404 page not found\n"
        watches, error = events.failing()
        if api.failing() > API_PATIENCE or watches > API_PATIENCE:
            return 503, f"calico/node is not ready: {api.error or error}\n"
        if felix.trouble:
            return 503, f"calico/node is not ready: felix is not ready: {felix.trouble}\n"
        return 200, "felix is ready\n"

    if felix.api.config.health_enabled:
        health.serve("127.0.0.1" if felix.api.config.health_host == "localhost" else felix.api.config.health_host,
                     felix.api.config.health_port, answer)


def _probe(path: str) -> int:
    port = int(os.environ.get("FELIX_HEALTHPORT", "9099"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode().strip()
    except OSError as error:
        print(f"calico/node is not ready: felix is not ready: Get \"http://localhost:9099{path}\": {error}",
              file=sys.stderr)
        return 1
    finally:
        connection.close()
    if response.status != 200:
        print(body, file=sys.stderr)
    return 0 if response.status == 200 else 1


def _detect_address(environment: Mapping[str, str], node: Mapping[str, object]) -> bool:
    """Find this node's address by the method that the Installation asks for; say whether there is one."""
    if environment.get("IP", "autodetect") != "autodetect":
        log.info("Skipped IPv4 autodetection: IP is %s", environment["IP"])
        return True
    method = environment.get("IP_AUTODETECTION_METHOD", "first-found")
    ip = ""
    try:
        if method.startswith("can-reach="):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((method.removeprefix("can-reach="), 80))
                ip = probe.getsockname()[0]
        elif method == "kubernetes-internal-ip":
            status: dict[str, list[dict[str, str]]] = dict(node.get("status") or {})  # type: ignore[call-overload]
            ip = next((a["address"] for a in status.get("addresses", []) if a["type"] == "InternalIP"), "")
        else:
            pattern = method.removeprefix("interface=") if method.startswith("interface=") else "eth.*|en.*"
            ip = _interface_address(pattern)
    except OSError as error:
        log.warning("Autodetection by %s: %s", method, error)
    if not ip:
        log.error("Unable to auto-detect an IPv4 address using method %s; terminating", method)
        return False
    log.info("Using autodetected IPv4 address %s, detected by %s", ip, method)
    return True


def _interface_address(pattern: str) -> str:
    for _, name in socket.if_nameindex():
        if re.fullmatch(pattern, name):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))   # SIOCGIFADDR
                except OSError:
                    continue
                return socket.inet_ntoa(answer[20:24])
    return ""


if __name__ == "__main__":
    sys.exit(main())
