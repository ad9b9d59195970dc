"""Which way to eBPF is right for a cluster, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from labkit.calico.facts import ClusterFacts, version_key
from labkit.errors import NotSupportedError

OWNS_BPF_ENABLED = (1, 34)
"""From this version of the operator on, it owns FelixConfiguration's bpfEnabled."""
ZERO_HEALTHZ = (3, 32)
"""From this version of Calico on, bpfKubeProxyHealthzPort may be 0, for off."""


@dataclass(frozen=True)
class Lane:
    """A supported way to Calico's eBPF data plane.

    Args:
        id: "article" or "operator".
        title: for people.
        reason: why this cluster takes it.
    """

    id: Literal["article", "operator"]
    title: str
    reason: str


def choose_lane(facts: ClusterFacts) -> Lane:
    """The lane for a cluster.

    Args:
        facts: what was observed of it.

    Raises:
        NotSupportedError: the cluster has no Calico that an operator runs.
    """
    if facts.operator_version is None or facts.calico_node is None:
        raise NotSupportedError(
            "This cluster has no Calico, so there is no eBPF data plane to turn on.",
            "it was created without `--network-policy calico`, or the operator has not finished installing "
            "it.",
            "create one with Calico: `lab.run(lab.create_cluster())`.")
    if version_key(facts.operator_version) < OWNS_BPF_ENABLED:
        return Lane(
            "article", "as the article did it, in 2021",
            f"The operator here is {facts.operator_version}. It leaves FelixConfiguration and kube-proxy to "
            "you, and reads the API server's address when it starts. So the article's five steps fit.")
    return Lane(
        "operator", "as today's managed clusters need it",
        f"The operator here is {facts.operator_version}. Since v1.34 it owns bpfEnabled and refuses one that "
        "was set by hand; it watches the ConfigMap, so it needs no restart; and AKS takes back a patch of "
        "kube-proxy. So kube-proxy stays, Felix is told to live beside it, and the Installation is what "
        "switches the data plane.")


def healthz_port(facts: ClusterFacts) -> int:
    """A port for Felix's own kube-proxy health server that a running kube-proxy does not hold."""
    return 0 if version_key(facts.calico_version) >= ZERO_HEALTHZ else 10258
