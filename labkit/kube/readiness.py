"""Whether a cluster is ready to be used: its nodes and its own pods."""

from __future__ import annotations

from collections.abc import Callable

from labkit.kube.client import Kube
from labkit.kube.wait import is_ready, rolled_out
from labkit.plan import Evidence, Log, Step

CALICO_NAMESPACE = "calico-system"


def ready_step(kube: Callable[[], Kube], *, calico: bool) -> Step:
    """A step that only waits: until nodes, cluster DNS and, where it is asked for, Calico are ready.

    Args:
        kube: gives the cluster; called when the step runs, because the cluster may not exist before.
        calico: whether Calico has to be ready too.
    """
    command = ("kubectl wait --for=condition=Ready nodes --all --timeout=300s\n"
               "kubectl rollout status -n kube-system deployment/coredns")
    if calico:
        command += f"\nkubectl rollout status -n {CALICO_NAMESPACE} daemonset/calico-node"

    def wait(log: Log) -> None:
        log("the cluster starts its own pods")

    return Step(
        id="ready", title="Wait until the cluster is ready",
        why="Azure says that the cluster is there when its API answers. Nodes, cluster DNS and Calico take a "
            "little longer.",
        without="the first thing that you try fails, and it is not your fault.",
        command=command, apply=wait, verify=lambda: cluster_ready(kube(), calico=calico), timeout=600,
        hint="Look at what does not start: `kubectl get pods --all-namespaces`.",
    )


def cluster_ready(kube: Kube, *, calico: bool) -> Evidence:
    """Whether nodes, cluster DNS and Calico are ready.

    Args:
        kube: the cluster.
        calico: whether Calico is expected.
    """
    nodes = kube.list("nodes")
    ready = sum(1 for node in nodes if is_ready(node))
    if not nodes or ready < len(nodes):
        return Evidence(False, f"{ready} of {len(nodes)} nodes are ready")
    dns = kube.find("deployments.apps", "coredns", "kube-system")
    if dns is None:
        return Evidence(False, "there is no cluster DNS yet")
    if not (seen := rolled_out(dns)):
        return seen
    if calico:
        found = kube.find("daemonsets.apps", "calico-node", CALICO_NAMESPACE)
        if found is None:
            return Evidence(False, "the operator has not made calico-node yet")
        if not (seen := rolled_out(found)) or not found.get("status", {}).get("desiredNumberScheduled"):
            return Evidence(False, seen.text)
    return Evidence(True, f"{len(nodes)} nodes, cluster DNS{' and Calico' if calico else ''} are ready")
