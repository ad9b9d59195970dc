"""Policy as Calico's iptables data plane programs it: chains and IP sets per endpoint.

`build` is pure: from endpoint policies to the contents of chains and sets. `CalicoIptables` brings a
namespace to that state by the smallest change: chains and sets that hold a policy's content are named by a
hash of it, so that a changed policy is a new chain beside the old one until one atomic restore swaps them.

A packet to a pod passes FORWARD → cali-FORWARD → cali-to-wl-dispatch → cali-tw-<interface> → cali-pi-…
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from labkit.local.dataplane import policy_log
from labkit.local.dataplane.iptables import IpsetError, Iptables, remove_chains
from labkit.local.dataplane.policy import ANY, EndpointPolicy, Rule

ACCEPT = "0x10000/0x10000"
SEEN_BY_BPF = "0x1000000/0x1000000"
FALLEN_THROUGH_BPF = "0x5000000/0x5000000"
SET_PREFIX = "cali40s:"
BPF_MODE = "Pre-approved by BPF programs."            # comments by which our rules are found again
ALLOWED = "Policy explicitly accepted packet."
VXLAN_PORT = 4789
_RETURN_IF_ACCEPTED = f"-m mark --mark {ACCEPT} -j RETURN"
_UNKNOWN = '-m comment --comment "Unknown interface" -j DROP'


@dataclass(slots=True)
class CalicoRules:
    """The filter table's cali- chains and the IP sets that they use."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, tuple[str, ...]] = field(default_factory=dict)


def build(endpoints: Iterable[EndpointPolicy], *, interface_prefix: str = "azv",
          endpoint_to_host: str = "ACCEPT", vxlan_port: int = VXLAN_PORT) -> CalicoRules:
    """Work out the chains for the pods of one node.

    Args:
        endpoints: the node's pods.
        interface_prefix: what their host interfaces start with.
        endpoint_to_host: ACCEPT, DROP or RETURN: what happens to a pod's packets to its own node once the
            pod's egress policy let them pass.
        vxlan_port: where the node takes tunnels between nodes: none of those comes from a pod.
    """
    rules = CalicoRules()
    ours = sorted(endpoints, key=lambda endpoint: endpoint.interface)
    for endpoint in ours:
        rules.chains[f"cali-tw-{endpoint.interface}"] = _endpoint(rules, endpoint, "pi")
        rules.chains[f"cali-fw-{endpoint.interface}"] = _endpoint(rules, endpoint, "po", (_forged(vxlan_port),))
    rules.chains |= {
        "cali-to-wl-dispatch": (*(f"-o {e.interface} -g cali-tw-{e.interface}" for e in ours), _UNKNOWN),
        "cali-from-wl-dispatch": (*(f"-i {e.interface} -g cali-fw-{e.interface}" for e in ours), _UNKNOWN),
        "cali-FORWARD": ("-j MARK --set-xmark 0x0/0xf0000",
                         f"-i {interface_prefix}+ -j cali-from-wl-dispatch",
                         f"-o {interface_prefix}+ -j cali-to-wl-dispatch"),
        "cali-INPUT": (f"-i {interface_prefix}+ -g cali-wl-to-host",),
        "cali-wl-to-host": (
            "-j cali-from-wl-dispatch",
            f'-m comment --comment "Configured DefaultEndpointToHostAction" -j {endpoint_to_host}'),
        # A node may always reach its own pods: probes must not depend on policy.
        "cali-OUTPUT": (f"-o {interface_prefix}+ -j RETURN",),
    }
    return rules


