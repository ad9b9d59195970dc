"""Policy objects, of Kubernetes and of Calico, in one parsed form.

Parsing is done once for each change of a policy, and leaves predicates and nets; who a selector selects is
looked up later, in `policy_table`, because pods change more often than policies do.

A rule that says something that these data planes cannot tell apart (ICMP types, HTTP, the ports of SCTP) fails
closed: an Allow is left out, a Deny covers more, and the policy carries a warning. The API refuses the most of
them, with the reason, before they come here.

Log is a rule that decides nothing. iptables' LOG writes to the node's kernel log, and `policy_log` shows it on the
lab. The eBPF programs write to the trace pipe what became of the connection, as Calico's do since v3.29.1; those
before passed over the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from labkit.local.dataplane import selectors
from labkit.local.dataplane.policy import ANY, Action

Obj = Mapping[str, Any]
PortMatch = tuple[int, int] | str
"""A range of numbers, or the name of a container's port."""

NAMESPACE_NAME = "projectcalico.org/name"              # Calico's labels, on namespaces
ORCHESTRATOR = "projectcalico.org/orchestrator"        # and on pods, but not on network sets
SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a selector is asked about: a pod, or a (global) network set, as Calico sees it."""

    namespace: str                 # "" for what is global
    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]


Selects = Callable[[Subject], bool]


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a rule. `selects` and `nets` must both match where both are given."""

    nets: tuple[str, ...] = (ANY,)
    not_nets: tuple[str, ...] = ()
    selects: Selects | None = None
    not_selects: Selects | None = None


@dataclass(frozen=True, slots=True)
class ParsedRule:
    """A rule whose selectors are still to be looked up. `own` is the selected pod's side of it."""

    action: Action
    protocol: str | None
    peer: Peer
    ports: tuple[PortMatch, ...] = ()
    own: Peer = Peer()

    @property
    def has_names(self) -> bool:
        """Whether a port is given by its name."""
        return any(isinstance(port, str) for port in self.ports)


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """A policy in the form that is evaluated."""

    name: str
    order: float
    selects: Selects
    ingress: tuple[ParsedRule, ...] | None      # None: it says nothing about this direction
    egress: tuple[ParsedRule, ...] | None
    warnings: list[str] = field(default_factory=list, compare=False)


def parse_policy(obj: Obj) -> ParsedPolicy:
    """Parse a NetworkPolicy of either API or a GlobalNetworkPolicy.

    Raises:
        ValueError: the object has a selector, port or CIDR that makes no sense.
    """
    if obj.get("apiVersion", "").startswith("networking.k8s.io/"):
        return _kubernetes(obj)
    return _calico(obj)


def plain_nets(cidrs: Iterable[str]) -> tuple[str, ...]:
    """CIDRs in normal form; those of IPv6 match nothing in a network without it."""
    parsed = (ip_network(cidr, strict=False) for cidr in cidrs)
    return tuple(str(net) for net in parsed if net.version == 4)


# --- Kubernetes

def _kubernetes(obj: Obj) -> ParsedPolicy:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    namespace, chosen = meta["namespace"], selectors.from_kubernetes(spec.get("podSelector") or {})
    name = f"{namespace}/knp.default.{meta['name']}"
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    warnings: list[str] = []

    def selects(subject: Subject) -> bool:
        return subject.namespace == namespace and chosen(subject.labels)

    def rules(direction: str, peers: str) -> tuple[ParsedRule, ...] | None:
        if direction.capitalize() not in types:
            return None
        return tuple(parsed for rule in spec.get(direction) or ()
                     for parsed in _kubernetes_rule(rule or {}, peers, namespace, name, warnings))

    # Calico gives every Kubernetes policy the order 1000.
    return ParsedPolicy(name, 1000, selects, rules("ingress", "from"), rules("egress", "to"), warnings)


def _kubernetes_rule(rule: Obj, peers: str, namespace: str, name: str, warnings: list[str]) -> list[ParsedRule]:
    by_protocol: dict[str | None, list[PortMatch] | None] = {} if rule.get("ports") else {None: None}
    for port in rule.get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        if port.get("port") is None:
            by_protocol[protocol] = None
        elif protocol == "SCTP":
            warnings.append(_sctp_ports(name))
        elif (known := by_protocol.setdefault(protocol, [])) is not None:
            number = port["port"]
            known.append((number, int(port.get("endPort") or number)) if isinstance(number, int) else number)
    return [ParsedRule("Allow", protocol, _kubernetes_peer(peer, namespace), tuple(ports or ()))
            for peer in rule.get(peers) or [{"ipBlock": {"cidr": ANY}}]
            for protocol, ports in by_protocol.items()]


