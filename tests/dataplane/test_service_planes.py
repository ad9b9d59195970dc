"""Services on kube-proxy's rules and on Calico's eBPF, by real sockets: the same objects, the same answers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from labkit.local.fabric import netns
from tests.dataplane.service_cases import (
    CASES,
    EITHER,
    FRONTENDS,
    NODE,
    OUT,
    OWN,
    PUBLIC,
    REFUSED,
    SILENCE,
    Case,
    objects,
)
from tests.dataplane.service_lab import ServiceLab, endpoint, port, service, service_lab, slice_of

pytestmark = pytest.mark.kernel
ENOUGH = 40             # connections to two back ends miss one of them once in 2^39 runs


@pytest.fixture(scope="module", params=["iptables", "ebpf", "iptables overlay", "ebpf overlay"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceLab]:
    plane, _, overlay = request.param.partition(" ")
    with service_lab(tmp_path_factory.mktemp("services") / "lab", plane, overlay=bool(overlay)) as lab:
        for ip, nodes in FRONTENDS.items():
            lab.vnet.set_frontend(ip, [lab.nodes[node].ip for node in nodes])
        for ip, node in PUBLIC.values():
            lab.vnet.set_node_public(ip, lab.nodes[node].ip)
        lab.start(*objects(lab))
        yield lab


@pytest.mark.parametrize(("case", "kind"), [(case, kind) for case in CASES for kind in case.kinds],
                         ids=lambda value: str(value))
def test_case(lab: ServiceLab, case: Case, kind: str) -> None:
    backends, seen, error = case.expected(lab.kind)
    ip = lab.nodes[case.to].ip if case.to in lab.nodes else PUBLIC.get(case.to, (case.to,))[0]
    asker = lab.who(case.asker)
    if error:
        [answer] = asker.ask(kind, ip, case.number, timeout=0.3 if error == SILENCE else 20)
        assert answer == {"error": error}
        return
    answers = asker.ask(kind, ip, case.number, count=4)
    while len(answers) < ENOUGH and {answer.get("server", "?") for answer in answers} < set(backends):
        answers += asker.ask(kind, ip, case.number, count=4)
    assert {answer.get("server", answer.get("error")) for answer in answers} == set(backends)
    assert {tuple(answer["peer"]) for answer in answers} == {(ip, case.number)}
    nodes = {*(node.ip for node in lab.nodes.values()), *(overlay.tunnel for overlay in lab.overlays.values())}
    own = {"alice": lab.alice.address, "bob": lab.bob.address, **{name: pod.ip for name, pod in lab.pods.items()}}
    allowed = {OWN: {own.get(case.asker, "")}, NODE: nodes, EITHER: nodes | {own.get(case.asker, "")},
               OUT: {own.get(case.asker, "")} | (nodes if lab.overlays else set())}
    assert {answer["client"] for answer in answers} <= allowed[seen]


# --- spread, affinity, and back ends that leave

def both(name: str, cluster_ip: str, number: int = 0, **spec: object) -> dict[str, object]:
    return service(name, cluster_ip, port("t", 80, "TCP", number), port("u", 80, "UDP", number and number + 1), **spec)


def pieces(lab: ServiceLab, name: str, *pods: str, **conditions: bool) -> dict[str, object]:
    ports = {"t": ("TCP", 8080), "u": ("UDP", 8080)}
    return slice_of(name, ports, *(endpoint(lab.pods[pod].ip, lab.home_of[pod].name, **conditions) for pod in pods))


@pytest.mark.parametrize(("who", "kind", "ip"), [
    ("a1", "tcp", "10.0.2.1"), ("a1", "udp", "10.0.2.1"), ("alice", "tcp", "192.0.2.90"), ("node2", "tcp", "10.0.2.1")])
def test_connections_spread_evenly(lab: ServiceLab, who: str, kind: str, ip: str) -> None:
    """Four back ends and 400 connections. By binomial tails the bounds fail less than once in 10^9 runs."""
    lab.vnet.set_frontend("192.0.2.90", [lab.nodes["node1"].ip])
    ports = {"t": ("TCP", 8080), "u": ("UDP", 8080)}
    other = {"t": ("TCP", 9090), "u": ("UDP", 9090)}
    a1, a2, b1 = (endpoint(lab.pods[pod].ip, lab.home_of[pod].name) for pod in ("a1", "a2", "b1"))
    lab.take(both("spread", "10.0.2.1", lb=("192.0.2.90",)), slice_of("spread", ports, a1, a2, b1),
             slice_of("spread", other, b1, piece=2))
    got = lab.count(who, kind, ip, 80, 400)     # b1 is two back ends: its two ports
    assert set(got) == {"a1", "a2", "b1"}
    assert all(abs(got[pod] - 100) <= 60 for pod in ("a1", "a2"))
    assert abs(got["b1"] - 200) <= 70


STICKY = range(80, 112)     # ports that choose by themselves: all choose alike once in 2^32 times


@pytest.mark.parametrize(("who", "kind", "ip"), [
    ("a2", "tcp", "10.0.2.2"), ("a2", "udp", "10.0.2.2"), ("node1", "tcp", "10.0.2.2"), ("alice", "tcp", "192.0.2.92"),
    ("alice", "udp", "192.0.2.92")])
def test_affinity_outlives_changes_and_ends_in_time(lab: ServiceLab, who: str, kind: str, ip: str) -> None:
    lab.vnet.set_frontend("192.0.2.92", [lab.nodes["node1"].ip])
    ports = {f"p{number}": (kind.upper(), 8080) for number in STICKY}

    def sticky(seconds: int) -> dict[str, object]:
        return service("sticky", "10.0.2.2", *(port(f"p{number}", number, kind.upper()) for number in STICKY),
                       lb=("192.0.2.92",), sessionAffinity="ClientIP",
                       sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}})

    def behind(*pods: str) -> dict[str, object]:
        return slice_of("sticky", ports, *(endpoint(lab.pods[pod].ip, lab.home_of[pod].name) for pod in pods))

    def ask() -> list[str]:
        return [str(lab.who(who).ask(kind, ip, number)[0].get("server")) for number in STICKY]

    lab.take(sticky(600), behind("a1", "b1"))
    first = ask()
    assert set(first) == {"a1", "b1"}
    assert ask() == first
    lab.take(behind("b1", "a2", "a1"))              # others come …
    assert ask() == first
    lab.take(behind("a2", "b1"))                    # … and go: only their own clients move
    moved = ask()
    assert [pod for pod, was in zip(moved, first, strict=True) if was == "b1"] == ["b1"] * first.count("b1")
    assert set(moved) <= {"a2", "b1"}
    lab.take(sticky(1))
    time.sleep(1.1)
    assert ask() != moved                           # it is over


@pytest.mark.parametrize(("who", "ip"), [("a2", "10.0.2.3"), ("alice", "192.0.2.93")])
def test_a_back_end_that_leaves(lab: ServiceLab, who: str, ip: str) -> None:
    """Its connections go on to their end, new ones go elsewhere, and a flow of UDP does not stick to it."""
    lab.vnet.set_frontend("192.0.2.93", [lab.nodes["node1"].ip])
    lab.take(both("drain", "10.0.2.3", lb=("192.0.2.93",)), pieces(lab, "drain", "b1"))
    space = lab.alice.netns if who == "alice" else lab.pods[who].netns
    with (netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM) as stream,
          netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM) as datagrams):
        for sock in (stream, datagrams):
            sock.settimeout(20)
            sock.connect((ip, 80))
        assert [says(stream), says(datagrams)] == ["b1", "b1"]
        leaving = pieces(lab, "drain", "b1", ready=False, serving=True, terminating=True)
        lab.take({**leaving, "endpoints": [*leaving["endpoints"], *pieces(lab, "drain", "a1")["endpoints"]]})
        assert [says(stream), says(datagrams)] == ["b1", "a1"]
        assert set(lab.count(who, "tcp", ip, 80, 10)) == {"a1"}
        lab.take(pieces(lab, "drain", "a1"))
        assert [says(stream), says(datagrams)] == ["b1", "a1"]
        lab.take(pieces(lab, "drain"))
        assert says(stream) == "b1"
        assert lab.count(who, "tcp", ip, 80, 1) == {REFUSED: 1}
        lab.take(pieces(lab, "drain", "a2"))
        assert [says(stream), says(datagrams)] == ["b1", "a2"]


def says(sock: socket.socket) -> str:
    sock.send(b"hello")
    return str(json.loads(sock.recv(4096))["server"])
