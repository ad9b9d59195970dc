"""Calico's eBPF data plane by real packets: who reaches whom, by which way, and what the server sees."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from labkit.local.dataplane import ebpf_cli
from labkit.local.dataplane.calico_iptables import CalicoIptables, build_bpf_mode
from labkit.local.dataplane.felix import FelixConfig
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.policy import Rule
from labkit.local.dataplane.services import Endpoint
from labkit.local.fabric import netns, repair
from tests.dataplane.ebpf_lab import CLUSTER_IP, FRONTEND, NODE_PORT, EbpfLab, Server, ebpf_lab

pytestmark = pytest.mark.kernel
PROTOCOLS = ["tcp", "udp"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EbpfLab]:
    with ebpf_lab(tmp_path_factory.mktemp("ebpf") / "lab") as lab:
        lab.serve("a1", "a2", "b1")
        yield lab


@pytest.fixture
def lab(world: EbpfLab) -> Iterator[EbpfLab]:
    """The same networks for each test, and nothing else of the one before."""
    world.policies.clear()
    world.up()
    yield world
    world.down()
    assert subprocess.run(["ip", "-n", world.nodes["node1"].netns, "link", "show", "vxlan.calico"],
                          capture_output=True, timeout=60, check=False).returncode != 0


def dump(lab: EbpfLab, node: str, *command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    bpffs = lab.paths.bpffs / "c1" / node
    assert netns.run_inside(lab.nodes[node].netns, lambda: ebpf_cli.main(command, bpffs)) == 0
    return capsys.readouterr().out


def service(lab: EbpfLab, kind: str, *backends: str, **fields: object) -> object:
    port = lab.service(*backends, protocol=kind.upper(), **fields)
    lab.up(port, config=fields.pop("config", None))  # type: ignore[arg-type]
    return port


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("client", ["a1", "b1"])
def test_pod_to_pod(lab: EbpfLab, client: str, kind: str) -> None:
    for server in ("a2", "b1"):
        answer = lab.from_pod(client, kind, lab.pods[server].ip, 8080)
        assert (answer["server"], answer["client"]) == (server, lab.pods[client].ip)


@pytest.mark.parametrize("kind", [*PROTOCOLS, "unconnected"])
@pytest.mark.parametrize("backend", ["a1", "a2", "b1"], ids=["itself", "same-node", "other-node"])
def test_pod_to_cluster_ip(lab: EbpfLab, backend: str, kind: str) -> None:
    service(lab, "tcp" if kind == "tcp" else "udp", backend)
    answer = lab.from_pod("a1", kind, CLUSTER_IP, 80)
    assert answer["server"] == backend
    assert answer["peer"] == [CLUSTER_IP, 80]


@pytest.mark.parametrize("mode", ["TCP", "Enabled", "Disabled"])
@pytest.mark.parametrize("kind", [*PROTOCOLS, "unconnected"])
def test_connect_time_load_balancing_is_a_choice(
        lab: EbpfLab, kind: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = lab.service("b1", protocol="TCP" if kind == "tcp" else "UDP")
    lab.up(port, config=FelixConfig(bpf_connect_time_load_balancing=mode))
    answer = lab.from_pod("a1", kind, CLUSTER_IP, 80)
    assert (answer["server"], answer["peer"]) == ("b1", [CLUSTER_IP, 80])
    connections = dump(lab, "node1", "conntrack", "dump", capsys=capsys)
    at_connect = mode == "Enabled" or (mode == "TCP" and kind == "tcp")
    assert (f"{CLUSTER_IP}:80" in connections) is not at_connect      # else packets are translated


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_node_to_cluster_ip(lab: EbpfLab, kind: str) -> None:
    for backend in ("a1", "b1"):
        service(lab, kind, backend)
        answer = lab.from_node("node1", kind, CLUSTER_IP, 80)
        assert (answer["server"], answer["client"]) == (backend, lab.nodes["node1"].ip)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_node_reaches_itself_by_a_service(lab: EbpfLab, kind: str) -> None:
    """Packet by packet, in fragments, too; and it hears at once that the port is closed."""
    node = lab.nodes["node1"]
    ends = (Endpoint(node.ip, 8080, "node1"),)
    lab.up(lab.service(protocol=kind.upper(), endpoints=ends),
           config=FelixConfig(bpf_connect_time_load_balancing="Disabled"))
    assert lab.from_node("node1", kind, CLUSTER_IP, 80) == {"error": "ConnectionRefusedError"}
    server = Server(node.netns, 8080, "node1")
    try:
        answer = lab.from_node("node1", kind, CLUSTER_IP, 80, payload="x" * 5000)
    finally:
        server.close()
    assert answer == {"server": "node1", "client": node.ip, "size": 5000, "peer": [CLUSTER_IP, 80]}


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_node_reaches_its_own_node_ports_without_connect_time_load_balancing(lab: EbpfLab, kind: str) -> None:
    """And another node, which has the back end itself: what is longer than a pod's link takes is cut for it."""
    node, config = lab.nodes["node1"], FelixConfig(bpf_connect_time_load_balancing="Disabled")
    for backend in ("a1", "b1"):
        lab.up(lab.service(backend, protocol=kind.upper()), config=config)
        for asker in ("node1", "node2"):
            sizes = (100_000,) if kind == "tcp" else (5000, 1480, 1200)
            for size in sizes:
                answer = lab.from_node(asker, kind, node.ip, NODE_PORT, payload="x" * size)
                assert (answer["server"], answer["client"]) == (backend, lab.nodes[asker].ip)
                assert answer["peer"] == [node.ip, NODE_PORT]
                assert kind == "tcp" or answer["size"] == size
    lab.up(lab.service(protocol=kind.upper()), config=config)
    assert lab.from_node("node1", kind, node.ip, NODE_PORT) == {"error": "ConnectionRefusedError"}


