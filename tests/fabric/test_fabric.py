from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import subprocess
from collections import Counter

import pytest
from dnslib import DNSRecord

from labkit.local.fabric import AZURE_RESOLVER, Fabric, host_interface
from labkit.local.fabric import netns as ns
from labkit.local.fabric.dns import AzureDns

pytestmark = pytest.mark.kernel


def listen(lab: Fabric, space: str, address: tuple[str, int]) -> socket.socket:
    server = lab.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
    server.settimeout(60)
    server.bind(address)
    server.listen()
    return server


def connect(lab: Fabric, space: str, address: tuple[str, int]) -> socket.socket:
    client = lab.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(60)
    try:
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


def test_pods_talk_across_nodes_with_their_own_addresses(lab: Fabric) -> None:
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    a = vnet.add_pod(nodes[0], "aaaaaaaa-1", "default", "a", nodes[0].pod_ips[0])
    b = vnet.add_pod(nodes[1], "bbbbbbbb-1", "default", "b", nodes[1].pod_ips[3])
    assert a.host_interface == host_interface("default", "a")
    with listen(lab, b.netns, ("0.0.0.0", 80)) as server, connect(lab, a.netns, (b.ip, 80)) as client:
        accepted, peer = server.accept()
        accepted.close()
        assert peer[0] == a.ip
        assert client.getsockname()[0] == a.ip


def test_what_leaves_the_vnet_has_the_outbound_address(lab: Fabric) -> None:
    lab.add_api_address("192.0.2.1")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    node = vnet.add_node("node-0", 0)
    pod = vnet.add_pod(node, "aaaaaaaa-1", "default", "a", node.pod_ips[0])
    with listen(lab, lab.internet, ("192.0.2.1", 443)) as api:
        for space in (pod.netns, node.netns):
            with connect(lab, space, ("192.0.2.1", 443)):
                accepted, peer = api.accept()
                accepted.close()
                assert peer[0] == "192.0.2.10"


def test_a_frontend_spreads_connections_and_keeps_the_clients_address(lab: Fabric) -> None:
    alice = lab.ensure_client("alice")
    assert alice.address == "203.0.113.10"
    assert lab.clients() == [alice]
    assert lab.client_netns("alice") == alice.netns
    assert lab.client_netns("nobody") is None
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    vnet.set_frontend("192.0.2.20", [node.ip for node in nodes])
    servers = []
    for node in nodes:  # a process that owns the frontend's address stands in for the node's data plane
        ns.ip(node.netns, ["addr add 192.0.2.20/32 dev lo"])
        servers.append(listen(lab, node.netns, ("192.0.2.20", 80)))
    seen: Counter[int] = Counter()
    for _ in range(40):
        connect(lab, alice.netns, ("192.0.2.20", 80)).close()
    while seen.total() < 40:
        ready, _, _ = select.select(servers, [], [], 60)
        assert ready, "none is lost"
        accepted, peer = ready[0].accept()
        accepted.close()
        assert peer[0] == alice.address
        seen[servers.index(ready[0])] += 1
    for server in servers:
        server.close()
    assert set(seen) == {0, 1}
    vnet.set_frontend("192.0.2.20", [])
    with lab.socket_in(alice.netns, socket.AF_INET, socket.SOCK_STREAM) as unanswered:
        unanswered.settimeout(0.3)
        with pytest.raises(TimeoutError):
            unanswered.connect(("192.0.2.20", 80))
    vnet.remove_frontend("192.0.2.20")


def test_the_same_addresses_and_ports_lead_to_the_same_node(lab: Fabric) -> None:
    """Whatever number Linux gives the connection, and gives it anew when it sends a packet again."""
    alice = lab.ensure_client("alice")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    vnet.set_frontend("192.0.2.20", [node.ip for node in nodes])
    for node in nodes:
        ns.ip(node.netns, ["addr replace 192.0.2.20/32 dev lo"])
    servers = [listen(lab, node.netns, ("192.0.2.20", 80)) for node in nodes]
    found: dict[int, set[int]] = {port: set() for port in (41001, 41002, 41003)}
    for port in [*found] * 10:
        with lab.socket_in(alice.netns, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))    # gone when closed
            client.bind((alice.address, port))
            client.settimeout(60)
            client.connect(("192.0.2.20", 80))
            ready, _, _ = select.select(servers, [], [], 60)
            ready[0].accept()[0].close()
            found[port].add(servers.index(ready[0]))
    for server in servers:
        server.close()
    vnet.remove_frontend("192.0.2.20")
    assert [len(nodes) for nodes in found.values()] == [1, 1, 1]