def _sctp_ports(name: str) -> str:
    return (f"policy {name}: ports of SCTP are not supported here, as in Calico's eBPF data plane; the rule fails"
            " closed")


def _kubernetes_peer(peer: Obj, namespace: str) -> Peer:
    """Selectors of Kubernetes select pods alone; Calico's network sets are none."""
    if block := peer.get("ipBlock"):
        return Peer(plain_nets([block["cidr"]]), plain_nets(block.get("except") or ()))
    pods = selectors.from_kubernetes(peer.get("podSelector") or {})
    if peer.get("namespaceSelector") is None:
        return Peer(selects=lambda s: ORCHESTRATOR in s.labels and s.namespace == namespace and pods(s.labels))
    spaces = selectors.from_kubernetes(peer["namespaceSelector"])
    return Peer(selects=lambda s: ORCHESTRATOR in s.labels and spaces(s.namespace_labels) and pods(s.labels))


# --- Calico

def _calico(obj: Obj) -> ParsedPolicy:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    namespace = meta.get("namespace", "") if obj.get("kind") == "NetworkPolicy" else ""
    warnings: list[str] = []
    name = meta["name"] if meta["name"].startswith("default.") else f"default.{meta['name']}"    # its tier
    name = f"{namespace}/{name}" if namespace else name
    for untracked in ("doNotTrack", "preDNAT"):
        if spec.get(untracked):
            warnings.append(f"policy {name}: {untracked} is for host endpoints, and there are none here; the policy"
                            " selects no pods")
            return ParsedPolicy(name, 0, lambda subject: False, None, None, warnings)
    if spec.get("serviceAccountSelector"):
        raise ValueError("serviceAccountSelector is not supported here")
    chosen = selectors.parse(spec.get("selector") or "")
    spaces = _namespaces(spec["namespaceSelector"]) if spec.get("namespaceSelector") else None

    def selects(subject: Subject) -> bool:
        if namespace and subject.namespace != namespace:
            return False
        return chosen(subject.labels) and (spaces is None or spaces(subject))

    types = spec.get("types")
    if not types:
        # calicoctl and projectcalico.org/v3 fill this in from the rules; what kubectl writes into Calico's store
        # comes to Felix as it is.
        warnings.append(f"policy {name}: types is not set, so it is about Ingress and Egress both")
        types = ["Ingress", "Egress"]

    def rules(direction: str) -> tuple[ParsedRule, ...] | None:
        if direction.capitalize() not in types:
            return None
        parsed = (_calico_rule(rule, direction, namespace, name, warnings)
                  for rule in spec.get(direction) or ())
        return tuple(rule for rule in parsed if rule)

    order = spec.get("order")
    return ParsedPolicy(name, float("inf") if order is None else float(order), selects,
                        rules("ingress"), rules("egress"), warnings)


