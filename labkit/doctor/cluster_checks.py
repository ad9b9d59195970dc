"""Checks of nodes and workloads, whatever network they have."""

from __future__ import annotations

from labkit.calico.facts import lacks_network
from labkit.doctor.rows import Seen, check, ok, problem
from labkit.doctor.snapshot import Snapshot
from labkit.kube import Obj
from labkit.kube.wait import is_ready, waiting_reason

GROUP = "Nodes and workloads"
_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")
_DEBUG = "kubernetes.io/docs/tasks/debug"


@check("nodes", GROUP, "Nodes",
       symptom="pods stay Pending, or their services stop answering.", cause="the kubelet does not report.",
       cure="`kubectl describe node` says why; on Azure look whether the cluster is stopped.",
       source=f"{_DEBUG}/debug-cluster")
def nodes(s: Snapshot) -> Seen:
    """Nodes that are not ready run nothing new."""
    lost = [n["metadata"]["name"] for n in s.nodes if not is_ready(n) and not lacks_network(n)]
    if lost:
        return problem(f"not ready: {', '.join(lost)}", f"kubectl describe node {lost[0]}")
    return ok(f"{len(s.nodes)} ready") if s.nodes else problem("there is no node", "kubectl get nodes")


@check("no-cni", GROUP, "The nodes' network",
       symptom="nodes stay NotReady: \"container runtime network not ready … cni plugin not initialized\"; nothing but "
               "pods on the node's network starts.",
       cause="the cluster was created with `--network-plugin none`, and nobody has installed a network yet.",
       cure="install one: Calico, by the plan `lab.run(lab.enable_ebpf())`, which `labkit plan enable-ebpf` prints.",
       source="learn.microsoft.com/azure/aks/use-byo-cni")
def no_cni(s: Snapshot) -> Seen:
    """Nodes that wait for a network plugin."""
    waiting = [n["metadata"]["name"] for n in s.nodes if lacks_network(n)]
    where = " --resource-group {} --cluster {}".format(*s.names) if s.names else ""
    return problem(", ".join(waiting), f"labkit plan enable-ebpf{where}") if waiting else ok("no node waits for one")


@check("wrong-image", GROUP, "Images",
       symptom="pods stay in ErrImagePull or ImagePullBackOff.",
       cause="the registry, on the local lab its catalogue, has nothing of that name.",
       cure="mend the name, or go back to the version that ran; `kubectl describe pod` shows what was tried.",
       source=f"{_DEBUG}/debug-application/debug-pods")
def wrong_image(s: Snapshot) -> Seen:
    """Pods whose image cannot be had."""
    bad = [p for p in s.pods if waiting_reason(p) in _IMAGE_REASONS]
    if not bad:
        return ok("all found")
    images = sorted({c["image"] for p in bad for c in p["spec"]["containers"]})
    where = sorted({p["metadata"]["namespace"] for p in bad})
    undo = sorted({_way_back(p) for p in bad})
    return problem(f"{', '.join(where)}: {len(bad)} waiting for {', '.join(images)}", "\n".join(undo))


@check("crashing", GROUP, "Containers that crash",
       symptom="the pod restarts, later and later.", cause="the program ends with an error.",
       cure="`kubectl logs --previous` shows its last words.", source=f"{_DEBUG}/debug-application/debug-pods")
def crashing(s: Snapshot) -> Seen:
    """Containers that end again and again."""
    bad = [(p["metadata"]["namespace"], p["metadata"]["name"]) for p in s.pods
           if waiting_reason(p) == "CrashLoopBackOff"]
    if not bad:
        return ok("none")
    return problem(", ".join(map("/".join, bad)), f"kubectl logs --previous -n {bad[0][0]} {bad[0][1]}")


def _way_back(pod: Obj) -> str:
    """The command that brings a deployment's last version back; for a pod of its own, the one that says more."""
    where = pod["metadata"]["namespace"]
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("kind") == "ReplicaSet":
            return f"kubectl rollout undo -n {where} deployment/{str(owner['name']).rpartition('-')[0]}"
    return f"kubectl describe pod -n {where} {pod['metadata']['name']}"


CHECKS = (nodes, no_cni, wrong_image, crashing)