@pytest.mark.parametrize("mode", ["Tunnel", "DSR"])
@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("backend", ["a1", "b1"], ids=["local", "remote"])
def test_outside_client_keeps_its_address(
        lab: EbpfLab, backend: str, kind: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    lab.up(lab.service(backend, protocol=kind.upper()), config=FelixConfig(bpf_external_service_mode=mode))
    answer = lab.ask(lab.alice.netns, kind, FRONTEND, 80)
    assert (answer["server"], answer["client"], answer["peer"]) == (backend, lab.alice.address, [FRONTEND, 80])
    replies = [line for line in dump(lab, "node1", "conntrack", "dump", "--raw", capsys=capsys).splitlines()
               if lab.alice.address in line and re.search("Packets:[1-9][^}]*Opener:false", line)]
    if backend == "b1":                     # replies come back by node1, but not with direct server return
        assert bool(replies) is (mode == "Tunnel")


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_node_port_from_the_network(lab: EbpfLab, node: str, kind: str) -> None:
    service(lab, kind, "b1")
    answer = lab.ask(lab.vnet.netns, kind, lab.nodes[node].ip, NODE_PORT)
    assert (answer["server"], answer["client"]) == ("b1", "10.224.0.1")


def test_external_policy_local_takes_no_detour(lab: EbpfLab) -> None:
    service(lab, "tcp", "a1", "b1", external_policy="Local")
    assert {lab.ask(lab.alice.netns, "tcp", FRONTEND, 80)["server"] for _ in range(6)} == {"a1"}
    service(lab, "tcp", "b1", external_policy="Local")
    assert lab.ask(lab.alice.netns, "tcp", FRONTEND, 80, patience=0.5)["error"] == "TimeoutError"
    assert lab.from_pod("a1", "tcp", CLUSTER_IP, 80)["server"] == "b1"      # inside, every backend will do


def test_a_service_without_backends_refuses(lab: EbpfLab) -> None:
    service(lab, "tcp")
    assert lab.from_pod("a1", "tcp", CLUSTER_IP, 80)["error"] == "ConnectionRefusedError"


def test_backends_share_the_load(lab: EbpfLab) -> None:
    service(lab, "tcp", "a1", "a2", "b1")
    seen: set[object] = set()
    for _ in range(200):
        with connection(lab, lab.alice.netns, FRONTEND, 80) as sock:
            seen.add(says(sock))
    assert seen == {"a1", "a2", "b1"}


def test_affinity_keeps_a_client_with_its_backend(lab: EbpfLab) -> None:
    service(lab, "tcp", "a1", "a2", affinity_seconds=60)
    assert len({lab.ask(lab.alice.netns, "tcp", FRONTEND, 80)["server"] for _ in range(8)}) == 1
    assert len({lab.from_pod("b1", "tcp", CLUSTER_IP, 80)["server"] for _ in range(8)}) == 1


def test_source_ranges(lab: EbpfLab) -> None:
    service(lab, "tcp", "a1", lb_source_ranges=(f"{lab.alice.address}/32",))
    assert lab.ask(lab.alice.netns, "tcp", FRONTEND, 80)["server"] == "a1"
    assert lab.ask(lab.bob.netns, "tcp", FRONTEND, 80, patience=0.5)["error"] == "TimeoutError"
    assert lab.from_pod("a2", "tcp", CLUSTER_IP, 80)["server"] == "a1"


@pytest.mark.parametrize("backend", ["a1", "b1"])
def test_policy_on_outside_clients(lab: EbpfLab, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = Rule("Allow", "TCP", (f"{lab.alice.address}/32",), (), ((8080, 8080),), "default.web")
    lab.policy(backend, ingress=(allowed,))
    service(lab, "tcp", backend)
    assert lab.ask(lab.alice.netns, "tcp", FRONTEND, 80)["server"] == backend
    assert lab.ask(lab.bob.netns, "tcp", FRONTEND, 80, patience=0.5)["error"] == "TimeoutError"
    assert lab.from_pod("a2", "tcp", CLUSTER_IP, 80, patience=0.5)["error"] == "TimeoutError"
    node = lab.home_of[backend].name
    assert lab.from_node(node, "tcp", lab.pods[backend].ip, 8080)["server"] == backend    # its node may, always
    rules = dump(lab, node, "policy", "dump", lab.pods[backend].host_interface, "all", capsys=capsys)
    wanted = rf"Action: allow\n +IP sets: src=\{{{re.escape(lab.alice.address)}/32\}}\n +Hit count: [1-9]"
    assert re.search(wanted, rules)


def test_egress_policy_sees_the_backend(lab: EbpfLab) -> None:
    lab.policy("a1", egress=(Rule("Allow", None, (f"{lab.pods['b1'].ip}/32",)),))
    service(lab, "udp", "b1")
    assert lab.from_pod("a1", "udp", CLUSTER_IP, 80)["server"] == "b1"
    assert lab.from_pod("a1", "udp", lab.pods["a2"].ip, 8080, patience=0.5)["error"] == "TimeoutError"
    assert lab.from_pod("a2", "udp", lab.pods["a1"].ip, 8080)["server"] == "a1"            # a reply is no new flow
    assert lab.from_node("node1", "udp", lab.pods["a1"].ip, 8080)["server"] == "a1"


def test_a_pod_cannot_lie_about_its_address(lab: EbpfLab, capsys: pytest.CaptureFixture[str]) -> None:
    space = lab.pods["a1"].netns
    netns.ip(space, ["addr add 10.224.0.99/32 dev eth0"])
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.bind(("10.224.0.99", 0))
        liar.sendto(b"hello", (lab.pods["a2"].ip, 8080))
    netns.ip(space, ["addr del 10.224.0.99/32 dev eth0"])
    assert "10.224.0.99" not in dump(lab, "node1", "conntrack", "dump", capsys=capsys)
    counters = dump(lab, "node1", "counters", "dump", f"--iface={lab.pods['a1'].host_interface}", capsys=capsys)
    assert re.search(r"\| packets with unknown source +\| +1 \| +0 \| N/A \|", counters)


@pytest.mark.parametrize("mode", ["Tunnel", "DSR"])
def test_large_transfers_and_datagrams_cross_the_tunnel(lab: EbpfLab, mode: str) -> None:
    config = FelixConfig(bpf_external_service_mode=mode)
    lab.up(lab.service("b1"), lab.service("b1", protocol="UDP"), config=config)
    answer = lab.ask(lab.alice.netns, "udp", FRONTEND, 80, payload="x" * 5000)      # four fragments
    assert (answer["server"], answer["size"]) == ("b1", 5000)
    size, got = 32 << 20, 0
    listener = netns.socket_in(lab.pods["b1"].netns, socket.AF_INET, socket.SOCK_STREAM)
    with listener, netns.socket_in(lab.alice.netns, socket.AF_INET, socket.SOCK_STREAM) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 9999))
        listener.listen()
        lab.up(lab.service("b1", endpoints=tuple(
            type(e)(e.ip, 9999, e.node) for e in lab.service("b1").endpoints)), config=config)
        client.settimeout(60)
        client.connect((FRONTEND, 80))
        server, peer = listener.accept()
        assert peer[0] == lab.alice.address
        with server:
            for sender, receiver in ((client, server), (server, client)):
                got, left = 0, memoryview(bytes(size))
                sender.setblocking(False)
                until = time.monotonic() + 60           # without path MTU discovery it would take far longer
                while got < size:
                    assert time.monotonic() < until
                    with contextlib.suppress(BlockingIOError):
                        left = left[sender.send(left[:1 << 20]):] if left else left
                    receiver.setblocking(not left)
                    with contextlib.suppress(BlockingIOError):
                        got += len(receiver.recv(1 << 20))


