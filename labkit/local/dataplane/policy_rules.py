"""Policy objects, of Kubernetes and of Calico, in one parsed form.

Parsing is done once for each change of a policy, and leaves predicates and nets; who a selector selects is
looked up later, in `policy_table`, because pods change more often than policies do.

A rule that says something that this data plane cannot tell apart (ICMP types, service accounts, HTTP) fails
closed: an Allow is left out, a Deny covers more, and the policy carries a warning.
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


def _nets(cidrs: Iterable[str]) -> tuple[str, ...]:
    """CIDRs in normal form; those of IPv6 match nothing in a network without it."""
    parsed = (ip_network(cidr, strict=False) for cidr in cidrs)
    return tuple(str(net) for net in parsed if net.version == 4)


# --- Kubernetes

def _kubernetes(obj: Obj) -> ParsedPolicy:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    namespace, chosen = meta["namespace"], selectors.from_kubernetes(spec.get("podSelector") or {})
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])

    def selects(subject: Subject) -> bool:
        return subject.namespace == namespace and chosen(subject.labels)

    def rules(direction: str, peers: str) -> tuple[ParsedRule, ...] | None:
        if direction.capitalize() not in types:
            return None
        return tuple(parsed for rule in spec.get(direction) or ()
                     for parsed in _kubernetes_rule(rule or {}, peers, namespace))

    # Calico gives every Kubernetes policy the order 1000.
    return ParsedPolicy(f"knp.default.{namespace}/{meta['name']}", 1000, selects,
                        rules("ingress", "from"), rules("egress", "to"))


def _kubernetes_rule(rule: Obj, peers: str, namespace: str) -> list[ParsedRule]:
    by_protocol: dict[str | None, list[PortMatch] | None] = {}
    for port in rule.get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        if port.get("port") is None:
            by_protocol[protocol] = None
        elif (known := by_protocol.setdefault(protocol, [])) is not None:
            number = port["port"]
            known.append((number, int(port.get("endPort") or number)) if isinstance(number, int) else number)
    return [ParsedRule("Allow", protocol, _kubernetes_peer(peer, namespace), tuple(ports or ()))
            for peer in rule.get(peers) or [{"ipBlock": {"cidr": ANY}}]
            for protocol, ports in (by_protocol or {None: None}).items()]


def _kubernetes_peer(peer: Obj, namespace: str) -> Peer:
    if block := peer.get("ipBlock"):
        return Peer(_nets([block["cidr"]]), _nets(block.get("except") or ()))
    pods = selectors.from_kubernetes(peer.get("podSelector") or {})
    if peer.get("namespaceSelector") is None:
        return Peer(selects=lambda subject: subject.namespace == namespace and pods(subject.labels))
    spaces = selectors.from_kubernetes(peer["namespaceSelector"])
    return Peer(selects=lambda s: s.namespace != "" and spaces(s.namespace_labels) and pods(s.labels))


# --- Calico

def _calico(obj: Obj) -> ParsedPolicy:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    namespace = meta.get("namespace", "") if obj.get("kind") == "NetworkPolicy" else ""
    warnings: list[str] = []
    name = meta["name"] if meta["name"].startswith("default.") else f"default.{meta['name']}"    # its tier
    name = f"{namespace}/{name}" if namespace else name
    if spec.get("doNotTrack") or spec.get("preDNAT") or spec.get("serviceAccountSelector"):
        warnings.append(f"policy {name}: doNotTrack, preDNAT and serviceAccountSelector select no pods here")
        return ParsedPolicy(name, 0, lambda subject: False, None, None, warnings)
    chosen = selectors.parse(spec.get("selector") or "")
    spaces = selectors.parse(spec["namespaceSelector"]) if spec.get("namespaceSelector") else None

    def selects(subject: Subject) -> bool:
        if namespace and subject.namespace != namespace:
            return False
        return chosen(subject.labels) and (spaces is None or spaces(subject.namespace_labels))

    types = spec.get("types") or [kind for kind, wanted in (
        ("Ingress", spec.get("ingress") or not spec.get("egress")), ("Egress", spec.get("egress"))) if wanted]

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
_UNSUPPORTED_ENTITY = ("serviceAccounts", "services", "domains")
_ACTIONS: dict[str, Action] = {"Allow": "Allow", "Pass": "Allow", "Deny": "Deny", "Log": "Log"}
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}


def _calico_rule(rule: Obj, direction: str, namespace: str, name: str,
                 warnings: list[str]) -> ParsedRule | None:
    source, destination = rule.get("source") or {}, rule.get("destination") or {}
    unknown = [key for key in _UNSUPPORTED if rule.get(key)]
    unknown += [key for end in (source, destination) for key in _UNSUPPORTED_ENTITY if end.get(key)]
    unknown += [f"source.{key}" for key in ("ports", "notPorts") if source.get(key)]
    action = _ACTIONS.get(rule["action"])
    if action is None:
        raise ValueError(f"unknown action {rule['action']!r}")
    if unknown:
        warnings.append(f"policy {name}: {', '.join(unknown)} is not supported here; the rule fails closed")
        if action != "Deny":
            return None
    protocol = rule.get("protocol")
    if protocol is not None:
        protocol = _PROTOCOLS.get(protocol, str(protocol)) if isinstance(protocol, int) else protocol.upper()
    own, other = (destination, source) if direction == "ingress" else (source, destination)
    return ParsedRule(action, protocol, _calico_peer(other, namespace), _calico_ports(destination),
                      _calico_peer(own, namespace))


def _calico_peer(entity: Obj, namespace: str) -> Peer:
    nets = entity.get("nets")
    return Peer(_nets(nets) if nets else (ANY,), _nets(entity.get("notNets") or ()),
                _calico_selects(entity, "selector", namespace),
                _calico_selects(entity, "notSelector", namespace))


def _calico_selects(entity: Obj, field_name: str, namespace: str) -> Selects | None:
    text = entity.get(field_name)
    spaces_text = entity.get("namespaceSelector") if field_name == "selector" else None
    if not text and not spaces_text:
        return None
    labels = selectors.parse(text or "")
    if spaces_text and "".join(spaces_text.split()) == "global()":
        return lambda s: not s.namespace and labels(s.labels)
    if spaces_text:
        spaces = selectors.parse(spaces_text)
        return lambda s: s.namespace != "" and spaces(s.namespace_labels) and labels(s.labels)
    if namespace:
        return lambda s: s.namespace == namespace and labels(s.labels)
    return lambda s: labels(s.labels)


def _calico_ports(destination: Obj) -> tuple[PortMatch, ...]:
    if left_out := destination.get("notPorts"):
        return _complement([_calico_port(port) for port in left_out])
    return tuple(_calico_port(port) for port in destination.get("ports") or ())


def _calico_port(port: int | str) -> PortMatch:
    if isinstance(port, int):
        return port, port
    low, colon, high = port.partition(":")
    if low.isdigit() and (not colon or high.isdigit()):
        return int(low), int(high or low)
    return port


def _complement(ranges: list[PortMatch]) -> tuple[PortMatch, ...]:
    left: list[PortMatch] = []
    start = 0
    for part in sorted(r for r in ranges if isinstance(r, tuple)):
        if part[0] > start:
            left.append((start, part[0] - 1))
        start = max(start, part[1] + 1)
    if start <= 65535:
        left.append((start, 65535))
    return tuple(left)
