"""kube-proxy's iptables rules, as text for iptables-restore. Pure.

Chains, their names, comments and order are those of kube-proxy 1.20, so that what a learner reads about
kube-proxy is what `iptables-save` shows: KUBE-SERVICES finds the service, KUBE-SVC-… picks an endpoint by
chance, KUBE-SEP-… rewrites the destination, KUBE-FW-… and KUBE-XLB-… are the ways in from a load balancer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from labkit.local.dataplane.services import Endpoint, Key, ServicePort

MARK, DROP_MARK = "0x00004000/0x00004000", "0x00008000/0x00008000"
SERVICE_CHAINS = ("KUBE-SVC-", "KUBE-SEP-", "KUBE-FW-", "KUBE-XLB-", "KUBE-SVL-")
CANARY = "KUBE-PROXY-CANARY"
CANARIES = "".join(f"*{table}\n:{CANARY} - [0:0]\nCOMMIT\n" for table in ("mangle", "nat", "filter"))
"""Chains that are there to be missed, as text: Felix waits for the last of them when eBPF is switched off."""
_NAT_BASE = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-MARK-DROP")
_FILTER_BASE = ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-FIREWALL")

_NEW = ("-m", "conntrack", "--ctstate", "NEW")
_VISIBLE = "kubernetes externally-visible service portals"
JUMPS: tuple[tuple[str, str, tuple[str, ...]], ...] = tuple(
    (table, chain, (*match, "-m", "comment", "--comment", comment, "-j", target))
    for table, chain, match, comment, target in (
        # These three are the kubelet's on a real node: what KUBE-MARK-DROP marked is dropped, before KUBE-FORWARD
        # accepts what is to be masqueraded as well.
        ("filter", "INPUT", (), "kubernetes firewall", "KUBE-FIREWALL"),
        ("filter", "OUTPUT", (), "kubernetes firewall", "KUBE-FIREWALL"),
        ("filter", "FORWARD", (), "kubernetes firewall", "KUBE-FIREWALL"),
        ("filter", "INPUT", _NEW, _VISIBLE, "KUBE-EXTERNAL-SERVICES"),
        ("filter", "FORWARD", _NEW, _VISIBLE, "KUBE-EXTERNAL-SERVICES"),
        ("filter", "FORWARD", _NEW, "kubernetes service portals", "KUBE-SERVICES"),
        ("filter", "OUTPUT", _NEW, "kubernetes service portals", "KUBE-SERVICES"),
        ("filter", "FORWARD", (), "kubernetes forwarding rules", "KUBE-FORWARD"),
        ("nat", "OUTPUT", (), "kubernetes service portals", "KUBE-SERVICES"),
        ("nat", "PREROUTING", (), "kubernetes service portals", "KUBE-SERVICES"),
        ("nat", "POSTROUTING", (), "kubernetes postrouting rules", "KUBE-POSTROUTING"),
    )
)
"""Table, built-in chain and rule of every way into our chains; each is inserted at its chain's top."""


MANY_ENDPOINTS = 1000
"""With more endpoints than that in the cluster, the chains of services have no comments: less text to write
(pkg/proxy/iptables/proxier.go, `endpointChainsNumberThreshold`; today `largeClusterEndpointsThreshold`)."""


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Of kube-proxy's configuration, what its rules depend on."""

    node_name: str = ""
    node_ip: str = ""
    cluster_cidr: str = ""
    masquerade_all: bool = False

    def is_node_in(self, cidr: str) -> bool:
        """Whether a source range holds the node itself."""
        return bool(self.node_ip) and ip_address(self.node_ip) in ip_network(cidr, strict=False)


@dataclass(slots=True)
class RuleSet:
    """Input for iptables-restore, and the service chains that are in use once it is applied."""

    text: str
    chains: set[str]


@lru_cache(maxsize=1 << 17)
def chain_name(prefix: str, *parts: str) -> str:
    """A chain for a service port, or for an endpoint of one: `prefix` and 16 characters of a hash."""
    digest = hashlib.sha256("".join(parts).encode()).digest()
    return prefix + base64.b32encode(digest)[:16].decode()


