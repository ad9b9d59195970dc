"""The objects that the operator makes of an Installation. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from labkit.local.client import Obj

from .installation import autodetection_method, cni_of, network_of, wants_bpf
from .release import Release

NAMESPACE = "calico-system"
BPF_VOLUME = "bpffs"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calico-node finds the API; empty means as every pod does, by the service's address."""

    host: str = ""
    port: str = ""

    def env(self) -> list[Obj]:
        """The variables that say so; both or none."""
        if not self.host or not self.port:
            return []
        return [{"name": "KUBERNETES_SERVICE_HOST", "value": self.host},
                {"name": "KUBERNETES_SERVICE_PORT", "value": self.port}]


def render(installation: Obj, release: Release, endpoint: Endpoint) -> list[tuple[str, Obj]]:
    """Every object with its resource name, in the order of creation."""
    objects: list[tuple[str, Obj]] = [("namespaces", {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {
            "name": NAMESPACE, "projectcalico.org/name": NAMESPACE,
            "pod-security.kubernetes.io/enforce": "privileged"}}})]
    for name in ("calico-node", "calico-kube-controllers"):
        objects += _account(name)
    objects.append(("daemonsets.apps", _node(installation, release, endpoint)))
    objects.append(("deployments.apps", _kube_controllers(installation, release, endpoint)))
    objects += [("ippools.crd.projectcalico.org", pool) for pool in _pools(installation)]
    return objects