def connection(lab: EbpfLab, space: str, ip: str, port: int) -> socket.socket:
    sock = netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect((ip, port))
    return sock


def says(sock: socket.socket) -> str:
    sock.sendall(b"hello")
    return str(json.loads(sock.recv(65536))["server"])


def forwarded(lab: EbpfLab) -> list[int]:
    """How many packets each node's stack has forwarded."""
    counts = []
    for node in lab.nodes.values():
        text = netns.run_inside(node.netns, lambda: Path("/proc/thread-self/net/snmp").read_text())
        names, values = (line.split() for line in text.splitlines() if line.startswith("Ip: "))
        counts.append(int(values[names.index("ForwDatagrams")]))
    return counts


def test_the_hosts_stack_forwards_no_packet_of_a_connection(lab: EbpfLab) -> None:
    for client, frontend, backend in (("a1", "", "a2"), ("a1", "", "b1"), ("a1", CLUSTER_IP, "b1"),
                                      ("alice", FRONTEND, "a1"), ("alice", FRONTEND, "b1")):
        service(lab, "tcp", backend)
        space = lab.alice.netns if client == "alice" else lab.pods[client].netns
        before = forwarded(lab)
        with connection(lab, space, frontend or lab.pods[backend].ip, 80 if frontend else 8080) as sock:
            assert {says(sock) for _ in range(20)} == {backend}
        assert forwarded(lab) == before, (client, frontend, backend)


