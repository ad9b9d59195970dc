"""Checks of services, their back ends, and Azure's load balancer in front of them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any

from labkit.doctor.rows import Seen, check, ok, problem, unknown, warning
from labkit.doctor.snapshot import Snapshot
from labkit.kube import Obj
from labkit.kube.wait import is_ready

GROUP = "Services"
_LB_DOCS = "learn.microsoft.com/azure/aks/configure-load-balancer-standard"
_PROBE_PATH = "service.beta.kubernetes.io/azure-load-balancer-health-probe-request-path"


@check("no-endpoints", GROUP, "Services without back ends",
       symptom="connections are refused or time out, though pods run.",
       cause="the service's selector matches no pod, or none that is ready.",
       cure="compare `kubectl get pods --show-labels` with the service's selector, and mend one of them; where it "
            "matches pods, see why they are not ready.",
       source="kubernetes.io/docs/tasks/debug/debug-application/debug-service")
def no_endpoints(s: Snapshot) -> Seen:
    """Services whose selector finds no ready pod."""
    bad = [v for v in s.services if v["spec"].get("selector") and v["spec"].get("type") != "ExternalName"
           and not any(True for _ in _ready(s, v))]
    said = "; ".join(f"{_name(v)} selects {_pairs(v['spec']['selector'])}" for v in bad[:5])
    commands = [command for v in bad if (command := _unready(s, v) or _mended_selector(s, v))]
    return problem(said, "\n".join(commands)) if bad else ok("none")


@check("policy-denies", GROUP, "Policies that deny everything",
       symptom="connections to the service time out: denied packets are dropped.",
       cause="a NetworkPolicy selects the service's pods and allows no ingress, and no other allows any.",
       cure="delete it, or write a rule that lets in whom you mean.",
       source="kubernetes.io/docs/concepts/services-networking/network-policies")
def policy_denies(s: Snapshot) -> Seen:
    """Policies that let nobody in to pods behind a service."""
    bad: dict[tuple[str, str], None] = {}
    for service in s.services:
        for pod in _chosen(s, service):
            of_pod = [p for p in s.policies if p["metadata"]["namespace"] == pod["metadata"]["namespace"]
                      and "Ingress" in (p["spec"].get("policyTypes") or ["Ingress"])
                      and _selects(p["spec"].get("podSelector") or {}, _labels(pod))]
            if of_pod and not any(p["spec"].get("ingress") for p in of_pod):
                bad |= {(p["metadata"]["namespace"], p["metadata"]["name"]): None for p in of_pod}
    if not bad:
        return ok("none")
    return problem(", ".join(map("/".join, bad)),
                   "\n".join(f"kubectl delete networkpolicy -n {where} {name}" for where, name in bad))


@check("lb-local", GROUP, "Load balancers with the policy Local",
       symptom="only nodes with a pod of the service answer; the load balancer's probe of healthCheckNodePort gets 503 "
               "from the others.",
       cause="externalTrafficPolicy Local keeps the client's address by never leaving the node. That is how it works. "
             "Where both Felix in eBPF mode and a kube-proxy run, both try to open the probe's port, and one of them "
             "logs that it failed.",
       cure="nothing, if you meant it: spread the pods. In eBPF mode the policy Cluster keeps the client's address, "
            "too.",
       source=f"{_LB_DOCS}; projectcalico/calico#9330, #8112")
def lb_local(s: Snapshot) -> Seen:
    """Services that only some nodes answer for."""
    names = {n["metadata"]["name"] for n in s.nodes}
    local = [v for v in _balanced(s) if v["spec"].get("externalTrafficPolicy") == "Local"]
    partial = {_name(v): missing for v in local if (missing := names - {e.get("nodeName") for e in _ready(s, v)})}
    hits, _ = s.said(r"Failed to start healthcheck for")
    if local and (partial or (hits and s.bpf and s.proxy_runs)):
        said = [f"{name}: no pod on {', '.join(sorted(missing))}" for name, missing in partial.items()]
        command = "\n".join(f"kubectl patch service -n {v['metadata']['namespace']} {v['metadata']['name']} -p "
                            "'{\"spec\":{\"externalTrafficPolicy\":\"Cluster\"}}'" for v in local if s.bpf)
        return warning("; ".join([*said, *(hits if s.bpf and s.proxy_runs else ())]), command)
    return ok(f"{len(local)}, with a pod on every node" if local else "none")


@check("lb-probe", GROUP, "The probe that all load balancers share",
       symptom="the load balancer takes every node for down.",
       cause="in the mode Shared the probe asks kube-proxy's health port on the node, and there is no kube-proxy.",
       cure="do not use Shared without kube-proxy, or let Felix open 10256 (bpfKubeProxyHealthzPort).",
       source="learn.microsoft.com/azure/aks/shared-health-probes; kubernetes-sigs/cloud-provider-azure#4891")
def lb_probe(s: Snapshot) -> Seen:
    """A shared probe needs somebody who answers it."""
    if s.azure is None:
        return ok("Azure was not asked") if not s.on_azure else unknown("Azure was not asked for the probe's mode")
    profile = (s.azure.get("properties", {}).get("networkProfile") or {}).get("loadBalancerProfile") or {}
    mode = profile.get("clusterServiceLoadBalancerHealthProbeMode") or "ServiceNodePort"
    if mode == "Shared" and not s.proxy_runs and s.names:
        group, name = s.names
        return problem("the mode is Shared, and kube-proxy does not run",
                       f"az aks update -g {group} -n {name} "
                       "--cluster-service-load-balancer-health-probe-mode ServiceNodePort")
    return ok(f"the mode is {mode}")


@check("lb-http", GROUP, "Probes over HTTP",
       symptom="a load balancer with an HTTP port answers nobody, though its pods run.",
       cause="with appProtocol http Azure's probe asks for `/`, and takes any answer but 200 for a node that is down.",
       cure="name a path that answers 200, by an annotation of the service.", source="Azure/AKS#3646")
def lb_http(s: Snapshot) -> Seen:
    """Services whose probe asks for a path."""
    if not s.on_azure:
        return ok("not on Azure")
    bad = [v for v in _balanced(s) if any(str(p.get("appProtocol", "")).lower() in ("http", "https")
                                          for p in v["spec"].get("ports") or ())
           and not any("health-probe" in key for key in v["metadata"].get("annotations") or {})]
    if not bad:
        return ok("none, or their path is named")
    return warning(f"{', '.join(map(_name, bad))}: the probe asks for /", "\n".join(
        f"kubectl annotate service -n {v['metadata']['namespace']} {v['metadata']['name']} {_PROBE_PATH}=/healthz"
        for v in bad))


@check("lb-ranges", GROUP, "Source ranges and pods",
       symptom="pods no longer reach the load balancer's address of their own cluster.",
       cause="in eBPF mode loadBalancerSourceRanges also hold for pods, and the pods' addresses are not in them.",
       cure="add the pods' range, or let pods use the cluster IP.",
       source=f"projectcalico/calico#11020; {_LB_DOCS}")
def lb_ranges(s: Snapshot) -> Seen:
    """Source ranges that leave the cluster's own pods out."""
    pods = [ipaddress.ip_address(ip) for p in s.pods if not p["spec"].get("hostNetwork")
            and (ip := p.get("status", {}).get("podIP")) and ":" not in ip]
    bad: list[Obj] = []
    for service in _balanced(s):
        ranges = [ipaddress.ip_network(r, strict=False) for r in service["spec"].get("loadBalancerSourceRanges") or ()]
        if ranges and not all(any(pod in r for r in ranges) for pod in pods):
            bad.append(service)
    if not bad or not s.bpf:
        return ok(f"{_count(bad)} leave pods out, and eBPF is off" if bad else "none leaves pods out")
    home = _range(pods)
    commands = [f"kubectl patch service -n {v['metadata']['namespace']} {v['metadata']['name']} --type=merge -p '"
                + json.dumps({"spec": {"loadBalancerSourceRanges": [*v["spec"]["loadBalancerSourceRanges"], home]}})
                + "'" for v in bad]
    return warning("; ".join(f"{_name(v)} lets in {', '.join(v['spec']['loadBalancerSourceRanges'])}, pods are in "
                             f"{home}" for v in bad), "\n".join(commands))