def build(ports: Iterable[ServicePort], config: ProxyConfig, known: Collection[str] = (),
          changed: Collection[Key] | None = None) -> RuleSet:
    """Write the rules for all service ports.

    Args:
        ports: every service port of the cluster.
        config: kube-proxy's configuration.
        known: the service chains that the namespace has; those out of use are deleted.
        changed: services whose own chains are written; None for all of them. kube-proxy writes everything at
            each sync until 1.25, and since 1.28 only what changed (KUBE-SERVICES is always written in full).
    """
    ports = tuple(ports)
    w = _Writer(config, comments=sum(len(port.endpoints) for port in ports) <= MANY_ENDPOINTS)
    for port in ports:
        w.service_port(port, changed is None or port.key in changed or w.is_new(port, known))
    return RuleSet(w.text(known), w.active)


def only(text: str, chains: Mapping[str, Collection[str]]) -> str:
    """Of a text for iptables-restore, what writes these chains: table to chains. Pure."""
    lines = []
    for part in text.split("COMMIT\n"):
        table, *rest = part.splitlines() or [""]
        wanted = chains.get(table.removeprefix("*"), ())
        kept = [line for line in rest if _chain_of(line) in wanted]
        lines += [table, *kept, "COMMIT"] if kept else []
    return "\n".join([*lines, ""])


def named(text: str) -> dict[str, set[str]]:
    """Table to the chains that a text for iptables-restore writes or deletes. Pure."""
    chains: dict[str, set[str]] = {}
    for part in text.split("COMMIT\n"):
        table, *lines = part.split("\n")
        chains.setdefault(table.removeprefix("*"), set()).update(_chain_of(line) for line in lines if line[:1] == ":")
    return chains


def _chain_of(line: str) -> str:
    return line.split(" ", 1)[0][1:] if line.startswith(":") else line.split(" ", 2)[1]


