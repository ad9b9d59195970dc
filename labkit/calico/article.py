"""The article's five steps, for clusters whose operator leaves Felix and kube-proxy to the user."""

from __future__ import annotations

import json
from typing import Any

from labkit.calico import effects
from labkit.calico.facts import (
    CALICO_NAMESPACE,
    ENDPOINT_CONFIGMAP,
    OPERATOR_NAMESPACE,
    ClusterFacts,
    daemon_set,
)
from labkit.kube import Kube
from labkit.kube.wait import wait_for
from labkit.plan import Evidence, Log, Step

CAN_REACH = "8.8.8.8"


def steps(facts: ClusterFacts, kube: Kube) -> tuple[Step, ...]:
    """Node address detection, API endpoint, operator restart, kube-proxy, eBPF mode.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.
    """
    return (_node_address(facts, kube), effects.endpoint_step(facts, kube, also_wait=False),
            _operator(facts, kube), _kube_proxy(facts, kube), _bpf(facts, kube))


def _node_address(facts: ClusterFacts, kube: Kube) -> Step:
    # A null takes a method away: two at once are refused.
    others: dict[str, Any] = {name: None for name in {"firstFound", *facts.node_address} - {"canReach"}}
    wanted = effects.patch_installation(kube, {"nodeAddressAutodetectionV4": {**others, "canReach": CAN_REACH}})
    before = facts.node_address if facts.node_address != {"canReach": CAN_REACH} else {"firstFound": True}
    back = effects.patch_installation(kube, {"nodeAddressAutodetectionV4": {"canReach": None, **before}})

    def verify() -> Evidence:
        methods = effects.installation_network(kube).get("nodeAddressAutodetectionV4") or {}
        return Evidence(methods == {"canReach": CAN_REACH},
                        f"nodeAddressAutodetectionV4 is {json.dumps(methods)}")

    def revert(log: Log) -> None:
        back(log)

        def rolled_out() -> Evidence:
            found = daemon_set(kube.find("daemonsets.apps", "calico-node", CALICO_NAMESPACE))
            method = found.env.get("IP_AUTODETECTION_METHOD") if found else None
            return Evidence(found is not None and found.settled and method != f"can-reach={CAN_REACH}",
                            f"calico-node finds its address by {method}")

        wait_for("calico-node with the method of before", rolled_out)

    return Step(
        id="node-address", title="Choose how each node finds its own address",
        why="In eBPF mode a node forwards service traffic to other nodes itself, so every calico-node must "
            "know its node's right address. `canReach` takes the address of the interface that leads there. "
            "The article sets only that; `firstFound`, the operator's own default, is taken away in the same "
            "patch, because the operator refuses two methods.",
        without="Calico may take an address of the wrong interface, and traffic for back ends on other nodes "
                "goes astray.",
        command=wanted.command, apply=wanted, verify=verify, revert=revert, revert_command=back.command,
    )


