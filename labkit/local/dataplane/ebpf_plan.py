"""What services and policies are as map entries. Pure: the same values in give the same bytes out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.local.dataplane import ebpf_maps as maps

if TYPE_CHECKING:
    from labkit.local.dataplane.felix import FelixConfig
    from labkit.local.dataplane.policy import EndpointPolicy, Rule
    from labkit.local.dataplane.services import ServicePort

ANY = "0.0.0.0/0"
FE_LOCAL_LEAVING = 8                    # of nat.h
Entries = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ServiceEntries:
    """A service port in the maps."""

    frontends: Entries
    backends: Entries
    ip_sets: frozenset[bytes]


def content_id(parts: Iterable[bytes]) -> int:
    """An id that is the same for the same content, also after a restart of the agent; never 0."""
    digest = hashlib.sha256(b"\n".join(parts)).digest()
    return int.from_bytes(digest[:4], "little") | 1


def service_entries(port: ServicePort, service: int, node: str) -> ServiceEntries | None:
    """The frontends of a service port, which share its backends; None for a protocol that is not balanced.

    Backends of this node come first, so that the policy Local is only a smaller count. Where all of them are
    shutting down while others are ready, they are for those alone who may have no other.
    """
    protocol = maps.PROTOCOLS.get(port.protocol)
    if protocol not in (6, 17):
        return None
    usable = port.usable()
    here = tuple(e for e in usable if e.node == node)
    flags = 0
    if not here and "Local" in (port.external_policy, port.internal_policy):
        here = port.usable_on(node)
        flags = FE_LOCAL_LEAVING if here else 0
    ordered = here + tuple(e for e in usable if e.node != node)
    backends = {maps.backend_key(service, index): maps.backend(e.ip, e.port)
                for index, e in enumerate(ordered)}

    ranges, ip_sets = ip_set_entries(port.lb_source_ranges)
    # A cluster's address has one policy, whoever asks.
    internal = flags | (maps.FE_INTERNAL_LOCAL | maps.FE_EXTERNAL_LOCAL if port.internal_policy == "Local" else 0)
    external = flags | (maps.FE_EXTERNAL_LOCAL if port.external_policy == "Local" else 0)
    limited = maps.FE_SOURCE_RANGES if port.lb_source_ranges else 0

    def value(kind: int, allowed: int = 0) -> bytes:
        return maps.frontend(service, len(ordered), len(here), port.affinity_seconds, kind, allowed)

    frontends = {maps.frontend_key(port.cluster_ip, port.port, protocol): value(internal)}
    for ip in port.external_ips:
        frontends[maps.frontend_key(ip, port.port, protocol)] = value(external)
    for ip in port.lb_ips:
        frontends[maps.frontend_key(ip, port.port, protocol)] = value(external | limited, ranges)
    if port.node_port:
        frontends[maps.frontend_key(maps.NODE_PORT, port.node_port, protocol)] = value(external)
    return ServiceEntries(frontends, backends, ip_sets)


def ip_set_entries(nets: Iterable[str]) -> tuple[int, frozenset[bytes]]:
    """A set of addresses: its id, and its keys in cali_v4_ip_sets."""
    members = sorted(nets)
    if not members:
        return 0, frozenset()
    ip_set = content_id(net.encode() for net in members)
    return ip_set, frozenset(maps.ip_set_key(ip_set, net) for net in members)


def config_flags(config: FelixConfig) -> int:
    """What of Felix's configuration the programs themselves act on."""
    level = config.bpf_log_level
    return ((maps.CONFIG_DSR if config.bpf_external_service_mode == "DSR" else 0)
            | (maps.CONFIG_CONNECT_UDP if config.bpf_connect_time_load_balancing == "Enabled" else 0)
            | (maps.CONFIG_LOG_INFO if level in ("Info", "Debug") else 0)
            | (maps.CONFIG_LOG_DEBUG if level == "Debug" else 0)
            | (maps.CONFIG_OVERLAY if config.vxlan_enabled else 0))


@dataclass(frozen=True, slots=True)
class PolicyEntries:
    """The policies of a node's endpoints in the maps; `interfaces` has the ids of their two lists.

    `names` has, for each of an interface's two lists, the policy that each rule comes from.
    """

    rules: Entries
    ip_sets: frozenset[bytes]
    interfaces: dict[str, tuple[int, int]]
    too_long: tuple[str, ...]
    names: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


def policy_entries(endpoints: Mapping[str, EndpointPolicy]) -> PolicyEntries:
    """The rules of all endpoints. Equal lists are written once, and shared.

    A list longer than the programs read ends in a deny, and its interface is named in `too_long`.
    """
    rules: Entries = {}
    ip_sets: set[bytes] = set()
    too_long: list[str] = []
    known: dict[tuple[str, tuple[Rule, ...]], tuple[int, tuple[str, ...]]] = {}

    def policy(interface: str, direction: str, wanted: tuple[Rule, ...]) -> tuple[int, tuple[str, ...]]:
        if (direction, wanted) not in known:
            packed, used, names = _rules(direction, wanted)
            if len(packed) > maps.MAX_RULES:
                too_long.append(interface)
            listed = _list_id(packed)
            if listed:
                ip_sets.update(used)
                rules.update({listed.to_bytes(4, "little") + index.to_bytes(4, "little"): value
                              for index, value in enumerate(packed[:maps.MAX_RULES])})
            known[direction, wanted] = listed, names
        return known[direction, wanted]

    both = {name: (policy(name, "ingress", endpoint.ingress), policy(name, "egress", endpoint.egress))
            for name, endpoint in endpoints.items()}
    return PolicyEntries(rules, frozenset(ip_sets), {name: (there[0], back[0]) for name, (there, back) in both.items()},
                         tuple(too_long), {name: (there[1], back[1]) for name, (there, back) in both.items()})


_ACTIONS = {"Allow": maps.RULE_ALLOW, "Deny": maps.RULE_DENY, "Log": maps.RULE_LOG}
_ALLOW_ALL = maps.rule(maps.RULE_ALLOW, 0, 0, 0, ())


def _list_id(packed: list[bytes]) -> int:
    """0 stands for "everything is allowed", and costs the programs nothing."""
    return 0 if packed[:1] == [_ALLOW_ALL] else content_id(packed)


def _rules(direction: str, rules: Iterable[Rule]) -> tuple[list[bytes], set[bytes], tuple[str, ...]]:
    packed: list[bytes] = []
    alike: Counter[tuple[object, ...]] = Counter()
    names: list[str] = []
    used: set[bytes] = set()
    for rule in rules:
        if not rule.nets:                               # matches nobody
            continue
        nets, members = ip_set_entries(() if ANY in rule.nets else rule.nets)
        not_nets, others = ip_set_entries(rule.not_nets)
        used |= members | others
        action = _ACTIONS[rule.action]
        protocol = _protocol(rule.protocol)
        # What a rule has counted is kept while the pods behind its selectors come and go.
        what = rule.policy, direction, rule.action, rule.protocol, rule.ports
        number = content_id([repr((what, alike[what])).encode()]) if rule.policy else 0
        alike[what] += 1
        # A rule holds eight ranges of ports; one with more is several rules in a row.
        for start in range(0, max(len(rule.ports), 1), maps.MAX_PORTS):
            ports = rule.ports[start:start + maps.MAX_PORTS]
            packed.append(maps.rule(action, protocol, nets, not_nets, ports, number))
            names.append(rule.policy)
    return packed, used, tuple(names)


def _protocol(name: str | None) -> int:
    if name is None:
        return 0
    return maps.PROTOCOLS.get(name) or int(name)
