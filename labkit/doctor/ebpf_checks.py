"""Checks of Calico's eBPF data plane on the nodes, by what calico-node says and how it is configured."""

from __future__ import annotations

import json
import re

from labkit.calico.facts import CALICO_NAMESPACE, INSTALLATIONS
from labkit.doctor.operator_checks import felix_patch, installation_patch
from labkit.doctor.rows import Seen, check, ok, problem, unknown, warning
from labkit.doctor.snapshot import Snapshot

GROUP = "eBPF on the nodes"
_TROUBLE_DOCS = "docs.tigera.io/calico/latest/operations/ebpf/troubleshoot-ebpf"
_AZURE_PATH_MTU, _VXLAN = 1400, 50
_GIBI = 1024 ** 3
_WITHOUT_SLAVES = "^((en|wl|ww|sl|ib)[opsx].*|(eth|wlan|wwan|bond).*)"


def _logged(s: Snapshot, pattern: str, command: str = "") -> Seen:
    """A problem where calico-node's log has the words; unknown where a log could not be read and none has them."""
    if not s.bpf:
        return ok("eBPF is off")
    hits, unread = s.said(pattern)
    if hits:
        return problem("; ".join(hits), command)
    if unread or not s.node_logs:
        return unknown(f"the log of {', '.join(unread) or 'calico-node'} cannot be read")
    return ok(f"not in the last lines of {len(s.node_logs)} logs")


@check("bpf-kernel", GROUP, "Whether the kernel can do eBPF mode",
       symptom="bpfEnabled is true, yet everything goes on in iptables.",
       cause="the kernel of a node lacks what Calico's programs need: it must be 5.10 or newer.",
       cure="use a node image with a newer kernel (all that AKS offers today have one), then restart calico-node.",
       source="docs.tigera.io/calico/latest/operations/ebpf/enabling-ebpf")
def bpf_kernel(s: Snapshot) -> Seen:
    """Felix falls back where the kernel is too old."""
    return _logged(s, r"BPF data ?plane mode enabled but not supported")


@check("verifier", GROUP, "Whether the programs load",
       symptom="calico-node is not ready; its log says `Failed to apply policy to endpoint, leaving it dirty` or "
               "`failed to load: -13`.",
       cause="the kernel's verifier refuses a program of this Calico on this kernel.",
       cure="use another node image or another Calico, and leave bpfLogLevel off: Calico 3.30 with Debug on Linux 5.15 "
            "is known for it.",
       source=f"projectcalico/calico#10911; {_TROUBLE_DOCS}")
def verifier(s: Snapshot) -> Seen:
    """The verifier refuses a program."""
    level = s.facts.felix.get("bpfLogLevel")
    quiet = felix_patch(s.facts, {"bpfLogLevel": "Off"}) if level not in (None, "", "Off") else ""
    return _logged(s, r"leaving it dirty|failed to load: -\d+|rejected by the verifier", quiet)


@check("ctlb-cgroup", GROUP, "Whether programs attach to the cgroup",
       symptom="calico-node logs `failed to attach calico_connect_v4 to cgroup /run/calico/cgroup`; pods do not reach "
               "services.",
       cause="the node has no cgroup v2 where Calico looks for it.",
       cure="use a node image with cgroup v2, and Calico 3.23 or newer.", source="projectcalico/calico#7252, #6279")
def ctlb_cgroup(s: Snapshot) -> Seen:
    """Connect-time load balancing needs the cgroup."""
    return _logged(s, r"failed to attach \S+ to cgroup")


@check("ctlb-udp", GROUP, "UDP of pods on the node's network",
       symptom="pods with hostNetwork lose DNS and other UDP services whose back ends are on other nodes.",
       cause="connect-time load balancing handles TCP only, and what translates their UDP instead is switched off "
             "(bpfHostNetworkedNATWithoutCTLB).",
       cure="switch bpfHostNetworkedNATWithoutCTLB on, its default.",
       source="projectcalico/calico#6767, #4509")
def ctlb_udp(s: Snapshot) -> Seen:
    """Somebody must translate the UDP of pods on the node's network."""
    balancing = s.facts.felix.get("bpfConnectTimeLoadBalancing", "TCP")
    instead = s.facts.felix.get("bpfHostNetworkedNATWithoutCTLB", "Enabled")
    said = f"bpfConnectTimeLoadBalancing is {balancing}, bpfHostNetworkedNATWithoutCTLB is {instead}"
    if s.bpf and balancing != "Enabled" and instead == "Disabled":
        return problem(said, felix_patch(s.facts, {"bpfHostNetworkedNATWithoutCTLB": "Enabled"}))
    return ok(said if s.bpf else "eBPF is off")


@check("dsr-azure", GROUP, "How replies to outside clients go",
       symptom="from outside, the handshake works and then nothing comes, or a reset.",
       cause="with DSR a node answers for a connection that came in by another node; a cloud's load balancer drops "
             "that. Tigera rules it out on AWS and GCP and does not name Azure; the same design failed on AKS.",
       cure="use Tunnel.", source=f"{_TROUBLE_DOCS}; cilium/cilium#31169")
def dsr_azure(s: Snapshot) -> Seen:
    """Direct server return behind a cloud's load balancer."""
    mode = s.facts.felix.get("bpfExternalServiceMode", "Tunnel")
    if s.bpf and mode == "DSR" and s.on_azure:
        return warning("bpfExternalServiceMode is DSR, on Azure",
                       felix_patch(s.facts, {"bpfExternalServiceMode": "Tunnel"}))
    return ok(f"bpfExternalServiceMode is {mode}" if s.bpf else "eBPF is off")


