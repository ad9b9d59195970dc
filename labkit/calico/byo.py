"""Lane C's end: kube-proxy is switched off by Azure, after Calico's eBPF carries the services."""

from __future__ import annotations

from typing import Protocol

from labkit.calico import effects
from labkit.calico.facts import ClusterFacts
from labkit.calico.lanes import healthz_port
from labkit.kube import Kube
from labkit.kube.wait import wait_for
from labkit.plan import Evidence, Log, Step


class ProxySwitch(Protocol):
    """Who can switch kube-proxy: Azure, by a preview API."""

    def set(self, enabled: bool, log: Log) -> None:
        """Switch it, and wait until that is done."""

    def command(self, enabled: bool) -> str:
        """The same as a command."""


def steps(facts: ClusterFacts, kube: Kube, switch: ProxySwitch) -> tuple[Step, ...]:
    """kube-proxy off, and then Felix does all that kube-proxy did.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.
        switch: switches kube-proxy.
    """
    return _proxy_off(kube, switch), _take_over(facts, kube)


def _proxy_off(kube: Kube, switch: ProxySwitch) -> Step:
    def verify() -> Evidence:
        # By its exact name: AKS may keep a DaemonSet windows-kube-proxy-initializer, which has no pods.
        there = kube.find("daemonsets.apps", "kube-proxy", "kube-system") is not None
        pods = kube.list("pods", "kube-system", label_selector="component=kube-proxy")
        return Evidence(not there and not pods, f"the DaemonSet kube-proxy is {'there' if there else 'gone'}, "
                                                f"{len(pods)} of its pods run")

    def revert(log: Log) -> None:
        switch.set(True, log)
        wait_for("kube-proxy on every node", lambda: effects.kube_proxy_runs(kube), 300)

    return Step(
        id="proxy-off", title="Switch kube-proxy off",
        why="Calico's eBPF carries the services now, so kube-proxy only costs. Its DaemonSet is AKS's, which takes "
            "back a patch; AKS itself removes it, where a cluster brings its own network, by a property of the "
            "preview API. Earlier would be too early: the operator finds the API server by name, cluster DNS is a "
            "service, and somebody has to carry it.",
        without="kube-proxy goes on writing rules that nobody reads.",
        command=switch.command(False), apply=lambda log: switch.set(False, log), verify=verify, revert=revert,
        reverted=lambda: effects.kube_proxy_runs(kube), revert_command=switch.command(True), timeout=600,
        hint="Where Azure says that the feature is not registered: `az feature register --namespace "
             "Microsoft.ContainerService --name KubeProxyConfigurationPreview`, a quarter of an hour's patience until "
             "`az feature show` says Registered, and `az provider register --namespace Microsoft.ContainerService`.",
    )


def _take_over(facts: ClusterFacts, kube: Kube) -> Step:
    wanted = effects.patch_felix(kube, facts, {"bpfKubeProxyIptablesCleanupEnabled": True,
                                               "bpfKubeProxyHealthzPort": 10256})
    back = effects.patch_felix(kube, facts, {"bpfKubeProxyIptablesCleanupEnabled": False,
                                             "bpfKubeProxyHealthzPort": healthz_port(facts)})

    def verify() -> Evidence:
        if not (said := effects.felix_has(kube, facts, wanted.spec)):
            return said
        seen = effects.no_old_rules(kube)
        return Evidence(seen.ok, f"{said.text}; {seen.text}")

    return Step(
        id="take-over", title="Let Felix clear up after kube-proxy",
        why="The rules that kube-proxy wrote are still on the nodes; Felix may remove them now. And the port of its "
            "health server is Felix's, so that load balancers that probe it find somebody.",
        without="old rules stay, and a node's own packets still walk through them: to cluster DNS they lead where it "
                "was when kube-proxy went, so that calico-node does not find the API server at its next start.",
        command=wanted.command, apply=wanted, verify=verify, revert=back, revert_command=back.command,
    )
