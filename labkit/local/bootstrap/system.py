"""What every cluster has: namespaces, the API's own service, roles, kube-proxy and cluster DNS."""

from __future__ import annotations

import ipaddress

from labkit.local.arm.clusters import ClusterSpec
from labkit.local.client import Obj

from .objects import (
    ADDON,
    TOLERATE_ALL,
    account_subject,
    binding,
    cluster_role,
    field_env,
    meta,
    namespace,
    service_account,
    subject,
)
from .releases import Release

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def namespaces() -> list[Obj]:
    """Kubernetes' own namespaces, with their default service accounts."""
    return [namespace(name) for name in NAMESPACES] + [service_account("default", n) for n in NAMESPACES]


def api_service(spec: ClusterSpec, api_address: str) -> list[Obj]:
    """The service `kubernetes`: the first address of the service CIDR, in front of the API's public one."""
    first = str(ipaddress.ip_network(spec.service_cidr)[1])
    port = {"name": "https", "port": 443, "protocol": "TCP"}
    return [
        {"apiVersion": "v1", "kind": "Service",
         "metadata": meta("kubernetes", "default", {"component": "apiserver", "provider": "kubernetes"}),
         "spec": {"type": "ClusterIP", "clusterIP": first, "sessionAffinity": "None",
                  "ports": [{**port, "targetPort": 443}]}},
        {"apiVersion": "v1", "kind": "Endpoints",
         "metadata": meta("kubernetes", "default", {"endpointslice.kubernetes.io/skip-mirror": "true"}),
         "subsets": [{"addresses": [{"ip": api_address}], "ports": [port]}]},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": meta("kubernetes", "default", {"kubernetes.io/service-name": "kubernetes"}),
         "addressType": "IPv4", "ports": [port],
         "endpoints": [{"addresses": [api_address], "conditions": {"ready": True}}]},
    ]


def roles() -> list[Obj]:
    """The roles that people look at; the lab keeps them as data and lets its one user do everything."""
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    read = ["get", "list", "watch"]
    bootstrapping = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    workloads = {"apiGroups": ["", "apps", "batch", "networking.k8s.io", "discovery.k8s.io"],
                 "resources": ["*"]}
    return [
        cluster_role("cluster-admin", [everything, {"nonResourceURLs": ["*"], "verbs": ["*"]}],
                     bootstrapping),
        cluster_role("admin", [{**workloads, "verbs": ["*"]}], bootstrapping),
        cluster_role("edit", [{**workloads, "verbs": ["*"]}], bootstrapping),
        cluster_role("view", [{**workloads, "verbs": read}], bootstrapping),
        cluster_role("system:node-proxier", [
            {"apiGroups": [""], "resources": ["services", "endpoints", "nodes"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ], bootstrapping),
        cluster_role("system:coredns", [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"],
             "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ]),
        binding("cluster-admin", "cluster-admin", subject("Group", "system:masters")),
        binding("aks-cluster-admin-binding", "cluster-admin",
                subject("User", "clusterAdmin"), subject("User", "clusterUser")),
        binding("system:kube-proxy", "system:node-proxier", account_subject("kube-proxy", "kube-system")),
        binding("system:coredns", "system:coredns", account_subject("coredns", "kube-system")),
    ]


def kube_proxy(spec: ClusterSpec) -> list[Obj]:
    """kube-proxy is what makes 10.0.0.1 work: it reaches the API by name, through the node's resolver."""
    labels = {"component": "kube-proxy", "tier": "node"}
    container = {
        "name": "kube-proxy",
        "image": f"mcr.microsoft.com/oss/kubernetes/kube-proxy:v{spec.kubernetes_version}",
        "args": ["--conntrack-max-per-core=0", "--metrics-bind-address=0.0.0.0:10249",
                 f"--cluster-cidr={spec.pod_cidr}", "--proxy-mode=iptables", "--v=3"],
        "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": spec.fqdn},
                {"name": "KUBERNETES_SERVICE_PORT", "value": "443"},
                field_env("NODE_NAME", "spec.nodeName"), field_env("HOST_IP", "status.hostIP")],
        "resources": {"requests": {"cpu": "100m"}},
        "securityContext": {"privileged": True},
    }
    account = service_account("kube-proxy", "kube-system")
    if not spec.kube_proxy:
        return [account]
    return [
        account,
        {"apiVersion": "apps/v1", "kind": "DaemonSet",
         "metadata": meta("kube-proxy", "kube-system",
                          {ADDON: "Reconcile", "kubernetes.io/cluster-service": "true", **labels}),
         "spec": {
             "selector": {"matchLabels": labels},
             "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
             "template": {
                 "metadata": {"labels": labels},
                 "spec": {
                     "hostNetwork": True, "dnsPolicy": "Default", "serviceAccountName": "kube-proxy",
                     "priorityClassName": "system-node-critical", "tolerations": TOLERATE_ALL,
                     "nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [container],
                     "terminationGracePeriodSeconds": 5,
                 }}}},
    ]


_COREFILE = """.:53 {
    errors
    ready
    health
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
    import custom/*.override
}
import custom/*.server
"""


def dns(spec: ClusterSpec, release: Release) -> list[Obj]:
    """Cluster DNS: a service with endpoints like any other."""
    labels = {"k8s-app": "kube-dns"}
    addon = {ADDON: "Reconcile", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
             **labels}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
             {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]
    container = {
        "name": "coredns", "image": f"mcr.microsoft.com/oss/kubernetes/coredns:{release.coredns}",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"name": p["name"], "containerPort": 53, "protocol": p["protocol"]} for p in ports],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1,
                           "timeoutSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 60,
                          "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "70Mi"}, "limits": {"memory": "500Mi"}},
        "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": True}],
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}},
    }
    return [
        service_account("coredns", "kube-system"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("coredns", "kube-system", addon),
         "data": {"Corefile": _COREFILE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta("kube-dns", "kube-system", addon),
         "spec": {"clusterIP": spec.dns_service_ip, "selector": labels, "ports": ports}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("coredns", "kube-system", addon),
         "spec": {
             "replicas": 2, "selector": {"matchLabels": labels},
             "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}},
             "template": {
                 "metadata": {"labels": labels},
                 "spec": {
                     "serviceAccountName": "coredns", "dnsPolicy": "Default",
                     "priorityClassName": "system-node-critical", "tolerations": TOLERATE_ALL,
                     "nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [container],
                     "terminationGracePeriodSeconds": 5,
                     "volumes": [{"name": "config-volume", "configMap": {
                         "name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]}}],
                 }}}},
    ]
