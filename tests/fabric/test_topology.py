from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labkit.local.fabric import host_interface, topology


def test_nodes_get_azures_addresses_and_thirty_for_pods() -> None:
    assert topology.node_address(0) == "10.224.0.4"
    assert topology.node_address(1) == "10.224.0.35"
    assert topology.pod_addresses(0)[0] == "10.224.0.5"
    assert len(topology.pod_addresses(1)) == 30


@given(st.integers(0, 200), st.integers(0, 200))
def test_no_two_nodes_share_an_address(a: int, b: int) -> None:
    if a != b:
        assert not {topology.node_address(a), *topology.pod_addresses(a)} & \
                   {topology.node_address(b), *topology.pod_addresses(b)}


@given(st.text("abcdefghij-0123456789", min_size=1, max_size=60))
def test_interface_names_fit_the_kernel(name: str) -> None:
    assert len(topology.short_link("vnet-", name)) <= 15
    assert len(host_interface("default", name)) == 14


def test_host_interface_is_named_as_azure_cni_does() -> None:
    assert host_interface("default", "web") != host_interface("other", "web")


def test_clients_have_documentation_addresses() -> None:
    assert topology.next_client_address("alice", []) == "203.0.113.10"
    assert topology.next_client_address("carol", ["203.0.113.10", "203.0.113.11"]) == "203.0.113.12"


def test_a_frontend_without_nodes_drops() -> None:
    assert "blackhole" in topology.frontend_route("192.0.2.9", [], [])
    route = topology.frontend_route("192.0.2.9", ["10.224.0.4", "10.224.0.35"], ["node0", "node1"])
    assert route.count("nexthop") == 2
