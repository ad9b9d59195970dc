"""Checks of the way to the API server, and of what the operator says."""

from __future__ import annotations

import json
import re

from labkit.azure import kube_proxy
from labkit.calico import ClusterFacts, effects
from labkit.calico.facts import BPF_ANNOTATION, ENDPOINT_CONFIGMAP, INSTALLATIONS, OPERATOR_NAMESPACE, version_key
from labkit.doctor.rows import Seen, check, ok, problem, unknown, warning
from labkit.doctor.snapshot import Snapshot, last_line

GROUP = "Calico's operator"
_EBPF_DOCS = "docs.tigera.io/calico/latest/operations/ebpf/enabling-ebpf"
_WATCHES_ENDPOINT = (1, 15)  # from this version on the operator reads the ConfigMap whenever it changes
_REFUSED = r"refusing to override potential user configuration"
_TWO_METHODS = r"no more than one node address autodetection method"
_NO_METHOD = r"nodeAddressAutodetectionV4 is required for the BPF dataplane"
_BOTH = r"bpfNetworkBootstrap is Enabled but the requirements are not met"
_UNMANAGED = r"DaemonSet is likely managed by another source|failed to retrieve kube-proxy DaemonSet"
_LOOKUP = r"lookup \S+ on \S+:53: .*(no such host|i/o timeout|server misbehaving)|lookup \S+: i/o timeout"
_RESTART = f"kubectl delete pod -n {OPERATOR_NAMESPACE} -l k8s-app=tigera-operator"
_SPECIAL = "|".join((_REFUSED, _TWO_METHODS, _NO_METHOD, _BOTH, _UNMANAGED))


def degraded(facts: ClusterFacts, pattern: str) -> str:
    """What the operator is Degraded for, if it matches; else empty.

    Args:
        facts: the cluster's.
        pattern: a regular expression.
    """
    said = (f"{c.reason}: {c.message}" for c in facts.conditions if c.type == "Degraded" and c.status == "True")
    return last_line(pattern, "\n".join(said))


def installation_patch(network: dict[str, object]) -> str:
    """The command that merges into the Installation's calicoNetwork."""
    return (f"kubectl patch {INSTALLATIONS} default --type=merge -p "
            f"'{json.dumps({'spec': {'calicoNetwork': network}})}'")


def felix_patch(facts: ClusterFacts, spec: dict[str, object]) -> str:
    """The command that merges into FelixConfiguration's spec."""
    return f"kubectl patch {facts.felix_resource} default --type=merge -p '{json.dumps({'spec': spec})}'"


def azures_proxy(s: Snapshot) -> str:
    """The command that has Azure bring kube-proxy back, where there is none; "" where there is no Azure to ask."""
    return kube_proxy.command(*s.names, enabled=True) if s.names and s.facts.kube_proxy is None else ""


def _endpoint_command(facts: ClusterFacts) -> str:
    apply = f"kubectl apply -f - <<'EOF'\n{json.dumps(effects.endpoint_manifest(facts))}\nEOF"
    if version_key(facts.operator_version) >= _WATCHES_ENDPOINT:
        return apply
    return f"{apply}\n{_RESTART}"


@check("ep-missing", GROUP, "The API server's address for Calico",
       symptom="calico-node does not become ready after a restart: i/o timeout on 10.0.0.1:443.",
       cause="kube-proxy is gone or eBPF is on, so the service address of the API works only as long as calico-node "
             "does, and calico-node needs the API to work. The ConfigMap that names the API itself is absent, empty, "
             "in another namespace, or was not read.",
       cure="apply the ConfigMap; an operator before v1.15 reads it only when it starts. The plan's first steps do the "
            "same: `lab.run(lab.enable_ebpf())`.",
       source=f"{_EBPF_DOCS}; projectcalico/calico#7245, #6168, #10538")
def ep_missing(s: Snapshot) -> Seen:
    """Without kube-proxy Calico must know the API server's own address."""
    f = s.facts
    if f.calico_node is None:
        return ok("no Calico, so nothing to tell")
    host = (f.endpoint or {}).get("KUBERNETES_SERVICE_HOST")
    used = f.calico_node.env.get("KUBERNETES_SERVICE_HOST")
    named = f"names {host}" if host else "is absent or empty"
    said = (f"the ConfigMap {OPERATOR_NAMESPACE}/{ENDPOINT_CONFIGMAP} {named}; calico-node uses "
            f"{used or 'the service 10.0.0.1'}")
    bootstrapped = s.network.get("bpfNetworkBootstrap") == "Enabled"
    if (f.bpf_enabled or not s.proxy_runs) and not bootstrapped and (not host or used != host):
        return problem(said, _endpoint_command(f))
    return ok(said)