def build_bpf_mode(interfaces: Iterable[str], *, interface_prefix: str = "azv",
                   vxlan_port: int = VXLAN_PORT) -> CalicoRules:
    """What is left in iptables while eBPF does the work: accept what its programs have let pass.

    Args:
        interfaces: the pods' host interfaces that have the programs. What goes to or from another one is dropped: its
            pod's policy is not there yet.
        interface_prefix: what the pods' host interfaces start with.
        vxlan_port: where the node takes tunnels between nodes.
    """
    # The kernel tracks connections in a namespace only while some rule there asks about them. The first rule
    # is that one: without it the connections that kube-proxy translated would stop when its rules go.
    known = ('-m comment --comment "Accept packets from flows that pre-date BPF."'
             " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    # In the middle of a connection that neither the programs nor the kernel know: no way around policy.
    unknown = ('-m comment --comment "Drop packets from unknown flows."'
               f" -m mark --mark {FALLEN_THROUGH_BPF} -j DROP")
    approved = f'-m comment --comment "{BPF_MODE}" -m mark --mark {SEEN_BY_BPF} -j ACCEPT'
    # A pod's own VXLAN would come out of vxlan.calico with whatever client's address it holds inside.
    forged = f"-i {interface_prefix}+ {_forged(vxlan_port)}"
    unseen = (f'-i {interface_prefix}+ -m comment --comment "From workload without BPF seen mark"'
              f" -m mark ! --mark {SEEN_BY_BPF} -j DROP")
    dispatch = (f'-o {interface_prefix}+ -m comment --comment "To workload, check workload is known."'
                " -j cali-to-wl-dispatch")
    return CalicoRules({
        "cali-to-wl-dispatch": (*(f"-o {interface} -j ACCEPT" for interface in sorted(interfaces)), _UNKNOWN),
        "cali-FORWARD": (known, unknown, unseen, dispatch, approved),
        "cali-INPUT": (forged, known, unseen, approved), "cali-OUTPUT": ()})


def _forged(vxlan_port: int) -> str:
    return ('-p udp -m comment --comment "Drop VXLAN encapped packets originating in workloads"'
            f" -m multiport --dports {vxlan_port} -j DROP")


def _endpoint(rules: CalicoRules, endpoint: EndpointPolicy, kind: str, first: Sequence[str] = ()) -> tuple[str, ...]:
    listed = endpoint.ingress if kind == "pi" else endpoint.egress
    lines = ["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
             "-m conntrack --ctstate INVALID -j DROP",
             "-j MARK --set-xmark 0x0/0x10000"]
    lines += first
    lines.append('-m comment --comment "Start of policies" -j MARK --set-xmark 0x0/0x20000')
    for policy, group in groupby(listed[:-1], key=lambda rule: rule.policy):
        body = tuple(line for rule in group for line in _rule(rules, rule, kind))
        chain = f"cali-{kind}-_{_hash(policy, *body)[:19]}"
        rules.chains[chain] = (f'-m comment --comment "Policy {policy}"', *body)
        lines += [f"-m mark --mark 0x0/0x20000 -j {chain}",
                  f'-m comment --comment "Return if policy accepted" {_RETURN_IF_ACCEPTED}']
    if listed[-1].action == "Deny":
        lines.append('-m comment --comment "Drop if no policies passed packet" -j DROP')
    else:
        lines += [f'-m comment --comment "Profile kns.{endpoint.namespace} allows"'
                  f" -j MARK --set-xmark {ACCEPT}", _RETURN_IF_ACCEPTED]
    return tuple(lines)


def _rule(rules: CalicoRules, rule: Rule, kind: str) -> list[str]:
    if not rule.nets:
        return []
    end = "src" if kind == "pi" else "dst"
    match = _nets(rules, rule.nets, end, "")
    match += _nets(rules, rule.not_nets, end, "! ", alone=not match.startswith(("-s", "-d")))
    lines = []
    for protocol in _protocols(rule):
        for ports in _multiports(rule.ports):
            head = f"{protocol}{match}{ports}"
            if rule.action == "Allow":
                lines += [f"{head}-j MARK --set-xmark {ACCEPT}", _RETURN_IF_ACCEPTED]
            elif rule.action == "Deny":
                lines.append(f"{head}-j DROP")
            else:
                lines += [f'{head}-j LOG --log-prefix "{policy_log.PREFIX}" --log-level 5',
                          f'{head}-m comment --comment "The lab alone has this rule: it shows the line"'
                          f' -j NFLOG --nflog-prefix "{policy_log.PREFIX}" --nflog-group {policy_log.GROUP}']
    return lines


def _protocols(rule: Rule) -> list[str]:
    if rule.protocol:
        return [f"-p {rule.protocol.lower()} "]
    return ["-p tcp ", "-p udp ", "-p sctp "] if rule.ports else [""]


def _multiports(ports: tuple[tuple[int, int], ...]) -> list[str]:
    """Multiport takes 15 numbers, and a range counts as two."""
    if not ports:
        return [""]
    words = [str(low) if low == high else f"{low}:{high}" for low, high in ports]
    return [f"-m multiport --dports {','.join(words[i:i + 7])} " for i in range(0, len(words), 7)]


def _nets(rules: CalicoRules, nets: tuple[str, ...], end: str, negate: str, *, alone: bool = True) -> str:
    """A match on addresses: of one net by itself, of several by a set. iptables takes one net in a rule."""
    if not nets or (nets == (ANY,) and not negate):
        return ""
    if len(nets) == 1 and alone:
        return f"{negate}{'-s' if end == 'src' else '-d'} {nets[0]} "
    name = SET_PREFIX + _hash(*nets)[:22]
    rules.sets[name] = nets
    return f"-m set {negate}--match-set {name} {end} "


def _hash(*parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()


_HOOKS = (("FORWARD", "cali-FORWARD"), ("INPUT", "cali-INPUT"), ("OUTPUT", "cali-OUTPUT"))
_ACCEPTED = ("-m", "comment", "--comment", ALLOWED,
             "-m", "mark", "--mark", ACCEPT, "-j", "ACCEPT")
JUMPS = (*((builtin, ("-j", chain)) for builtin, chain in _HOOKS), ("FORWARD", _ACCEPTED))
"""Built-in chain and rule of every rule of ours in a chain that is not ours."""


class CalicoIptables:
    """One namespace's cali- chains and sets; adopts what an earlier process left."""

    def __init__(self, iptables: Iptables, prefix: Sequence[str] = ()) -> None:
        self._iptables, self._prefix = iptables, tuple(prefix)
        self._current: CalicoRules | None = None

    def apply(self, wanted: CalicoRules) -> str | None:
        """Bring the namespace to `wanted`.

        Returns:
            What iptables-restore was given; None where nothing had to change, neither in iptables nor in a set.

        Raises:
            IptablesError: iptables refused; the next call starts from what is there.
            IpsetError: ipset refused.
        """
        current = self._current
        first = current is None
        if current is None:
            there = {chain for chain in self._iptables.chains("filter") if chain.startswith("cali-")}
            current = CalicoRules(dict.fromkeys(there, ("unknown",)), dict.fromkeys(self._sets(), ()))
        if not first and wanted == current:
            return None
        self._current = None
        self._ipset([line for name, nets in wanted.sets.items() if current.sets.get(name) != nets
                     for line in _set_lines(name, nets)])
        changed = {chain: lines for chain, lines in wanted.chains.items()
                   if current.chains.get(chain) != lines}
        gone = sorted(set(current.chains) - set(wanted.chains))
        text = "\n".join(["*filter", *(f":{chain} - [0:0]" for chain in (*changed, *gone)),
                *(f"-A {chain} {line}" for chain, lines in changed.items() for line in lines),
                *(f"-X {chain}" for chain in gone), "COMMIT", ""])
        if changed or gone:
            self._iptables.restore(text)
        self.hook()
        if first:
            self._iptables.ensure_rule("filter", "FORWARD", _ACCEPTED, append=True)
        self._ipset([f"destroy {name}" for name in sorted(set(current.sets) - set(wanted.sets))])
        self._current = wanted
        return text

    def hook(self, *, insert: bool = True) -> bool:
        """Put our chains first again, and say whether they were not.

        kube-proxy puts its own first when it starts, and KUBE-FORWARD accepts what is masqueraded: a policy that
        comes after it never sees a client whose address kube-proxy replaced. Without `insert` what
        is missing stays so: it is for who says that it was.
        """
        return any([self._iptables.ensure_first("filter", builtin, ("-j", chain), insert=insert)
                    for builtin, chain in _HOOKS])

    def remove(self) -> None:
        """Take every chain and set of ours away."""
        remove_chains(self._iptables, "filter", ("cali-",))
        self._iptables.delete_rule("filter", "FORWARD", _ACCEPTED)
        self._ipset([f"destroy {name}" for name in self._sets()])
        self._current = None

    def forget(self) -> None:
        """Read again what is there at the next `apply`: somebody else may have changed it."""
        self._current = None

    def _sets(self) -> list[str]:
        done = self._run(["ipset", "list", "-n"], "")
        return [name for name in done.stdout.split() if name.startswith(SET_PREFIX)]

    def _ipset(self, lines: list[str]) -> None:
        if not lines:
            return
        done = self._run(["ipset", "restore"], "\n".join(lines) + "\n")
        if done.returncode:
            raise IpsetError(f"ipset restore failed: {done.stderr.strip()}")

    def _run(self, argv: list[str], text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._prefix, *argv], input=text, text=True, capture_output=True, timeout=60,
                              check=False)


def _set_lines(name: str, nets: tuple[str, ...]) -> list[str]:
    whole = {ANY: ("0.0.0.0/1", "128.0.0.0/1")}       # hash:net cannot hold 0.0.0.0/0
    members: Mapping[str, None] = dict.fromkeys(part for net in nets for part in whole.get(net, (net,)))
    return [f"create {name} hash:net family inet maxelem 1048576 -exist", f"flush {name}",
            *(f"add {name} {member} -exist" for member in members)]
