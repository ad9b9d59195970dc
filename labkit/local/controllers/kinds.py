"""The built-in kinds that can own or be owned, and those that live in namespaces."""

from __future__ import annotations

OWNABLE = {
    ("", "Pod"): "pods",
    ("", "Service"): "services",
    ("", "Endpoints"): "endpoints",
    ("", "ConfigMap"): "configmaps",
    ("", "Secret"): "secrets",
    ("", "ServiceAccount"): "serviceaccounts",
    ("", "ReplicationController"): "replicationcontrollers",
    ("", "PersistentVolumeClaim"): "persistentvolumeclaims",
    ("", "Namespace"): "namespaces",
    ("", "Node"): "nodes",
    ("apps", "Deployment"): "deployments.apps",
    ("apps", "ReplicaSet"): "replicasets.apps",
    ("apps", "DaemonSet"): "daemonsets.apps",
    ("apps", "StatefulSet"): "statefulsets.apps",
    ("apps", "ControllerRevision"): "controllerrevisions.apps",
    ("batch", "Job"): "jobs.batch",
    ("batch", "CronJob"): "cronjobs.batch",
    ("discovery.k8s.io", "EndpointSlice"): "endpointslices.discovery.k8s.io",
    ("coordination.k8s.io", "Lease"): "leases.coordination.k8s.io",
    ("networking.k8s.io", "NetworkPolicy"): "networkpolicies.networking.k8s.io",
    ("networking.k8s.io", "Ingress"): "ingresses.networking.k8s.io",
    ("policy", "PodDisruptionBudget"): "poddisruptionbudgets.policy",
    ("autoscaling", "HorizontalPodAutoscaler"): "horizontalpodautoscalers.autoscaling",
    ("rbac.authorization.k8s.io", "Role"): "roles.rbac.authorization.k8s.io",
    ("rbac.authorization.k8s.io", "RoleBinding"): "rolebindings.rbac.authorization.k8s.io",
    ("rbac.authorization.k8s.io", "ClusterRole"): "clusterroles.rbac.authorization.k8s.io",
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): "clusterrolebindings.rbac.authorization.k8s.io",
}
"""(group, kind) to resource; custom kinds join at run time."""

CLUSTER_SCOPED = frozenset(
    {
        "namespaces",
        "nodes",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
    }
)

OWNERS_FIRST = (
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "replicasets.apps",
    "replicationcontrollers",
    "cronjobs.batch",
    "jobs.batch",
    "services",
)
"""What makes others goes first when a namespace empties itself."""

NAMESPACED = (
    *OWNERS_FIRST,
    *(resource for resource in OWNABLE.values() if resource not in CLUSTER_SCOPED and resource not in OWNERS_FIRST),
    "resourcequotas",
    "limitranges",
    "podtemplates",
    "events",
)
