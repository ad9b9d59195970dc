"""What services and policies become as map entries, without a kernel."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane import policy_names
from labkit.local.dataplane.ebpf_connections import Stale, drain, idle_seconds
from labkit.local.dataplane.ebpf_plan import policy_entries, service_entries
from labkit.local.dataplane.policy import EndpointPolicy, Rule
from labkit.local.dataplane.services import Endpoint, ServicePort

HERE, THERE = Endpoint("10.224.0.6", 8080, "node1"), Endpoint("10.224.0.36", 8080, "node2")
PORT = ServicePort("default", "echo", "", "TCP", "10.0.7.7", 80, 30077, lb_ips=("192.0.2.7",),
                   endpoints=(THERE, HERE))


def endpoint(*ingress: Rule) -> EndpointPolicy:
    return EndpointPolicy("azv1", "default", "web", "10.224.0.6", ingress, (Rule("Allow"),))


def test_a_service_port_has_frontends_that_share_backends() -> None:
    entries = service_entries(PORT, 3, "node1")
    assert entries is not None
    assert set(entries.frontends) == {
        maps.frontend_key("10.0.7.7", 80, 6), maps.frontend_key("192.0.2.7", 80, 6),
        maps.frontend_key(maps.NODE_PORT, 30077, 6)}
    assert set(entries.frontends.values()) == {maps.frontend(3, 2, 1, 0, 0, 0)}
    assert entries.backends == {maps.backend_key(3, 0): maps.backend(HERE.ip, 8080),
                                maps.backend_key(3, 1): maps.backend(THERE.ip, 8080)}


def test_sctp_is_not_balanced() -> None:
    assert service_entries(ServicePort("d", "s", "", "SCTP", "10.0.7.7", 80), 1, "node1") is None


def test_a_pod_without_policy_costs_nothing() -> None:
    plan = policy_entries({"azv1": endpoint(Rule("Allow"))})
    assert (plan.interfaces, plan.rules, plan.ip_sets) == ({"azv1": (0, 0)}, {}, frozenset())


def test_equal_policies_are_written_once() -> None:
    rules = (Rule("Allow", "TCP", ("203.0.113.0/24",), (), ((80, 80),)), Rule("Deny"))
    plan = policy_entries({"azv1": endpoint(*rules), "azv2": endpoint(*rules)})
    assert plan.interfaces["azv1"] == plan.interfaces["azv2"]
    assert len(plan.rules) == 2


def test_what_a_rule_has_counted_stays_while_pods_come_and_go() -> None:
    """Its id says which rule of which policy it is, in which direction, and not whom it selects."""
    def ids(*nets: str) -> list[bytes]:
        web = tuple(Rule("Allow", "TCP", one, (), ((80, 80),), "default.web") for one in (nets, ("10.0.0.0/8",)))
        both = EndpointPolicy("azv1", "default", "web", "10.224.0.6", (*web, Rule("Deny")), (*web, Rule("Deny")))
        plan = policy_entries({"azv1": both})
        return [maps.rule_id(plan.rules[listed.to_bytes(4, "little") + index.to_bytes(4, "little")])
                for listed in plan.interfaces["azv1"] for index in range(3)]

    assert ids("10.224.0.6/32") == (now := ids("10.224.0.6/32", "10.224.0.7/32"))
    assert now[2] == now[5] == bytes(4)             # the verdict at the end is no rule of a policy
    assert len(set(now)) == 5


def test_a_rule_that_matches_nobody_is_left_out() -> None:
    plan = policy_entries({"azv1": endpoint(Rule("Allow", nets=()), Rule("Deny"))})
    assert list(plan.rules.values()) == [maps.rule(maps.RULE_DENY, 0, 0, 0, ())]


def test_too_long_a_list_ends_in_a_deny_and_is_named() -> None:
    rules = [Rule("Allow", "TCP", (f"10.{i // 256}.{i % 256}.0/24",)) for i in range(maps.MAX_RULES + 1)]
    plan = policy_entries({"azv1": endpoint(*rules, Rule("Allow"))})
    assert plan.too_long == ("azv1",)
    assert len(plan.rules) == maps.MAX_RULES


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted).map(tuple), max_size=40))
def test_no_port_is_lost_where_a_rule_is_split(ports: list[tuple[int, int]]) -> None:
    plan = policy_entries({"azv1": endpoint(Rule("Allow", "TCP", ports=tuple(ports)), Rule("Deny"))})
    if not ports:
        return
    counts = [value[2] for value in plan.rules.values() if value[0] == maps.RULE_ALLOW]
    assert sum(counts) == len(ports)
    assert max(counts) <= maps.MAX_PORTS


def test_only_udp_connections_follow_a_lost_backend() -> None:
    stale = Stale()
    stale.add({maps.backend(HERE.ip, 8080)}, {maps.frontend_key("10.0.7.7", 80, 6)})
    assert not stale
    stale.add({maps.backend(HERE.ip, 53)}, {maps.frontend_key("10.0.7.7", 53, 17)})
    flow = maps.Flow("203.0.113.10", "10.0.7.7", 4444, 53, 17)
    to = maps.Flow("203.0.113.10", HERE.ip, 4444, 53, 17)
    assert stale.has(flow.pack(), to.pack() + bytes(40))
    assert stale.has(to.reversed().pack(), flow.reversed().pack() + bytes(40))
    assert not stale.has(flow.pack(), flow.pack() + bytes(40))
    # What another node translates has no backend yet; it may have been asked by a node port.
    stale.add({maps.backend(HERE.ip, 53)}, {maps.frontend_key(maps.NODE_PORT, 30053, 17)})
    for asked, gone in ((flow, True), (maps.Flow("203.0.113.10", "10.224.0.4", 4444, 30053, 17), True),
                        (maps.Flow("203.0.113.10", "10.224.0.4", 4444, 30054, 17), False)):
        assert stale.has(asked.pack(), asked.pack() + bytes([maps.PATH_TUNNEL]) + bytes(39)) is gone


def test_flows_survive_packing() -> None:
    flow = maps.Flow("10.0.0.1", "10.0.0.2", 1, 65535, 6)
    assert maps.Flow.read(flow.pack()) == flow == flow.reversed().reversed()


def test_closed_connections_are_forgotten_first() -> None:
    assert idle_seconds(6, maps.TCP_SYN) < idle_seconds(6, maps.TCP_ACK | maps.TCP_FIN) < idle_seconds(6, maps.TCP_ACK)


class Table(dict[bytes, bytes]):
    """Stands for cali_v4_ct."""

    def discard(self, key: bytes) -> None:
        self.pop(key, None)


def test_a_detach_leaves_only_the_connections_that_nobody_else_can_translate() -> None:
    """An entry that is left leads a reply past kube-proxy's translation, once a client uses its port again."""
    table, second = Table(), 1_000_000_000

    def connection(flow: maps.Flow, to: maps.Flow, flags: int = maps.TCP_ACK, seen: int = 100,
                   path: int = maps.PATH_LOCAL) -> set[bytes]:
        keys = flow.pack(), to.reversed().pack()
        for key, other in zip(keys, (to, flow.reversed()), strict=True):
            table[key] = other.pack() + struct.pack("=BBxx4sQQQQ", path, flags, bytes(4), 0, seen * second, 1, 60)
        return set(keys)

    def flow(port: int, protocol: int = 6, to: str = "192.0.2.7") -> maps.Flow:
        return maps.Flow("203.0.113.10", to, port, 80, protocol)

    kept = connection(flow(1), flow(1, to="10.224.0.6"))
    kept |= connection(flow(2), flow(2), path=maps.PATH_TUNNEL)
    kept |= connection(flow(3, 17), flow(3, 17, "10.224.0.6"), flags=0)
    connection(flow(4, to="10.224.0.6"), flow(4, to="10.224.0.6"))                             # not translated
    connection(flow(5, 17, "10.224.0.6"), flow(5, 17, "10.224.0.6"), flags=0)
    connection(flow(6), flow(6, to="10.224.0.6"), flags=maps.TCP_ACK | maps.TCP_FIN)           # over
    connection(flow(7), flow(7, to="10.224.0.6"), flags=maps.TCP_SYN)                          # not answered yet
    connection(flow(8, 17), flow(8, 17, "10.224.0.6"), flags=0, seen=1)
    assert drain(table, 101 * second) == 4, "both directions of two"
    assert set(table) == kept
    assert drain(table, 230 * second) == 0
    assert not table


def test_names_of_policies_fit_into_a_link_of_the_bpffs() -> None:
    """In runs, one name for each entry; of more than a link's text holds, the first."""
    ports = tuple((port, port) for port in range(1, 20))                   # more than an entry holds: three entries
    plan = policy_entries({"azv1": endpoint(
        Rule("Allow", "TCP", ports=ports, policy="default/knp.default.web"), Rule("Log", policy="default.all"),
        Rule("Deny"))})
    ingress, egress = plan.names["azv1"]
    assert (ingress, egress) == (("default/knp.default.web",) * 3 + ("default.all", ""), ("",))
    assert policy_names.text(ingress) == '[["default/knp.default.web",3],["default.all",1],["",1]]'
    many = policy_names.text(tuple(f"default/default.policy-{number}" for number in range(256)))
    assert many.startswith('[["default/default.policy-0",1],')
    assert len(many) <= 4000
    assert list(map(policy_names.shown, ("shop/knp.default.web", "shop/default.web", "default.web"))) == [
        ("KubernetesNetworkPolicy", "shop/web"), ("NetworkPolicy", "shop/web"), ("GlobalNetworkPolicy", "web")]
