"""Diagnosis of a cluster: small checks over one snapshot, each with symptom, evidence, cause and cure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from labkit.calico import ClusterFacts, observe
from labkit.calico.facts import BPF_ANNOTATION, ENDPOINT_CONFIGMAP, OPERATOR_NAMESPACE
from labkit.doctor.report import Finding, Report
from labkit.kube import Kube, Obj
from labkit.kube.wait import is_ready, waiting_reason

_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")


@dataclass(frozen=True)
class Snapshot:
    """What the checks look at, read at one moment."""

    facts: ClusterFacts
    nodes: tuple[Obj, ...]
    pods: tuple[Obj, ...]
    services: tuple[Obj, ...]
    slices: tuple[Obj, ...]
    policies: tuple[Obj, ...]


Check = Callable[[Snapshot], Finding]


def diagnose(kube: Kube) -> Report:
    """Look at a cluster and name what is wrong with it.

    Args:
        kube: the cluster.
    """
    snapshot = take(kube)
    return Report("Diagnosis", tuple(check(snapshot) for check in CHECKS))


def take(kube: Kube) -> Snapshot:
    """Read what the checks look at."""
    with ThreadPoolExecutor(max_workers=5) as pool:
        lists = [pool.submit(kube.list, resource) for resource in (
            "nodes", "pods", "services", "endpointslices.discovery.k8s.io", "networkpolicies.networking.k8s.io")]
        facts = observe(kube)
        nodes, pods, services, slices, policies = (tuple(found.result()) for found in lists)
    return Snapshot(facts, nodes, pods, services, slices, policies)



def nodes_ready(s: Snapshot) -> Finding:
    """Nodes that are not ready run nothing new."""
    lost = [n["metadata"]["name"] for n in s.nodes if not is_ready(n)]
    return Finding("nodes", "Nodes", "problem" if lost or not s.nodes else "ok",
                   f"not ready: {', '.join(lost)}" if lost else f"{len(s.nodes)} ready",
                   "pods stay Pending, or their services stop answering.", "the kubelet does not report.",
                   "`kubectl describe node` says why; on Azure look whether the cluster is stopped.")


def endpoint_missing(s: Snapshot) -> Finding:
    """Without kube-proxy Calico must know the API server's own address."""
    f = s.facts
    title = "The API server's address for Calico"
    if f.calico_node is None:
        return Finding("endpoint-missing", title, "ok", "no Calico, so nothing to tell")
    host = (f.endpoint or {}).get("KUBERNETES_SERVICE_HOST")
    used = f.calico_node.env.get("KUBERNETES_SERVICE_HOST")
    alone = f.bpf_enabled or not _proxy_runs(f)
    said = (f"the ConfigMap {OPERATOR_NAMESPACE}/{ENDPOINT_CONFIGMAP} " +
            (f"names {host}" if host else "is absent or empty") +
            f"; calico-node uses {used or 'the service 10.0.0.1'}")
    broken = alone and (not host or used != host)
    return Finding("endpoint-missing", title, "problem" if broken else "ok", said,
                   "calico-node does not become ready after a restart, or cannot reach 10.0.0.1:443.",
                   "kube-proxy is gone or eBPF is on, so the service address of the API works only as long "
                   "as calico-node does, and calico-node needs the API to work.",
                   "run the plan's first steps again: `lab.run(lab.enable_ebpf())`; it applies the ConfigMap "
                   "and restarts the operator.")


def endpoint_wrong(s: Snapshot) -> Finding:
    """A ConfigMap with another cluster's address."""
    host = (s.facts.endpoint or {}).get("KUBERNETES_SERVICE_HOST", "")
    wrong = bool(host) and host != s.facts.api_host
    return Finding("endpoint-wrong", "The address in the ConfigMap", "problem" if wrong else "ok",
                   f"it names {host or 'nothing'}; the API server is {s.facts.api_host}",
                   "calico-node fails to start: it looks for the API at a place where it is not.",
                   "the ConfigMap was written for another cluster, or mistyped.",
                   "`kubectl cluster-info` shows the right name; apply the ConfigMap with that.")


