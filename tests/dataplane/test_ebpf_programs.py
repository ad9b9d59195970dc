"""The programs on single packets, by the kernel's own test run: no network needed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from labkit.local.dataplane import bpfsys, ebpf_connections
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.ebpf import EbpfDataplane
from labkit.local.dataplane.felix import FelixConfig
from labkit.local.dataplane.services import Endpoint, ServicePort
from labkit.local.fabric import netns
from tests.dataplane.ebpf_lab import CLUSTER_IP, FRONTEND, NODE_PORT, EbpfLab, ebpf_lab
from tests.dataplane.frames import CLIENT, OK, REDIRECT, SHOT, flow_of, frame, icmp_error, is_sound, quoted_in, run

pytestmark = pytest.mark.kernel
SELF = "10.0.7.8"       # a service of a process on node1's own network
FAR = "10.0.7.10"       # and one of a pod on node2


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EbpfLab]:
    with ebpf_lab(tmp_path_factory.mktemp("ebpf") / "lab") as lab:
        lab.serve("a1")
        lab.up(lab.service("a1"), lab.service("a1", protocol="UDP"), *(
            lab.service(protocol=protocol, name=f"self-{protocol}", cluster_ip=SELF, node_port=0, lb_ips=(),
                        endpoints=(Endpoint(lab.nodes["node1"].ip, 8080, "node1"),)) for protocol in ("TCP", "UDP")),
               *(lab.service("b1", protocol=protocol, name=f"far-{protocol}", cluster_ip=FAR, node_port=0, lb_ips=())
                 for protocol in ("TCP", "UDP")))
        yield lab


@pytest.mark.parametrize("protocol", [6, 17])
def test_translation_keeps_checksums_right(lab: EbpfLab, protocol: int) -> None:
    asked = maps.Flow(CLIENT, FRONTEND, 4444, 80, protocol)
    verdict, packet, _ = run(lab, "from_uplink", frame(asked))
    assert verdict == REDIRECT
    assert flow_of(packet) == maps.Flow(CLIENT, lab.pods["a1"].ip, 4444, 8080, protocol)
    assert is_sound(packet)
    reply = frame(flow_of(packet).reversed(), tcp_flags=maps.TCP_SYN | maps.TCP_ACK)
    verdict, packet, _ = run(lab, "from_workload", reply)
    assert (verdict, flow_of(packet)) == (REDIRECT, asked.reversed())
    assert is_sound(packet)


@pytest.mark.parametrize("protocol", [6, 17])
def test_a_node_that_asks_itself_by_a_service_keeps_its_address(lab: EbpfLab, protocol: int) -> None:
    node = lab.nodes["node1"].ip
    asked, own = maps.Flow(node, SELF, 4450, 80, protocol), maps.Flow(node, node, 4450, 8080, protocol)
    verdict, packet, _ = run(lab, "to_uplink", frame(asked))
    assert (verdict, flow_of(packet), is_sound(packet)) == (REDIRECT, own, True)
    reply = frame(own.reversed(), tcp_flags=maps.TCP_SYN | maps.TCP_ACK)
    verdict, packet, _ = run(lab, "to_loopback", reply)
    assert (verdict, flow_of(packet), is_sound(packet)) == (OK, asked.reversed(), True)
    refused = icmp_error(node, node, frame(own))
    verdict, packet, _ = run(lab, "to_loopback", refused)
    assert (verdict, flow_of(quoted_in(packet)), is_sound(packet)) == (OK, asked, True)
    for other in (own, own.reversed()):             # of other ports it is its own affair
        untouched = frame(replace(other, sport=other.sport + 1, dport=other.dport + 1))
        assert run(lab, "to_loopback", untouched)[:2] == (OK, untouched)


@pytest.mark.parametrize("protocol", [6, 17])
def test_one_port_may_ask_one_backend_by_two_addresses(lab: EbpfLab, protocol: int) -> None:
    """Replies are told apart by another source port; each goes back as what was asked."""
    ways = [maps.Flow(CLIENT, address, 4452, port, protocol) for address, port in (
        (FRONTEND, 80), (lab.nodes["node1"].ip, NODE_PORT), (CLUSTER_IP, 80))]
    seen = [flow_of(run(lab, "from_uplink", frame(asked))[1]) for asked in ways * 2]
    assert seen[:3] == seen[3:]                     # a connection stays with its port
    assert len({flow.sport for flow in seen}) == 3
    assert seen[0].sport == 4452
    assert all(20000 <= flow.sport < 30000 for flow in seen[1:3])
    for asked, flow in zip(ways, seen[:3], strict=True):
        reply = frame(flow.reversed(), tcp_flags=maps.TCP_SYN | maps.TCP_ACK)
        _, packet, _ = run(lab, "from_workload", reply)
        assert (flow_of(packet), is_sound(packet)) == (asked.reversed(), True)


@pytest.mark.parametrize("protocol", [6, 17])
def test_a_node_may_ask_a_backend_itself_from_the_port_that_asked_the_service(lab: EbpfLab, protocol: int) -> None:
    node, pod = lab.nodes["node1"].ip, lab.pods["b1"].ip
    asked, direct = maps.Flow(node, FAR, 4453, 80, protocol), maps.Flow(node, pod, 4453, 8080, protocol)
    assert flow_of(run(lab, "to_uplink", frame(asked))[1]) == direct
    _, packet, _ = run(lab, "to_uplink", frame(direct))
    other = flow_of(packet)
    assert (other.sport != 4453, replace(other, sport=4453), is_sound(packet)) == (True, direct, True)
    for way, flow in ((asked, direct), (direct, other)):
        reply = frame(flow.reversed(), tcp_flags=maps.TCP_SYN | maps.TCP_ACK)
        assert flow_of(run(lab, "from_uplink", reply)[1]) == way.reversed()
    alone = maps.Flow(node, pod, 4454, 8080, protocol)
    assert run(lab, "to_uplink", frame(alone))[:2] == (OK, frame(alone))


def test_a_retransmitted_syn_goes_where_the_first_one_went(lab: EbpfLab) -> None:
    syn = frame(maps.Flow(CLIENT, FRONTEND, 4445, 80, 6))
    assert len({flow_of(run(lab, "from_uplink", syn)[1]) for _ in range(5)}) == 1


def test_what_is_not_ours_passes_untouched(lab: EbpfLab) -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    middle = frame(maps.Flow(CLIENT, FRONTEND, 4446, 80, 6), tcp_flags=maps.TCP_ACK)
    ssh = frame(maps.Flow(CLIENT, lab.nodes["node1"].ip, 4447, 22, 6))
    multicast = frame(maps.Flow(CLIENT, "224.0.0.251", 5353, 5353, 17))
    # Of a datagram whose first fragment was not seen nobody knows the ports.
    fragment = frame(maps.Flow(CLIENT, lab.pods["a1"].ip, 4455, 8080, 17), fragment=5)
    for packet in (arp, middle, ssh, multicast, fragment):
        assert run(lab, "from_uplink", packet)[:2] == (OK, packet)


def test_programs_that_go_away_keep_only_what_is_translated(lab: EbpfLab) -> None:
    """The stack has to know the others before kube-proxy gives a new connection their port and back end."""
    asked = maps.Flow(CLIENT, FRONTEND, 4470, 80, 6)
    direct = maps.Flow(CLIENT, lab.pods["a1"].ip, 4471, 8080, 6)
    for flow in (asked, direct):
        run(lab, "from_uplink", frame(flow))
    replies = frame(direct.reversed(), tcp_flags=maps.TCP_ACK)
    packets = [frame(flow, tcp_flags=maps.TCP_ACK) for flow in (asked, direct)]
    assert run(lab, "from_workload", replies)[0] == REDIRECT
    with contextlib.closing(bpfsys.Map(lab.paths.bpffs / "c1" / "node1" / "maps" / "cali_config")) as config:
        before = config.get(bytes(4))
        assert before
        config[bytes(4)] = maps.going_away(before)
        try:
            assert run(lab, "from_uplink", packets[0])[0] == REDIRECT
            assert run(lab, "from_uplink", packets[1])[:2] == (OK, packets[1])
            assert run(lab, "from_workload", replies)[:2] == (OK, replies)
        finally:
            config[bytes(4)] = before
    assert run(lab, "from_uplink", packets[1])[0] == REDIRECT


def test_all_interfaces_begin_at_one_moment(lab: EbpfLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kube-proxy translates at one interface must not be a new connection at another; but who serves goes on."""
    serving: list[bool] = []
    attach = EbpfDataplane._attach_interface
    with contextlib.closing(bpfsys.Map(lab.paths.bpffs / "c1" / "node1" / "maps" / "cali_config")) as config:

        def attached(plane: EbpfDataplane, ifindex: int, **programs: str) -> None:
            attach(plane, ifindex, **programs)
            serving.append(maps.serves(config.get(bytes(4)) or b""))

        monkeypatch.setattr(EbpfDataplane, "_attach_interface", attached)
        before = config.get(bytes(4))
        assert before
        lab.attach("node1", FelixConfig())
        assert set(serving) == {True}
        serving.clear()
        config[bytes(4)] = maps.going_away(before)
        lab.attach("node1", FelixConfig())
        assert set(serving) == {False}
        assert config.get(bytes(4)) == before