def _balanced(s: Snapshot) -> list[Obj]:
    return [v for v in s.services if v["spec"].get("type") == "LoadBalancer"]


def _ready(s: Snapshot, service: Obj) -> Iterator[Obj]:
    """The ready endpoints of a service."""
    key = (service["metadata"]["namespace"], service["metadata"]["name"])
    for item in s.slices:
        if (item["metadata"]["namespace"], _labels(item).get("kubernetes.io/service-name")) == key:
            yield from (e for e in item.get("endpoints") or ()
                        if (e.get("conditions") or {}).get("ready", True) is not False)


def _chosen(s: Snapshot, service: Obj) -> list[Obj]:
    """The pods that a service selects."""
    selector = service["spec"].get("selector") or {}
    return [p for p in s.pods if selector and p["metadata"]["namespace"] == service["metadata"]["namespace"]
            and selector.items() <= _labels(p).items()]


def _unready(s: Snapshot, service: Obj) -> str:
    """The command that shows the pods that a service selects; where there are some, its selector is right."""
    return (f"kubectl describe pods -n {service['metadata']['namespace']} -l {_pairs(service['spec']['selector'])}"
            if _chosen(s, service) else "")


def _mended_selector(s: Snapshot, service: Obj) -> str:
    """The command that gives a service the selector that fits, where ready pods suggest exactly one."""
    selector = service["spec"]["selector"]
    offers = {json.dumps({key: _labels(p)[key] for key in selector}) for p in s.pods
              if p["metadata"]["namespace"] == service["metadata"]["namespace"] and is_ready(p)
              and selector.keys() <= _labels(p).keys()}
    if len(offers) != 1:
        return ""
    return (f"kubectl patch service -n {service['metadata']['namespace']} {service['metadata']['name']} -p "
            f"'{{\"spec\":{{\"selector\":{offers.pop()}}}}}'")


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector covers labels."""
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    for rule in selector.get("matchExpressions") or ():
        has, value = rule["key"] in labels, labels.get(rule["key"])
        holds = {"Exists": has, "DoesNotExist": not has, "In": has and value in (rule.get("values") or ()),
                 "NotIn": value not in (rule.get("values") or ())}
        if not holds[rule["operator"]]:
            return False
    return True


def _range(addresses: list[Any]) -> str:
    """The network that all these are in, a /16 at the least: nodes that come get pods of the same subnet."""
    low, high = int(min(addresses)), int(max(addresses))
    prefix = min(16, 32 - (low ^ high).bit_length())
    return str(ipaddress.ip_network((low, prefix), strict=False))


def _labels(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _name(service: Obj) -> str:
    return f"{service['metadata']['namespace']}/{service['metadata']['name']}"


def _pairs(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in selector.items())


def _count(services: list[Obj]) -> str:
    return f"{len(services)} service{'s' if len(services) > 1 else ''}"


CHECKS = (no_endpoints, policy_denies, lb_local, lb_probe, lb_http, lb_ranges)
