"""What the lanes do to a cluster, and how they look whether it worked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from labkit.calico.facts import (
    CALICO_NAMESPACE,
    ENDPOINT_CONFIGMAP,
    INSTALLATIONS,
    OPERATOR_NAMESPACE,
    STATUSES,
    ClusterFacts,
    ask_nodes,
    daemon_set,
    service_tables,
)
from labkit.errors import ExecError, WaitError
from labkit.kube import Kube
from labkit.kube.wait import wait_for
from labkit.plan import Evidence, Log, Step

PROXY_SELECTOR = {"non-calico": "true"}


def endpoint_manifest(facts: ClusterFacts) -> dict[str, Any]:
    """The ConfigMap that tells Calico where the API server is."""
    return {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": ENDPOINT_CONFIGMAP, "namespace": OPERATOR_NAMESPACE},
        "data": {"KUBERNETES_SERVICE_HOST": facts.api_host, "KUBERNETES_SERVICE_PORT": str(facts.api_port)},
    }


def endpoint_step(facts: ClusterFacts, kube: Kube, *, also_wait: bool) -> Step:
    """Tell Calico the API server's own address.

    Args:
        facts: the cluster.
        kube: the cluster.
        also_wait: the operator watches the ConfigMap, so calico-node rolls out without a restart.
    """
    manifest = endpoint_manifest(facts)
    data = "\n".join(f'  {key}: "{value}"' for key, value in manifest["data"].items())

    def apply(log: Log) -> None:
        kube.apply(manifest)
        log(f"configmap/{ENDPOINT_CONFIGMAP} applied")

    def revert(log: Log) -> None:
        if kube.delete("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE):
            log(f"configmap/{ENDPOINT_CONFIGMAP} deleted")

    def verify() -> Evidence:
        found = kube.find("configmaps", ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE)
        if found is None:
            return Evidence(False, f"there is no ConfigMap {OPERATOR_NAMESPACE}/{ENDPOINT_CONFIGMAP}")
        if found.get("data") != manifest["data"]:
            return Evidence(False, f"the ConfigMap says {json.dumps(found.get('data'))}")
        return endpoint_in_use(facts, kube) if also_wait else Evidence(
            True, f"the ConfigMap names {facts.api_host}:{facts.api_port}")

    return Step(
        id="endpoint", title="Tell Calico the API server's own address",
        why="calico-node reaches the API through the service `kubernetes`, 10.0.0.1, and it is kube-proxy "
            "that makes that address work. In eBPF mode Calico is what makes it work, so it cannot depend on "
            "it: like kube-proxy, it must know the API server's own name. On AKS that name stands for a load "
            "balancer, which `kubectl cluster-info` shows.",
        without="as soon as kube-proxy is gone, calico-node waits for the API through an address that only "
                "it could provide. It loses the API, for good.",
        command=f"{_who_is_the_server(facts)}\n"
                f"kubectl apply -f - <<'EOF'\nkind: ConfigMap\napiVersion: v1\nmetadata:\n"
                f"  name: {ENDPOINT_CONFIGMAP}\n  namespace: {OPERATOR_NAMESPACE}\ndata:\n{data}\nEOF",
        apply=apply, verify=verify, revert=revert,
        revert_command=f"kubectl delete configmap -n {OPERATOR_NAMESPACE} {ENDPOINT_CONFIGMAP}",
    )


def _who_is_the_server(facts: ClusterFacts) -> str:
    """The command that shows what the ConfigMap names."""
    if facts.api_host.replace(".", "").isdigit():  # an address: `cluster-info` may show this machine's
        return "kubectl get endpointslices -n default -l kubernetes.io/service-name=kubernetes"
    return "kubectl cluster-info | grep -i kubernetes"


def endpoint_in_use(facts: ClusterFacts, kube: Kube) -> Evidence:
    """Whether calico-node's pods run with the API server's own address."""
    found = daemon_set(kube.find("daemonsets.apps", "calico-node", CALICO_NAMESPACE))
    if found is None:
        return Evidence(False, "there is no DaemonSet calico-node")
    host = found.env.get("KUBERNETES_SERVICE_HOST")
    if host != facts.api_host:
        return Evidence(False, f"calico-node still takes the API's address from {host or 'the service 10.0.0.1'}")
    if not found.settled:
        return Evidence(False, f"calico-node rolls out: {found.ready} of {found.desired} pods are ready")
    return Evidence(True, f"{found.ready} calico-node pods reach the API at {host}")


@dataclass(frozen=True)
class Patch:
    """A merge patch, as a step applies it and as a reader would.

    Args:
        kube: the cluster.
        resource: of the object; its name is "default".
        spec: what is merged into its spec.
        said: what the log says of it.
    """

    kube: Kube
    resource: str
    spec: dict[str, Any]
    said: str

    def __call__(self, log: Log) -> None:
        """Apply it."""
        self.kube.patch(self.resource, "default", {"spec": self.spec})
        log(self.said)

    @property
    def command(self) -> str:
        """The same with kubectl."""
        kind = self.resource.partition(".")[0].removesuffix("s")
        return f"kubectl patch {kind} default --type=merge -p '{json.dumps({'spec': self.spec})}'"


def patch_installation(kube: Kube, network: dict[str, Any]) -> Patch:
    """A patch of the Installation's calicoNetwork."""
    return Patch(kube, INSTALLATIONS, {"calicoNetwork": network},
                 f"Installation default: calicoNetwork {json.dumps(network)}")


