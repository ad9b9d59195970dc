"""Which way to eBPF is right for a cluster, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from labkit.calico.facts import ClusterFacts, version_key
from labkit.errors import NotSupportedError

OWNS_BPF_ENABLED = (1, 34)
"""From this version of the operator on, it owns FelixConfiguration's bpfEnabled."""
ZERO_HEALTHZ = (3, 32)
"""From this version of Calico on, bpfKubeProxyHealthzPort may be 0, for off."""
CALICO_RELEASE = "v3.32.1"
"""What is installed where there is no Calico."""
OLDEST_KUBERNETES = (1, 34)
"""The oldest Kubernetes that `CALICO_RELEASE` is tested with, by Calico's own system requirements."""

LaneId = Literal["article", "A", "B", "C"]


@dataclass(frozen=True)
class Lane:
    """A way to Calico's eBPF data plane.

    Args:
        id: "article"; "A", Calico that AKS manages; "B", an operator of your own beside kube-proxy; "C", a
            cluster without a CNI plugin, where kube-proxy goes in the end.
        title: for people.
        reason: why this cluster takes it.
        installs: whether Calico itself is still to be installed, or was by such a plan.
    """

    id: LaneId
    title: str
    reason: str
    installs: bool = False


def choose_lane(facts: ClusterFacts) -> Lane:
    """The lane for a cluster.

    Args:
        facts: what was observed of it.

    Raises:
        NotSupportedError: no lane fits; the error says why and what to do.
    """
    _refuse_what_no_lane_fits(facts)
    if facts.operator_version is None:
        return _without_operator(facts)
    if version_key(facts.operator_version) < OWNS_BPF_ENABLED:
        _need_calico_node(facts)
        return Lane(
            "article", "as the article did it, in 2021",
            f"The operator here is {facts.operator_version}. It leaves FelixConfiguration and kube-proxy to "
            "you, and reads the API server's address when it starts. So the article's five steps fit.")
    if facts.managed:
        _need_calico_node(facts)
        return Lane(
            "A", "as today's managed clusters need it",
            f"AKS manages Calico here, by the operator {facts.operator_version}. Since v1.34 the operator owns "
            "bpfEnabled and refuses one that was set by hand; it watches the ConfigMap, so it needs no restart; "
            "and AKS takes back a patch of kube-proxy. So kube-proxy stays, Felix is told to live beside it, and "
            "the Installation is what switches the data plane. Microsoft does not support this, and does not "
            "block it.")
    installs = facts.ours or not facts.installed
    if facts.network.plugin == "none":
        return _bring_your_own(installs)
    if not facts.installed and facts.network.plugin != "azure":
        raise _no_calico("an operator is there, and no Installation says what it shall install.",
                         "make one as Calico's documentation says for this kind of cluster.")
    return _own_operator(facts, installs)


def healthz_port(facts: ClusterFacts) -> int:
    """A port for Felix's own kube-proxy health server that a running kube-proxy does not hold."""
    return 0 if version_key(facts.calico_version or CALICO_RELEASE) >= ZERO_HEALTHZ else 10258


def _refuse_what_no_lane_fits(facts: ClusterFacts) -> None:
    if facts.without_operator and facts.operator_version is None:
        raise NotSupportedError(
            "Calico runs here without an operator, and the plan has no lane for that.",
            "a DaemonSet kube-system/calico-node is there, as Calico's manifests make it, and no tigera-operator.",
            "let the operator take over first, as Calico's page about the migration from manifests says, or make a "
            "cluster of its own: `lab.run(lab.create_cluster())`.")
    if facts.proxy_mode == "ipvs":
        raise NotSupportedError(
            "kube-proxy runs in IPVS mode here, and Calico's eBPF data plane does not work beside that.",
            "Felix restarts when it sees kube-proxy's mode change, and the interface kube-ipvs0 stays on the nodes "
            "until they restart.",
            "set kubeProxyConfig's mode to IPTABLES (`az aks update --kube-proxy-config`, of the extension "
            "aks-preview), replace the nodes (`az aks nodepool upgrade --node-image-only`), and plan again.")
    network = facts.network
    if network.dataplane == "cilium" or network.policy in ("azure", "cilium"):
        engine = "cilium" if "cilium" in (network.dataplane, network.policy) else network.policy
        raise NotSupportedError(
            f"This cluster's policies are enforced by {engine}, and two policy engines do not go together.",
            f"its network profile says networkPolicy {network.policy or 'none'}, networkDataplane "
            f"{network.dataplane or 'azure'}.",
            "create a cluster with `--network-policy calico`, or with none.")


def _need_calico_node(facts: ClusterFacts) -> None:
    if facts.calico_node is None:
        raise _no_calico("the operator is there, and has not finished installing it.",
                         "wait a minute, and look at `kubectl get tigerastatus`.")


def _without_operator(facts: ClusterFacts) -> Lane:
    plugin = facts.network.plugin
    if facts.network.policy == "calico":
        raise _no_calico("it was created with `--network-policy calico`, and AKS has not made the operator yet.",
                         "wait a minute, and plan again.")
    if plugin not in ("azure", "none"):
        raise _no_calico(
            f"its network plugin is {plugin}, and no lane begins there." if plugin else
            "there is no operator, and nobody says which network plugin the cluster has.",
            "create one with Calico: `lab.run(lab.create_cluster())`.")
    if version_key(facts.version)[:2] < OLDEST_KUBERNETES:
        raise _no_calico(
            f"its Kubernetes is {facts.version}, and Calico {CALICO_RELEASE} is tested with "
            f"{'.'.join(map(str, OLDEST_KUBERNETES))} and later.",
            "create one with Calico: `lab.run(lab.create_cluster())`.")
    return _bring_your_own(True) if plugin == "none" else _own_operator(facts, True)


def _own_operator(facts: ClusterFacts, installs: bool) -> Lane:
    there = (f"The operator here is {facts.operator_version}, and it is your own: AKS's add-on manager owns "
             "neither it nor its Installation." if facts.operator_version else
             "This cluster has Azure's network plugin and no network policy, so Calico can be installed by an "
             f"operator of your own: {CALICO_RELEASE}, and you choose the version.")
    proxy = ("kube-proxy cannot be switched off beside Azure's plugin, so it stays and Felix is told to live beside "
             "it." if facts.network.plugin == "azure" else
             "kube-proxy stays, and Felix is told to live beside it.")
    return Lane("B", "by an operator of your own", f"{there} {proxy}", installs)


def _bring_your_own(installs: bool) -> Lane:
    return Lane(
        "C", "on a cluster that brings its own network",
        "This cluster has no network plugin of Azure's (`--network-plugin none`), so Calico is its network too, by "
        "VXLAN, and AKS lets kube-proxy be switched off, by a preview API. Last of all: the operator finds the API "
        "server by its name, and until Calico's eBPF carries the services it is kube-proxy that makes cluster DNS "
        "work. Without both, nothing can ever be installed.", installs)


def _no_calico(why: str, fix: str) -> NotSupportedError:
    return NotSupportedError("This cluster has no Calico, so there is no eBPF data plane to turn on.", why, fix)
