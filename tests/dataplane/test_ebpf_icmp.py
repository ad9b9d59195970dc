"""ICMP errors through the eBPF programs: about translated packets, and of the programs' own."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.felix import FelixConfig
from labkit.local.fabric import netns
from tests.dataplane.ebpf_lab import FRONTEND, EbpfLab, ebpf_lab
from tests.dataplane.frames import (
    CLIENT,
    DONT_FRAGMENT,
    OK,
    REDIRECT,
    SHOT,
    flow_of,
    frame,
    icmp_error,
    ip_frame,
    is_sound,
    quoted_in,
    run,
)
from tests.dataplane.trace_log import printed

pytestmark = pytest.mark.kernel
REMOTE, EMPTY = "192.0.2.78", "192.0.2.79"      # frontends with a back end on the other node, and with none
CLIENT_HEX = "cb00710a"
UNREACHABLE, TIME_EXCEEDED, PORT, FRAGMENT = 3, 11, 3, 4
TCP, UDP = 6, 17


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EbpfLab]:
    with ebpf_lab(tmp_path_factory.mktemp("ebpf") / "lab") as lab:
        lab.serve("a1", "b1")
        for ip in (REMOTE, EMPTY):
            lab.vnet.set_frontend(ip, [lab.nodes["node1"].ip])
        services = []
        for protocol in ("TCP", "UDP"):
            suffix = protocol.lower()
            services += [
                lab.service("a1", protocol=protocol, name=f"here-{suffix}"),
                lab.service("b1", protocol=protocol, name=f"there-{suffix}", cluster_ip="10.0.7.8", node_port=0,
                            lb_ips=(REMOTE,)),
                lab.service(protocol=protocol, name=f"empty-{suffix}", cluster_ip="10.0.7.9", node_port=0,
                            lb_ips=(EMPTY,)),
            ]
        lab.up(*services)
        yield lab


def translated(lab: EbpfLab, port: int, protocol: int = UDP) -> bytes:
    """A client's packet as pod a1 gets it, after the programs know its connection."""
    verdict, packet, _ = run(lab, "from_uplink", frame(maps.Flow(CLIENT, FRONTEND, port, 80, protocol)))
    assert (verdict, flow_of(packet).daddr) == (REDIRECT, lab.pods["a1"].ip)
    return packet


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_pods_error_reaches_its_client_as_the_services(lab: EbpfLab, protocol: int) -> None:
    pod = lab.pods["a1"].ip
    error = icmp_error(pod, CLIENT, translated(lab, 5001, protocol))
    verdict, packet, _ = run(lab, "from_workload", error, pod="a1")
    assert verdict == REDIRECT
    assert is_sound(packet)
    assert (socket.inet_ntoa(packet[26:30]), socket.inet_ntoa(packet[30:34])) == (FRONTEND, CLIENT)
    assert flow_of(quoted_in(packet)) == maps.Flow(CLIENT, FRONTEND, 5001, 80, protocol)
    assert packet[22] == 63


def test_a_routers_error_about_a_reply_reaches_the_pod(lab: EbpfLab) -> None:
    """Path MTU discovery of a pod behind a service: the router quotes the reply, which left as the service's."""
    asked = maps.Flow(CLIENT, FRONTEND, 5002, 80, TCP)
    translated(lab, 5002, TCP)
    reply = frame(asked.reversed(), tcp_flags=maps.TCP_ACK)
    error = icmp_error("198.51.100.1", FRONTEND, reply, code=FRAGMENT, mtu=1300)
    verdict, packet, _ = run(lab, "from_uplink", error)
    assert verdict == REDIRECT
    assert is_sound(packet)
    pod = lab.pods["a1"].ip
    assert (socket.inet_ntoa(packet[26:30]), socket.inet_ntoa(packet[30:34])) == ("198.51.100.1", pod)
    assert flow_of(quoted_in(packet)) == maps.Flow(pod, CLIENT, 8080, 5002, TCP)
    assert packet[40:42] == struct.pack(">H", 1300)


def test_a_pod_cannot_report_what_it_did_not_receive(lab: EbpfLab) -> None:
    pod, other = lab.pods["a1"].ip, lab.pods["b1"].ip
    received = translated(lab, 5003)
    assert run(lab, "from_workload", icmp_error(other, CLIENT, received), pod="a1")[0] == SHOT
    elsewhere = frame(maps.Flow(CLIENT, other, 5003, 8080, UDP))
    assert run(lab, "from_workload", icmp_error(pod, CLIENT, elsewhere), pod="a1")[0] == SHOT