def test_a_connection_stays_on_its_node_whatever_nodes_come_and_go(lab: Fabric) -> None:
    """As long as its own is there: also when that takes no new ones, for it is being drained."""
    alice = lab.ensure_client("alice")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1, 2)]
    vnet.set_frontend("192.0.2.20", [node.ip for node in nodes[:2]])
    for node in nodes:
        ns.ip(node.netns, ["addr replace 192.0.2.20/32 dev lo"])
    servers = [listen(lab, node.netns, ("192.0.2.20", 80)) for node in nodes]

    def one() -> tuple[socket.socket, socket.socket, int]:
        client = connect(lab, alice.netns, ("192.0.2.20", 80))
        ready, _, _ = select.select(servers, [], [], 60)
        return client, ready[0].accept()[0], servers.index(ready[0])

    with contextlib.ExitStack() as stack:
        for each in servers:
            stack.enter_context(each)
        pairs = [one() for _ in range(40)]
        for client, server, _ in pairs:
            stack.enter_context(client)
            stack.enter_context(server)
            server.settimeout(60)
        assert {node for _, _, node in pairs} == {0, 1}
        for takes_new in ([0, 1, 2], [0, 2], [2, 0, 1], []):
            vnet.set_frontend("192.0.2.20", [nodes[i].ip for i in takes_new])
            vnet.add_node("node-1", 1)          # as a daemon does that starts again
            for client, server, _ in pairs:
                client.sendall(b"still there?")
                assert server.recv(64) == b"still there?"
        vnet.set_frontend("192.0.2.20", [nodes[2].ip])
        for _ in range(4):
            client, server, node = one()
            client.close()
            server.close()
            assert node == 2


def test_a_port_may_have_nodes_of_its_own_and_a_udp_flow_leaves_one_that_is_out(lab: Fabric) -> None:
    alice = lab.ensure_client("alice")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    first, second = everyone = [node.ip for node in nodes]
    for node in nodes:
        ns.ip(node.netns, ["addr replace 192.0.2.20/32 dev lo"])

    with contextlib.ExitStack() as stack:
        listening = {port: [stack.enter_context(listen(lab, node.netns, ("192.0.2.20", port))) for node in nodes]
                     for port in (80, 443)}

        def reached(port: int, connections: int) -> set[int]:
            found = set()
            for _ in range(connections):
                with connect(lab, alice.netns, ("192.0.2.20", port)):
                    ready, _, _ = select.select(listening[port], [], [], 60)
                    ready[0].accept()[0].close()
                    found.add(listening[port].index(ready[0]))
            return found

        vnet.set_frontend("192.0.2.20", everyone, ports={("TCP", 443): [second], ("TCP", 8080): []})
        assert reached(80, 30) == {0, 1}
        assert reached(443, 6) == {1}
        unanswered = stack.enter_context(lab.socket_in(alice.netns, socket.AF_INET, socket.SOCK_STREAM))
        unanswered.settimeout(0.3)
        with pytest.raises(TimeoutError):
            unanswered.connect(("192.0.2.20", 8080))
        vnet.set_frontend("192.0.2.20", [second], ports={("TCP", 443): everyone})
        assert reached(80, 6) == {1}
        assert reached(443, 30) == {0, 1}

        def datagrams(space: str) -> socket.socket:
            return stack.enter_context(lab.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM))

        client, servers = datagrams(alice.netns), [datagrams(node.netns) for node in nodes]
        for server in servers:
            server.bind(("192.0.2.20", 53))

        def got() -> list[bool]:
            client.sendto(b"?", ("192.0.2.20", 53))
            ready, _, _ = select.select(servers, [], [], 60)
            for server in ready:
                server.recv(64)
            return [server in ready for server in servers]

        vnet.set_frontend("192.0.2.20", [first])
        assert got() == [True, False]
        vnet.set_frontend("192.0.2.20", everyone)
        assert [got() for _ in range(4)] == [[True, False]] * 4, "as long as it is there"
        vnet.set_frontend("192.0.2.20", [second])
        assert got() == [False, True]
        vnet.set_frontend("192.0.2.20", everyone, ports={("UDP", 53): [first]})
        assert got() == [True, False]
    vnet.remove_frontend("192.0.2.20")


def test_a_clients_connections_go_to_one_node_where_the_service_has_affinity(lab: Fabric) -> None:
    alice = lab.ensure_client("alice")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    for node in nodes:
        ns.ip(node.netns, ["addr replace 192.0.2.20/32 dev lo"])
    servers = [listen(lab, node.netns, ("192.0.2.20", 80)) for node in nodes]

    def reached(connections: int = 16) -> set[int]:
        found = set()
        for _ in range(connections):
            with connect(lab, alice.netns, ("192.0.2.20", 80)):
                ready, _, _ = select.select(servers, [], [], 20)
                ready[0].accept()[0].close()
                found.add(servers.index(ready[0]))
        return found

    everyone = [node.ip for node in nodes]
    vnet.set_frontend("192.0.2.20", everyone, by_client=True)
    (chosen,) = reached()
    vnet.set_frontend("192.0.2.20", [nodes[1 - chosen].ip], by_client=True)
    assert reached() == {1 - chosen}
    vnet.set_frontend("192.0.2.20", everyone)
    assert reached(40) == {0, 1}
    vnet.set_frontend("192.0.2.20", everyone, by_client=True)
    assert reached() == {chosen}
    vnet.remove_frontend("192.0.2.20")
    assert "192.0.2.20" not in ns.run_inside(vnet.netns, lambda: subprocess.run(
        ["nft", "list", "map", "ip", "labkit_flows", "frontends"], text=True, capture_output=True, check=True).stdout)
    for server in servers:
        server.close()


