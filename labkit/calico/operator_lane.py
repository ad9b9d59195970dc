"""The lanes in which the operator owns the switch: what they share, from the ConfigMap on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from labkit.calico import effects
from labkit.calico.facts import INSTALLATIONS, STATUSES, ClusterFacts
from labkit.calico.lanes import healthz_port
from labkit.kube import Kube
from labkit.kube.wait import rolled_out
from labkit.plan import Evidence, Log, Step

MARK = "labkit/data-plane"
"""The annotation that restarts pods: it says for which data plane they were started."""
DNS = ("deployments.apps", "coredns", "kube-system")


def steps(facts: ClusterFacts, kube: Kube) -> tuple[Step, ...]:
    """Out of the operator's way, API endpoint, peace with kube-proxy, eBPF mode, new connections.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.
    """
    return (*in_the_way(facts, kube), effects.endpoint_step(facts, kube, also_wait=True), _peace(facts, kube),
            _bpf(facts, kube), _connections(kube))


def in_the_way(facts: ClusterFacts, kube: Kube) -> tuple[Step, ...]:
    """A step for each thing that would make the operator refuse; none on most clusters."""
    found: list[Step] = []
    if "Enabled" in (facts.bootstrap, facts.proxy_management):
        found.append(_by_itself(facts, kube))
    if len(facts.node_address) > 1:
        found.append(_one_method(facts, kube))
    if facts.hand_set:
        found.append(_hand_back(facts, kube))
    return tuple(found)


def _by_itself(facts: ClusterFacts, kube: Kube) -> Step:
    was = {"bpfNetworkBootstrap": facts.bootstrap, "kubeProxyManagement": facts.proxy_management}
    on = [name for name, value in was.items() if value == "Enabled"]
    wanted = effects.patch_installation(kube, dict.fromkeys(on, "Disabled"))
    back = effects.patch_installation(kube, dict.fromkeys(on, "Enabled"))

    def verify() -> Evidence:
        network = effects.installation_network(kube)
        left = [name for name in was if network.get(name) == "Enabled"]
        return Evidence(not left, f"{' and '.join(left)} is Enabled" if left else "neither is Enabled")

    return Step(
        id="by-hand", title="Take two things out of the operator's hands",
        why="`bpfNetworkBootstrap` and the ConfigMap of the next step say the same thing, and the operator refuses "
            "to be told twice; Calico's documentation keeps the former for clusters like kubeadm's. "
            "`kubeProxyManagement` is refused where the DaemonSet is managed by AKS.",
        without="the operator is Degraded: *bpfNetworkBootstrap is Enabled but the requirements are not met*, or "
                "*DaemonSet is likely managed by another source*.",
        command=wanted.command, apply=wanted, verify=verify, revert=back, revert_command=back.command,
    )


def _one_method(facts: ClusterFacts, kube: Kube) -> Step:
    # AKS writes canReach and would bring it back; elsewhere the operator's own default is the one that stays.
    keep = next((name for name in ("canReach", "firstFound") if facts.node_address.get(name)),
                next(iter(facts.node_address), "firstFound"))
    wanted = effects.patch_installation(kube, {"nodeAddressAutodetectionV4": {
        **dict.fromkeys(facts.node_address, None), keep: facts.node_address.get(keep) or True}})
    back = effects.patch_installation(kube, {"nodeAddressAutodetectionV4": {keep: None, **facts.node_address}})

    def verify() -> Evidence:
        methods = effects.installation_network(kube).get("nodeAddressAutodetectionV4") or {}
        return Evidence(list(methods) == [keep], f"nodeAddressAutodetectionV4 is {json.dumps(methods)}")

    return Step(
        id="one-method", title="Leave one way to find a node's address",
        why="The operator takes one method. Two come about by a merge patch that adds one to another, as the "
            "article's does.",
        without="the operator refuses the whole Installation: *no more than one node address autodetection method "
                "can be specified per-family*, and changes nothing any more.",
        command=wanted.command, apply=wanted, verify=verify, revert=back, revert_command=back.command,
    )


def _hand_back(facts: ClusterFacts, kube: Kube) -> Step:
    wanted = effects.patch_felix(kube, facts, {"bpfEnabled": facts.bpf_written})

    def verify() -> Evidence:
        value = effects.felix_spec(kube, facts).get("bpfEnabled")
        return Evidence(value is facts.bpf_written, f"bpfEnabled is {json.dumps(value)}, the operator wrote "
                                                    f"{json.dumps(facts.bpf_written)}")

    return Step(
        id="hand-set", title="Give bpfEnabled back to the operator",
        why="Somebody has set bpfEnabled by hand. The operator writes the field only while it finds there what it "
            "wrote last, which it notes in the annotation operator.tigera.io/bpfEnabled.",
        without="the operator goes on refusing: *has been modified by someone else, refusing to override potential "
                "user configuration*.",
        command=wanted.command, apply=wanted, verify=verify,
    )


def _peace(facts: ClusterFacts, kube: Kube) -> Step:
    wanted = effects.patch_felix(kube, facts, {"bpfKubeProxyIptablesCleanupEnabled": False,
                                               "bpfKubeProxyHealthzPort": healthz_port(facts)})
    back = effects.patch_felix(kube, facts, dict.fromkeys(wanted.spec))

    def verify() -> Evidence:
        if kube.find("daemonsets.apps", "kube-proxy", "kube-system") is None:
            return Evidence(True, "there is no kube-proxy to live beside")
        return effects.felix_has(kube, facts, wanted.spec)

    port = ("0 is for no health server at all, which Calico takes from v3.32 on." if not healthz_port(facts) else
            "Before v3.32 Calico does not take 0, for none.")
    return Step(
        id="kube-proxy", title="Let Felix live beside kube-proxy",
        why="While kube-proxy runs, Felix must leave its rules alone, and take another port for the health server "
            f"that both of them would open. {port} On AKS with Azure CNI kube-proxy cannot be taken away: its add-on "
            "manager brings it back.",
        without="Felix removes kube-proxy's rules, kube-proxy writes them again, and both burn CPU; and one "
                "of them fails to open port 10256.",
        command=wanted.command, apply=wanted, verify=verify, revert=back, revert_command=back.command,
    )


def _bpf(facts: ClusterFacts, kube: Kube) -> Step:
    wanted = effects.patch_installation(kube, {"linuxDataplane": "BPF"})
    back = effects.patch_installation(kube, {"linuxDataplane": "Iptables"})

    def revert(log: Log) -> None:
        back(log)
        effects.wait_for_bpf_off(kube, facts, log, timeout=300)

    def verify() -> Evidence:
        plane = effects.installation_network(kube).get("linuxDataplane")
        if plane != "BPF":
            return Evidence(False, f"the Installation's linuxDataplane is {plane or 'not set'}")
        if refusal := effects.degraded(kube):
            return Evidence(False, f"the operator says: {refusal}")
        return effects.bpf_runs(kube, facts)

    return Step(
        id="bpf", title="Ask the operator for the eBPF data plane",
        why="The operator owns the switch: it rolls calico-node out, waits until every node is ready, sets "
            "bpfEnabled and notes that it did.",
        without="nothing changes. Setting bpfEnabled by hand instead, as the article does, makes today's "
                "operator refuse: its status says that somebody else has modified the FelixConfiguration.",
        command=wanted.command, apply=wanted, verify=verify, revert=revert,
        reverted=lambda: effects.bpf_is_off(kube, facts), revert_command=back.command,
        timeout=300, hint="Read what the operator says: `kubectl get tigerastatus calico -o yaml`.",
    )


def _connections(kube: Kube) -> Step:
    resource, name, namespace = DNS

    def patch(value: str | None) -> dict[str, Any]:
        return {"spec": {"template": {"metadata": {"annotations": {MARK: value}}}}}

    def verify() -> Evidence:
        found = kube.find(resource, name, namespace)
        if found is None:
            return Evidence(False, f"there is no deployment {name} in {namespace}")
        marked = (found["spec"]["template"]["metadata"].get("annotations") or {}).get(MARK) == "ebpf"
        return rolled_out(found) if marked else Evidence(False, f"the pods of {name} are from before the switch")

    def back() -> Evidence:
        found = kube.get(resource, name, namespace)
        marked = MARK in (found["spec"]["template"]["metadata"].get("annotations") or {})
        return Evidence(False, f"the pods of {name} are from before") if marked else rolled_out(found)

    def restart(value: str | None) -> Callable[[Log], None]:
        def apply(log: Log) -> None:
            kube.patch(resource, name, patch(value), namespace, type="strategic")
            log(f"deployment.apps/{name} patched: its pods are replaced one by one")
            log("your own pods with long connections: kubectl rollout restart deployment --namespace …")
        return apply

    def command(value: str | None) -> str:
        return (f"kubectl patch deployment -n {namespace} {name} -p '{json.dumps(patch(value))}'\n"
                f"kubectl rollout status -n {namespace} deployment/{name}")

    return Step(
        id="connections", title="Give cluster DNS new connections",
        why="Connections that exist stay on the path that they began on until they end, and those of cluster DNS to "
            "the API server last for weeks. An annotation in the pod template replaces the pods one by one, as "
            "`kubectl rollout restart` does, so that DNS answers all the time; AKS leaves fields alone that are not "
            "its own. Do the same for your applications when it suits you.",
        without="nothing breaks. Old connections go on as they are, and a measurement of them measures the old path.",
        command=command("ebpf"), apply=restart("ebpf"), verify=verify, revert=restart(None), reverted=back,
        revert_command=command(None), timeout=300,
    )


def recheck(before: tuple[Step, ...], kube: Kube, seconds: float) -> Step:
    """Look again after a while whether all still stands.

    How long it has stood says the operator: a TigeraStatus carries since when Calico is available. So the step can
    be asked at any time, and holds at once where nothing has changed for long enough.

    Args:
        before: the steps whose effects have to stand.
        kube: the cluster.
        seconds: how long AKS's add-on manager may take to come round.
    """
    def verify() -> Evidence:
        since = _available_since(kube.find(STATUSES, "calico"))
        if since is None:
            return Evidence(False, "the operator does not say that Calico is available")
        age = (datetime.now(UTC) - since).total_seconds()
        if age < seconds:
            return Evidence(False, f"Calico has been available for {age:.0f} s; {seconds:.0f} s are to pass")
        for step in before:
            if not (seen := step.verify()):
                return Evidence(False, f"{step.title}: {seen.text}")
        return Evidence(True, f"all of it stands, {age:.0f} s after Calico became available")

    return Step(
        id="recheck", title="Look again whether AKS has taken something back",
        why="AKS compares what it owns with its own manifests every few minutes, and takes back what differs in a "
            "field that is its own. What these steps change is not, as far as anybody has seen. So look again, "
            f"after {seconds:.0f} seconds.",
        without="you may measure for hours a data plane that was taken back in the first minutes.",
        command="kubectl get tigerastatus calico\n"
                f"kubectl get {INSTALLATIONS} default -o jsonpath='{{.spec.calicoNetwork.linuxDataplane}}{{\"\\n\"}}'\n"
                "kubectl get ds -n kube-system kube-proxy",
        apply=lambda log: log(f"waiting until {seconds:.0f} s have passed since Calico became available"),
        verify=verify, timeout=seconds + 120,
        hint="What was taken back is what AKS owns: see the line above, and `kubectl get events -A`.",
    )


def _available_since(status: dict[str, Any] | None) -> datetime | None:
    for condition in ((status or {}).get("status") or {}).get("conditions") or ():
        if condition["type"] == "Available" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"].replace("Z", "+00:00"))
    return None