def test_vxlan_is_taken_from_nodes_only(lab: EbpfLab) -> None:
    here = lab.nodes["node1"].ip
    assert run(lab, "from_uplink", frame(maps.Flow(lab.nodes["node2"].ip, here, 5555, 4789, 17)))[0] == OK
    assert run(lab, "from_uplink", frame(maps.Flow(CLIENT, here, 5555, 4789, 17)))[0] == SHOT


def test_a_truncated_packet_is_dropped(lab: EbpfLab) -> None:
    whole = frame(maps.Flow(CLIENT, FRONTEND, 4448, 80, 6))
    assert run(lab, "from_uplink", whole[:36])[0] == SHOT


def test_udp_without_a_checksum_stays_without(lab: EbpfLab) -> None:
    packet = frame(maps.Flow(CLIENT, FRONTEND, 4449, 80, 17))
    _, after, _ = run(lab, "from_uplink", packet[:40] + bytes(2) + packet[42:])
    assert flow_of(after).daddr == lab.pods["a1"].ip
    assert after[40:42] == bytes(2)


def connections(lab: EbpfLab) -> bpfsys.Map:
    return bpfsys.Map(lab.paths.bpffs / "c1" / "node1" / "maps" / "cali_v4_ct")


def test_connections_are_forgotten_by_their_state(lab: EbpfLab) -> None:
    """Half-open, closed, UDP, and last of all the one that is only silent; each with both of its directions."""
    syn, ack = maps.TCP_SYN, maps.TCP_ACK
    flows = {"half-open": maps.Flow(CLIENT, FRONTEND, 4460, 80, 6), "closed": maps.Flow(CLIENT, FRONTEND, 4461, 80, 6),
             "udp": maps.Flow(CLIENT, FRONTEND, 4462, 80, 17), "open": maps.Flow(CLIENT, FRONTEND, 4463, 80, 6)}
    for name, flow in flows.items():
        translated = flow_of(run(lab, "from_uplink", frame(flow))[1])
        if name in ("closed", "open"):
            run(lab, "from_workload", frame(translated.reversed(), tcp_flags=syn | ack))
            run(lab, "from_uplink", frame(flow, tcp_flags=ack | (maps.TCP_FIN if name == "closed" else 0)))
    began, kernel = time.clock_gettime_ns(time.CLOCK_MONOTONIC), connections(lab)

    def there(seconds: int) -> set[str]:
        ebpf_connections.collect_garbage(kernel, began + seconds * 1_000_000_000)
        ports = [flow.sport if flow.saddr == CLIENT else flow.dport for flow in map(maps.Flow.read, kernel.keys())]
        assert all(ports.count(flow.sport) in (0, 2) for flow in flows.values())
        return {name for name, flow in flows.items() if flow.sport in ports}

    assert there(15) == flows.keys()
    assert there(25) == {"closed", "udp", "open"}
    assert there(45) == {"udp", "open"}
    assert there(70) == {"open"}
    assert there(3500) == {"open"}
    assert there(3700) == set()
    kernel.close()