class _Writer:
    def __init__(self, config: ProxyConfig, *, comments: bool) -> None:
        self.config, self._comments = config, comments
        self.active: set[str] = set()
        self.written: list[str] = []       # nat chains
        self.nat: list[str] = []           # nat rules, the chains of services
        self.services: list[str] = []      # nat, KUBE-SERVICES
        self.node_ports: list[str] = []    # nat, KUBE-NODEPORTS
        self.filter: list[str] = []

    def _comment(self, text: str) -> str:
        return f' -m comment --comment "{text}"' if self._comments else ""

    @staticmethod
    def is_new(port: ServicePort, known: Collection[str]) -> bool:
        chain = chain_name("KUBE-SVC-", port.full_name, port.protocol.lower())
        return bool(port.endpoints) and chain not in known

    def service_port(self, p: ServicePort, write: bool) -> None:
        """Add all rules of one service port; `write` is False where its own chains are in place."""
        name, protocol = p.full_name, p.protocol.lower()
        endpoints = p.usable()
        local_external = p.external_policy == "Local"
        nat: list[str] = []
        chains: list[str] = []
        svc = chain_name("KUBE-SVC-", name, protocol)
        if not endpoints:
            self._reject(p, name, protocol)
        else:
            chains.append(svc)
            seps = [chain_name("KUBE-SEP-", name, protocol, f"{e.ip}:{e.port}") for e in endpoints]
            self._balance(nat, svc, name, endpoints, seps, p.affinity_seconds)
            for endpoint in self._reachable(p, endpoints):
                sep = chain_name("KUBE-SEP-", name, protocol, f"{endpoint.ip}:{endpoint.port}")
                chains.append(sep)
                recent = f" -m recent --name {sep} --set" if p.affinity_seconds else ""
                comment = self._comment(name)
                nat.append(f'-A {sep}{comment} -s {endpoint.ip}/32 -j KUBE-MARK-MASQ\n'
                           f'-A {sep}{comment}{recent} -m {protocol} -p {protocol}'
                           f' -j DNAT --to-destination {endpoint.ip}:{endpoint.port}')
            self._cluster_ip(p, name, protocol, svc, nat, chains)
            entry = svc
            if local_external and (p.node_port or p.lb_ips or p.external_ips):
                entry = chain_name("KUBE-XLB-", name, protocol)
                chains.append(entry)
                self._local_only(nat, entry, svc, p)
            if p.lb_ips:
                self._load_balancer(p, name, protocol, entry, local_external, nat, chains)
            for ip in p.external_ips:
                match = (f'-m comment --comment "{name} external IP" -m {protocol} -p {protocol} -d {ip}/32'
                         f' --dport {p.port}')
                if not local_external:
                    self.services.append(f"-A KUBE-SERVICES {match} -j KUBE-MARK-MASQ")
                # Upstream also has "-m physdev ! --physdev-is-in" here. That match loads br_netfilter, which would
                # change how the host's own bridges work; no pod of the lab sits on a bridge.
                self.services += [f"-A KUBE-SERVICES {match} -m addrtype {kind} -j {entry}"
                                  for kind in ("! --src-type LOCAL", "--dst-type LOCAL")]
            if p.node_port:
                match = (f'-A KUBE-NODEPORTS -m comment --comment "{name}" -m {protocol} -p {protocol}'
                         f' --dport {p.node_port}')
                loopback = " -s 127.0.0.0/8" if local_external else ""
                self.node_ports.append(f"{match}{loopback} -j KUBE-MARK-MASQ\n{match} -j {entry}")
        self.active.update(chains)
        if write:
            self.written += chains
            self.nat += nat

    def _reachable(self, p: ServicePort, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """The usable ones, and those that shut down here and are the last of the node, for the policy Local."""
        if "Local" not in (p.external_policy, p.internal_policy):
            return endpoints
        return endpoints + tuple(e for e in p.usable_on(self.config.node_name) if e not in endpoints)

    def _reject(self, p: ServicePort, name: str, protocol: str) -> None:
        comment = f'-m comment --comment "{name} has no endpoints"'
        tail = f"-m {protocol} -p {protocol}"
        self.filter.append(
            f"-A KUBE-SERVICES {comment} {tail} -d {p.cluster_ip}/32 --dport {p.port} -j REJECT")
        for ip in (*p.external_ips, *p.lb_ips):
            self.filter.append(
                f"-A KUBE-EXTERNAL-SERVICES {comment} {tail} -d {ip}/32 --dport {p.port} -j REJECT")
        if p.node_port:
            self.filter.append(f"-A KUBE-EXTERNAL-SERVICES {comment} -m addrtype --dst-type LOCAL {tail}"
                               f" --dport {p.node_port} -j REJECT")

    def _cluster_ip(self, p: ServicePort, name: str, protocol: str, svc: str, nat: list[str],
                    chains: list[str]) -> None:
        match = (f'-m comment --comment "{name} cluster IP" -m {protocol} -p {protocol} -d {p.cluster_ip}/32'
                 f' --dport {p.port}')
        if self.config.masquerade_all:
            self.services.append(f"-A KUBE-SERVICES {match} -j KUBE-MARK-MASQ")
        elif cidr := self.config.cluster_cidr:
            self.services.append(f"-A KUBE-SERVICES {match} ! -s {cidr} -j KUBE-MARK-MASQ")
        if p.internal_policy == "Local":
            svc = chain_name("KUBE-SVL-", name, protocol)
            chains.append(svc)
            self._local_endpoints(nat, svc, p)
        self.services.append(f"-A KUBE-SERVICES {match} -j {svc}")

    def _load_balancer(self, p: ServicePort, name: str, protocol: str, entry: str, local: bool,
                       nat: list[str], chains: list[str]) -> None:
        firewall = chain_name("KUBE-FW-", name, protocol)
        chains.append(firewall)
        comment = f'-m comment --comment "{name} loadbalancer IP"'
        for ip in p.lb_ips:
            self.services.append(f"-A KUBE-SERVICES {comment} -m {protocol} -p {protocol} -d {ip}/32"
                                 f" --dport {p.port} -j {firewall}")
            head = f"-A {firewall} {comment}"
            if not local:
                nat.append(f"{head} -j KUBE-MARK-MASQ")
            nat += [f"{head} -s {cidr} -j {entry}" for cidr in p.lb_source_ranges] or [f"{head} -j {entry}"]
            if any(self.config.is_node_in(cidr) for cidr in p.lb_source_ranges):
                # Upstream's way to let a node through that has the frontend on an interface of its own.
                nat.append(f"{head} -s {ip}/32 -j {entry}")
            nat.append(f"{head} -j KUBE-MARK-DROP")

    def _local_only(self, nat: list[str], chain: str, svc: str, p: ServicePort) -> None:
        name = p.full_name
        if self.config.cluster_cidr:
            nat.append(f'-A {chain} -m comment --comment "Redirect pods trying to reach external loadbalancer'
                       f' VIP to clusterIP" -s {self.config.cluster_cidr} -j {svc}')
        nat.append(f'-A {chain} -m comment --comment "masquerade LOCAL traffic for {name} LB IP"'
                   f' -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ\n'
                   f'-A {chain} -m comment --comment "route LOCAL traffic for {name} LB IP to service chain"'
                   f' -m addrtype --src-type LOCAL -j {svc}')
        self._local_endpoints(nat, chain, p)

    def _local_endpoints(self, nat: list[str], chain: str, p: ServicePort) -> None:
        name, here = p.full_name, p.usable_on(self.config.node_name)
        if not here:
            nat.append(f'-A {chain} -m comment --comment "{name} has no local endpoints" -j KUBE-MARK-DROP')
            return
        seps = [chain_name("KUBE-SEP-", name, p.protocol.lower(), f"{e.ip}:{e.port}") for e in here]
        self._balance(nat, chain, name, here, seps, p.affinity_seconds, numbered=True)

    def _balance(self, nat: list[str], chain: str, name: str, endpoints: tuple[Endpoint, ...], seps: list[str],
                 affinity: int, *, numbered: bool = False) -> None:
        if affinity:
            nat += [f'-A {chain}{self._comment(name)} -m recent --name {sep} --rcheck'
                    f' --seconds {affinity} --reap -j {sep}' for sep in seps]
        left = len(endpoints)
        for i, sep in enumerate(seps):
            # Each takes 1/n of what comes this far, n counting down: so all get the same share.
            chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            comment = f' -m comment --comment "Balancing rule {i} for {name}"' if numbered else self._comment(name)
            nat.append(f"-A {chain}{comment}{chance} -j {sep}")
            left -= 1

    def text(self, known: Collection[str]) -> str:
        stale = sorted(set(known) - self.active)
        lines = ["*filter", *(f":{chain} - [0:0]" for chain in _FILTER_BASE), *self.filter,
                 f'-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets"'
                 f' -m mark --mark {DROP_MARK} -j DROP',
                 "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
                 f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {MARK}'
                 ' -j ACCEPT',
                 '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack pod source rule"'
                 ' -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
                 '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack pod destination rule"'
                 ' -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
                 "COMMIT",
                 "*nat", *(f":{chain} - [0:0]" for chain in _NAT_BASE),
                 *(f":{chain} - [0:0]" for chain in self.written), *(f":{chain} - [0:0]" for chain in stale),
                 f"-A KUBE-POSTROUTING -m mark ! --mark {MARK} -j RETURN",
                 "-A KUBE-POSTROUTING -j MARK --xor-mark 0x00004000",
                 '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT"'
                 " -j MASQUERADE --random-fully",
                 "-A KUBE-MARK-MASQ -j MARK --or-mark 0x00004000",
                 "-A KUBE-MARK-DROP -j MARK --or-mark 0x00008000",
                 *self.services, *self.node_ports, *self.nat,
                 '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the'
                 ' last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
                 *(f"-X {chain}" for chain in stale), "COMMIT", ""]
        return "\n".join(lines)
