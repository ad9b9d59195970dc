"""Random packets, sound and broken, into every program: none may come out worse than it went in."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from labkit.local.dataplane import bpfsys
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.calico_iptables import CalicoIptables, build_bpf_mode
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.policy import Rule
from labkit.local.fabric import netns
from tests.dataplane.ebpf_lab import CLUSTER_IP, FRONTEND, NODE_PORT, EbpfLab, ebpf_lab
from tests.dataplane.frames import CLIENT, OK, REDIRECT, SHOT, checksum, flow_of, frame, icmp_error, ip_frame, is_sound

pytestmark = pytest.mark.kernel
# from_tunnel wants a real tunnel.
PROGRAMS = ("from_workload", "to_workload", "from_uplink", "to_uplink", "to_loopback")
PACKETS = 3000
SHORTEST = 54                                           # the test run takes no shorter one that says it is IP
ERROR_SIZES = (70, 82)                                  # of an ICMP error that quotes UDP, and TCP


@pytest.fixture(scope="module", params=["network", "overlay"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EbpfLab]:
    with ebpf_lab(tmp_path_factory.mktemp("ebpf") / "lab", overlay=request.param == "overlay") as lab:
        lab.policy("a1", ingress=(Rule("Allow", "TCP", ("203.0.113.0/24",), ("203.0.113.128/25",), ((80, 8080),)),))
        lab.up(*(lab.service("a1", "b1", protocol=protocol, lb_source_ranges=("203.0.113.0/24",))
                 for protocol in ("TCP", "UDP")),
               *(lab.service(protocol=protocol, name=f"empty-{protocol}", cluster_ip="10.0.7.9", node_port=0, lb_ips=())
                 for protocol in ("TCP", "UDP")))
        rules = build_bpf_mode(lab.planes["node1"].interfaces,
                               interface_prefix=lab.pods["a1"].host_interface[:4].rstrip("0123456789"))
        netns.run_inside(lab.nodes["node1"].netns, lambda: CalicoIptables(Iptables()).apply(rules))
        yield lab


class Packets:
    """Packets that resemble what the lab's networks carry, more or less."""

    def __init__(self, lab: EbpfLab, seed: int) -> None:
        self._random = random.Random(seed)
        self.addresses = [CLIENT, "198.51.100.20", FRONTEND, CLUSTER_IP, "10.0.7.9", "0.0.0.0", "255.255.255.255",
                           "224.0.0.1", "127.0.0.1", "169.254.1.1", *(pod.ip for pod in lab.pods.values()),
                           *(node.ip for node in lab.nodes.values()),
                           *(overlay.tunnel for overlay in lab.overlays.values())]

    def some(self) -> bytes:
        """A packet: sound, sound but odd, damaged, or noise."""
        r = self._random
        kind = r.random()
        if kind < 0.05:
            return r.randbytes(r.randrange(SHORTEST, 200))
        packet = self.sound()
        if kind > 0.6:
            for _ in range(r.randrange(1, 4)):
                at = r.randrange(len(packet))
                packet = packet[:at] + r.randbytes(1) + packet[at + 1:].ljust(SHORTEST - at - 1, b"\0")
        return packet[:r.randrange(34, len(packet) + 1)] if kind > 0.85 and packet[12:14] == b"\x08\0" else packet

    def _flow(self) -> maps.Flow:
        r = self._random
        ports = (80, 8080, NODE_PORT, 4789, 53, 4444, 0, 65535)
        return maps.Flow(r.choice(self.addresses), r.choice(self.addresses), r.choice(ports), r.choice(ports),
                         r.choice((6, 6, 17, 17, 1, 132, 47)))

    def sound(self) -> bytes:
        r, flow = self._random, self._flow()
        ttl, fragment = r.choice((64, 64, 2, 1, 0)), r.choice((0, 0, 0, 0x4000, 0x2000, 1, 0x2005))
        if flow.protocol in (6, 17):
            inner = frame(flow, tcp_flags=r.choice((2, 0x12, 0x10, 0x11, 4, 0, 0xff)), ttl=ttl, fragment=fragment,
                          payload=r.randbytes(r.choice((0, 1, 6, 300, 1540))))
        elif flow.protocol == 1:
            echo = struct.pack(">BBHHH", r.choice((0, 8, 5, 13)), 0, 0, r.randrange(9), 1) + r.randbytes(20)
            echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
            inner = ip_frame(flow.saddr, flow.daddr, 1, echo, ttl=ttl, fragment=fragment)
        else:
            inner = ip_frame(flow.saddr, flow.daddr, flow.protocol, r.randbytes(30), ttl=ttl, fragment=fragment)
        if r.random() < 0.2:
            reporter = r.choice((flow.daddr, flow.saddr, r.choice(self.addresses)))
            return icmp_error(reporter, r.choice((flow.saddr, flow.daddr)), inner,
                              kind=r.choice((3, 11, 12, 4)), code=r.randrange(6), mtu=r.randrange(1600))
        return inner


def is_ipv4(packet: bytes) -> bool:
    return len(packet) >= 34 and packet[12:15] == b"\x08\x00\x45" and checksum(packet[14:34]) == 0