_UNSUPPORTED = ("notProtocol", "icmp", "notICMP", "http")
_ACTIONS: dict[str, Action] = {"Allow": "Allow", "Pass": "Allow", "Deny": "Deny", "Log": "Log"}
_NUMBERS = {1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
_NAMES = {**{name: name for name in _NUMBERS.values()}, "UDPLITE": "136", "ICMPV6": "58"}
_WITH_PORTS = ("TCP", "UDP", "SCTP")


def _calico_rule(rule: Obj, direction: str, namespace: str, name: str,
                 warnings: list[str]) -> ParsedRule | None:
    source, destination = rule.get("source") or {}, rule.get("destination") or {}
    action = _ACTIONS.get(rule["action"])
    if action is None:
        raise ValueError(f"unknown action {rule['action']!r}")
    protocol = _calico_protocol(rule.get("protocol"))
    _check_ports(protocol, source, destination)
    if rule.get("ipVersion") == 6 or protocol == "58":
        return None                       # it speaks of packets that no network of the lab carries
    unknown = [key for key in _UNSUPPORTED if rule.get(key)]
    ports: tuple[PortMatch, ...] = ()
    try:
        ports = _calico_ports(destination)
    except _NamedNotPortsError:
        unknown.append("a name in destination.notPorts")
    if ports and protocol == "SCTP":
        warnings.append(_sctp_ports(name))
        ports = ()
        if action != "Deny":
            return None
    unknown += [key for end in (source, destination) for key in ("services", "domains") if end.get(key)]
    unknown += ["serviceAccounts.selector" for end in (source, destination)
                if (end.get("serviceAccounts") or {}).get("selector")]
    unknown += [f"source.{key}" for key in ("ports", "notPorts") if source.get(key)]
    if unknown:
        warnings.append(f"policy {name}: {', '.join(unknown)} is not supported here; the rule fails closed")
        if action != "Deny":
            return None
    if destination.get("notPorts") and not ports and not unknown and protocol != "SCTP":
        return None                       # every port is left out
    own, other = (destination, source) if direction == "ingress" else (source, destination)
    return ParsedRule(action, protocol, _calico_peer(other, namespace), ports, _calico_peer(own, namespace))


def _calico_protocol(protocol: int | str | None) -> str | None:
    if protocol is None:
        return None
    if isinstance(protocol, int) or protocol.isdigit():
        return _NUMBERS.get(int(protocol), str(protocol))
    if (known := _NAMES.get(protocol.upper())) is None:
        raise ValueError(f"unknown protocol {protocol!r}")
    return known


def _check_ports(protocol: str | None, source: Obj, destination: Obj) -> None:
    """Calico's own rule, in its words."""
    ports = [port for end in (source, destination) for key in ("ports", "notPorts") for port in end.get(key) or ()]
    if ports and protocol and protocol not in _WITH_PORTS:
        raise ValueError("rules that specify ports must set protocol to TCP or UDP or SCTP")
    if not protocol and not all(isinstance(_calico_port(port), str) for port in ports):
        raise ValueError("rules with numeric port or port range must set protocol to TCP or UDP or SCTP")


def _calico_peer(entity: Obj, namespace: str) -> Peer:
    nets, left_out = entity.get("nets"), entity.get("notSelector")
    return Peer(plain_nets(nets) if nets else (ANY,), plain_nets(entity.get("notNets") or ()),
                _calico_selects(entity, namespace), _not_selects(left_out) if left_out else None)


def _not_selects(text: str) -> Selects:
    labels = selectors.parse(text)
    return lambda subject: labels(subject.labels)


def _calico_selects(entity: Obj, namespace: str) -> Selects | None:
    """Whom the selectors of one end choose together; None where it has none.

    In a namespaced policy any selector, also notSelector, keeps the rule in the namespace, unless
    namespaceSelector says otherwise.
    """
    text, spaces = entity.get("selector") or "", entity.get("namespaceSelector") or ""
    accounts = frozenset((entity.get("serviceAccounts") or {}).get("names") or ())
    if not (text or spaces or accounts or (namespace and entity.get("notSelector"))):
        return None
    labels = selectors.parse(text)
    where = _namespaces(spaces) if spaces else lambda s: not namespace or s.namespace == namespace
    return lambda s: (where(s) and labels(s.labels)
                      and (not accounts or s.labels.get(SERVICE_ACCOUNT) in accounts))


def _namespaces(text: str) -> Selects:
    """A namespaceSelector. all() is every namespace and nothing global, global() the opposite."""
    if "".join(text.split()) == "global()":
        return lambda subject: not subject.namespace
    if "global(" in text:
        raise ValueError("global() cannot be combined with other selectors")
    spaces = selectors.parse(text, NAMESPACE_NAME)
    return lambda subject: spaces(subject.namespace_labels)


class _NamedNotPortsError(ValueError):
    """A port's name among ports to leave out: what it stands for differs from pod to pod."""


def _calico_ports(destination: Obj) -> tuple[PortMatch, ...]:
    ports = tuple(_calico_port(port) for port in destination.get("ports") or ())
    left_out = [_calico_port(port) for port in destination.get("notPorts") or ()]
    if not left_out:
        return ports
    if any(isinstance(port, str) for port in (*ports, *left_out)):
        raise _NamedNotPortsError
    return _without(ports or ((0, 65535),), left_out)


def _calico_port(port: int | str) -> PortMatch:
    if isinstance(port, int):
        return port, port
    low, colon, high = port.partition(":")
    if low.isdigit() and (not colon or high.isdigit()):
        return int(low), int(high or low)
    return port


def _without(ports: Iterable[PortMatch], left_out: Iterable[PortMatch]) -> tuple[PortMatch, ...]:
    """Ranges without what other ranges hold."""
    left = [port for port in ports if isinstance(port, tuple)]
    for low, high in (port for port in left_out if isinstance(port, tuple)):
        left = [part for start, end in left
                for part in ((start, min(end, low - 1)), (max(start, high + 1), end)) if part[0] <= part[1]]
    return tuple(left)
