"""From recorded captures to hops: recordings of all three data planes, and what must not be told."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.sourceip import Hop, Trace, trace_packets
from labkit.sourceip.trace_model import Ends
from labkit.sourceip.trace_path import SentAgainError
from tests.sourceip.support import FOLDER, document, load, told

NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


def way(hops: tuple[Hop, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Kind of place, interface without the pods' hashes, steps."""
    def interface(hop: Hop) -> str:
        return "azv " + hop.direction if hop.interface.startswith("azv") else hop.where

    return [(hop.place.kind, interface(hop), hop.steps) for hop in hops]


def rewrites(trace: Trace) -> list[tuple[str, Ends, Ends]]:
    return [(hop.place.name, hop.before, hop.after) for hop in trace.hops if hop.rewritten]


@pytest.mark.parametrize("name", ["vanilla-detour", "iptables-detour"])
def test_kube_proxy_rewrites_both_ends_on_the_first_node_and_undoes_it_there(name: str) -> None:
    trace = load(name)
    assert way(trace.request) == [
        ("client", "", ("sent",)),
        ("node", "eth0 In", ("delivered",)),
        ("node", "eth0 Out", ("DNAT", "SNAT")),
        ("node", "eth0 In", ("crossed",)),
        ("node", "azv Out", ("forwarded",)),
        ("pod", "eth0 In", ("entered the pod",)),
    ]
    assert way(trace.reply) == [
        ("pod", "eth0 Out", ("answered",)),
        ("node", "azv In", ("left the pod",)),
        ("node", "eth0 Out", ("forwarded",)),
        ("node", "eth0 In", ("crossed",)),
        ("node", "eth0 Out", ("SNAT undone", "DNAT undone")),
        ("client", "", ("received",)),
    ]
    first = trace.request[1].place
    assert {place for place, _, _ in rewrites(trace)} == {first.name} != {trace.pod_node}
    (_, asked, sent), (_, answered, read) = rewrites(trace)
    assert (asked.destination, sent.source.rpartition(":")[0]) == (trace.asked, first.address)
    assert answered == Ends(sent.destination, sent.source)
    assert read == Ends(asked.destination, asked.source)
    assert not trace.preserved
    assert trace.seen_is == first.name
    assert trace.seen == sent.source
    entry = next(r for r in trace.request[2].evidence if r.source.startswith("conntrack"))
    for word in (f"src={trace.client_address}", f"dport={sent.source.rpartition(':')[2]}"):
        assert word in entry.text.split()


def test_policy_local_keeps_the_client_by_not_changing_nodes() -> None:
    trace = load("iptables-local")
    assert [steps for _, _, steps in way(trace.request)] == [
        ("sent",), ("delivered",), ("DNAT",), ("entered the pod",)]
    assert trace.preserved
    assert not trace.detour
    assert trace.seen.startswith(f"{trace.client_address}:")


def test_ebpf_wraps_the_packet_and_puts_it_into_the_pod_past_the_stack() -> None:
    trace = load("ebpf-detour")
    assert way(trace.request) == [
        ("client", "", ("sent",)),
        ("node", "eth0 In", ("delivered",)),
        ("node", "vxlan.calico Out", ("into the tunnel",)),
        ("node", "eth0 Out", ("wrapped",)),
        ("node", "eth0 In", ("crossed",)),
        ("node", "vxlan.calico In", ("unwrapped",)),
        ("pod", "eth0 In", ("DNAT", "redirected")),
    ]
    assert [hop.outer is not None for hop in trace.request] == [False, False, False, True, True, False, False]
    assert {hop.after.source for hop in trace.request} == {trace.seen}
    assert trace.preserved
    last = trace.request[-1]
    absent = next(r for r in last.evidence if r.absent)
    assert "0 packets of the connection went Out to the pod on any interface; its interface azv" in absent.text
    assert not absent.text.endswith(" 0 packets In from it")
    assert any("-bpf conntrack dump" in r.source and trace.seen in r.text for r in last.evidence)
    assert [steps for _, _, steps in way(trace.reply)] == [
        ("answered",), ("left the pod",), ("DNAT undone", "into the tunnel"), ("wrapped",), ("crossed",),
        ("unwrapped",), ("forwarded",), ("received",)]


def test_with_ebpf_a_pods_connection_is_never_rewritten_on_the_wire() -> None:
    trace = load("ebpf-pod")
    first, *rest = trace.request
    assert first.steps == ("chosen at connect",)
    assert (first.before.destination, trace.peer) == (trace.asked, trace.asked)
    assert not any(hop.rewritten for hop in (*rest, *trace.reply))
    assert any(r.absent and r.text.endswith(f"carries {trace.asked}") for r in first.evidence)
    frontend = trace.asked.replace(":", " port ")
    table = next(r for r in first.evidence if "nat dump" in r.source)
    assert table.text.startswith(frontend)
    assert table.text.endswith(first.after.destination)
    assert trace.reply[-1].steps == ("redirected",)