def patch_felix(kube: Kube, facts: ClusterFacts, spec: dict[str, Any]) -> Patch:
    """A patch of FelixConfiguration."""
    return Patch(kube, facts.felix_resource, spec, f"FelixConfiguration default: {json.dumps(spec)}")


def installation_network(kube: Kube) -> dict[str, Any]:
    """The Installation's calicoNetwork."""
    network: dict[str, Any] = kube.get(INSTALLATIONS, "default").get("spec", {}).get("calicoNetwork") or {}
    return network


def felix_spec(kube: Kube, facts: ClusterFacts) -> dict[str, Any]:
    """FelixConfiguration's spec."""
    spec: dict[str, Any] = kube.get(facts.felix_resource, "default").get("spec") or {}
    return spec


def felix_has(kube: Kube, facts: ClusterFacts, wanted: dict[str, Any]) -> Evidence:
    """Whether FelixConfiguration says these things."""
    spec = felix_spec(kube, facts)
    said = {name: spec.get(name) for name in wanted}
    return Evidence(said == wanted, f"FelixConfiguration has {json.dumps(said)}")


def degraded(kube: Kube) -> str:
    """Why the operator says that it cannot do what it is asked for; "" where it does not."""
    status = kube.find(STATUSES, "calico") or {}
    for condition in (status.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Degraded" and condition["status"] == "True":
            return str(condition.get("message") or condition.get("reason") or "it is Degraded")
    return ""


def bpf_runs(kube: Kube, facts: ClusterFacts) -> Evidence:
    """Whether eBPF mode is asked for and every node has its services in eBPF maps."""
    if not felix_spec(kube, facts).get("bpfEnabled"):
        return Evidence(False, "FelixConfiguration's bpfEnabled is not true")
    tables = service_tables(kube)
    without = [node for node, table in tables.items() if not table]
    if without or len(tables) < len(facts.nodes):
        said = f"no service table in eBPF maps yet on {', '.join(without)}" if without else "too few calico-nodes run"
        return Evidence(False, said)
    return Evidence(True, f"calico-node has its service table in eBPF maps on all {len(tables)} nodes")


def bpf_is_off(kube: Kube, facts: ClusterFacts) -> Evidence:
    """Whether eBPF mode is no longer asked for and every calico-node works."""
    if felix_spec(kube, facts).get("bpfEnabled"):
        return Evidence(False, "FelixConfiguration's bpfEnabled is still true")
    found = daemon_set(kube.find("daemonsets.apps", "calico-node", CALICO_NAMESPACE))
    settled = found is not None and found.settled
    return Evidence(settled, f"bpfEnabled is not true, calico-node is {'ready' if settled else 'not ready'}")


def wait_for_bpf_off(kube: Kube, facts: ClusterFacts, log: Log, timeout: float = 120.0) -> None:
    """Wait until eBPF is off. Where kube-proxy is yet to come back, the maps may serve until it is there."""
    wait_for("eBPF off on every node", lambda: bpf_is_off(kube, facts), timeout)
    if kube_proxy_runs(kube):
        wait_for_no_tables(kube, log)


def wait_for_no_tables(kube: Kube, log: Log) -> None:
    """Wait until no map holds services. A Calico that leaves its maps pinned is given a few seconds, then believed."""
    try:
        wait_for("no service table in eBPF maps", lambda: Evidence(not any(service_tables(kube).values()), ""), 8)
    except WaitError:
        log("the eBPF maps stay pinned, unused: Calico keeps them for the next time")


def kube_proxy_runs(kube: Kube) -> Evidence:
    """Whether kube-proxy runs on every node."""
    found = daemon_set(kube.find("daemonsets.apps", "kube-proxy", "kube-system"))
    if found is None:
        return Evidence(False, "there is no DaemonSet kube-proxy")
    return Evidence(found.desired > 0 and found.settled, f"kube-proxy: {found.ready} of {found.desired} pods")


def no_old_rules(kube: Kube) -> Evidence:
    """Whether no node has rules of kube-proxy for services left: a node's own packets still meet them.

    Where calico-node cannot show its node's rules there is nothing to wait for, and the evidence says so.
    """
    try:
        shown = ask_nodes(kube, "iptables-save", "-t", "nat")
    except ExecError as error:
        return Evidence(True, f"whether nodes still have rules of kube-proxy's cannot be seen: {error}")
    if left := [node for node, rules in shown.items() if "-A KUBE-SERVICES" in rules]:
        return Evidence(False, f"kube-proxy's rules are still on {', '.join(left)}")
    if unseen := [node for node, rules in shown.items() if not rules]:
        return Evidence(True, f"whether {', '.join(unseen)} still have rules of kube-proxy's cannot be seen")
    return Evidence(True, "no node has rules of kube-proxy's")


def restart_operator(kube: Kube, log: Log) -> None:
    """Delete the operator's pod and wait until another one works."""
    pods = kube.list("pods", OPERATOR_NAMESPACE, label_selector="k8s-app=tigera-operator")
    old = {pod["metadata"]["uid"] for pod in pods}
    for pod in pods:
        kube.delete("pods", pod["metadata"]["name"], OPERATOR_NAMESPACE)
        log(f"deleted pod {pod['metadata']['name']}")

    def replaced() -> Evidence:
        found = kube.list("pods", OPERATOR_NAMESPACE, label_selector="k8s-app=tigera-operator")
        new = [p for p in found if p["metadata"]["uid"] not in old
               and p.get("status", {}).get("phase") == "Running"]
        return Evidence(bool(new), f"{len(new)} new operator pods run")

    wait_for("a new operator pod", replaced, timeout=120)