IPTABLES = f"""
*nat
-A PREROUTING -d {FRONTEND}/32 -p tcp --dport 80 -j DNAT --to-destination {{backend}}:8080
-A PREROUTING -d {CLUSTER_IP}/32 -p tcp --dport 80 -j DNAT --to-destination {{backend}}:8080
-A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE
COMMIT
"""


def test_connections_survive_the_switch_to_ebpf_and_back(lab: EbpfLab) -> None:
    """What kube-proxy translated stays with the host's stack; what eBPF translated stays with eBPF."""
    lab.down()
    node = lab.nodes["node1"].netns
    rules = IPTABLES.format(backend=lab.pods["b1"].ip)
    netns.run_inside(node, lambda: subprocess.run(["iptables-restore"],
                                                    input=rules, text=True, check=True, timeout=60))
    try:
        before = {"outside": connection(lab, lab.alice.netns, FRONTEND, 80),
                  "pod": connection(lab, lab.pods["a1"].netns, CLUSTER_IP, 80)}
        assert {says(sock) for sock in before.values()} == {"b1"}
        lab.up(lab.service("a2"))
        assert {says(sock) for sock in before.values()} == {"b1"}
        after = {"outside": connection(lab, lab.alice.netns, FRONTEND, 80),
                 "pod": connection(lab, lab.pods["a1"].netns, lab.pods["b1"].ip, 8080)}
        assert (says(after["outside"]), says(after["pod"])) == ("a2", "b1")
        lab.down()
        assert {says(sock) for sock in before.values()} == {"b1"}
        assert (says(after["outside"]), says(after["pod"])) == ("a2", "b1")
        with connection(lab, lab.alice.netns, FRONTEND, 80) as new:
            assert says(new) == "b1"                            # new ones are iptables' again
        for sock in (*before.values(), *after.values()):
            sock.close()
        until = time.monotonic() + 60
        while netns.has_link(node, "vxlan.calico"):              # until the last one has ended
            assert time.monotonic() < until
            time.sleep(0.05)
            lab.on("node1", "tick")
    finally:
        netns.run_inside(node, lambda: subprocess.run(["iptables", "-t", "nat", "-F"], check=True, timeout=60))