@pytest.mark.parametrize("name", ["vanilla-pod", "iptables-pod"])
def test_with_kube_proxy_a_pods_packets_are_rewritten_on_its_node(name: str) -> None:
    trace = load(name)
    assert trace.request[0].after.destination == trace.asked
    node = trace.request[1].place
    assert [(place, way) for place, way, _ in rewrites(trace)] == [
        (node.name, trace.request[1].after), (node.name, trace.reply[0].after)]
    assert trace.reply[-1].after.source == trace.asked
    assert trace.preserved


@pytest.mark.parametrize("name", NAMES)
def test_every_hop_rests_on_a_recorded_line_and_follows_from_the_one_before(name: str) -> None:
    trace, raw = load(name), document(name)
    lines = {line for capture in raw["captures"] for line in capture["lines"]}
    for hops in (trace.request, trace.reply):
        for before, hop in itertools.pairwise(hops):
            assert hop.before == before.after
    for hop in trace.hops:
        captured = [r for r in hop.evidence if not r.absent and r.source.startswith("tcpdump")]
        assert captured or not hop.direction
        for record in captured:
            assert set(record.text.split(" | ")) <= lines
    assert trace.later_same
    assert trace.notes == ()
    said = str(trace)
    assert trace.verdict in said
    assert all(str(hop.after) in said for hop in trace.hops)


@pytest.mark.parametrize("shifts", [(-1000.0, 500.0, -30.0, 7000.0), (800.0, -40.0, 7000.0, -9000.0)])
@pytest.mark.parametrize("name", NAMES)
def test_clocks_that_differ_between_places_change_nothing(name: str, shifts: tuple[float, ...]) -> None:
    raw = document(name)
    for capture, shift in zip(raw["captures"], shifts, strict=False):
        capture["lines"] = [_later(line, shift) for line in capture["lines"]]
    shifted, trace = told(raw), load(name)
    assert [(h.place, h.where, h.steps) for h in shifted.hops] == [(h.place, h.where, h.steps) for h in trace.hops]


def _later(line: str, seconds: float) -> str:
    stamp, _, rest = line.partition(" ")
    return f"{float(stamp) + seconds:.6f} {rest}" if stamp.replace(".", "").isdigit() else line


def test_a_packet_on_the_pods_interface_is_told_as_the_way_through_it() -> None:
    """The absence is evidence only because a presence would be told otherwise."""
    raw = document("ebpf-detour")
    node = next(c for c in raw["captures"] if c["place"]["name"] == load("ebpf-detour").pod_node)
    pod = next(c for c in raw["captures"] if c["place"]["kind"] == "pod")
    syn = next(line for line in pod["lines"] if "Flags [S]," in line and "203.0.113.10" in line)
    veth = next(line.split()[1] for line in node["lines"] if " azv" in line)
    stamp = f"{float(syn.split()[0]) - 0.000001:.6f}"
    node["lines"].append(syn.replace("eth0  In ", f"{veth} Out").replace(syn.split()[0], stamp))
    trace = told(raw)
    assert trace.request[-2].steps == ("DNAT",)
    assert trace.request[-1].steps == ("entered the pod",)
    assert not any(r.absent for hop in trace.request for r in hop.evidence)


def test_without_a_capture_in_the_pod_the_answer_says_whom_it_saw() -> None:
    raw = document("iptables-detour")
    raw["captures"] = [c for c in raw["captures"] if c["place"]["kind"] == "node"]
    trace = told(raw)
    assert trace.request[-1].place.kind == "node"
    assert trace.seen == raw["answered"]["said"]
    assert trace.pod.startswith("labkit-echo/echo-")


def test_another_connection_of_the_same_moment_is_not_mixed_in() -> None:
    raw = document("ebpf-detour")
    port = load("ebpf-detour").seen.rpartition(":")[2]
    for capture in raw["captures"]:
        others = [_renumbered(line, port) for line in capture["lines"]]
        capture["lines"] = others + capture["lines"]
    assert told(raw).hops == load("ebpf-detour").hops
    raw["answered"]["said"] = ""
    with pytest.raises(LabError, match=r"2 connections to 192.0.2.12:80 were made at once"):
        told(raw)


def _renumbered(line: str, port: str) -> str:
    return line.replace(f".{port}", ".1024").replace("seq ", "seq 1").replace("ack ", "ack 1")


def changed(name: str, **answered: str) -> dict[str, Any]:
    raw = copy.deepcopy(document(name))
    raw["answered"] |= answered
    return raw


