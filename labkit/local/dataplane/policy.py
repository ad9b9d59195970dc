"""What policy means for one pod, before any data plane: an ordered list of rules in each direction.

iptables and eBPF both program `EndpointPolicy` values, so the two give the same verdicts. `verdict` is the
meaning of a list, in the plainest form: tests hold each data plane to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

Action = Literal["Allow", "Deny", "Log"]
ANY = "0.0.0.0/0"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; the first that matches and is not a Log decides.

    Args:
        action: what happens to a connection that matches. Calico's Pass is already resolved: with one tier
            it ends at the namespace's profile, which allows.
        protocol: "TCP", "UDP", "ICMP", "SCTP", another protocol's number, or None for any.
        nets: CIDRs of the other end, any of them; selectors are already resolved to /32 nets. An empty
            tuple matches nobody (a selector that selects no pod).
        not_nets: CIDRs of the other end that the rule leaves out; never all of them, which some iptables refuse.
        ports: inclusive ranges of the destination port, in both directions; empty for any port.
        policy: Calico's name of the policy that it comes from; "" for the verdict at a list's end.
    """

    action: Action
    protocol: str | None = None
    nets: tuple[str, ...] = (ANY,)
    not_nets: tuple[str, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    policy: str = ""

    def matches(self, protocol: str, ip: str, port: int) -> bool:
        """Whether a new connection with the other end `ip` to destination port `port` matches."""
        address = IPv4Address(ip)
        return (
            self.protocol in (None, protocol)
            and any(address in IPv4Network(net) for net in self.nets)
            and not any(address in IPv4Network(net) for net in self.not_nets)
            and (not self.ports or any(low <= port <= high for low, high in self.ports))
        )


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """A pod of this node and the rules for new connections to it and from it.

    Each list ends with a rule that matches everything: Deny where a policy of that direction selects the
    pod, else Allow. `ip` is "" until the pod has an address.
    """

    interface: str
    namespace: str
    pod: str
    ip: str
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]

    def without_logs(self) -> EndpointPolicy:
        """The same verdicts, and nothing about them in any log."""
        ingress, egress = (tuple(rule for rule in rules if rule.action != "Log")
                           for rules in (self.ingress, self.egress))
        return replace(self, ingress=ingress, egress=egress)


def verdict(rules: Iterable[Rule], protocol: str, ip: str, port: int) -> Action:
    """What a list of rules decides about a new connection."""
    for rule in rules:
        if rule.action != "Log" and rule.matches(protocol, ip, port):
            return rule.action
    return "Deny"


def host_interface(namespace: str, pod: str, prefix: str = "azv") -> str:
    """The host's end of a pod's link, as Azure CNI and Calico both work it out."""
    return prefix + hashlib.sha1(f"{namespace}.{pod}".encode()).hexdigest()[:11]
