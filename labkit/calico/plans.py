"""The plans that turn Calico's eBPF data plane on and off: pure functions of what was observed."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.calico import article, byo, operator_lane, own_operator
from labkit.calico.facts import ClusterFacts
from labkit.calico.lanes import choose_lane
from labkit.errors import NotSupportedError
from labkit.kube import Kube
from labkit.plan import Plan, Step, revert_plan

RELEASES = "https://raw.githubusercontent.com/projectcalico/calico"
"""Where Calico's releases are published."""


@dataclass(frozen=True)
class Around:
    """What a plan needs besides the cluster.

    Args:
        releases: where Calico's releases are: an address, or a folder with the same files.
        recheck: seconds after which to look again whether AKS has taken something back; 0 leaves that out.
        proxy: switches kube-proxy; None where there is no Azure.
    """

    releases: str = RELEASES
    recheck: float = 300.0
    proxy: byo.ProxySwitch | None = None


def plan_enable_ebpf(facts: ClusterFacts, kube: Kube, around: Around | None = None) -> Plan:
    """How to turn eBPF on in this cluster.

    Args:
        facts: what was observed of it.
        kube: the cluster, which the steps act on when they run.
        around: what else the plan needs; None means what holds on Azure.

    Raises:
        NotSupportedError: no lane fits the cluster.
    """
    lane, around = choose_lane(facts), around or Around()
    steps: tuple[Step, ...] = own_operator.steps(facts, kube, lane.id, around.releases) if lane.installs else ()
    steps += article.steps(facts, kube) if lane.id == "article" else operator_lane.steps(facts, kube)
    if lane.id == "A" and around.recheck:
        steps += (operator_lane.recheck(steps, kube, around.recheck),)
    if lane.id == "C":
        if around.proxy is None:
            raise NotSupportedError("Nobody here can switch kube-proxy off.", "that takes Azure Resource Manager.",
                                    "use the target local or aks.")
        steps += byo.steps(facts, kube, around.proxy)
    return Plan("enable-ebpf", f"Turn on Calico's eBPF data plane, {lane.title}", steps,
                f"Lane {lane.id}. {lane.reason}")


def plan_disable_ebpf(facts: ClusterFacts, kube: Kube, around: Around | None = None, *, for_now: bool = False) -> Plan:
    """How to turn eBPF off again: what turned it on, undone. Calico itself stays.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.
        around: as for `plan_enable_ebpf`.
        for_now: undo only what carries packets. calico-node keeps the API's address, so nothing rolls out, and eBPF is
            back in seconds: a benchmark goes to and fro.

    Raises:
        NotSupportedError: there is no Calico, or no lane fits the cluster.
    """
    if facts.calico_node is None:
        raise NotSupportedError("This cluster has no Calico, so there is no eBPF data plane to turn off.",
                                "there is no DaemonSet calico-node.", "nothing is to be done.")
    back = revert_plan(plan_enable_ebpf(facts, kube, around))
    wanted = _ORDER[:_CARRY_PACKETS] if for_now else _ORDER
    steps = tuple(sorted((step for step in back.steps if step.id in wanted), key=lambda step: _ORDER.index(step.id)))
    return Plan("disable-ebpf", "Turn Calico's eBPF data plane off", steps, _way_back(choose_lane(facts).id))


_ORDER = ("undo-take-over", "undo-proxy-off", "undo-bpf", "undo-kube-proxy", "undo-endpoint", "undo-operator",
          "undo-node-address", "undo-connections")
"""Switch first; then what eBPF needed. The operator of 2021 forgets the address only when the ConfigMap is gone,
and cluster DNS gets its new connections when they take the path that stays."""
_CARRY_PACKETS = 4
"""The first so many say who handles services; the rest is what eBPF needs besides."""


def _way_back(lane: str) -> str:
    if lane == "article":
        return ("As Calico's documentation has it: first eBPF off, then kube-proxy back. Between the two, "
                "new connections to services find nobody.")
    if lane == "C":
        return ("kube-proxy comes back first, and Felix lives beside it again; then eBPF goes off. Calico's "
                "documentation has it the other way round, for clusters where kube-proxy is back in a second: here "
                "Azure takes minutes, and meanwhile new connections to services would find nobody.")
    return ("As Calico's documentation has it: first the Installation back to Iptables, and wait; then what Felix was "
            "told about kube-proxy; then the ConfigMap. kube-proxy has never gone, so services work all the time.")