def test_a_connection_that_reaches_no_pod_says_so() -> None:
    raw = changed("iptables-local", said="", error="no answer within 3 s")
    for capture in raw["captures"]:
        capture["lines"] = [line for line in capture["lines"] if "192.0.2.12.80: Flags [S]" in line]
    with pytest.raises(LabError, match="reached no pod of labkit-echo/echo") as caught:
        told(raw)
    assert "no answer within 3 s" in str(caught.value)
    for capture in raw["captures"]:
        capture["lines"] = []
    with pytest.raises(LabError, match=r"No node saw a connection to 192.0.2.12:80"):
        told(raw)


def test_a_pod_on_its_nodes_network_is_told_from_one_that_was_not_reached() -> None:
    """What a node rewrites for itself is seen by no capture: the connection came and went, with nothing of the pod."""
    raw = document("iptables-local")
    raw["question"]["backends"][0]["address"] = raw["question"]["nodes"][0]["address"]
    raw["question"]["backend_port"] = 8088
    with pytest.raises(LabError, match="no capture shows by which pod") as caught:
        told(raw)
    assert "use their node's network" in str(caught.value)
    raw["answered"]["error"] = "no answer within 3 s"
    with pytest.raises(LabError, match="reached no pod"):
        told(raw)


def test_a_first_packet_that_came_in_by_two_nodes_is_two_ways() -> None:
    """The node without a rule for the service let it pass; sent again it came in by the other one, and was answered."""
    raw = document("vanilla-detour")
    nodes = [capture for capture in raw["captures"] if capture["place"]["kind"] == "node"]
    asked = raw["question"]["asked"].replace(":", ".")
    [first] = [line for node in nodes for line in node["lines"] if f"> {asked}: Flags [S]," in line and " In " in line]
    for node in nodes:
        if first not in node["lines"]:
            node["lines"] = [first, first.replace(" In ", " Out "), *node["lines"]]
    with pytest.raises(SentAgainError, match="came in by 2 nodes"):
        told(raw)


def test_a_client_whose_address_nobody_knew_is_the_client_where_no_node_has_it() -> None:
    raw = document("ebpf-detour")
    raw["question"]["client"]["address"] = ""
    assert told(raw).preserved
    raw = document("iptables-detour")
    raw["question"]["client"]["address"] = ""
    assert told(raw).seen_is.startswith("aks-")


def test_packets_that_were_sent_again_are_one_sighting() -> None:
    raw = document("vanilla-detour")
    for capture in raw["captures"]:
        again = [_later(line, 1.0) for line in capture["lines"]]
        capture["lines"] += again
    assert told(raw).hops == load("vanilla-detour").hops


def test_lines_of_tcpdump() -> None:
    lines = [
        "1.5 vxlan.calico P   IP 10.0.0.1.80 > 10.0.0.2.81: Flags [S.], seq 7, ack 9, win 1, length 0",
        "2.5 eth0  Out IP 10.0.0.3.999 > 10.0.0.4.4789: VXLAN, flags [I] (0x08), vni 4096",
        "IP 10.0.0.1.80 > 10.0.0.2.81: Flags [P.], seq 10:20, ack 9, win 1, length 10",
        "3.5 eth0  In  ARP, Request who-has 10.0.0.1 tell 10.0.0.2, length 28",
        "4.5 eth0  Out IP 10.0.0.3.999 > 10.0.0.4.4789: VXLAN, flags [I] (0x08), vni 4096",
        "5.5 eth0  In  IP6 2001:db8::1.80 > 2001:db8::2.81: Flags [S], seq 1, win 1, length 0",
        "IP 10.0.0.1.80 > 10.0.0.2.81: Flags [P.], seq 10:20, ack 9, win 1, length 10",
        "12 packets captured",
    ]
    got = trace_packets.parse(lines)
    assert [(p.time, p.interface, p.direction, p.flags, p.seq, p.ack, p.length) for p in got] == [
        (1.5, "vxlan.calico", "In", "S.", 7, 9, 0), (2.5, "eth0", "Out", "P.", 10, 9, 10),
        (5.5, "eth0", "In", "S", 1, None, 0)]
    assert got[1].outer == Ends("10.0.0.3:999", "10.0.0.4:4789")
    assert got[2].ends == Ends("2001:db8::1:80", "2001:db8::2:81")


def test_a_pod_that_reaches_itself_is_at_both_ends() -> None:
    trace = load("iptables-self")
    assert way(trace.request) == [
        ("pod", "eth0 Out", ("sent",)), ("node", "azv In", ("left the pod",)),
        ("node", "azv Out", ("DNAT", "SNAT")), ("pod", "eth0 In", ("entered the pod",))]
    assert way(trace.reply)[-1] == ("pod", "eth0 In", ("entered the pod",))
    assert trace.seen_is == trace.pod_node
    trace = load("ebpf-self")
    assert way(trace.request) == [("pod", "socket", ("chosen at connect",)), ("pod", "lo In", ("sent",))]
    assert trace.preserved