def kube_proxy_gone(s: Snapshot) -> Finding:
    """Neither kube-proxy nor eBPF handles services."""
    f = s.facts
    proxy = f"{f.kube_proxy.ready} of {f.kube_proxy.desired} kube-proxy pods" if f.kube_proxy else "no kube-proxy"
    gone = not f.bpf_enabled and not _proxy_runs(f)
    return Finding("kube-proxy-gone", "Who handles services", "problem" if gone else "ok",
                   f"{proxy}; eBPF is {'on' if f.bpf_enabled else 'off'}",
                   "new services never answer; old ones keep pods that are long gone as back ends.",
                   "kube-proxy was taken off the nodes and Calico's eBPF mode is off: the rules in the "
                   "kernel are the last that kube-proxy wrote.",
                   "`kubectl patch ds -n kube-system kube-proxy -p "
                   "'{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"non-calico\":null}}}}}'`, or "
                   "turn eBPF on.")


def kube_proxy_fights(s: Snapshot) -> Finding:
    """Felix cleans up what kube-proxy writes."""
    f = s.facts
    fights = bool(f.bpf_enabled) and _proxy_runs(f) and f.felix.get("bpfKubeProxyIptablesCleanupEnabled") is not False
    return Finding("kube-proxy-fights", "Peace between Felix and kube-proxy", "warning" if fights else "ok",
                   "eBPF is on, kube-proxy runs, and Felix removes its rules" if fights else "they do not meet",
                   "both burn CPU, and rules come and go.",
                   "in eBPF mode Felix removes kube-proxy's rules unless it is told not to.",
                   "take kube-proxy off the nodes, or set bpfKubeProxyIptablesCleanupEnabled to false.")


def two_address_methods(s: Snapshot) -> Finding:
    """The operator refuses two ways to find a node's address."""
    methods = sorted(s.facts.node_address)
    return Finding("two-address-methods", "How nodes find their address",
                   "problem" if len(methods) > 1 else "ok", f"nodeAddressAutodetectionV4 has {methods or 'nothing'}",
                   "`kubectl get tigerastatus calico` is Degraded, and no change of the Installation takes "
                   "effect.",
                   "a merge patch added a method beside the one that was there: "
                   "\"no more than one node address autodetection method can be specified per-family\".",
                   "`kubectl patch installation default --type=merge -p '{\"spec\":{\"calicoNetwork\":"
                   "{\"nodeAddressAutodetectionV4\":{\"firstFound\":null}}}}'`")


def bpf_hand_set(s: Snapshot) -> Finding:
    """An operator that owns bpfEnabled refuses one that was set by hand."""
    degraded = s.facts.condition("Degraded")
    refused = degraded is not None and degraded.status == "True" and "refusing to override" in degraded.message
    asked = "true" if s.facts.linux_dataplane == "BPF" else "false"
    return Finding("bpf-hand-set", "Who sets bpfEnabled", "problem" if refused else "ok",
                   degraded.message if refused and degraded else
                   f"bpfEnabled is {s.facts.bpf_enabled}, and the operator does not object",
                   "Felix does what the hand said, but the operator is Degraded and stops reconciling.",
                   f"operators from v1.34 on own the field and note in {BPF_ANNOTATION} what they wrote.",
                   "`kubectl patch felixconfiguration default --type=merge -p "
                   f"'{{\"spec\":{{\"bpfEnabled\":{asked}}}}}'`, then switch by the Installation's "
                   "linuxDataplane.")


def operator_degraded(s: Snapshot) -> Finding:
    """What else the operator complains about."""
    bad = [c for c in s.facts.conditions if c.type == "Degraded" and c.status == "True"]
    return Finding("operator", "What the operator says", "problem" if bad else "ok",
                   "; ".join(f"{c.component}: {c.message or c.reason}" for c in bad) or "nothing is Degraded",
                   "changes of the Installation do not take effect.", "the operator could not do what it should.",
                   "`kubectl get tigerastatus -o yaml`, and `kubectl logs -n tigera-operator "
                   "deploy/tigera-operator`.")


def calico_node_ready(s: Snapshot) -> Finding:
    """calico-node runs on every node."""
    found = s.facts.calico_node
    if found is None:
        return Finding("calico-node", "calico-node", "ok", "this cluster has no Calico")
    bad = found.ready < found.desired
    return Finding("calico-node", "calico-node", "problem" if bad else "ok",
                   f"{found.ready} of {found.desired} pods are ready",
                   "policies and, in eBPF mode, services are not updated on some nodes.",
                   "its readiness probe fails: it cannot reach the API, or its data plane is not in sync.",
                   "`kubectl logs -n calico-system ds/calico-node --tail=30`")