def _account(name: str) -> list[tuple[str, Obj]]:
    rbac = "rbac.authorization.k8s.io"
    read = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "verbs": read, "resources": [
            "nodes", "pods", "namespaces", "services", "endpoints", "serviceaccounts", "configmaps"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
        {"apiGroups": ["crd.projectcalico.org"], "resources": ["*"],
         "verbs": [*read, "create", "update", "patch", "delete"]},
    ]
    return [
        ("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount",
                             "metadata": {"name": name, "namespace": NAMESPACE}}),
        (f"clusterroles.{rbac}", {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": name},
                                  "rules": rules}),
        (f"clusterrolebindings.{rbac}", {
            "apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]}),
    ]


def _image(installation: Obj, component: str, release: Release) -> str:
    spec = installation["spec"]
    registry = spec.get("registry") or "quay.io/"
    path = spec.get("imagePath") or "calico"
    return f"{registry.rstrip('/')}/{path}/{component}:{release.calico}"


def _node_env(installation: Obj, release: Release, endpoint: Endpoint) -> list[Obj]:
    network = network_of(installation)
    method, own = autodetection_method(network), cni_of(installation) == "Calico"
    values = {
        "DATASTORE_TYPE": "kubernetes", "WAIT_FOR_DATASTORE": "true", "CLUSTER_TYPE": "k8s,operator,aks",
        "CALICO_DISABLE_FILE_LOGGING": "true", "FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT",
        "FELIX_HEALTHENABLED": "true", "FELIX_HEALTHPORT": "9099", "NO_DEFAULT_POOLS": "true",
        "CALICO_NETWORKING_BACKEND": "vxlan" if own else "none", "FELIX_INTERFACEPREFIX": "cali" if own else "azv",
        "FELIX_IPV6SUPPORT": "false",
        "IP": "autodetect" if method else "none", **({"IP_AUTODETECTION_METHOD": method} if method else {}),
        "IP6": "none", "CALICO_VERSION": release.calico,
    }
    env: list[Obj] = [{"name": name, "value": value} for name, value in values.items()]
    for name, path in (("NODENAME", "spec.nodeName"), ("NODE_NAME", "spec.nodeName"),
                       ("NAMESPACE", "metadata.namespace")):
        env.append({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
    return env + endpoint.env()


def _probe(path: str, period: int) -> Obj:
    return {"httpGet": {"host": "localhost", "path": path, "port": 9099, "scheme": "HTTP"},
            "periodSeconds": period, "timeoutSeconds": 5}


def _node(installation: Obj, release: Release, endpoint: Endpoint) -> Obj:
    bpf = wants_bpf(installation)
    container = {
        "name": "calico-node", "image": _image(installation, "node", release),
        "env": _node_env(installation, release, endpoint),
        "livenessProbe": {**_probe("/liveness", 60), "failureThreshold": 3},
        "readinessProbe": _probe("/readiness", 1),
        "resources": {"requests": {"cpu": "150m"}},
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": BPF_VOLUME, "mountPath": "/sys/fs/bpf"}] if bpf else [],
    }
    volume = {"name": BPF_VOLUME, "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}}
    labels = {"k8s-app": "calico-node"}
    pod: dict[str, Any] = {
        "hostNetwork": True, "serviceAccountName": "calico-node", "priorityClassName": "system-node-critical",
        # The operator of 2021 names no policy, and a pod on the host's network then asks the node's resolver.
        "dnsPolicy": "ClusterFirstWithHostNet" if release.watches_endpoint else "ClusterFirst",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"},
                        {"effect": "NoSchedule", "operator": "Exists"},
                        {"effect": "NoExecute", "operator": "Exists"}],
        "terminationGracePeriodSeconds": 5 if release.watches_endpoint else 0,
        "containers": [container], "volumes": [volume] if bpf else [],
    }
    if cni_of(installation) == "Calico":
        pod["initContainers"] = [_install_cni(installation, release)]
        pod["volumes"].append({"name": "cni-net-dir", "hostPath": {"path": "/etc/cni/net.d",
                                                                    "type": "DirectoryOrCreate"}})
    return {
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "calico-node", "namespace": NAMESPACE, "labels": labels},
        "spec": {"selector": {"matchLabels": labels},
                 "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
                 "template": {"metadata": {"labels": labels}, "spec": pod}}}


def _install_cni(installation: Obj, release: Release) -> Obj:
    plugins = [{"type": "calico", "datastore_type": "kubernetes", "mtu": network_of(installation).get("mtu", 0),
                "nodename_file_optional": False, "log_level": "Info", "ipam": {"type": "calico-ipam"},
                "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}}]
    config = {"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": plugins}
    return {"name": "install-cni", "image": _image(installation, "cni", release), "command": ["install"],
            "env": [{"name": "CNI_CONF_NAME", "value": "10-calico.conflist"},
                    {"name": "CNI_NETWORK_CONFIG", "value": json.dumps(config)}],
            "securityContext": {"privileged": True},
            "volumeMounts": [{"name": "cni-net-dir", "mountPath": "/host/etc/cni/net.d"}]}


def _kube_controllers(installation: Obj, release: Release, endpoint: Endpoint) -> Obj:
    labels = {"k8s-app": "calico-kube-controllers"}
    container = {
        "name": "calico-kube-controllers", "image": _image(installation, "kube-controllers", release),
        "env": [{"name": "DATASTORE_TYPE", "value": "kubernetes"},
                {"name": "ENABLED_CONTROLLERS", "value": "node"},
                {"name": "CALICO_VERSION", "value": release.calico}, *endpoint.env()],
        "readinessProbe": {"httpGet": {"path": "/readiness", "port": 9094, "scheme": "HTTP"},
                           "periodSeconds": 1, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "10m"}},
    }
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "calico-kube-controllers", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "calico-kube-controllers",
                    "priorityClassName": "system-cluster-critical",
                    "nodeSelector": {"kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": 5,
                    "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
                    "containers": [container]}}}}


def _pools(installation: Obj) -> list[Obj]:
    pools = []
    for pool in network_of(installation).get("ipPools") or ():
        family = "ipv6" if ":" in pool["cidr"] else "ipv4"
        encapsulation = pool.get("encapsulation") or "None"
        pools.append({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
            "metadata": {"name": f"default-{family}-ippool"},
            "spec": {"cidr": pool["cidr"], "blockSize": pool.get("blockSize") or (122 if family == "ipv6" else 26),
                     "natOutgoing": pool.get("natOutgoing", "Enabled") == "Enabled",
                     "nodeSelector": pool.get("nodeSelector") or "all()",
                     "ipipMode": "Always" if encapsulation == "IPIP" else "Never",
                     "vxlanMode": {"VXLAN": "Always", "VXLANCrossSubnet": "CrossSubnet"}.get(encapsulation, "Never"),
                     "allowedUses": ["Workload", "Tunnel"]}})
    return pools
