"""What a network policy may say: Kubernetes' rules in Kubernetes' words, Calico's in Calico's.

Calico's definitions in Kubernetes take nearly everything, and Felix then leaves out what it does not understand.
What Calico's data planes do and the lab's cannot is refused here, before a policy is stored that would be less than
it says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from labkit.local.client import Obj

from . import defaults, errors
from .custom import CustomStrategy
from .errors import FieldError
from .kinds import Kind
from .pod_rules import PORT_RANGE
from .strategies import Strategy
from .validation import is_port, port_name_errors

if TYPE_CHECKING:
    from .machinery import Machinery

_PROTOCOLS = ("TCP", "UDP", "SCTP")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_TYPES = ("Ingress", "Egress")


class NetworkPolicyStrategy(Strategy):
    """Kubernetes' own network policies."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """The spec's defaults; a cluster from before endPort does not know it."""
        if not isinstance(spec := obj.setdefault("spec", {}), dict):
            return
        defaults.network_policy(spec)
        if self.api.minor < 22:
            for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
                for port in rule.get("ports") or ():
                    port.pop("endPort", None)

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Selectors, peers, ports and types."""
        return [] if sub else list(_kubernetes_errors(new["spec"]))


def _kubernetes_errors(spec: Obj) -> Iterator[FieldError]:
    yield from selector_errors(spec.get("podSelector"), "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{i}]"
            for j, port in enumerate(rule.get("ports") or ()):
                yield from _port_errors(port, f"{at}.ports[{j}]")
            for j, peer in enumerate(rule.get(peers) or ()):
                yield from _peer_errors(peer, f"{at}.{peers}[{j}]")
    types = spec.get("policyTypes") or ()
    if len(types) > len(_TYPES):
        yield errors.bad_value("spec.policyTypes", list(types), "may not specify more than two policyTypes")
        return
    for i, name in enumerate(types):
        if name not in _TYPES:
            yield errors.unsupported(f"spec.policyTypes[{i}]", name, _TYPES)


def _port_errors(port: Obj, at: str) -> Iterator[FieldError]:
    if (protocol := port.get("protocol")) not in _PROTOCOLS:
        yield errors.unsupported(f"{at}.protocol", protocol, _PROTOCOLS)
    wanted, end = port.get("port"), port.get("endPort")
    if wanted is None:
        if end is not None:
            yield errors.bad_value(f"{at}.endPort", end, "may not be specified when `port` is not specified")
    elif isinstance(wanted, str):
        if end is not None:
            yield errors.bad_value(f"{at}.endPort", end, "may not be specified when `port` is non-numeric")
        yield from port_name_errors(wanted, f"{at}.port")
    else:
        if not is_port(wanted):
            yield errors.bad_value(f"{at}.port", wanted, PORT_RANGE)
        if end is not None and end < wanted:
            yield errors.bad_value(f"{at}.endPort", end, "must be greater than or equal to `port`")
        if end is not None and not is_port(end):
            yield errors.bad_value(f"{at}.endPort", end, PORT_RANGE)


def _peer_errors(peer: Obj, at: str) -> Iterator[FieldError]:
    selectors = [key for key in ("podSelector", "namespaceSelector") if peer.get(key) is not None]
    for key in selectors:
        yield from selector_errors(peer[key], f"{at}.{key}")
    if (block := peer.get("ipBlock")) is None:
        if not selectors:
            yield errors.required(at, "must specify a peer")
        return
    yield from _block_errors(block, f"{at}.ipBlock")
    if selectors:
        yield errors.denied(at, "may not specify both ipBlock and another peer")


def _block_errors(block: Obj, at: str) -> Iterator[FieldError]:
    if not block.get("cidr"):
        yield errors.required(f"{at}.cidr")
        return
    if (whole := _net(block["cidr"])) is None:
        yield errors.bad_value(f"{at}.cidr", block["cidr"], "not a valid CIDR")
        return
    for i, text in enumerate(block.get("except") or ()):
        if (part := _net(text)) is None:
            yield errors.bad_value(f"{at}.except[{i}]", text, "not a valid CIDR")
        elif (part.version != whole.version or part.network_address not in whole
              or part.prefixlen <= whole.prefixlen):
            yield errors.bad_value(f"{at}.except[{i}]", text, "must be a strict subset of `cidr`")


def _net(text: Any, *, bare: bool = False) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """A CIDR; with `bare` also an address alone, which Calico takes for a net of its own."""
    try:
        return ipaddress.ip_network(str(text), strict=False) if bare or "/" in str(text) else None
    except ValueError:
        return None


def selector_errors(selector: Obj | None, at: str) -> Iterator[FieldError]:
    """What is wrong with a LabelSelector."""
    for i, term in enumerate((selector or {}).get("matchExpressions") or ()):
        here, operator = f"{at}.matchExpressions[{i}]", term.get("operator")
        if operator not in _OPERATORS:
            yield errors.bad_value(f"{here}.operator", operator, "not a valid selector operator")
        elif operator in ("In", "NotIn") and not term.get("values"):
            yield errors.required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and term.get("values"):
            yield errors.denied(f"{here}.values",
                                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")


# --- Calico

_GLOBAL = "global() can only be used in an EntityRule namespaceSelector"
_UNTRACKED = ("is for host endpoints, which the lab has none of: the policy would apply to nothing. Leave it out, and"
              " the policy applies to pods")
_LAB = "is not something that the lab's data planes can match on; a cluster with Calico can"


class CalicoPolicyStrategy(CustomStrategy):
    """Calico's network policies, global or not."""

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """What the definition says, what Calico says, and what the lab cannot do."""
        found = super().validate(kind, new, old, sub)
        return found or list(_calico_errors(new.get("spec") or {}))


class HostEndpointStrategy(CustomStrategy):
    """Host endpoints: the lab programs none."""

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """A refusal: it would promise what no data plane here does."""
        return [errors.denied("spec", "the lab has no host endpoints: its data planes apply policy to pods alone. Use"
                              " a GlobalNetworkPolicy that selects the pods")]


def _calico_errors(spec: Obj) -> Iterator[FieldError]:
    untracked = [key for key in ("doNotTrack", "preDNAT") if spec.get(key)]
    if len(untracked) == 2:
        yield errors.denied("spec", "preDNAT and doNotTrack cannot both be true")
    elif untracked and not spec.get("applyOnForward"):
        yield errors.bad_value("spec", "object", "applyOnForward must be true if either preDNAT or doNotTrack is true")
    elif untracked:
        yield errors.denied(f"spec.{untracked[0]}", _UNTRACKED)
    if (tier := spec.get("tier") or "default") != "default":
        yield errors.denied("spec.tier", f"the lab has Calico's default tier alone, and no {tier}. Leave it out, and"
                            " give the policy a low order to have it asked early")
    if spec.get("serviceAccountSelector"):
        yield errors.denied("spec.serviceAccountSelector", _LAB)
    for key in ("selector", "namespaceSelector"):
        if "global(" in (spec.get(key) or ""):
            yield errors.bad_value(f"spec.{key}", spec[key], _GLOBAL)
    for name in {name: None for name in spec.get("types") or () if spec["types"].count(name) > 1}:
        yield errors.bad_value("spec.types", spec["types"], f"'{name}' type specified more than once")
    for direction in ("ingress", "egress"):
        for i, rule in enumerate(spec.get(direction) or ()):
            yield from _rule_errors(rule, f"spec.{direction}[{i}]")


def _rule_errors(rule: Obj, at: str) -> Iterator[FieldError]:
    for key in ("notProtocol", "icmp", "notICMP", "http"):
        if rule.get(key):
            yield errors.denied(f"{at}.{key}", _LAB)
    protocol = str(rule.get("protocol") or "").upper()
    protocol = {"6": "TCP", "17": "UDP", "132": "SCTP"}.get(protocol, protocol)
    for end in ("source", "destination"):
        entity, here = rule.get(end) or {}, f"{at}.{end}"
        for key in ("services", "domains"):
            if entity.get(key):
                yield errors.denied(f"{here}.{key}", _LAB)
        if (entity.get("serviceAccounts") or {}).get("selector"):
            yield errors.denied(f"{here}.serviceAccounts.selector", _LAB)
        for key in ("nets", "notNets"):
            yield from (errors.bad_value(f"{here}.{key}[{i}]", net, "invalid CIDR")
                        for i, net in enumerate(entity.get(key) or ()) if _net(net, bare=True) is None)
        if "global(" in (entity.get("selector") or ""):
            yield errors.bad_value(f"{here}.selector", entity["selector"], _GLOBAL)
        spaces = "".join((entity.get("namespaceSelector") or "").split())
        if "global(" in spaces and spaces != "global()":
            yield errors.bad_value(f"{here}.namespaceSelector", entity["namespaceSelector"],
                                   "global() cannot be combined with other selectors")
        for key in ("ports", "notPorts"):
            if ports := entity.get(key):
                yield from _rule_port_errors(ports, protocol, f"{here}.{key}", source=end == "source")


def _rule_port_errors(ports: list[Any], protocol: str, at: str, *, source: bool) -> Iterator[FieldError]:
    if protocol and protocol not in _PROTOCOLS:
        yield errors.bad_value(at, ports, "rules that specify ports must set protocol to TCP or UDP or SCTP")
    elif not protocol and any(_is_numeric(port) for port in ports):
        yield errors.bad_value(at, ports,
                               "rules with numeric port or port range must set protocol to TCP or UDP or SCTP")
    elif source:
        yield errors.denied(at, _LAB)
    elif protocol == "SCTP":
        yield errors.denied(at, "ports of SCTP are not something that the lab's data planes can match on, nor is it"
                            " something that Calico's eBPF data plane can. A rule about SCTP without ports works")
    elif at.endswith("notPorts") and not all(map(_is_numeric, ports)):
        yield errors.denied(at, "a name among the ports to leave out " + _LAB)


def _is_numeric(port: Any) -> bool:
    return str(port).replace(":", "", 1).isdigit()


def policy_strategies(machinery: Machinery) -> dict[str, Strategy]:
    """The strategies of this module by resource."""
    calico, group = CalicoPolicyStrategy(machinery), "crd.projectcalico.org"
    return {
        "networkpolicies.networking.k8s.io": NetworkPolicyStrategy(machinery),
        f"networkpolicies.{group}": calico,
        f"globalnetworkpolicies.{group}": calico,
        f"hostendpoints.{group}": HostEndpointStrategy(machinery),
    }
