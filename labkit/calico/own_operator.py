"""Install Calico by an operator of one's own: what lanes B and C begin with.

The operator and its definitions are applied as Calico publishes them, word for word: a manifest of ours would be
an imitation on a real cluster, and old tomorrow. Where they are published is the target's to say: for a real
cluster it is Calico's own address, and the local lab has a folder of its own, because it does without the
internet; there the same two files make the lab's operator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from labkit.calico import effects
from labkit.calico.facts import CALICO_NAMESPACE, INSTALLATIONS, OPERATOR_NAMESPACE, OURS, ClusterFacts, daemon_set
from labkit.calico.lanes import CALICO_RELEASE
from labkit.errors import TargetError
from labkit.kube import Kube, Obj
from labkit.kube.wait import rolled_out, wait_for
from labkit.plan import Evidence, Log, Step

DEFINITIONS, OPERATOR = "v1_crd_projectcalico_org.yaml", "tigera-operator.yaml"
CLEANER = "calico-leftovers"


def installation(facts: ClusterFacts, lane: str) -> Obj:
    """The Installation: Azure's plugin and addresses in lane B, Calico's own over VXLAN in lane C.

    Args:
        facts: the cluster, for the range of pods' addresses.
        lane: "B" or "C".
    """
    spec: dict[str, Any] = {"kubernetesProvider": "AKS", "cni": {"type": "AzureVNET"}}
    if lane == "C":
        spec |= {"cni": {"type": "Calico"}, "calicoNetwork": {
            "bgp": "Disabled", "ipPools": [{"cidr": facts.network.pod_cidr, "encapsulation": "VXLAN"}]}}
    return {"apiVersion": "operator.tigera.io/v1", "kind": "Installation",
            "metadata": {"name": "default", "labels": dict(OURS)}, "spec": spec}


def steps(facts: ClusterFacts, kube: Kube, lane: str, releases: str) -> tuple[Step, ...]:
    """The operator, and what it shall install.

    Args:
        facts: what was observed of the cluster.
        kube: the cluster.
        lane: "B" or "C".
        releases: where Calico's releases are published: an address, or a folder.
    """
    return _operator(kube, f"{releases}/{CALICO_RELEASE}/manifests"), _installation(facts, kube, lane)


def _operator(kube: Kube, manifests: str) -> Step:
    files = [f"{manifests}/{DEFINITIONS}", f"{manifests}/{OPERATOR}"]

    def apply(log: Log) -> None:
        for file in files:
            for obj in documents(file):
                # A kind whose definition has just come is not served at once.
                wait_for(f"the kind {obj['kind']}", lambda obj=obj: _applied(kube, obj), 30)  # type: ignore[misc]
            log(f"applied {file}")

    def verify() -> Evidence:
        found = kube.find("deployments.apps", "tigera-operator", OPERATOR_NAMESPACE)
        return rolled_out(found) if found else Evidence(False, "there is no tigera-operator")

    def revert(log: Log) -> None:
        for file in reversed(files):
            for obj in reversed(list(documents(file))):
                kube.delete(_resource(obj), obj["metadata"]["name"], obj["metadata"].get("namespace"))
            log(f"deleted what {file} names")
        wait_for("the operator is gone", _gone, 120)

    def _gone() -> Evidence:
        left = kube.find("namespaces", OPERATOR_NAMESPACE) is not None
        return Evidence(not left, f"the namespace {OPERATOR_NAMESPACE} is {'still there' if left else 'gone'}")

    def command(verb: str, files: list[str]) -> str:
        return "\n".join(f"kubectl {verb} -f {file}" for file in files)

    return Step(
        id="install-operator", title=f"Install Tigera's operator, Calico {CALICO_RELEASE}",
        why="The operator installs Calico and keeps it as its Installation says. First come the definitions of the "
            "kinds that it and Calico use, then the operator itself. Server-side, because some definitions are too "
            "long for the annotation that `kubectl apply` keeps otherwise.",
        without="nobody acts on an Installation.",
        command=command("apply --server-side", files)
        + f"\nkubectl rollout status -n {OPERATOR_NAMESPACE} deployment/tigera-operator",
        apply=apply, verify=verify, revert=revert, reverted=_gone,
        revert_command=command("delete --ignore-not-found", files[::-1]), timeout=300,
        hint="Read the operator's log: `kubectl logs -n tigera-operator deploy/tigera-operator`.",
    )


def _installation(facts: ClusterFacts, kube: Kube, lane: str) -> Step:
    wanted = installation(facts, lane)
    text = yaml.safe_dump(wanted, sort_keys=False)

    def apply(log: Log) -> None:
        kube.apply(wanted)
        log(f"installation.operator.tigera.io/default applied: {json.dumps(wanted['spec'])}")

    def verify() -> Evidence:
        if kube.find(INSTALLATIONS, "default") is None:
            return Evidence(False, "there is no Installation")
        if refusal := effects.degraded(kube):
            return Evidence(False, f"the operator says: {refusal}")
        found = daemon_set(kube.find("daemonsets.apps", "calico-node", CALICO_NAMESPACE))
        if found is None or found.desired == 0:
            return Evidence(False, "the operator has not made calico-node yet")
        if kube.find(facts.felix_resource, "default") is None:
            return Evidence(False, "the operator has not made the FelixConfiguration yet")
        return Evidence(found.settled, f"calico-node: {found.ready} of {found.desired} pods are ready")

    overlay = lane == "C"

    def revert(log: Log) -> None:
        if overlay:
            _close_nodes(kube, log)
        kube.delete(INSTALLATIONS, "default")
        log("installation.operator.tigera.io/default deleted")
        wait_for("Calico is gone", gone, 180)
        _sweep(kube, log, overlay=overlay)
        if overlay:
            _open_nodes(kube, log)

    def gone() -> Evidence:
        left = kube.find("namespaces", CALICO_NAMESPACE) is not None or kube.find(INSTALLATIONS, "default")
        return Evidence(not left, "Calico is still there" if left else "Calico is gone")

    network = ("`cni.type` has to be written: with `kubernetesProvider: AKS` it is Azure's otherwise. VXLAN, because "
               "Azure's network carries no IP-in-IP, and knows nothing of pods' addresses." if lane == "C" else
               "Azure's plugin goes on giving pods their addresses in the VNet; Calico adds policy, and its eBPF "
               "data plane.")
    return Step(
        id="installation", title="Tell the operator what to install",
        why=f"The Installation is the one object that describes Calico. {network}",
        without="the operator has nothing to do.",
        command=f"kubectl apply --server-side -f - <<'EOF'\n{text}EOF\n"
                f"kubectl wait --for=create --timeout=120s -n {CALICO_NAMESPACE} ds/calico-node\n"
                f"kubectl rollout status -n {CALICO_NAMESPACE} ds/calico-node",
        apply=apply, verify=verify, revert=revert, reverted=gone,
        revert_command=_CLOSE * overlay + "kubectl delete installation default\n"
                       f"kubectl wait --for=delete --timeout=120s namespace/{CALICO_NAMESPACE}\n"
                       f"kubectl apply -f - <<'EOF'\n{yaml.safe_dump(_sweeper(overlay), sort_keys=False)}EOF\n"
                       f"kubectl rollout status -n kube-system ds/{CLEANER}\n"
                       f"kubectl delete -n kube-system ds/{CLEANER}" + _OPEN * overlay,
        timeout=600, hint="Read what the operator says: `kubectl get tigerastatus calico -o yaml`.",
    )


# The way back from a network of Calico's own: nodes are as they were before they had one, and so are their pods. A pod
# goes while Calico's plugin is there to take its address back, and where it comes again it waits. Otherwise its address
# would belong to another node's block as soon as somebody installs Calico anew.
_LINUX = "kubernetes.io/os=linux"
_OWN_NETWORK = "spec.hostNetwork=false"
_CLOSE = (f"kubectl cordon --selector={_LINUX}\n"
          "# A pod that no deployment or the like makes anew is gone for good.\n"
          f"kubectl delete pods -A --field-selector={_OWN_NETWORK}\n")
_OPEN = (f"\nkubectl uncordon --selector={_LINUX}\n"
         "# Cluster DNS and the like, which a cordon does not stop.\n"
         f"kubectl delete pods -A --field-selector={_OWN_NETWORK} --wait=false")


def _close_nodes(kube: Kube, log: Log) -> None:
    """Take the pods that have an address of Calico's off the nodes, and let no new ones there."""
    _cordon(kube, True, log)
    found = _networked(kube)
    going = {pod["metadata"]["uid"] for pod in found}
    for pod in found:
        kube.delete("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])

    def gone() -> Evidence:
        left = [pod for pod in _networked(kube) if pod["metadata"]["uid"] in going]
        return Evidence(not left, f"{len(left)} pods still have an address of Calico's")

    wait_for("pods with an address of Calico's are gone", gone, 120)
    log("pods with an address of Calico's are deleted; those that somebody makes anew wait for a network")


def _open_nodes(kube: Kube, log: Log) -> None:
    """Let pods onto the nodes again; what a cordon did not stop, as cluster DNS, came back by Calico and goes again."""
    _cordon(kube, False, log)
    for pod in _networked(kube):
        kube.delete("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])


def _networked(kube: Kube) -> list[Obj]:
    return [pod for pod in kube.list("pods", field_selector=_OWN_NETWORK) if pod["spec"].get("nodeName")]


def _cordon(kube: Kube, closed: bool, log: Log) -> None:
    for node in kube.list("nodes", label_selector=_LINUX):
        kube.patch("nodes", node["metadata"]["name"], {"spec": {"unschedulable": closed or None}})
    log(f"nodes {'cordoned' if closed else 'uncordoned'}")


_SWEEP = """
iptables-save -c | grep -vE 'cali[-:]' | iptables-restore -c
for set in $(ipset list -n | grep ^cali); do ipset destroy "$set"; done
"""
"""What Calico leaves on a node when it goes, taken away: its chains, the rules that lead there, its sets."""
_SWEEP_OVERLAY = """\
ip link delete vxlan.calico
ip route flush proto 80
rm -f /host/etc/cni/net.d/10-calico.conflist /host/etc/cni/net.d/calico-kubeconfig
"""
"""Likewise of a network of Calico's: tunnel, routes, and the plugin's configuration, which says that there is one."""


def _sweeper(overlay: bool) -> Obj:
    """A pod on each node that removes what Calico left, of an image that the nodes have."""
    labels = {"app": CLEANER}
    script = f"{_SWEEP}{_SWEEP_OVERLAY * overlay}touch /tmp/swept\nexec sleep infinity\n"
    container: Obj = {
        "name": "sweep", "image": f"quay.io/calico/node:{CALICO_RELEASE}", "command": ["sh", "-c", script],
        "securityContext": {"privileged": True},
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/swept"]}, "periodSeconds": 1}}
    pod: Obj = {"hostNetwork": True, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0,
           "containers": [container]}
    if overlay:
        container["volumeMounts"] = [{"name": "cni", "mountPath": "/host/etc/cni/net.d"}]
        pod["volumes"] = [{"name": "cni", "hostPath": {"path": "/etc/cni/net.d", "type": "DirectoryOrCreate"}}]
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": CLEANER, "namespace": "kube-system"},
            "spec": {"selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": pod}}}


def _sweep(kube: Kube, log: Log, *, overlay: bool) -> None:
    """Take what Calico left off every node.

    A Calico that is uninstalled leaves its chains, and the last rule for an interface that they do not know is to
    drop: pods that start afterwards would have no network.
    """
    kube.apply(_sweeper(overlay))

    def swept() -> Evidence:
        found = daemon_set(kube.find("daemonsets.apps", CLEANER, "kube-system"))
        done = found is not None and found.desired > 0 and found.settled
        return Evidence(done, f"{found.ready if found else 0} nodes are swept")

    try:
        wait_for("what Calico left is off every node", swept, 120)
    finally:
        kube.delete("daemonsets.apps", CLEANER, "kube-system")
    log("what Calico left is off every node")


def documents(file: str) -> Iterator[Obj]:
    """The objects of a manifest.

    Args:
        file: its address, or its path.

    Raises:
        TargetError: it cannot be read.
    """
    try:
        text = _fetch(file) if "://" in file else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{file} cannot be read.", str(error),
                          "Calico's operator is installed from there: see that this machine reaches it.") from error
    yield from (document for document in yaml.safe_load_all(text) if document)


def _fetch(address: str) -> str:
    import urllib3

    try:
        answer = urllib3.PoolManager().request("GET", address, timeout=30.0, retries=urllib3.Retry(3))
    except urllib3.exceptions.HTTPError as error:
        raise OSError(str(error)) from error
    if answer.status != 200:
        raise OSError(f"it answers {answer.status}")
    return str(answer.data.decode())


def _applied(kube: Kube, obj: Obj) -> Evidence:
    return Evidence(bool(kube.apply(obj)), "")


def _resource(obj: Obj) -> str:
    group, plural = obj["apiVersion"].rpartition("/")[0], obj["kind"].lower() + "s"
    return f"{plural}.{group}" if group else plural