@check("mtu", GROUP, "The MTU of pods",
       symptom="large packets stall, or transfers by a node port are slow.",
       cause="traffic to a back end on another node travels in VXLAN, which takes 50 bytes; and Azure's path may carry "
             "1400 while the NIC says 1500.",
       cure="set the Installation's mtu to 1350; pods that are new get it.",
       source="docs.tigera.io/calico/latest/networking/configuring/mtu; projectcalico/calico#4439, #12432")
def mtu(s: Snapshot) -> Seen:
    """An MTU that was set by hand must leave room for VXLAN."""
    value = s.network.get("mtu")
    pools = s.network.get("ipPools") or []
    vxlan = s.bpf or any(str(pool.get("encapsulation", "")).startswith("VXLAN") for pool in pools)
    if value and vxlan and int(value) > 1500 - _VXLAN:
        return warning(f"the Installation says {value}; VXLAN leaves {1500 - _VXLAN} of 1500",
                       installation_patch({"mtu": _AZURE_PATH_MTU - _VXLAN}))
    return ok(f"the Installation says {value}" if value else "Calico finds it by itself")


@check("vf", GROUP, "Accelerated NICs",
       symptom="a node cannot be reached right after eBPF was turned on.",
       cause="Calico before 3.29 attaches its programs also to the accelerated NIC's second interface, enP….",
       cure="leave these interfaces out by bpfDataIfacePattern, or use Calico 3.29 or newer.",
       source="gardener/gardener-extension-networking-calico docs/usage/usage.md")
def vf(s: Snapshot) -> Seen:
    """Programs on the second interface of an accelerated NIC."""
    if not s.interfaces:
        return ok("this Calico attaches to the first interface only" if s.bpf else "eBPF is off")
    hits = [f"{node}: {', '.join(found)}" for node, text in s.interfaces.items()
            if text and (found := sorted(set(re.findall(r"\benP\w+", text))))]
    if hits:
        return problem("; ".join(hits), felix_patch(s.facts, {"bpfDataIfacePattern": _WITHOUT_SLAVES}))
    unread = [node for node, text in s.interfaces.items() if text is None]
    return unknown(f"the interfaces of {', '.join(unread)} cannot be read") if unread else ok("none is attached to")


@check("oom", GROUP, "Memory for the maps",
       symptom="calico-node is OOMKilled while it loads its maps.",
       cause="since Linux 5.11 a pod is charged for its eBPF maps, and 512 MiB are not enough for them.",
       cure="raise the limit to 1 GiB, or set none.",
       source="projectcalico/calico hack/test/kind/infra/values-bpf.yaml")
def oom(s: Snapshot) -> Seen:
    """Killed for memory, or with too small a limit."""
    agents = [p for p in s.pods if p["metadata"]["namespace"] == CALICO_NAMESPACE
              and (p["metadata"].get("labels") or {}).get("k8s-app") == "calico-node"]
    killed = [p["spec"].get("nodeName", "?") for p in agents for c in p.get("status", {}).get("containerStatuses") or []
              for state in (c.get("lastState") or {}, c.get("state") or {})
              if (state.get("terminated") or {}).get("reason") == "OOMKilled"]
    limits = {c["resources"]["limits"]["memory"] for p in agents for c in p["spec"].get("containers") or []
              if (c.get("resources") or {}).get("limits", {}).get("memory")}
    body = {"spec": {"componentResources": [{"componentName": "Node", "resourceRequirements": {
        "limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi", "cpu": "150m"}}}]}}
    command = f"kubectl patch {INSTALLATIONS} default --type=merge -p '{json.dumps(body)}'"
    small = sorted(limit for limit in limits if _bytes(limit) < _GIBI)
    if killed:
        return problem(f"OOMKilled on {', '.join(sorted(set(killed)))}; limit {', '.join(limits) or 'none'}", command)
    if s.bpf and small:
        return warning(f"calico-node's limit is {', '.join(small)}", command)
    return ok(f"limit {', '.join(limits) or 'none'}, nobody was killed")


@check("wg", GROUP, "WireGuard",
       symptom="traffic between nodes stops, or is slower than it need be.",
       cause="WireGuard beside eBPF was not supported on AKS in 2022; today it is tested on overlay clusters only.",
       cure="leave it off for the lab.",
       source="projectcalico/calico .argoci/cron/e2e-bpf.yaml")
def wg(s: Snapshot) -> Seen:
    """WireGuard beside eBPF."""
    on = bool(s.facts.felix.get("wireguardEnabled"))
    return warning("wireguardEnabled is true, and eBPF is on",
                   felix_patch(s.facts, {"wireguardEnabled": False})) if on and s.bpf else ok(
        "on" if on else "off")


def _bytes(quantity: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]i?|k|)", quantity)
    if not found:
        return float("inf")
    unit = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 1024, "Mi": 1024 ** 2,
            "Gi": _GIBI, "Ti": 1024 ** 4, "Pi": 1024 ** 5}[found[2]]
    return float(found[1]) * unit


CHECKS = (bpf_kernel, verifier, ctlb_cgroup, ctlb_udp, dsr_azure, mtu, vf, oom, wg)
