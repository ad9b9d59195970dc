"""Custom resource definitions of the operator and of Calico, as upstream defines them.

Specs are open where upstream's schemas are long; what the course patches is typed, so that a value of
the wrong type is refused and a field that the version does not know is dropped, as on a cluster.
"""

from __future__ import annotations

from typing import Any

from labkit.local.client import Obj

from .objects import meta

_OPEN: Obj = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEXT: Obj = {"type": "string"}
_FLAG: Obj = {"type": "boolean"}
_NUMBER: Obj = {"type": "integer"}


def _texts() -> Obj:
    return {"type": "array", "items": _TEXT}


def _definition(group: str, kind: str, plural: str, *, scope: str = "Cluster", spec: Obj = _OPEN,
                status: bool = False, columns: list[Obj] | None = None) -> Obj:
    properties: Obj = {"apiVersion": _TEXT, "kind": _TEXT, "metadata": {"type": "object"}, "spec": spec}
    version: dict[str, Any] = {
        "name": "v1", "served": True, "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
    }
    if status:
        properties["status"] = _OPEN
        version["subresources"] = {"status": {}}
    if columns:
        version["additionalPrinterColumns"] = columns
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": meta(f"{plural}.{group}"),
        "spec": {"group": group, "scope": scope, "versions": [version], "names": {
            "kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}},
    }


def _autodetection() -> Obj:
    return {"type": "object", "properties": {
        "canReach": _TEXT, "firstFound": _FLAG, "interface": _TEXT, "skipInterface": _TEXT,
        "cidrs": _texts(), "kubernetes": {"type": "string", "enum": ["NodeInternalIP"]}}}


def _installation_spec(minor: int) -> Obj:
    """The spec of an Installation; the operator of 2021 does not know the fields that choose a data plane."""
    network: Obj = {
        "bgp": {"type": "string", "enum": ["Enabled", "Disabled"]},
        "hostPorts": {"type": "string", "enum": ["Enabled", "Disabled"], "nullable": True},
        "containerIPForwarding": _TEXT, "multiInterfaceMode": _TEXT, "mtu": _NUMBER,
        "ipPools": {"type": "array", "items": _OPEN},
        "nodeAddressAutodetectionV4": _autodetection(), "nodeAddressAutodetectionV6": _autodetection(),
    }
    if minor >= 30:
        network |= {
            "linuxDataplane": {"type": "string", "enum": ["Iptables", "BPF", "VPP", "Nftables"]},
            "bpfNetworkBootstrap": {"type": "string", "enum": ["Enabled", "Disabled"]},
            "kubeProxyManagement": {"type": "string", "enum": ["Enabled", "Disabled"]},
            "linuxPolicySetupTimeoutSeconds": _NUMBER, "windowsDataplane": _TEXT, "sysctl": {
                "type": "array", "items": _OPEN}}
    return {**_OPEN, "properties": {
        "variant": _TEXT, "registry": _TEXT, "imagePath": _TEXT, "imagePrefix": _TEXT,
        "kubernetesProvider": {"type": "string", "enum": [
            "", "EKS", "GKE", "AKS", "OpenShift", "DockerEnterprise", "RKE2", "TKG"]},
        "controlPlaneReplicas": _NUMBER, "cni": _OPEN,
        "calicoNetwork": {"type": "object", "properties": network}}}


def _felix_spec() -> Obj:
    return {**_OPEN, "properties": {
        **{name: _FLAG for name in (
            "bpfEnabled", "bpfDisableUnprivileged", "bpfConnectTimeLoadBalancingEnabled",
            "bpfKubeProxyIptablesCleanupEnabled", "bpfHostConntrackBypass", "prometheusMetricsEnabled",
            "healthEnabled", "wireguardEnabled", "vxlanEnabled", "ipipEnabled")},
        **{name: _NUMBER for name in (
            "bpfKubeProxyHealthzPort", "healthPort", "prometheusMetricsPort", "vxlanPort", "vxlanVNI",
            "vxlanMTU")},
        **{name: _TEXT for name in ("bpfDataIfacePattern", "bpfKubeProxyMinSyncPeriod", "reportingInterval")},
        "bpfLogLevel": {"type": "string", "pattern": "(?i)^(Off|Info|Debug)?$"},
        "bpfExternalServiceMode": {"type": "string", "pattern": "(?i)^(Tunnel|DSR)?$"},
        "bpfConnectTimeLoadBalancing": {"type": "string", "enum": ["TCP", "Enabled", "Disabled"]},
        "bpfDSROptoutCIDRs": _texts()}}


def _entity() -> Obj:
    ports: Obj = {"type": "array", "items": {"x-kubernetes-int-or-string": True}}
    return {"type": "object", "properties": {
        **{name: _TEXT for name in ("namespaceSelector", "notSelector", "selector")},
        "nets": _texts(), "notNets": _texts(), "ports": ports, "notPorts": ports,
        "serviceAccounts": {"type": "object", "properties": {"names": _texts(), "selector": _TEXT}},
        "services": {"type": "object", "properties": {"name": _TEXT, "namespace": _TEXT}}}}


def _policy_spec(*, world: bool = False) -> Obj:
    """The spec of a NetworkPolicy, or of a GlobalNetworkPolicy where `world` is set."""
    icmp: Obj = {"type": "object", "properties": {
        "code": {**_NUMBER, "minimum": 0, "maximum": 255}, "type": {**_NUMBER, "minimum": 0, "maximum": 254}}}
    protocol: Obj = {"x-kubernetes-int-or-string": True}
    rule: Obj = {"type": "object", "required": ["action"], "properties": {
        "action": {"type": "string", "enum": ["Allow", "Deny", "Log", "Pass"]},
        "source": _entity(), "destination": _entity(), "protocol": protocol, "notProtocol": protocol,
        "icmp": icmp, "notICMP": icmp, "http": _OPEN, "ipVersion": {**_NUMBER, "enum": [4, 6]},
        "metadata": {"type": "object", "properties": {
            "annotations": {"type": "object", "additionalProperties": _TEXT}}}}}
    more: Obj = {name: _FLAG for name in ("applyOnForward", "doNotTrack", "preDNAT")} if world else {}
    if world:
        more["namespaceSelector"] = _TEXT
    return {"type": "object", "properties": {
        "egress": {"type": "array", "items": rule}, "ingress": {"type": "array", "items": rule},
        "order": {"type": "number"}, "performanceHints": _texts(), "selector": _TEXT,
        "serviceAccountSelector": _TEXT, "tier": _TEXT,
        "types": {"type": "array", "items": {"type": "string", "enum": ["Ingress", "Egress"]}}, **more}}


def _condition(type: str) -> str:
    return f".status.conditions[?(@.type=='{type}')]"


def operator_definitions(minor: int) -> list[Obj]:
    """The definitions of operator.tigera.io that a Calico cluster has."""
    columns: list[Obj] = [
        {"name": kind, "type": "string", "jsonPath": f"{_condition(kind)}.status"}
        for kind in ("Available", "Progressing", "Degraded")]
    columns.append({"name": "Since", "type": "date",
                    "jsonPath": f"{_condition('Available')}.lastTransitionTime"})
    if minor >= 30:
        columns.append({"name": "Message", "type": "string", "priority": 1,
                        "jsonPath": f"{_condition('Degraded')}.message"})
    group = "operator.tigera.io"
    return [
        _definition(group, "Installation", "installations", spec=_installation_spec(minor), status=True),
        _definition(group, "TigeraStatus", "tigerastatuses", status=True, columns=columns),
        _definition(group, "APIServer", "apiservers", status=True),
    ]


def calico_definitions() -> list[Obj]:
    """The definitions of crd.projectcalico.org, Calico's store in Kubernetes."""
    group = "crd.projectcalico.org"
    cluster = {
        "BGPConfiguration": "bgpconfigurations", "BGPPeer": "bgppeers", "BlockAffinity": "blockaffinities",
        "ClusterInformation": "clusterinformations",
        "GlobalNetworkSet": "globalnetworksets", "HostEndpoint": "hostendpoints", "IPAMBlock": "ipamblocks",
        "IPAMConfig": "ipamconfigs", "IPAMHandle": "ipamhandles", "IPPool": "ippools",
        "KubeControllersConfiguration": "kubecontrollersconfigurations",
    }
    return [
        _definition(group, "FelixConfiguration", "felixconfigurations", spec=_felix_spec()),
        *(_definition(group, kind, plural) for kind, plural in cluster.items()),
        _definition(group, "GlobalNetworkPolicy", "globalnetworkpolicies", spec=_policy_spec(world=True)),
        _definition(group, "NetworkPolicy", "networkpolicies", scope="Namespaced", spec=_policy_spec()),
        _definition(group, "NetworkSet", "networksets", scope="Namespaced"),
    ]