@check("ep-wrong", GROUP, "The address in the ConfigMap",
       symptom="calico-node fails to start: it looks for the API at a place where it is not.",
       cause="the ConfigMap was written for another cluster, or mistyped.",
       cure="`kubectl cluster-info` shows the right name and port; apply the ConfigMap with them.",
       source=_EBPF_DOCS)
def ep_wrong(s: Snapshot) -> Seen:
    """A ConfigMap with another cluster's address."""
    if not s.facts.endpoint:
        return ok("there is no ConfigMap")
    host, port = (s.facts.endpoint.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    said = f"it names {host or 'nothing'}:{port}; the API server is {s.facts.api_host}:{s.facts.api_port}"
    right = (s.facts.api_host, str(s.facts.api_port))
    return ok(said) if (host, port) in (right, ("", "")) else problem(said, _endpoint_command(s.facts))


@check("ep-dns-deadlock", GROUP, "Whether the operator finds the API's name",
       symptom="the operator's log says `lookup … on 10.0.0.10:53: no such host`, and nothing gets installed.",
       cause="the operator and calico-node ask cluster DNS for the API's name, and cluster DNS needs the network that "
             "they are to make.",
       cure="the order that does without: kube-proxy, Calico, the ConfigMap, eBPF, and only then kube-proxy off. On a "
            "cluster that hangs: let kube-proxy carry the API's service address again, and take the ConfigMap away "
            "until Calico runs; then follow the plan.",
       source="tigera/operator#1746, #4325, #3615; projectcalico/calico#10683, #9536")
def ep_dns_deadlock(s: Snapshot) -> Seen:
    """The operator cannot resolve the name that it needs to make the network."""
    if s.facts.operator_version is None:
        return ok("there is no operator")
    if s.facts.calico_node is not None and s.facts.calico_node.ready:
        return ok("calico-node runs, so names were found")
    if s.operator_log is None:
        return unknown("the operator's log cannot be read")
    found = re.search(_LOOKUP, last_line(_LOOKUP, s.operator_log))
    if not found:
        return ok("its log has no failed look-up")
    if not s.proxy_runs and not azures_proxy(s):
        return problem(found[0], "kubectl patch deployment -n tigera-operator tigera-operator -p "
                       "'{\"spec\":{\"template\":{\"spec\":{\"dnsPolicy\":\"Default\"}}}}'")
    return problem(found[0], "\n".join(filter(None, (
        azures_proxy(s), f"kubectl delete configmap -n {OPERATOR_NAMESPACE} {ENDPOINT_CONFIGMAP} --ignore-not-found",
        _RESTART))))


@check("ep-both", GROUP, "One source for the API's address",
       symptom="`kubectl get tigerastatus calico` is Degraded: \"bpfNetworkBootstrap is Enabled but the requirements "
               "are not met\".",
       cause="bpfNetworkBootstrap makes the operator find the API by itself, and the ConfigMap names it too: it takes "
             "one of them. On AKS the automatic way is not supported.",
       cure="keep the ConfigMap and switch bpfNetworkBootstrap off.",
       source="tigera/operator pkg/controller/utils/bpf.go")
def ep_both(s: Snapshot) -> Seen:
    """The ConfigMap and the bootstrap exclude each other."""
    asked = s.network.get("bpfNetworkBootstrap") == "Enabled"
    host = (s.facts.endpoint or {}).get("KUBERNETES_SERVICE_HOST")
    line = degraded(s.facts, _BOTH)
    if line or (asked and host):
        return problem(line or f"bpfNetworkBootstrap is Enabled, and the ConfigMap names {host}",
                       installation_patch({"bpfNetworkBootstrap": "Disabled"}))
    return ok("bpfNetworkBootstrap is " + str(s.network.get("bpfNetworkBootstrap", "Disabled")))


@check("op-refuse", GROUP, "Who sets bpfEnabled",
       symptom="Felix does what the hand said, but tigerastatus is Degraded: \"refusing to override potential user "
               "configuration\", and the operator stops reconciling.",
       cause=f"operators from v1.34 on own the field and note in {BPF_ANNOTATION} what they wrote.",
       cure="set the field back to what the note says, then switch by the Installation's linuxDataplane.",
       source="tigera/operator pkg/controller/installation/bpf.go")
def op_refuse(s: Snapshot) -> Seen:
    """An operator that owns bpfEnabled refuses one that was set by hand."""
    line = degraded(s.facts, _REFUSED)
    if not line:
        return ok(f"bpfEnabled is {s.facts.bpf_enabled}, and the operator does not object")
    noted = {"true": True, "false": False}.get(s.facts.bpf_annotation or "")
    return problem(f"{line}; bpfEnabled is {s.facts.bpf_enabled}, the note says {s.facts.bpf_annotation or 'nothing'}",
                   felix_patch(s.facts, {"bpfEnabled": noted}))


@check("op-addr", GROUP, "How nodes find their address",
       symptom="`kubectl get tigerastatus calico` is Degraded, and no change of the Installation takes effect.",
       cause="a merge patch added a method beside the one that was there (\"no more than one node address "
             "autodetection method can be specified per-family\"), or eBPF with an IP pool has none.",
       cure="keep one method: a null takes the other away.",
       source="tigera/operator pkg/controller/installation/validation.go; projectcalico/node#1370")
def op_addr(s: Snapshot) -> Seen:
    """The operator wants one way to find a node's address."""
    methods = sorted(s.facts.node_address)
    said = f"nodeAddressAutodetectionV4 has {', '.join(methods) or 'nothing'}"
    if len(methods) > 1:
        kept = "canReach" if "canReach" in methods else methods[0]
        return problem(said, installation_patch(
            {"nodeAddressAutodetectionV4": {name: None for name in methods if name != kept}}))
    if line := degraded(s.facts, f"{_TWO_METHODS}|{_NO_METHOD}"):
        add: dict[str, object] = {} if methods else {"nodeAddressAutodetectionV4": {"canReach": "8.8.8.8"}}
        return problem(line, installation_patch(add) if add else "")
    return ok(said)


@check("op-kp", GROUP, "Who manages kube-proxy",
       symptom="tigerastatus kube-proxy is Degraded: \"DaemonSet is likely managed by another source\", or \"failed to "
               "retrieve kube-proxy DaemonSet\".",
       cause="kubeProxyManagement is Enabled, but AKS's add-on manager owns kube-proxy, or there is none.",
       cure="set kubeProxyManagement to Disabled; on AKS with Azure CNI kube-proxy stays.",
       source="tigera/operator pkg/controller/kubeproxy/controller.go")
def op_kp(s: Snapshot) -> Seen:
    """The operator must not manage a kube-proxy that is Azure's."""
    asked = s.network.get("kubeProxyManagement") == "Enabled"
    line = degraded(s.facts, _UNMANAGED)
    foreign = s.facts.kube_proxy is None or s.facts.kube_proxy.managed
    if line or (asked and foreign):
        owner = "there is no kube-proxy" if s.facts.kube_proxy is None else "the add-on manager owns kube-proxy"
        return problem(line or f"kubeProxyManagement is Enabled, and {owner}",
                       installation_patch({"kubeProxyManagement": "Disabled"}))
    return ok("the operator leaves kube-proxy alone" if not asked else "the operator manages a kube-proxy of its own")


@check("operator", GROUP, "What the operator says",
       symptom="changes of the Installation do not take effect.", cause="the operator could not do what it should.",
       cure="read the status and the log; what they say is not a fault that the doctor knows by name.",
       source="docs.tigera.io/calico/latest/reference/installation/api")
def operator(s: Snapshot) -> Seen:
    """What else the operator complains about."""
    bad = [f"{c.component}: {c.message or c.reason}" for c in s.facts.conditions
           if c.type == "Degraded" and c.status == "True" and not last_line(_SPECIAL, f"{c.reason} {c.message}")]
    command = "kubectl get tigerastatus -o yaml\nkubectl logs -n tigera-operator deploy/tigera-operator --tail=30"
    if bad:
        return problem("; ".join(bad)[:600], command)
    if s.facts.operator_version and not s.facts.conditions:
        return warning("the operator has not reported yet", command)
    return ok("nothing else is Degraded")


@check("calico-node", GROUP, "calico-node",
       symptom="policies and, in eBPF mode, services are not updated on some nodes.",
       cause="its readiness probe fails: it cannot reach the API, or its data plane is not in sync.",
       cure="its log says which; the other findings may name the reason.",
       source="docs.tigera.io/calico/latest/operations/ebpf/troubleshoot-ebpf")
def calico_node(s: Snapshot) -> Seen:
    """calico-node runs on every node."""
    found = s.facts.calico_node
    if found is None:
        return ok("this cluster has no Calico")
    said = f"{found.ready} of {found.desired} pods are ready"
    return ok(said) if found.ready >= found.desired else problem(
        said, "kubectl logs -n calico-system ds/calico-node -c calico-node --tail=30")


CHECKS = (ep_missing, ep_wrong, ep_dns_deadlock, ep_both, op_refuse, op_addr, op_kp, operator, calico_node)
