"""metrics-server, which AKS has in every cluster: what `kubectl top` asks."""

from __future__ import annotations

from labkit.local.client import Obj

from .objects import ADDON, account_subject, binding, cluster_role, meta, service_account

NAME, NAMESPACE = "metrics-server", "kube-system"
_TOLERATIONS = [{"key": "CriticalAddonsOnly", "operator": "Exists"}]


def metrics_server() -> list[Obj]:
    """Its objects. It speaks HTTP where the real one speaks TLS: the API server's way to it is the lab's own."""
    labels = {"k8s-app": NAME}
    addon = {ADDON: "Reconcile", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "Metrics-server",
             **labels}
    container = {
        "name": NAME, "image": "mcr.microsoft.com/oss/kubernetes/metrics-server:v0.7.1",
        "command": ["/metrics-server"],
        "ports": [{"name": "https", "containerPort": 4443, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "https"}, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "44m", "memory": "51Mi"}, "limits": {"memory": "200Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
    }
    return [
        service_account(NAME, NAMESPACE),
        cluster_role("system:metrics-server", [
            {"apiGroups": [""], "resources": ["pods", "nodes", "nodes/stats", "nodes/metrics", "nodes/proxy"],
             "verbs": ["get", "list", "watch"]}]),
        binding("system:metrics-server", "system:metrics-server", account_subject(NAME, NAMESPACE)),
        {"apiVersion": "v1", "kind": "Service", "metadata": meta(NAME, NAMESPACE, addon),
         "spec": {"selector": labels, "ports": [{"name": "https", "port": 443, "protocol": "TCP",
                                                 "targetPort": "https"}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(NAME, NAMESPACE, addon),
         "spec": {
             "replicas": 1, "selector": {"matchLabels": labels},
             "template": {
                 "metadata": {"labels": labels},
                 "spec": {
                     "serviceAccountName": NAME, "priorityClassName": "system-cluster-critical",
                     "tolerations": _TOLERATIONS, "nodeSelector": {"kubernetes.io/os": "linux"},
                     "containers": [container], "terminationGracePeriodSeconds": 5,
                 }}}},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
         "metadata": meta("v1beta1.metrics.k8s.io", labels=addon),
         "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                  "versionPriority": 100, "insecureSkipTLSVerify": True,
                  "service": {"name": NAME, "namespace": NAMESPACE, "port": 443}}},
    ]
