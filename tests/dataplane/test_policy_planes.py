"""One table of policies, on iptables and on eBPF, by real sockets; and what changes while they are in force."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from labkit.local.dataplane import ebpf_tc, policy_log
from labkit.local.fabric import netns
from tests.dataplane.policy_cases import CART, CASES, TEAM_A, Case, allow, calico, to_web
from tests.dataplane.policy_lab import PLANES, Attempt, Obj, Plane, PolicyLab, network_policy, policy_lab
from tests.dataplane.policy_model import Model
from tests.dataplane.trace_log import printed

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
    "a network set of both families", "doNotTrack is for host endpoints alone", "a selector that is none is ignored"}


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


def test_nothing_goes_to_or_from_a_pod_whose_policy_is_not_there_yet(lab: PolicyLab) -> None:
    """Calico fails closed while Felix does not know a pod, also where Felix is slow or gone."""
    tries = attempts("a2>a1 a2>b1 a2>b1/udp a2>node1 a2>svc-a1 b1>a2 b1>a2/udp node2>a2")
    pod, interface = lab.pod_object("a2"), lab.pods["a2"].host_interface
    lab.world.remove(pod)
    lab.sync()
    if lab.plane_now == "ebpf":                 # as an interface is that the kubelet has just made
        netns.run_inside(lab.nodes["node1"].netns, lambda: ebpf_tc.detach(socket.if_nametoindex(interface)))
    assert lab.reached(tries | attempts("b1>a1"), attempts("b1>a1")) == attempts("b1>a1")
    lab.world.put(pod)
    lab.sync()
    assert lab.reached(tries, tries) == tries


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


def logged(lab: PolicyLab, attempts: set[Attempt]) -> list[str]:
    """What the first node writes of these attempts to where its data plane logs."""
    def send() -> None:
        for attempt in attempts:
            lab.open(attempt, 0).close()

    if lab.plane_now == "iptables":
        with netns.run_inside(lab.nodes["node1"].netns, policy_log.listen) as sock:
            sock.settimeout(20)
            send()
            coming = policy_log.read(sock)
            lines = [next(coming), next(coming)]
            sock.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                lines += coming             # no more than these
        return lines
    return [line for line in printed(send) if "port 809" in line]       # what others log has other ports


def test_log_leaves_a_line_of_what_is_allowed_and_of_what_is_denied(lab: PolicyLab) -> None:
    """Of a connection that the rule matches, once; nobody listens on these ports."""
    log = {"action": "Log", "protocol": "TCP", "destination": {"ports": [8091]}}
    lab.world.put(calico(log, allow(selector="app == 'cart'")))
    lab.sync()
    lines = logged(lab, attempts("a2>a1:8091 b1>a1:8091 b1>a1:8092 b2>a1:8091/udp a1>a2:8091"))
    a1, a2, b1 = (lab.pods[name].ip for name in ("a1", "a2", "b1"))
    if lab.plane_now == "iptables":
        web = lab.pods["a1"].host_interface
        form = re.compile(rf"calico-packet: IN=(\S+) OUT={web} MAC=[0-9a-f:]{{41}} SRC=(\S+) DST={a1} LEN=60 TOS=0x00"
                          r" PREC=0x00 TTL=6\d ID=\d+ DF PROTO=TCP SPT=\d+ DPT=8091 WINDOW=\d+ RES=0x00 SYN URGP=0")
        found = [form.match(line) for line in lines]
        assert {match.groups() if match else "" for match in found} == {
            (lab.pods["a2"].host_interface, a2), ("eth0", b1)}, lines
    else:
        a1, a2, b1 = (f"{int.from_bytes(socket.inet_aton(ip), 'big'):x}" for ip in (a1, a2, b1))
        assert set(lines) == {f"policy ALLOWED {a2} -> {a1} port 8091", f"policy DENIED {b1} -> {a1} port 8091"}


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff


ECHO, TIMESTAMP = 8, 13                 # kinds of ICMP that Linux answers


def icmp_request(kind: int, ident: int) -> bytes:
    head, rest = struct.pack(">BB", kind, 0), struct.pack(">2H12x", ident, 1)
    return head + struct.pack(">H", checksum(head + bytes(2) + rest)) + rest


def raw(lab: PolicyLab, who: str, protocol: int, *, hoped: bool = False) -> socket.socket:
    """A raw socket; what is hoped for may take seconds, a refusal is a moment's silence."""
    make = functools.partial(socket.socket, socket.AF_INET, socket.SOCK_RAW, protocol)
    sock = netns.run_inside(lab.space(who), make)
    sock.settimeout(5 if hoped else 0.1)
    return sock