def test_errors_of_no_connection_are_left_to_the_host(lab: EbpfLab) -> None:
    node = lab.nodes["node1"].ip
    error = icmp_error("198.51.100.1", node, frame(maps.Flow(node, CLIENT, 22, 5004, TCP)))
    assert run(lab, "from_uplink", error)[:2] == (OK, error)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_service_without_endpoints_is_a_closed_port(lab: EbpfLab, protocol: int) -> None:
    asked = frame(maps.Flow(CLIENT, EMPTY, 5005, 80, protocol))
    verdict, packet, _ = run(lab, "from_uplink", asked)
    assert verdict == REDIRECT
    assert is_sound(packet)
    assert packet[34:36] == bytes((UNREACHABLE, PORT))
    assert (socket.inet_ntoa(packet[26:30]), socket.inet_ntoa(packet[30:34])) == (EMPTY, CLIENT)
    assert quoted_in(packet)[14:] == asked[14:14 + 20 + (20 if protocol == TCP else 8)]
    assert packet[:12] == asked[6:12] + asked[:6]


def test_hops_are_counted_and_the_last_one_says_so(lab: EbpfLab) -> None:
    pod, other = lab.pods["a1"].ip, lab.pods["b1"].ip
    flow = maps.Flow(pod, other, 5006, 8080, UDP)
    for _ in range(2):                                  # a new connection, and an established one
        verdict, packet, _ = run(lab, "from_workload", frame(flow), pod="a1")
        assert (verdict, packet[22]) == (REDIRECT, 63)
        assert is_sound(packet)
    for last in (frame(flow, ttl=1), frame(maps.Flow(pod, other, 5007, 8080, UDP), ttl=1)):
        verdict, packet, _ = run(lab, "from_workload", last, pod="a1")
        assert (verdict, packet[34]) == (REDIRECT, TIME_EXCEEDED)
        assert is_sound(packet)
        assert (socket.inet_ntoa(packet[26:30]), socket.inet_ntoa(packet[30:34])) == (lab.nodes["node1"].ip, pod)
        assert quoted_in(packet)[14:] == last[14:42]


def test_no_errors_about_errors(lab: EbpfLab) -> None:
    error = icmp_error(lab.pods["a1"].ip, CLIENT, translated(lab, 5008))
    assert run(lab, "from_workload", error[:22] + b"\x01" + error[23:], pod="a1")[0] == SHOT


def test_what_does_not_fit_into_the_tunnel_is_said_to_be_too_big(lab: EbpfLab) -> None:
    asked = maps.Flow(CLIENT, REMOTE, 5009, 80, UDP)
    assert run(lab, "from_uplink", frame(asked, payload=bytes(1500), fragment=DONT_FRAGMENT))[0] == REDIRECT
    verdict, packet, _ = run(lab, "from_uplink", frame(asked, payload=bytes(1530), fragment=DONT_FRAGMENT))
    assert verdict == REDIRECT
    assert is_sound(packet)
    assert packet[34:36] == bytes((UNREACHABLE, FRAGMENT))
    assert struct.unpack(">H", packet[40:42]) == (1550,)        # the links between nodes carry 1600
    verdict, packet, _ = run(lab, "from_uplink", frame(asked, payload=bytes(1530)))
    assert (verdict, flow_of(packet)) == (REDIRECT, asked)      # without "don't fragment" it goes
    # What the kernel still has to cut is as long as its parts will be.
    whole = frame(asked, payload=bytes(3000), fragment=DONT_FRAGMENT)
    assert flow_of(run(lab, "from_uplink", whole, segment=1510)[1]) == asked
    assert run(lab, "from_uplink", whole, segment=1511)[1][34:36] == bytes((UNREACHABLE, FRAGMENT))


def test_a_fragment_goes_where_its_first_one_went(lab: EbpfLab) -> None:
    def last(saddr: str) -> bytes:
        return ip_frame(saddr, FRONTEND, UDP, b"the end of it", fragment=1)

    first = frame(maps.Flow(CLIENT, FRONTEND, 5010, 80, UDP), payload=bytes(32), fragment=0x2000)
    assert run(lab, "from_uplink", first)[0] == REDIRECT
    verdict, packet, _ = run(lab, "from_uplink", last(CLIENT))
    assert (verdict, socket.inet_ntoa(packet[30:34])) == (REDIRECT, lab.pods["a1"].ip)
    assert packet[34:] == b"the end of it"
    unknown = last("203.0.113.77")                              # whose first one never came
    assert run(lab, "from_uplink", unknown)[:2] == (OK, unknown)


def answer_of(space: str, kind: socket.SocketKind, ip: str, port: int) -> int:
    """The error that a client's socket gets, as a number; 0 where it gets none within twenty seconds."""
    with netns.socket_in(space, socket.AF_INET, kind) as sock:
        sock.settimeout(20)
        try:
            sock.connect((ip, port))
            sock.send(b"hello")
            sock.recv(100)
        except TimeoutError:
            return -1
        except OSError as error:
            return error.errno or -1
    return 0


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("who", ["outside", "pod", "node"])
def test_nobody_waits_for_a_service_without_endpoints(lab: EbpfLab, who: str, kind: socket.SocketKind) -> None:
    """Sockets of this process are not in the lab's cgroup: what they send is translated packet by packet."""
    space = {"outside": lab.alice.netns, "pod": lab.pods["a1"].netns, "node": lab.nodes["node1"].netns}[who]
    assert answer_of(space, kind, EMPTY if who == "outside" else "10.0.7.9", 80) == errno.ECONNREFUSED