def test_a_report_about_a_connection_by_a_frontend_reaches_its_node(lab: Fabric) -> None:
    """Path MTU discovery: whatever node a connection is on, it hears that alice's network takes 1300 bytes."""
    alice = lab.ensure_client("alice")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    lab.ensure_vnet("c1", "192.0.2.10")         # as a daemon does that starts again
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    vnet.set_frontend("192.0.2.20", [node.ip for node in nodes])
    lab.ensure_vnet("c1", "192.0.2.10")
    servers = []
    for node in nodes:
        ns.ip(node.netns, ["addr replace 192.0.2.20/32 dev lo"])
        servers.append(listen(lab, node.netns, ("192.0.2.20", 80)))
    ns.ip(lab.internet, ["link set cl-alice mtu 1300"])
    served: Counter[int] = Counter()
    try:
        while len(served) < 2:
            with connect(lab, alice.netns, ("192.0.2.20", 80)) as client:
                ready, _, _ = select.select(servers, [], [], 60)
                server, _ = ready[0].accept()
                served[servers.index(ready[0])] += 1
                with server:
                    server.sendall(bytes(20_000))
                got = 0
                while data := client.recv(65536):
                    got += len(data)
                assert got == 20_000
    finally:
        ns.ip(lab.internet, ["link set cl-alice mtu 1500"])
        vnet.remove_frontend("192.0.2.20")
        for server in servers:
            server.close()


@pytest.mark.parametrize(("path", "reply", "well"), [
    (None, b"", True), ("/", b"HTTP/1.1 200 OK\r\n\r\n", True), ("/", b"HTTP/1.1 503 Unavailable\r\n\r\n", False),
    ("/", b"HTTP/1.1", False), ("/", None, None)])
def test_a_probe_asks_a_node_from_azures_address(lab: Fabric, path, reply, well) -> None:
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    node = vnet.add_node("node-0", 0)

    async def body() -> bool | None:
        with listen(lab, node.netns, (node.ip, 80)) as server:
            asked = asyncio.create_task(vnet.probe(node.ip, 80, path))
            accepted, peer = await asyncio.to_thread(server.accept)
            with accepted:
                assert peer[0] == "168.63.129.16"
                if path and reply is not None:
                    assert (await asyncio.to_thread(accepted.recv, 4096)).startswith(b"GET / HTTP/1.1\r\n")
                    accepted.sendall(reply)
                    accepted.shutdown(socket.SHUT_WR)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(60 if reply is not None else 0.1):
                        return await asked
                return None

    assert asyncio.run(body()) is well
    if reply is not None:
        assert asyncio.run(vnet.probe(node.ip, 81, path)) is False, "a port without a listener"
    assert asyncio.run(vnet.probe("10.224.9.9", 80, path)) is None, "no such node"


def test_a_nodes_public_address_is_translated_both_ways(lab: Fabric) -> None:
    alice = lab.ensure_client("alice")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
    caller = vnet.add_pod(nodes[0], "aaaaaaaa-1", "default", "a", nodes[0].pod_ips[0])
    publics = ["192.0.2.30", "192.0.2.31"]
    for public, node in zip(publics, nodes, strict=True):
        vnet.set_node_public(public, node.ip)
    lab.ensure_vnet("c1", "192.0.2.10")  # a second daemon keeps the translation
    ns.ip(lab.internet, ["link set cl-alice mtu 1300"])     # of which a node hears in a report that is translated, too
    with listen(lab, nodes[1].netns, (nodes[1].ip, 80)) as server:
        for space, seen in ((alice.netns, alice.address), (nodes[0].netns, publics[0]), (caller.netns, "192.0.2.10")):
            with connect(lab, space, (publics[1], 80)) as client:
                accepted, peer = server.accept()
                with accepted:
                    assert peer[0] == seen
                    accepted.settimeout(60)
                    accepted.sendall(b"x" * 100_000)
                    received = 0
                    while received < 100_000:
                        received += len(client.recv(65536))
    ns.ip(lab.internet, ["link set cl-alice mtu 1500"])
    for space in (alice.netns, nodes[0].netns, caller.netns):
        with lab.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.connect((publics[1], 9))
            client.send(b"anybody there?")
            with pytest.raises(ConnectionRefusedError):     # in time, for the report quotes what the client sent
                client.recv(64)
    with listen(lab, alice.netns, ("0.0.0.0", 80)) as server, connect(lab, nodes[0].netns, (alice.address, 80)):
        accepted, peer = server.accept()
        accepted.close()
        assert peer[0] == publics[0], "a node leaves by its own public address"
    vnet.remove_node_public(publics[1])
    with pytest.raises(OSError, match=r"unreachable|No route"):
        connect(lab, alice.netns, (publics[1], 80))
    vnet.set_node_public("192.0.2.32", nodes[0].ip)  # another address in place of the first
    with listen(lab, nodes[0].netns, (nodes[0].ip, 80)), connect(lab, alice.netns, ("192.0.2.32", 80)):
        pass