def test_ping_is_a_connection_too(lab: PolicyLab) -> None:
    def check(*allowed: str) -> None:
        lab.sync()
        for client, kind in itertools.product(("a2", "b2"), (ECHO, TIMESTAMP)):
            with raw(lab, client, socket.IPPROTO_ICMP, hoped=client in allowed) as sock:
                sock.sendto(icmp_request(kind, lab.source_port(client, "ICMP")), (lab.address("a1"), 0))
                if client in allowed:
                    assert sock.recv(99)
                else:
                    with pytest.raises(TimeoutError):
                        sock.recv(99)

    # Refusals first: a kind of ICMP without an identifier that was let in once is a connection that goes on.
    lab.world.put(to_web({"from": [{"podSelector": CART}], "ports": [{"port": 8080}]}))
    check()
    lab.world.put(to_web({"from": [{"podSelector": CART}]}))
    check("a2")
    lab.world.put(calico(allow("ICMP", namespaceSelector="team == 'b'"), order=1))
    check("a2", "b2")


def crc32c(data: bytes) -> int:
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def sctp_init(source: int, port: int) -> bytes:
    """The first packet of an association; kernels without SCTP can send it, too."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    head = struct.pack(">HHI", source, port, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def test_sctp_is_refused_by_policy_but_where_a_rule_means_all_of_it(lab: PolicyLab) -> None:
    def arrives(port: int, *, hoped: bool = False) -> bool:
        with (raw(lab, "a1", socket.IPPROTO_SCTP, hoped=hoped) as server,
              raw(lab, "a2", socket.IPPROTO_SCTP) as client):
            client.sendto(sctp_init(lab.source_port("a2", "SCTP"), port), (lab.address("a1"), 0))
            with contextlib.suppress(TimeoutError):
                return bool(server.recv(99))
        return False

    # Refusals first: a protocol without ports that was let in once is a connection that goes on.
    for policy in (to_web(), to_web({"ports": [{"protocol": "SCTP", "port": 8080}]}),
                   to_web({"ports": [{"port": 8080}]}),
                   calico({**allow("SCTP", ports=[8080]), "action": "Deny"}, allow())):
        lab.world.put(policy)
        lab.sync()
        assert not arrives(8080), policy
        lab.world.remove(policy)
    assert len([text for text in lab.world.warnings() if "ports of SCTP are not supported" in text]) == 2
    lab.world.put(to_web({"ports": [{"protocol": "SCTP"}]}))
    lab.sync()
    assert arrives(8080, hoped=True)


def test_a_pod_cannot_forge_the_nodes_tunnel(lab: PolicyLab) -> None:
    """Else it would choose the client's address that policy is asked about."""
    source, frontend, text = lab.source_port("alice", "UDP"), lab.address("lb"), b"forged"
    datagram = struct.pack(">4H", source, 8080, 8 + len(text), 0) + text
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0,
                       socket.inet_aton(lab.alice.address), socket.inet_aton(frontend))
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    inner = bytes.fromhex("020000000001 020000000002 0800") + head + datagram
    vxlan = struct.pack(">II", 0x08000000, 4096 << 8) + inner
    with raw(lab, "a1", socket.IPPROTO_UDP) as server, netns.socket_in(
            lab.space("a2"), socket.AF_INET, socket.SOCK_DGRAM) as liar:
        for gateway in (lab.nodes["node1"].ip, lab.nodes["node2"].ip, "169.254.1.1"):
            liar.sendto(vxlan, (gateway, 4789))
        with pytest.raises(TimeoutError):
            server.recv(999)