def test_packets_of_no_connection_are_no_way_around_policy(lab: EbpfLab) -> None:
    lab.policy("a2", ingress=())
    lab.up()
    source, target = lab.pods["a1"], lab.pods["a2"]
    ack = struct.pack(">HHIIBBHHH", 4444, 8080, 1, 1, 5 << 4, 0x10, 1024, 0, 0)     # no SYN
    rules, node = CalicoIptables(Iptables()), lab.nodes["node1"].netns

    def raw_socket() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)

    with netns.run_inside(source.netns, raw_socket) as probe, netns.run_inside(target.netns, raw_socket) as seen:
        seen.settimeout(20)
        probe.sendto(ack, (target.ip, 0))
        assert seen.recv(2048)                                  # the programs leave it to the host's stack …
        netns.run_inside(node, lambda: rules.apply(build_bpf_mode(lab.planes["node1"].interfaces)))
        try:
            seen.settimeout(0.5)
            probe.sendto(ack, (target.ip, 0))
            with pytest.raises(TimeoutError):                   # … where Felix has a rule for that
                seen.recv(2048)
        finally:
            netns.run_inside(node, rules.remove)


def test_ping(lab: EbpfLab) -> None:
    def ping(target: str) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(20)
            sock.sendto(struct.pack(">BBHHH", 8, 0, 0, 1, 1) + b"hello", (target, 0))
            return sock.recv(100)

    for target in (lab.pods["a2"].ip, lab.pods["b1"].ip, lab.nodes["node1"].ip, lab.nodes["node2"].ip):
        assert netns.run_inside(lab.pods["a1"].netns, partial(ping, target)).endswith(b"hello")


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_pods_reach_outside_frontends_and_node_ports_without_leaving(lab: EbpfLab, kind: str) -> None:
    service(lab, kind, "b1", external_policy="Local")
    for ip, port in ((FRONTEND, 80), (lab.nodes["node1"].ip, NODE_PORT), (lab.nodes["node2"].ip, NODE_PORT)):
        answer = lab.from_pod("a1", kind, ip, port)
        assert (answer["server"], answer["client"], answer["peer"]) == ("b1", lab.pods["a1"].ip, [ip, port])


def test_the_agent_may_die(lab: EbpfLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.up(lab.service("b1"), lab.service("a1", cluster_ip="10.0.8.8", name="goes", node_port=0, lb_ips=()))
    with connection(lab, lab.alice.netns, FRONTEND, 80) as kept:
        assert says(kept) == "b1"
        for node in lab.nodes:
            netns.run_inside(lab.nodes[node].netns, lab.planes[node].close)
            lab.planes[node] = lab.plane(node)
        assert says(kept) == "b1"                               # without any agent
        assert lab.from_pod("a1", "tcp", "10.0.8.8", 80)["server"] == "a1"
        before = dump(lab, "node1", "nat", "dump", capsys=capsys)
        lab.up(lab.service("b1"))                               # a service went away meanwhile
        assert says(kept) == "b1"
    after = dump(lab, "node1", "nat", "dump", capsys=capsys)
    assert "10.0.8.8" in before
    assert "10.0.8.8" not in after
    assert set(after.splitlines()) < set(before.splitlines())   # and the other one kept its entries


def test_udp_follows_its_service_to_new_backends(lab: EbpfLab) -> None:
    service(lab, "udp", "a2")
    with netns.socket_in(lab.alice.netns, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect((FRONTEND, 80))
        assert says(client) == "a2"
        service(lab, "udp", "b1")
        assert says(client) == "b1"
        service(lab, "udp", "a1")
        assert says(client) == "a1"


def test_a_pods_interface_that_was_made_again_is_served_at_the_next_look(lab: EbpfLab) -> None:
    lab.up()
    pod, node = lab.pods["a1"], lab.nodes["node1"]

    def programs() -> str:
        return lab.run(node.netns, ["tc", "filter", "show", "dev", pod.host_interface, "ingress"])
    assert "from_workload" in programs()
    netns.ip(node.netns, [f"link del {pod.host_interface}"])
    repair.look_after(lab.vnet, node, [pod])
    assert "from_workload" not in programs()
    lab.on("node1", "repair")
    assert "from_workload" in programs()
    assert lab.from_pod("a1", "tcp", lab.pods["b1"].ip, 8080)["server"] == "b1"