def test_who_comes_again_while_garbage_is_collected_is_not_forgotten(lab: EbpfLab) -> None:
    """Reading a full table takes a while; a client that uses a port again in it had its new connection deleted."""
    kernel, flow = connections(lab), maps.Flow(CLIENT, FRONTEND, 4464, 80, 6)
    run(lab, "from_uplink", frame(flow, tcp_flags=maps.TCP_SYN))
    run(lab, "from_uplink", frame(flow, tcp_flags=maps.TCP_ACK | maps.TCP_FIN))

    class Read:
        """The table, where the client comes again once it has been read."""

        get, discard = kernel.get, kernel.discard

        def items(self) -> list[tuple[bytes, bytes]]:
            entries = list(kernel.items())
            run(lab, "from_uplink", frame(flow, tcp_flags=maps.TCP_SYN))
            return entries

    in_45_seconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 45 * 10**9
    ebpf_connections.collect_garbage(cast("bpfsys.Map", Read()), in_45_seconds)
    there = list(map(maps.Flow.read, kernel.keys()))
    kernel.close()
    assert flow in there
    assert flow.sport in [other.dport for other in there]


def test_new_connections_go_on_where_the_table_is_full_and_one_in_use_does_not_break(lab: EbpfLab) -> None:
    """Twice as many as it holds: those that were not used for longest give way."""
    kernel, size, said = connections(lab), 65536, []
    program = bpfsys.open_pinned(next((lab.paths.bpffs / "c1" / "node1").glob("programs-*/tc/from_uplink")))
    with netns.socket_in(lab.alice.netns, socket.AF_INET, socket.SOCK_STREAM) as talk:
        talk.settimeout(60)
        talk.connect((FRONTEND, 80))
        for number in range(size):                  # of two entries each
            source = f"203.0.113.{100 + number // 50000}"
            given = frame(maps.Flow(source, FRONTEND, 10000 + number % 50000, 80, 17))
            verdict, packet, _ = bpfsys.run(program, given)
            assert (verdict, flow_of(packet).daddr) == (REDIRECT, lab.pods["a1"].ip)
            if number % 1000 == 0:
                talk.send(b"hello")
                said.append(json.loads(talk.recv(4096))["server"])
    os.close(program)
    assert said == ["a1"] * (size // 1000 + 1)
    held = len(list(kernel.keys()))
    kernel.close()
    assert size // 2 < held <= size
    assert lab.ask(lab.alice.netns, "tcp", FRONTEND, 80)["server"] == "a1"


CONNECTS = """
import json, socket, sys, time
took = []
for i in range(300):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM)
    began = time.perf_counter_ns()
    s.connect((sys.argv[2], 80)); s.sendall(b"x"); s.recv(100)
    took.append(time.perf_counter_ns() - began)
    s.close()
print(json.dumps(took[20:]))
"""


@pytest.mark.slow
def test_ten_thousand_services_cost_no_more_than_ten(lab: EbpfLab) -> None:
    def service(i: int) -> ServicePort:
        return ServicePort("scale", f"s{i}", "", "TCP", f"10.1.{i // 250}.{i % 250 + 1}", 80,
                           endpoints=(Endpoint("10.224.0.6", 8080, "node1"), Endpoint("10.224.0.36", 8080, "node2")))

    def latency() -> float:
        argv = [sys.executable, "-c", CONNECTS, "tcp", CLUSTER_IP]
        cgroup: Path = lab.cgroup("node1")
        return min(json.loads(lab.run(lab.pods["a2"].netns, argv, cgroup=cgroup)))      # however busy it is

    everything = [(service(i).key, (service(i),)) for i in range(10_000)]
    nothing = [(key, ()) for key, _ in everything]
    few, many, programmed, changed = [], [], [], []
    for _ in range(4):                      # in turns: the machine has other things to do
        few.append(latency())
        began = time.monotonic()
        lab.on("node1", "apply_services", everything)
        programmed.append(time.monotonic() - began)
        began = time.monotonic()
        lab.on("node1", "apply_services", nothing[7:8])
        changed.append(time.monotonic() - began)
        many.append(latency())
        lab.on("node1", "apply_services", nothing)
    print(f"first packet {min(few) / 1000:.0f} -> {min(many) / 1000:.0f} us, programmed in {min(programmed):.2f} s, "
          f"one change in {min(changed) * 1000:.1f} ms")
    # `make bench` measures closely; here only growth tells: a walk through them would take six times as long.
    assert min(many) < 1.5 * min(few)
    assert min(changed) < min(programmed) / 20
