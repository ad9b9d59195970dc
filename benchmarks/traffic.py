"""What traffic costs in each data plane: CPU per gigabit, per request and per connection, eBPF beside kube-proxy.

Two clusters, the same pods in both, rounds interleaved. A ratio is of medians, with a bootstrap interval of 95 %.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

from benchmarks.table import Row
from labkit.bench import cpu, flows, stats, workload
from labkit.bench.workload import NAMESPACE, PYTHON_IMAGE
from labkit.kube import Kube
from labkit.lab import Lab

LEAST = {"pod to pod, UDP": 0.9, "pod to service, UDP": 0.9}    # of kube-proxy's CPU; 1 for the other flows
_PORT = 7777
# So many connections that a client has ports for all rounds of them: each is kept for a minute after its end.
_EXCHANGES = (("requests", "request", 20_000), ("connections", "connection, with one request", 1500))

# Echoes whole messages on connections that stay and on connections that come and go.
_SERVER = """
import socket, sys, threading
listener = socket.create_server(("", int(sys.argv[1])), backlog=1024)
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while data := connection.recv(64):
            connection.send(data)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

_CLIENT = """
import json, socket, sys, time
kind, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
stat = lambda: open("/proc/stat").read()
def once(sock):
    sock.send(b"x"); sock.recv(64)
def connect():
    sock = socket.create_connection((host, port), 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
before, began = stat(), time.monotonic()
if kind == "requests":
    with connect() as sock:
        for _ in range(count):
            once(sock)
else:
    for _ in range(count):
        with connect() as sock:
            once(sock)
print(json.dumps([time.monotonic() - began, before, stat()]))
"""


def rows(ebpf: Lab, vanilla: Lab, *, rounds: int = 7, seconds: int = 2) -> list[Row]:
    """Measure both clusters, the vanilla one first in each even round.

    Args:
        ebpf: a lab whose cluster is in eBPF mode.
        vanilla: a lab whose cluster has kube-proxy and no Calico.
        rounds: of each measurement.
        seconds: of each.
    """
    run = ebpf.bench.flows(rounds=rounds, seconds=seconds, against=[vanilla.bench])
    found = [_row(f"CPU per gigabit, {c.case}, eBPF / kube-proxy", c.ratio, c.low, c.high, LEAST.get(c.case, 1.0))
             for c in run.compare("cores_per_10_gbit") if c.case != flows.IDLE]
    for kind, what, count in _EXCHANGES:
        measured = _exchanges(kind, {"vanilla": vanilla.kube, "ebpf": ebpf.kube}, rounds, count)
        base, other = measured["vanilla"], measured["ebpf"]
        cost, low, high = stats.ratio_interval(base["cpu"], other["cpu"])
        found.append(_row(f"CPU per {what}, pod to service, eBPF / kube-proxy", cost, low, high, 1.0))
        rate, low, high = stats.ratio_interval(base["rate"], other["rate"])
        found.append(_row(f"{kind} per second, one client, eBPF / kube-proxy", rate, low, high, 1.0, "more"))
    return found


def _row(what: str, ratio: float, low: float, high: float, goal: float, better: str = "less") -> Row:
    against = f"kube-proxy in this run; 95 % interval {low:.2f} to {high:.2f}"
    return Row(what, ratio, "×", goal, against, better)


def _exchanges(kind: str, kubes: dict[str, Kube], rounds: int, count: int) -> dict[str, dict[str, list[float]]]:
    addresses = {arm: _serve(kube) for arm, kube in kubes.items()}
    measured: dict[str, dict[str, list[float]]] = {arm: {"cpu": [], "rate": []} for arm in kubes}
    for number in range(rounds):
        order = list(kubes) if number % 2 == 0 else list(reversed(kubes))
        for arm in order:
            argv = ["python3", "-c", _CLIENT, kind, addresses[arm], str(_PORT), str(count)]
            took, before, after = json.loads(kubes[arm].exec("python", NAMESPACE, argv, timeout=60).stdout)
            measured[arm]["cpu"].append(cpu.between(cpu.parse(before), cpu.parse(after)).busy / count)
            measured[arm]["rate"].append(count / took)
    return measured


def _serve(kube: Kube) -> str:
    """The address of a service whose one pod echoes, on the server's node."""
    node = workload.ensure(kube).server_node
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "exchange", "namespace": NAMESPACE, "labels": {"app": "exchange"}},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "exchange", "image": PYTHON_IMAGE,
                                 "command": ["python3", "-c", _SERVER, str(_PORT)]}]},
    }
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "exchange", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "exchange"}, "ports": [{"port": _PORT}]},
    }
    if kube.find("pods", "exchange", NAMESPACE) is None:
        kube.apply(pod)
    kube.apply(service)
    workload.wait_ready(kube, ("exchange",))
    # Whoever connects before kube-proxy has its rules leaves a tracked connection without translation behind, and for
    # two minutes every connection from the same port follows it into the void.
    time.sleep(3)
    address = str(kube.get("services", "exchange", NAMESPACE)["spec"]["clusterIP"])
    _until(lambda: kube.exec("python", NAMESPACE, ["python3", "-c", _CLIENT, "requests", address, str(_PORT), "1"]))
    return address


def _until(attempt: Callable[[], object], times: int = 50) -> None:
    for _ in range(times - 1):
        with contextlib.suppress(Exception):
            attempt()
            return
    attempt()
