"""Checks of kube-proxy beside Calico's eBPF data plane."""

from __future__ import annotations

import json
import re

from labkit.calico.facts import version_key
from labkit.calico.lanes import OWNS_BPF_ENABLED, healthz_port
from labkit.doctor.operator_checks import azures_proxy, felix_patch
from labkit.doctor.rows import Seen, check, ok, problem, unknown, warning
from labkit.doctor.snapshot import Snapshot

GROUP = "kube-proxy"
_EBPF_DOCS = "docs.tigera.io/calico/latest/operations/ebpf/enabling-ebpf"
_TROUBLE_DOCS = "docs.tigera.io/calico/latest/operations/ebpf/troubleshoot-ebpf"
_IN_USE = r"BPF Proxy Healthz server failed|failed to start prox(y|ier) healthz.*address already in use"
_IPVS_LOG = r"kube-proxy mode changed\. Restart felix|kube-ipvs0"
_PROXY_HEALTHZ = 10256


def _selector(value: str | None) -> str:
    patch = {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": value}}}}}
    return f"kubectl patch ds -n kube-system kube-proxy -p '{json.dumps(patch)}'"


@check("kube-proxy-gone", GROUP, "Who handles services",
       symptom="new services never answer; old ones keep pods that are long gone as back ends.",
       cause="kube-proxy was taken off the nodes and Calico's eBPF mode is off: the rules in the kernel are the last "
             "that kube-proxy wrote, and a node that is new has none.",
       cure="let kube-proxy back on the nodes, or turn eBPF on.",
       source=f"{_EBPF_DOCS}; learn.microsoft.com/azure/aks/configure-kube-proxy")
def kube_proxy_gone(s: Snapshot) -> Seen:
    """Neither kube-proxy nor eBPF handles services."""
    proxy = s.facts.kube_proxy
    said = (f"{proxy.ready} of {proxy.desired} kube-proxy pods" if proxy else "no kube-proxy") + (
        f"; eBPF is {'on' if s.bpf else 'off'}")
    return ok(said) if s.bpf or s.proxy_runs else problem(said, _selector(None) if proxy else azures_proxy(s))


@check("kp-back", GROUP, "Whether the patch of kube-proxy stays",
       symptom="kube-proxy's pods return a minute or two after the nodeSelector was patched.",
       cause="AKS's add-on manager owns the DaemonSet and takes the patch back.",
       cure="do not patch kube-proxy on such a cluster: keep it, and set bpfKubeProxyIptablesCleanupEnabled to false.",
       source=f"{_EBPF_DOCS}; admiraltyio/admiralty#114; Azure/acs-engine#2509")
def kp_back(s: Snapshot) -> Seen:
    """A patch that the add-on manager takes back."""
    proxy = s.facts.kube_proxy
    if proxy is None:
        return ok("there is no kube-proxy")
    owned = proxy.managed and version_key(s.facts.operator_version) >= OWNS_BPF_ENABLED
    if owned and "non-calico" in proxy.selector:
        return problem(f"the add-on manager owns kube-proxy, and its node selector is {json.dumps(proxy.selector)}",
                       _selector(None))
    return ok("its node selector is its own" if "non-calico" not in proxy.selector else
              "the node selector was patched, and nobody takes that back")


@check("kp-fight", GROUP, "Peace between Felix and kube-proxy",
       symptom="iptables rules come and go, calico-node and kube-proxy burn CPU, kube-proxy logs iptables-restore "
               "errors.",
       cause="in eBPF mode Felix removes kube-proxy's rules unless it is told not to, and kube-proxy writes them "
             "again.",
       cure="where kube-proxy stays, set bpfKubeProxyIptablesCleanupEnabled to false; where it may go, take it off the "
            "nodes.",
       source=f"{_TROUBLE_DOCS}; projectcalico/calico#10538")
def kp_fight(s: Snapshot) -> Seen:
    """Felix cleans up what kube-proxy writes."""
    if not (s.bpf and s.proxy_runs):
        return ok("they do not meet")
    if s.facts.felix.get("bpfKubeProxyIptablesCleanupEnabled") is False:
        return ok("Felix leaves kube-proxy's rules alone")
    stays = version_key(s.facts.operator_version) >= OWNS_BPF_ENABLED
    return problem("eBPF is on, kube-proxy runs, and Felix removes its rules",
                   felix_patch(s.facts, {"bpfKubeProxyIptablesCleanupEnabled": False}) if stays else _selector("true"))


@check("kp-healthz", GROUP, "The port of kube-proxy's health server",
       symptom="calico-node logs `BPF Proxy Healthz server failed … address already in use` again and again.",
       cause="in eBPF mode Felix opens kube-proxy's health port, 10256, and a kube-proxy that runs holds it.",
       cure="give Felix another port: 10258 up to Calico 3.31, 0 for none from 3.32 on.",
       source="projectcalico/calico#10748, #11213; tigera/operator#4768")
def kp_healthz(s: Snapshot) -> Seen:
    """Felix and kube-proxy want the same port."""
    port = s.facts.felix.get("bpfKubeProxyHealthzPort", _PROXY_HEALTHZ)
    if not (s.bpf and s.proxy_runs) or port != _PROXY_HEALTHZ:
        return ok(f"Felix's is {port}" if s.bpf else "eBPF is off")
    hits, unread = s.said(_IN_USE)
    cure = felix_patch(s.facts, {"bpfKubeProxyHealthzPort": healthz_port(s.facts)})
    if hits:
        return problem("; ".join(hits), cure)
    said = f"Felix and kube-proxy both open {port}"
    return unknown(f"{said}; the log of {', '.join(unread)} cannot be read") if unread else warning(said, cure)


@check("kp-ipvs", GROUP, "kube-proxy's mode",
       symptom="Felix restarts with \"kube-proxy mode changed. Restart felix\", or eBPF services do not work.",
       cause="kube-proxy runs, or ran, in IPVS mode; its interface kube-ipvs0 keeps the service addresses on the node.",
       cure="switch kube-proxy to iptables mode, then replace or reboot the nodes, so that kube-ipvs0 goes.",
       source=f"{_EBPF_DOCS}; projectcalico/calico#8929")
def kp_ipvs(s: Snapshot) -> Seen:
    """EBPF mode does not work beside IPVS."""
    containers = ((s.kube_proxy or {}).get("spec", {}).get("template", {}).get("spec", {})).get("containers") or []
    words = " ".join(word for c in containers for word in [*(c.get("command") or []), *(c.get("args") or [])])
    asked = bool(re.search(r"--proxy-mode[= ]ipvs", words)
                 or re.search(r"^\s*mode:\s*[\"']?ipvs", s.proxy_config, re.M))
    hits, unread = s.said(_IPVS_LOG)
    if asked or hits:
        said = "; ".join(["kube-proxy is told to use ipvs"] * asked + list(hits))
        return problem(said) if s.bpf else warning(said)
    return unknown(f"the log of {', '.join(unread)} cannot be read") if unread else ok("not ipvs")


CHECKS = (kube_proxy_gone, kp_back, kp_fight, kp_healthz, kp_ipvs)
