"""Proof that the data plane which a sample is named after carried its packets, by that data plane's own counters.

With kube-proxy and with Calico's iptables a rule of the chain FORWARD counts every byte between nodes, and the rule of
a service in KUBE-SERVICES counts each new connection to it: `iptables-save -c`. With eBPF the connection stands in
Calico's own tracking table and the service in its table of frontends: `calico-node -bpf conntrack dump` and
`nat dump`, and no rule of kube-proxy's took the connection.

A rule that kube-proxy wrote anew meanwhile counts from zero: then netfilter's own table shows the connection translated
(`conntrack -L`).

The agents' pods are asked by exec. Where a cluster gives less (an image without these commands, kube-proxy in another
mode) a sample is "not proven" and says why; where the counters say otherwise it is refuted, and the run ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labkit.errors import LabError, MeasurementError
from labkit.kube import Kube, wait_for
from labkit.plan import Evidence

State = Literal["proven", "refuted", "not proven"]
ENOUGH = 0.5
"""Of bytes, what must be among those that FORWARD counted: offloads may take some past it. Of connections, what must
be found: tables forget those that ended."""
SYN_BYTES = 60
"""What a connection sends at least."""

_RULE = re.compile(r"\[(\d+):(\d+)\] -A (\S+)(.*)")
_TARGET = re.compile(r"^ -d (\S+)/32 -p (\w+) .*--dport (\d+) -j (?:KUBE-SVC|KUBE-SVL|KUBE-EXT)-")
_END = re.compile(r"\d+(?:\.\d+){3}:\d+")
_SAVES = (("iptables-save", "-c"), ("iptables-legacy-save", "-c"), ("iptables-nft-save", "-c"))


@dataclass(frozen=True)
class Rules:
    """What netfilter's rules have counted on a node.

    Args:
        forwarded: bytes, by the rule of FORWARD that has counted most.
        services: new connections by "address protocol port".
    """

    forwarded: int
    services: dict[str, int]


@dataclass(frozen=True)
class Look:
    """What the agents of a node show at one moment; None, and why, of what they do not.

    Args:
        rules: of netfilter.
        connections: Calico's tracking table with eBPF; else netfilter's, of the service alone.
        frontends: Calico's, with eBPF.
        why: what was not shown.
    """

    rules: Rules | None = None
    connections: str | None = None
    frontends: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Traffic:
    """A flow, or connections to one service, as their client saw them.

    Args:
        bytes: that arrived.
        protocol: "tcp" or "udp".
        client: the client's address.
        ports: its ports.
        server: the server pod's address.
        service: the service's address where it was asked for, or "".
        port: that was asked for.
        server_port: the pod's; 0 where it is the same.
    """

    bytes: float
    protocol: str
    client: str
    ports: tuple[int, ...]
    server: str
    service: str
    port: int
    server_port: int = 0

    @property
    def enough(self) -> int:
        """How many of the connections must be found."""
        return max(1, int(ENOUGH * len(self.ports)))


@dataclass(frozen=True)
class Verdict:
    """Whether a sample is what it is named after, and the lines that say so."""

    state: State
    evidence: tuple[str, ...]

    def detail(self, case: str, arm: str) -> dict[str, Any]:
        """What a sample keeps of it.

        Args:
            case: what was measured.
            arm: the data plane that it is named after.

        Raises:
            MeasurementError: it is refuted.
        """
        if self.state == "refuted":
            raise MeasurementError(
                f"{case}: the packets did not take the path of {arm!r}, so the sample would be a lie.",
                "; ".join(self.evidence),
                "see which data plane the cluster has: `lab.dataplane()`; `lab.diagnose()` says what is wrong with it.")
        return {"proof": {"state": self.state, "evidence": list(self.evidence)}}


def parse_rules(text: str) -> Rules:
    """Read `iptables-save -c`.

    Args:
        text: its output, of all tables.
    """
    forwarded, services = 0, {}
    for packets, size, chain, rest in _RULE.findall(text):
        if chain == "FORWARD":
            forwarded = max(forwarded, int(size))
        elif chain == "KUBE-SERVICES" and (match := _TARGET.match(rest)):
            services[" ".join(match.groups())] = int(packets)
    return Rules(forwarded, services)


def judge(plane: str, traffic: Traffic, before: Look, after: Look) -> Verdict:
    """Whether a flow took the path that its arm is named after.

    Args:
        plane: "vanilla", "iptables" or "ebpf"; of another name nothing is claimed.
        traffic: the flow.
        before: what the agents showed before it.
        after: and after it.
    """
    if plane == "ebpf":
        return _judge_ebpf(traffic, before, after)
    if plane in ("vanilla", "iptables"):
        return _judge_rules(traffic, before.rules, after.rules, after)
    return Verdict("not proven", (f"nothing is claimed of the data plane of {plane!r}",))


def _judge_rules(traffic: Traffic, before: Rules | None, after: Rules | None, look: Look) -> Verdict:
    if before is None or after is None:
        return Verdict("not proven", (look.why,))
    forwarded = after.forwarded - before.forwarded
    if forwarded < 0:
        return Verdict("not proven", ("the rules were written anew meanwhile, and count from zero",))
    said = [f"rules of FORWARD on the client's node counted {forwarded:,} bytes of {traffic.bytes:,.0f}"]
    if forwarded < ENOUGH * traffic.bytes:
        return Verdict("refuted", tuple(said))
    if not traffic.service:
        return Verdict("proven", tuple(said))
    key = f"{traffic.service} {traffic.protocol} {traffic.port}"
    taken = after.services.get(key, 0) - before.services.get(key, 0)  # no rule: kube-proxy may be in another mode
    if taken >= traffic.enough:
        return Verdict("proven", (*said, f"the service's rule in KUBE-SERVICES took {taken} new connections"))
    # kube-proxy writes its rules anew whenever anything changes, and then they count from zero.
    ends = {f"src={traffic.client}", f"dst={traffic.service}", f"src={traffic.server}"}
    mine = {f"sport={port}" for port in traffic.ports}
    lines = [line for line in (look.connections or "").splitlines()
             if ends <= (words := set(line.split())) and words & mine]
    if len(lines) >= traffic.enough:
        return Verdict("proven", (*said, f"translated by netfilter{_of(lines, traffic)}: {' '.join(lines[0].split())}"))
    anew = any(after.services.get(name, count) < count for name, count in before.services.items())
    if look.connections is None or anew:
        why = "was perhaps written anew, and counts from zero" if key in after.services else "is not there"
        return Verdict("not proven", (*said, f"the service's rule {why}"))
    if taken > 0 or lines:
        found = f"the service's rule took {taken} of {len(traffic.ports)} connections, netfilter shows {len(lines)}"
        return Verdict("not proven", (*said, found))
    return Verdict("refuted", (*said, "the service's rule took no connection, and netfilter translated none"))


def _of(lines: Sequence[str], traffic: Traffic) -> str:
    """How many connections were found; "" of a single one, which its line says."""
    return f", {len(lines)} of {len(traffic.ports)} connections" if len(traffic.ports) > 1 else ""


def _judge_ebpf(traffic: Traffic, before: Look, after: Look) -> Verdict:
    by_proxy = bool(traffic.service and before.rules and after.rules) and _taken(traffic, before, after) > 0
    if by_proxy:
        return Verdict("refuted", ("kube-proxy's rule took the connection",))
    if after.connections is None:
        return Verdict("not proven", (after.why,))
    mine = {f"{traffic.client}:{port}" for port in traffic.ports}
    server = f"{traffic.server}:{traffic.server_port or traffic.port}"
    # a connection that was translated has two lines
    found = {end: line.strip() for line in after.connections.splitlines()
             if server in (ends := set(_END.findall(line))) for end in ends & mine}
    lines = list(found.values())
    if not lines:
        return Verdict("refuted", (f"Calico's tracking table has no connection {traffic.client} → {server}",))
    said = [f"tracked by eBPF{_of(lines, traffic)}: {lines[0]}"]
    if len(lines) < traffic.enough:
        return Verdict("not proven", tuple(said))
    if traffic.service:
        front = f"{traffic.service} port {traffic.port} proto {6 if traffic.protocol == 'tcp' else 17}"
        frontends = [line for line in (after.frontends or "").splitlines() if line.startswith(front)]
        if not frontends:
            return Verdict("refuted", (*said, f"Calico's table of frontends does not have {front}"))
        said.append(f"frontend: {frontends[0].strip()}")
    if before.rules and after.rules:
        said.append(f"rules of FORWARD counted {max(0, after.rules.forwarded - before.rules.forwarded):,} bytes "
                    f"of {traffic.bytes:,.0f}")
    return Verdict("proven", tuple(said))


def _taken(traffic: Traffic, before: Look, after: Look) -> int:
    """How many new connections the service's rule in KUBE-SERVICES has counted meanwhile."""
    key = f"{traffic.service} {traffic.protocol} {traffic.port}"
    old, new = (look.rules.services.get(key, 0) if look.rules else 0 for look in (before, after))
    return new - old


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict for several: the worst, with what every one is founded on.

    Args:
        verdicts: at least one.
    """
    worst = next(state for state in ("refuted", "not proven", "proven") if state in {v.state for v in verdicts})
    evidence = [line for verdict in verdicts for line in verdict.evidence if verdict.state == worst]
    return Verdict(worst, tuple(dict.fromkeys(evidence)))


def serves(plane: str, look: Look, service: str, port: int) -> bool:
    """Whether a data plane has a service in its tables; True where it does not show them.

    Args:
        plane: which is claimed.
        look: what its agents show.
        service: the service's address.
        port: its port, over TCP.
    """
    if plane == "ebpf":
        return look.frontends is None or f"{service} port {port} proto 6" in look.frontends
    return look.rules is None or not look.rules.services or f"{service} tcp {port}" in look.rules.services


class Witness:
    """Asks the agents of the client's node. It is made when the data plane has the service in its tables.

    Whoever connects to a service before kube-proxy has its rules leaves a tracked connection without translation
    behind, so a block must not begin sooner.

    Args:
        kube: the cluster.
        node: the client's node.
        plane: the data plane that is claimed.
        service: the address of the service in front of the server.
        port: its port.

    Raises:
        WaitError: the data plane does not take up the service.
    """

    def __init__(self, kube: Kube, node: str, plane: str, service: str, port: int) -> None:
        self._kube, self._plane = kube, plane
        self._agents = agents(kube, node)
        self._save: tuple[str, Sequence[str]] | None = None
        self._why = ""
        self.await_service(service, port)

    def await_service(self, service: str, port: int) -> None:
        """Wait until the data plane has a service in its tables; what it carries from now on can be judged.

        Args:
            service: the service's address.
            port: its port, over TCP.

        Raises:
            WaitError: it does not take it up.
        """
        def settled() -> Evidence:
            self._last = self.look()
            return Evidence(serves(self._plane, self._last, service, port), f"{service} is not in its tables yet")

        wait_for(f"the data plane {self._plane} to serve the measuring pods", settled, 60)

    def testify(self, *traffic: Traffic) -> Verdict:
        """Judge what has just ended, by what changed since the last time.

        Args:
            traffic: a flow, or connections to several services.
        """
        before, self._last = self._last, self.look(traffic)
        return all_of([judge(self._plane, each, before, self._last) for each in traffic])

    def look(self, traffic: Sequence[Traffic] = ()) -> Look:
        """What there is to see now.

        Args:
            traffic: whose connections are looked for, too.
        """
        rules = self._rules()
        if self._plane == "ebpf":
            return Look(rules, self._bpf("conntrack") if traffic else None, self._bpf("nat"), self._why)
        services = {each.service for each in traffic if each.service}
        return Look(rules, self._translated(services) if services else None, why=self._why)

    def _rules(self) -> Rules | None:
        tries = [self._save] if self._save else [(pod, words) for pod in self._agents for words in _SAVES]
        for pod, words in tries:
            text = self._exec(pod, words)
            if text and ("KUBE-" in text or "cali-" in text):
                self._save = pod, words
                return parse_rules(text)
        self._why = self._why or "no agent's pod on the client's node shows its rules by iptables-save"
        return None

    def _translated(self, services: set[str]) -> str | None:
        """Connections to services in netfilter's table."""
        for pod in self._agents:
            found = [self._exec(pod, ("conntrack", "-L", "-d", service)) for service in services]
            if None not in found:
                return "\n".join(text or "" for text in found)
        return None

    def _bpf(self, table: str) -> str | None:
        for pod in self._agents:
            if pod.startswith("calico-node"):
                return self._exec(pod, ("calico-node", "-bpf", table, "dump"))
        self._why = "no calico-node runs on the client's node"
        return None

    def _exec(self, pod: str, words: Sequence[str]) -> str | None:
        try:
            done = self._kube.exec(pod, self._agents[pod], words, check=False, timeout=30)
        except LabError as error:
            self._why = f"{error.what} {error.why}".strip()
            return None
        if done.exit_code:
            self._why = f"`{' '.join(words)}` in {pod}: {(done.stderr or done.stdout).strip()[-200:]}"
            return None
        return done.stdout


def agents(kube: Kube, node: str) -> dict[str, str]:
    """The agents' pods on a node that run, with their namespaces; kube-proxy's first."""
    found = {}
    for namespace, label in (("kube-system", "component=kube-proxy"), ("kube-system", "k8s-app=kube-proxy"),
                             ("calico-system", "k8s-app=calico-node"), ("kube-system", "k8s-app=calico-node")):
        for pod in kube.list("pods", namespace, label_selector=label):
            if (pod["spec"].get("nodeName") == node and pod.get("status", {}).get("phase") == "Running"
                    and not pod["metadata"].get("deletionTimestamp")):
                found[pod["metadata"]["name"]] = namespace
    return found
