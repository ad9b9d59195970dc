"""The lane for today's managed clusters: the operator switches, kube-proxy stays."""

from __future__ import annotations

import json
from typing import Any

from labkit.calico import effects
from labkit.calico.facts import ClusterFacts
from labkit.calico.lanes import healthz_port
from labkit.kube import Kube
from labkit.plan import Evidence, Log, Step


def steps(facts: ClusterFacts, kube: Kube) -> tuple[Step, ...]:
    """API endpoint, peace with kube-proxy, eBPF mode.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.
    """
    return (effects.endpoint_step(facts, kube, also_wait=True), _peace(facts, kube), _bpf(facts, kube))


def _peace(facts: ClusterFacts, kube: Kube) -> Step:
    wanted: dict[str, Any] = {"bpfKubeProxyIptablesCleanupEnabled": False,
                              "bpfKubeProxyHealthzPort": healthz_port(facts)}
    back: dict[str, Any] = {name: None for name in wanted}

    def verify() -> Evidence:
        spec = effects.felix_spec(kube, facts)
        said = {name: spec.get(name) for name in wanted}
        return Evidence(said == wanted, f"FelixConfiguration has {json.dumps(said)}")

    return Step(
        id="kube-proxy", title="Let Felix live beside kube-proxy",
        why="On AKS with Azure CNI kube-proxy cannot be taken away: its add-on manager brings it back. So "
            "Felix must leave kube-proxy's rules alone, and take another port for the health server that "
            "both of them would open.",
        without="Felix removes kube-proxy's rules, kube-proxy writes them again, and both burn CPU; and one "
                "of them fails to open port 10256.",
        command=f"kubectl patch felixconfiguration default --type=merge -p '{json.dumps({'spec': wanted})}'",
        apply=lambda log: effects.patch_felix(kube, facts, wanted, log), verify=verify,
        revert=lambda log: effects.patch_felix(kube, facts, back, log),
        revert_command=f"kubectl patch felixconfiguration default --type=merge "
                       f"-p '{json.dumps({'spec': back})}'",
    )


def _bpf(facts: ClusterFacts, kube: Kube) -> Step:
    def revert(log: Log) -> None:
        effects.patch_installation(kube, {"linuxDataplane": "Iptables"}, log)
        effects.wait_for_bpf_off(kube, facts, log, timeout=300)

    def verify() -> Evidence:
        plane = effects.installation_network(kube).get("linuxDataplane")
        if plane != "BPF":
            return Evidence(False, f"the Installation's linuxDataplane is {plane or 'not set'}")
        return effects.bpf_runs(kube, facts)

    body = json.dumps({"spec": {"calicoNetwork": {"linuxDataplane": "BPF"}}})
    return Step(
        id="bpf", title="Ask the operator for the eBPF data plane",
        why="The operator owns the switch: it rolls calico-node out, waits until every node is ready, sets "
            "bpfEnabled and notes that it did.",
        without="nothing changes. Setting bpfEnabled by hand instead, as the article does, makes today's "
                "operator refuse: its status says that somebody else has modified the FelixConfiguration.",
        command=f"kubectl patch installation default --type=merge -p '{body}'",
        apply=lambda log: effects.patch_installation(kube, {"linuxDataplane": "BPF"}, log),
        verify=verify, revert=revert, reverted=lambda: effects.bpf_is_off(kube, facts),
        revert_command="kubectl patch installation default --type=merge -p "
                       "'{\"spec\":{\"calicoNetwork\":{\"linuxDataplane\":\"Iptables\"}}}'",
        timeout=300, hint="Read what the operator says: `kubectl get tigerastatus calico -o yaml`.",
    )