def test_clients_cannot_reach_the_vnet_directly(lab: Fabric) -> None:
    bob = lab.ensure_client("bob")
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    node = vnet.add_node("node-0", 0)
    with pytest.raises(OSError, match=r"unreachable|No route"):
        connect(lab, bob.netns, (node.ip, 22))


def test_a_second_daemon_adopts_connections_that_run(lab: Fabric) -> None:
    def build(fabric: Fabric) -> tuple[str, str]:
        fabric.ensure_internet()
        vnet = fabric.ensure_vnet("c1", "192.0.2.10")
        nodes = [vnet.add_node(f"node-{i}", i) for i in (0, 1)]
        a = vnet.add_pod(nodes[0], "aaaaaaaa-1", "default", "a", nodes[0].pod_ips[0])
        b = vnet.add_pod(nodes[1], "bbbbbbbb-1", "default", "b", nodes[1].pod_ips[0])
        return a.netns, b.netns

    a, b = build(lab)
    with listen(lab, b, ("0.0.0.0", 80)) as server, connect(lab, a, ("10.224.0.36", 80)) as client:
        accepted, _ = server.accept()
        with accepted:
            assert build(Fabric(lab._paths)) == (a, b)
            client.sendall(b"still here")
            assert accepted.recv(100) == b"still here"


def test_two_clusters_share_addresses_but_nothing_else(lab: Fabric) -> None:
    pods = []
    for cluster, outbound in (("c1", "192.0.2.10"), ("c2", "192.0.2.11")):
        vnet = lab.ensure_vnet(cluster, outbound)
        node = vnet.add_node("node-0", 0)
        pods.append(vnet.add_pod(node, "aaaaaaaa-1", "default", "a", node.pod_ips[0]))
    lab.ensure_vnet("c1", "192.0.2.10").delete()
    assert not ns.exists(pods[0].netns)
    assert ns.exists(pods[1].netns)


def test_a_pod_that_is_made_again_gets_its_interface_again(lab: Fabric) -> None:
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    node = vnet.add_node("node-0", 0)
    for i in range(2):
        vnet.add_pod(node, f"{i:08d}-x", "default", f"p{i}", node.pod_ips[i])
    vnet.remove_pod("00000000-x")
    again = vnet.add_pod(node, "99999999-x", "default", "p0", node.pod_ips[0])  # the same interface name
    assert ns.has_link(node.netns, again.host_interface)


def test_azures_resolver_answers_pods(lab: Fabric) -> None:
    vnet = lab.ensure_vnet("c1", "192.0.2.10")
    node = vnet.add_node("node-0", 0)
    names = {"api.hcp.canadaeast.azmk8s.io": ["192.0.2.1"]}

    def ask(name: str) -> DNSRecord:
        with lab.socket_in(node.netns, socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.sendto(DNSRecord.question(name).pack(), (AZURE_RESOLVER, 53))
            return DNSRecord.parse(client.recv(512))

    async def scenario() -> tuple[DNSRecord, DNSRecord]:
        server = AzureDns(names.get)
        await server.start(lambda family, kind: lab.socket_in(vnet.netns, family, kind))
        try:
            return (await asyncio.to_thread(ask, "API.hcp.canadaeast.azmk8s.io"),
                    await asyncio.to_thread(ask, "example.com"))
        finally:
            server.close()

    known, unknown = asyncio.run(scenario())
    assert str(known.short()) == "192.0.2.1"
    assert unknown.header.rcode == 3


def test_the_address_of_a_deleted_api_holds_no_connection(lab):
    lab.add_api_address("192.0.2.10")
    client = lab.ensure_client("alice")
    with lab.socket_in(lab.internet, socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("192.0.2.10", 443))
        listening.listen()
        with lab.socket_in(client.netns, socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.connect(("192.0.2.10", 443))
            answering, _ = listening.accept()
            with answering:
                lab.remove_api_address("192.0.2.10")
                with pytest.raises(ConnectionAbortedError):
                    answering.recv(1)
