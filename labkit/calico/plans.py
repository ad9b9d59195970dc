"""The plans that turn Calico's eBPF data plane on and off: pure functions of what was observed."""

from __future__ import annotations

from labkit.calico import article, operator_lane
from labkit.calico.facts import ClusterFacts
from labkit.calico.lanes import choose_lane
from labkit.kube import Kube
from labkit.plan import Plan, revert_plan


def plan_enable_ebpf(facts: ClusterFacts, kube: Kube) -> Plan:
    """How to turn eBPF on in this cluster.

    Args:
        facts: what was observed of it.
        kube: the cluster, which the steps act on when they run.

    Raises:
        NotSupportedError: it has no Calico.
    """
    lane = choose_lane(facts)
    steps = article.steps(facts, kube) if lane.id == "article" else operator_lane.steps(facts, kube)
    return Plan("enable-ebpf", f"Turn on Calico's eBPF data plane, {lane.title}", steps, lane.reason)


def plan_disable_ebpf(facts: ClusterFacts, kube: Kube) -> Plan:
    """How to turn eBPF off again: what turned it on, undone.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.

    Raises:
        NotSupportedError: it has no Calico.
    """
    back = revert_plan(plan_enable_ebpf(facts, kube))
    # The last step first, but for one pair: the operator forgets the address only when the ConfigMap is gone.
    order = ("undo-bpf", "undo-kube-proxy", "undo-endpoint", "undo-operator", "undo-node-address")
    steps = tuple(sorted(back.steps, key=lambda step: order.index(step.id)))
    return Plan("disable-ebpf", "Turn Calico's eBPF data plane off", steps,
                "As Calico's documentation has it: first eBPF off, then kube-proxy back. Between the two, "
                "new connections to services find nobody.")