def is_whole(packet: bytes) -> bool:
    """An IP packet without options or fragments, of the length that it says, with right checksums."""
    if not is_ipv4(packet) or packet[20:22] not in (b"\0\0", b"\x40\0") or packet[23] not in (1, 6, 17):
        return False
    if struct.unpack(">H", packet[16:18])[0] != len(packet) - 14:
        return False
    return not (packet[23] == 17 and packet[40:42] == b"\0\0") and is_sound(packet)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_packet_comes_out_worse_than_it_went_in(lab: EbpfLab, program: str) -> None:
    packets = Packets(lab, seed=len(program))
    pin = next((lab.paths.bpffs / "c1" / "node1").glob(f"programs-*/tc/{program}"))
    seen = set()

    def run_all() -> None:
        pod = socket.if_nametoindex(lab.pods["a1"].host_interface)
        ifindex = pod if "workload" in program else socket.if_nametoindex("eth0")
        fd = bpfsys.open_pinned(pin)
        try:
            for _ in range(PACKETS):
                given = packets.some()
                verdict, after, _ = bpfsys.run(fd, given, ifindex=ifindex)
                seen.add(verdict)
                context = f"{program}: {given.hex()} -> {verdict} {after.hex()}"
                assert verdict in (OK, SHOT, REDIRECT), context
                if verdict == SHOT:
                    continue
                assert len(after) == len(given) or len(after) in ERROR_SIZES, context
                if is_ipv4(given):
                    assert is_ipv4(after), context
                if is_whole(given):
                    assert is_whole(after), context
        finally:
            os.close(fd)

    netns.run_inside(lab.nodes["node1"].netns, run_all)
    assert seen >= ({OK, SHOT} if program == "to_workload" else {OK, SHOT, REDIRECT})      # it is there already


class Tunnel:
    """node2 at work: whatever it likes comes out of node1's VXLAN device. And what of that gets to a pod."""

    def __init__(self, lab: EbpfLab, pods: tuple[str, ...]) -> None:
        self._socket = netns.socket_in(lab.nodes["node2"].netns, socket.AF_INET, socket.SOCK_DGRAM)
        self._node1 = lab.nodes["node1"].ip
        self._taps = {pod: netns.run_inside(lab.pods[pod].netns, self._tap) for pod in pods}

    @staticmethod
    def _tap() -> socket.socket:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        tap.setblocking(False)
        return tap

    def send(self, packet: bytes) -> None:
        self._socket.sendto(struct.pack(">II", 1 << 27, 4096 << 8) + packet, (self._node1, 4789))

    def arrived(self, pod: str) -> Iterator[bytes]:
        """What the pod got and did not send itself."""
        while True:
            try:
                packet, where = self._taps[pod].recvfrom(65536)
            except BlockingIOError:
                return
            if where[2] != socket.PACKET_OUTGOING:
                yield packet

    def close(self) -> None:
        for sock in (self._socket, *self._taps.values()):
            sock.close()


@pytest.fixture
def tunnel(lab: EbpfLab) -> Iterator[Tunnel]:
    tunnel = Tunnel(lab, ("a1", "a2"))
    yield tunnel
    tunnel.close()


def test_who_gets_to_a_pod_by_the_tunnel(lab: EbpfLab, tunnel: Tunnel) -> None:
    """Clients of a back end here, as its policy says; in an overlay also who is on the node that it comes from."""
    senders: dict[str, set[tuple[str, int, int]]] = {"a1": set(), "a2": set()}
    ends = sorted({*Packets(lab, seed=0).addresses})
    for number, (source, target, port, protocol, flags) in enumerate(
            product(ends, ends, (80, 8080, NODE_PORT), (6, 17), (maps.TCP_SYN, maps.TCP_ACK))):
        tunnel.send(frame(maps.Flow(source, target, 10000 + number, port, protocol), tcp_flags=flags))
        for pod, here in senders.items():
            for packet in tunnel.arrived(pod):
                assert is_whole(packet)
                here.add((flow_of(packet).saddr, protocol, flags if protocol == 6 else 0))
    node2 = {lab.pods["b1"].ip, lab.overlays["node2"].tunnel, lab.nodes["node2"].ip} if lab.overlays else set()
    assert senders["a1"] == {(CLIENT, 6, maps.TCP_SYN)}
    assert senders["a2"] == {(ip, *kind) for ip in node2 for kind in ((6, maps.TCP_SYN), (17, 0))}


def test_no_packet_by_the_tunnel_breaks_the_node(lab: EbpfLab, tunnel: Tunnel) -> None:
    packets = Packets(lab, seed=12)
    for _ in range(PACKETS):
        tunnel.send(packets.some())
    list(tunnel.arrived("a1"))
    asked = maps.Flow(CLIENT, FRONTEND, 50001, 80, 6)
    for port in range(50001, 50033):                    # half of them for the back end here
        tunnel.send(frame(replace(asked, sport=port)))
    assert {flow_of(packet).sport for packet in tunnel.arrived("a1")} == set(range(50001, 50033))