def wrong_image(s: Snapshot) -> Finding:
    """Pods whose image cannot be had."""
    bad = [p for p in s.pods if waiting_reason(p) in _IMAGE_REASONS]
    images = sorted({c["image"] for p in bad for c in p["spec"]["containers"]})
    where = sorted({p["metadata"]["namespace"] for p in bad})
    return Finding("wrong-image", "Images", "problem" if bad else "ok",
                   f"{', '.join(where)}: {len(bad)} waiting for {', '.join(images)}" if bad else "all found",
                   "pods stay in ErrImagePull or ImagePullBackOff.", "no registry, here no catalogue, has that name.",
                   f"mend the name: `kubectl -n {where[0]} set image deployment/… container=image`; "
                   "`kubectl describe pod` shows what was tried." if where else "")


def crashing(s: Snapshot) -> Finding:
    """Containers that end again and again."""
    bad = [f"{p['metadata']['namespace']}/{p['metadata']['name']}" for p in s.pods
           if waiting_reason(p) == "CrashLoopBackOff"]
    return Finding("crashing", "Containers that crash", "problem" if bad else "ok", ", ".join(bad) or "none",
                   "the pod restarts, later and later.", "the program ends with an error.",
                   "`kubectl logs --previous` shows its last words.")


def no_endpoints(s: Snapshot) -> Finding:
    """Services whose selector finds no ready pod."""
    ready = {(e["metadata"]["namespace"], (e["metadata"].get("labels") or {}).get("kubernetes.io/service-name"))
             for e in s.slices for point in e.get("endpoints") or []
             if (point.get("conditions") or {}).get("ready", True) is not False}
    bad = [v for v in s.services if v["spec"].get("selector") and v["spec"].get("type") != "ExternalName"
           and (v["metadata"]["namespace"], v["metadata"]["name"]) not in ready]
    names = [f"{v['metadata']['namespace']}/{v['metadata']['name']}" for v in bad]
    selectors = {n: ",".join(f"{k}={x}" for k, x in v["spec"]["selector"].items())
                 for n, v in zip(names, bad, strict=True)}
    return Finding("no-endpoints", "Services without back ends", "problem" if bad else "ok",
                   "; ".join(f"{n} selects {selectors[n]}" for n in names[:5]) or "none",
                   "connections are refused or time out, though pods run.",
                   "the service's selector matches no pod that is ready.",
                   "compare `kubectl get pods --show-labels` with the service's selector, and mend one of "
                   "them.")


def policy_denies(s: Snapshot) -> Finding:
    """Policies that let nobody in to pods behind a service."""
    bad = []
    for policy in s.policies:
        spec, namespace = policy["spec"], policy["metadata"]["namespace"]
        denies = "Ingress" in (spec.get("policyTypes") or ["Ingress"]) and not spec.get("ingress")
        chosen = (spec.get("podSelector") or {}).get("matchLabels") or {}
        if denies and any(_selected(v, chosen) for v in s.services if v["metadata"]["namespace"] == namespace):
            bad.append(f"{namespace}/{policy['metadata']['name']}")
    return Finding("policy-denies", "Policies that deny everything", "problem" if bad else "ok",
                   ", ".join(bad) or "none", "connections to the service time out: denied packets are dropped.",
                   "a NetworkPolicy selects the service's pods and allows no ingress, and no other allows "
                   "any.",
                   f"`kubectl delete networkpolicy -n {bad[0].partition('/')[0]} "
                   f"{bad[0].partition('/')[2]}`, or write a rule that lets in whom you mean." if bad else "")


CHECKS: tuple[Check, ...] = (
    nodes_ready, kube_proxy_gone, kube_proxy_fights, endpoint_missing, endpoint_wrong, two_address_methods,
    bpf_hand_set, operator_degraded, calico_node_ready, wrong_image, crashing, no_endpoints, policy_denies,
)


def _selected(service: Obj, chosen: dict[str, str]) -> bool:
    """Whether a policy's pod selector covers the pods of a service."""
    selector: dict[str, str] = service["spec"].get("selector") or {}
    return bool(selector) and chosen.items() <= selector.items()


def _proxy_runs(facts: ClusterFacts) -> bool:
    return facts.kube_proxy is not None and facts.kube_proxy.desired > 0