def _operator(facts: ClusterFacts, kube: Kube) -> Step:
    def revert(log: Log) -> None:
        effects.restart_operator(kube, log)

        def forgotten() -> Evidence:
            found = daemon_set(kube.find("daemonsets.apps", "calico-node", CALICO_NAMESPACE))
            if found is None:
                return Evidence(False, "there is no DaemonSet calico-node")
            host = found.env.get("KUBERNETES_SERVICE_HOST")
            return Evidence(host != facts.api_host and found.settled,
                            f"calico-node: {found.ready} of {found.desired} ready, API at "
                            f"{host or '10.0.0.1'}")

        # The undoing of this step is done before the ConfigMap's, and means nothing while that is there.
        if kube.find("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE) is None:
            wait_for("calico-node back on the service address", forgotten)

    return Step(
        id="operator", title="Restart the operator so that it reads the address",
        why="The operator of that time reads the ConfigMap when it starts, and then gives calico-node its "
            "address. The article waits 60 seconds first: that is for Calico's manifest installation, where "
            "the kubelet has to bring the ConfigMap to pods. The operator reads it from the API, so there is "
            "nothing to wait for but calico-node's roll-out afterwards.",
        without="calico-node goes on using 10.0.0.1, as if there were no ConfigMap.",
        command=f"kubectl delete pod -n {OPERATOR_NAMESPACE} -l k8s-app=tigera-operator\n"
                "kubectl rollout status ds -n calico-system calico-node",
        apply=lambda log: effects.restart_operator(kube, log),
        verify=lambda: effects.endpoint_in_use(facts, kube), revert=revert,
        revert_command=f"kubectl delete pod -n {OPERATOR_NAMESPACE} -l k8s-app=tigera-operator",
        timeout=300, hint="Read the operator's log: `kubectl logs -n tigera-operator deploy/tigera-operator`.",
    )


def _kube_proxy(facts: ClusterFacts, kube: Kube) -> Step:
    patch = {"spec": {"template": {"spec": {"nodeSelector": effects.PROXY_SELECTOR}}}}
    back = {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": None}}}}}

    def verify() -> Evidence:
        found = daemon_set(kube.find("daemonsets.apps", "kube-proxy", "kube-system"))
        if found is None:
            return Evidence(True, "there is no DaemonSet kube-proxy")
        pods = kube.list("pods", "kube-system", label_selector="component=kube-proxy")
        off = effects.PROXY_SELECTOR.items() <= found.selector.items()
        said = f"node selector {json.dumps(found.selector)}, {len(pods)} kube-proxy pods"
        return Evidence(off and not pods, said)

    def apply(log: Log) -> None:
        kube.patch("daemonsets.apps", "kube-proxy", patch, "kube-system", type="strategic")
        log("daemonset.apps/kube-proxy patched: no node has the label non-calico")

    def revert(log: Log) -> None:
        kube.patch("daemonsets.apps", "kube-proxy", back, "kube-system", type="strategic")
        log("daemonset.apps/kube-proxy patched: it runs on every node again")
        wait_for("kube-proxy on every node", lambda: effects.kube_proxy_runs(kube))
        if not effects.felix_spec(kube, facts).get("bpfEnabled"):
            effects.wait_for_no_tables(kube, log)

    return Step(
        id="kube-proxy", title="Take kube-proxy off the nodes",
        why="Calico handles services itself in eBPF mode. A node selector that no node has takes "
            "kube-proxy's pods away, and it is easily undone. The rules that it wrote stay in the kernel "
            "until Calico removes them, so services go on working meanwhile.",
        without="two programs would do the same work. With Calico set to clean up, they fight: it removes "
                "kube-proxy's rules, kube-proxy writes them again.",
        command=f"kubectl patch ds -n kube-system kube-proxy -p '{json.dumps(patch)}'",
        apply=apply, verify=verify, revert=revert, reverted=lambda: effects.kube_proxy_runs(kube),
        revert_command=f"kubectl patch ds -n kube-system kube-proxy -p '{json.dumps(back)}'",
        hint="If the pods come back after a minute or two, AKS has taken the patch back: such a cluster "
             "needs the operator's lane.",
    )


def _bpf(facts: ClusterFacts, kube: Kube) -> Step:
    def revert(log: Log) -> None:
        effects.patch_felix(kube, facts, {"bpfEnabled": False})(log)
        effects.wait_for_bpf_off(kube, facts, log)

    return Step(
        id="bpf", title="Turn eBPF mode on",
        why="Felix, the agent in calico-node, loads its programs on every node's interfaces and from now on "
            "handles services and policies there. Connections that exist go on as they were; new ones take "
            "the new path.",
        without="with kube-proxy gone and eBPF off, new services never work and old ones keep stale back "
                "ends.",
        command="kubectl patch felixconfiguration default --type=merge "
                "--patch='{\"spec\": {\"bpfEnabled\": true}}'",
        apply=effects.patch_felix(kube, facts, {"bpfEnabled": True}),
        verify=lambda: effects.bpf_runs(kube, facts), revert=revert,
        reverted=lambda: effects.bpf_is_off(kube, facts),
        revert_command="kubectl patch felixconfiguration default --type=merge "
                       "--patch='{\"spec\": {\"bpfEnabled\": false}}'",
        hint="Read calico-node's log: `kubectl logs -n calico-system ds/calico-node`.",
    )
