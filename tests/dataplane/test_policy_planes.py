"""One table of policies, on iptables and on eBPF, by real sockets; and what changes while they are in force."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from labkit.local.fabric import netns
from tests.dataplane.policy_cases import CART, CASES, TEAM_A, Case, allow, calico, to_web
from tests.dataplane.policy_lab import PLANES, Attempt, Obj, Plane, PolicyLab, network_policy, policy_lab
from tests.dataplane.policy_model import Model

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyLab]:
    with policy_lab(tmp_path_factory.mktemp("policy") / "lab") as lab:
        yield lab


@pytest.fixture(scope="module", params=PLANES)
def on_plane(world: PolicyLab, request: pytest.FixtureRequest) -> PolicyLab:
    world.use(request.param)
    return world


@pytest.fixture
def lab(on_plane: PolicyLab) -> Iterator[PolicyLab]:
    """The cluster without policies, and again after the test."""
    before = dict(on_plane.world.objects)
    on_plane.sync()
    yield on_plane
    for obj in list(on_plane.world.objects.values()):
        if obj not in before.values():
            on_plane.world.remove(obj)
    for obj in before.values():
        on_plane.world.put(obj)
    on_plane.world.warnings().clear()


def attempts(text: str) -> set[Attempt]:
    return {Attempt.read(word) for word in text.split()}


def expected(case: Case, plane: Plane | None) -> tuple[set[Attempt], set[Attempt]]:
    """What is answered on a data plane, and what is not."""
    one, other = (case.ebpf, case.iptables) if plane == "ebpf" else (case.iptables, case.ebpf)
    return attempts(f"{case.allowed} {one}"), attempts(f"{case.denied} {other}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_policy_gives_the_same_verdict(lab: PolicyLab, case: Case) -> None:
    for obj in case.objects:
        lab.world.put(obj)
    lab.sync()
    allowed, denied = expected(case, lab.plane_now)
    assert lab.reached(allowed | denied, allowed) == allowed


BEYOND_THE_MODEL = {        # selectors, names and protocols that the model does not read
    "selectors", "service accounts by name", "no service account of that name", "protocols by number",
    "a rule about IPv6 lets nobody in", "a named port without a protocol is of its own", "network sets are no pods",
    "doNotTrack is for host endpoints alone", "a selector that is none is ignored"}


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in BEYOND_THE_MODEL], ids=lambda case: case.name)
def test_the_model_knows_the_table(on_plane: PolicyLab, case: Case) -> None:
    base = [obj for obj in on_plane.world.objects.values() if obj["kind"] in ("Pod", "Namespace")]
    model = Model([*base, *case.objects])
    for text, verdict in ((case.allowed, True), (case.denied, False)):
        for attempt in attempts(text):
            if attempt.server in on_plane.pods and attempt.client in on_plane.pods:
                assert model.allows(on_plane.connection(attempt)) is verdict, attempt


def test_a_change_of_labels_changes_who_is_selected(lab: PolicyLab) -> None:
    tries = attempts("a2>a1 b1>a1 b2>a1 b2>b1")
    lab.world.put(to_web({"from": [{"namespaceSelector": TEAM_A, "podSelector": CART}]}))
    steps: list[tuple[Obj, str]] = [
        (lab.pod_object("b1", {"app": "cart"}), "a2>a1 b1>a1 b2>b1"),           # a peer now, and selected no more
        (lab.pod_object("a2", {}), "b1>a1 b2>b1"),
        (lab.pod_object("b1"), ""),
        (lab.pod_object("a1", {"app": "old"}), "a2>a1 b1>a1 b2>a1"),
        (lab.pod_object("a1"), ""),
        ({"kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "a"}}}, "b2>a1 b2>b1"),
        ({"kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "b"}}}, ""),
    ]
    for obj, wanted in steps:
        lab.world.put(obj)
        lab.sync()
        assert lab.reached(tries, attempts(wanted)) == attempts(wanted), obj


def test_a_policy_changes_and_goes(lab: PolicyLab) -> None:
    tries = attempts("a2>a1 a2>a1:8081 b1>a1")
    for ingress, wanted in (([], ""), ([{"from": [{"podSelector": CART}]}], "a2>a1 a2>a1:8081"),
                            ([{"ports": [{"port": 8080}]}], "a2>a1 b1>a1"), ([], "")):
        policy = to_web(*ingress)
        lab.world.put(policy)
        lab.sync()
        assert lab.reached(tries, attempts(wanted)) == attempts(wanted), ingress
    lab.world.remove(policy)
    lab.sync()
    assert lab.reached(tries, tries) == tries


def test_pods_come_and_go(lab: PolicyLab) -> None:
    """A pod's address is nobody's when it went; a pod that comes is selected from the start."""
    lab.world.put(to_web({"from": [{"podSelector": CART}]}))
    lab.sync()
    assert lab.reached(attempts("a2>a1 b1>a1"), attempts("a2>a1")) == attempts("a2>a1")
    finished = {**lab.pod_object("a2"), "status": {"phase": "Succeeded", "podIP": lab.pods["a2"].ip}}
    lab.world.put(finished)
    lab.sync()
    assert lab.reached(attempts("a2>a1 a2>b1 b1>a1")) == set()
    lab.world.remove(finished)
    lab.world.put(lab.pod_object("a2"))
    late = lab.pod_object("b2", {"app": "web"})
    lab.world.put({**late, "status": {"phase": "Pending"}})                    # no address yet
    lab.sync()
    assert lab.reached(attempts("a2>a1 b2>a1"), attempts("a2>a1")) == attempts("a2>a1")


@pytest.mark.parametrize("text", [
    "a2>a1", "b1>a1", "a1>b1", "a2>a1/udp", "alice>lb", "alice>lb:8081", "alice>lb:8081/udp"])
def test_what_exists_goes_on_when_a_deny_comes(lab: PolicyLab, text: str) -> None:
    """Both data planes ask policy when a connection begins, as Calico's do; a new one is refused."""
    attempt = Attempt.read(text)
    with lab.open(attempt) as sock:
        assert sock.recv(999)
        lab.world.put(network_policy(podSelector={}, policyTypes=["Ingress", "Egress"]))
        lab.sync()
        assert lab.reached([attempt]) == set()
        sock.send(b"again")
        assert b"server" in sock.recv(999)


def raw_icmp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def echo_request(ident: int) -> bytes:
    words = (0x0800, 0, ident, 1)
    total = sum(words)
    return struct.pack(">4H", words[0], ~(total + (total >> 16)) & 0xffff, ident, 1)


def test_ping_is_a_connection_too(lab: PolicyLab) -> None:
    def pings() -> set[str]:
        found = set()
        for client in ("a2", "b2"):
            with netns.run_inside(lab.space(client), raw_icmp) as sock:
                sock.settimeout(0.1)
                sock.sendto(echo_request(lab.source_port(client, "ICMP")), (lab.address("a1"), 0))
                with contextlib.suppress(TimeoutError):
                    sock.recv(99)
                    found.add(client)
        return found

    assert pings() == {"a2", "b2"}
    lab.world.put(to_web({"from": [{"podSelector": CART}]}))
    lab.sync()
    assert pings() == {"a2"}
    lab.world.put(to_web({"from": [{"podSelector": CART}], "ports": [{"port": 8080}]}))
    lab.sync()
    assert pings() == set()
    lab.world.put(calico(allow("ICMP", namespaceSelector="team == 'b'"), order=1))
    lab.sync()
    assert pings() == {"b2"}