def test_a_client_hears_that_the_pods_port_is_closed(lab: EbpfLab) -> None:
    for frontend, backend in ((FRONTEND, "a1"), (REMOTE, "b1")):
        closed = lab.service(backend, protocol="UDP", lb_ips=(frontend,), name="closed", cluster_ip="10.0.7.10",
                             port=81, node_port=0)
        closed = type(closed)(*(getattr(closed, name) for name in closed.__slots__[:-1]), endpoints=tuple(
            type(e)(e.ip, 8181, e.node) for e in closed.endpoints))
        for node in lab.nodes:
            lab.on(node, "apply_services", [(closed.key, (closed,))])
        assert answer_of(lab.alice.netns, socket.SOCK_DGRAM, frontend, 81) == errno.ECONNREFUSED


def test_a_reply_that_is_too_big_for_the_clients_network_gets_through(lab: EbpfLab) -> None:
    """The pod learns of the narrow link: from a router's error, through one node or through two."""
    netns.ip(lab.fabric.internet, ["link set cl-alice mtu 1300"])
    try:
        for frontend, pod in ((FRONTEND, "a1"), (REMOTE, "b1")):
            listener = netns.socket_in(lab.pods[pod].netns, socket.AF_INET, socket.SOCK_STREAM)
            with listener, netns.socket_in(lab.alice.netns, socket.AF_INET, socket.SOCK_STREAM) as client:
                listener.bind(("", 9999))
                listener.listen()
                listener.settimeout(60)
                wide = lab.service(pod, lb_ips=(frontend,), name="wide", cluster_ip="10.0.7.11", port=82, node_port=0)
                wide = type(wide)(*(getattr(wide, name) for name in wide.__slots__[:-1]), endpoints=tuple(
                    type(e)(e.ip, 9999, e.node) for e in wide.endpoints))
                for node in lab.nodes:
                    lab.on(node, "apply_services", [(wide.key, (wide,))])
                client.settimeout(60)
                client.connect((frontend, 82))
                server, _ = listener.accept()
                with server:
                    server.settimeout(60)
                    server.sendall(bytes(100_000))
                    got = 0
                    while got < 100_000:
                        got += len(client.recv(65536))
    finally:
        netns.ip(lab.fabric.internet, ["link set cl-alice mtu 1500"])


def test_clients_that_opt_out_of_dsr_are_answered_through_their_node(lab: EbpfLab) -> None:
    """node2 has the pod: with DSR it answers by itself, else by the node that the client came in by."""
    def ways(client: str, *optout: str) -> int:
        lab.on("node2", "attach", FelixConfig(bpf_external_service_mode="DSR", bpf_dsr_optout_cidrs=optout))
        with netns.socket_in(client, socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(20)
            sock.connect((REMOTE, 80))
            here = maps.Flow.pack(maps.Flow(lab.pods["b1"].ip, sock.getsockname()[0], 8080, sock.getsockname()[1], TCP))
        connections = lab.planes["node2"]._state.loaded.maps["cali_v4_ct"]
        return maps.Connection.read(dict(connections.items())[here]).path

    assert ways(lab.alice.netns) == maps.PATH_OUT
    assert ways(lab.alice.netns, "203.0.113.0/24") == maps.PATH_TUNNEL
    assert ways(lab.bob.netns, "203.0.113.0/24") == maps.PATH_OUT


def test_the_log_level_decides_what_the_programs_print(lab: EbpfLab) -> None:
    def said(level: str, port: int) -> list[str]:
        lab.on("node1", "attach", FelixConfig(bpf_log_level=level))
        lines = printed(lambda: [translated(lab, port) for _ in range(2)])
        return [line for line in lines if "if 1: " in line and f"{CLIENT_HEX} ->" in line]  # a test run's interface

    pod = f"{int.from_bytes(socket.inet_aton(lab.pods['a1'].ip), 'big'):x}"
    frontend = f"{int.from_bytes(socket.inet_aton(FRONTEND), 'big'):x}"
    new, seen = f"if 1: new connection {CLIENT_HEX} -> {pod}", f"if 1: packet {CLIENT_HEX} -> {frontend}"
    assert said("Off", 5020) == []
    assert said("Info", 5021) == [new]
    assert said("Debug", 5022) == [seen, new, seen]
    lab.on("node1", "attach", FelixConfig())
