"""Small builders that the manifests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from labkit.local.client import Obj

ADDON = "addonmanager.kubernetes.io/mode"
TOLERATE_ALL: list[Obj] = [
    {"key": "CriticalAddonsOnly", "operator": "Exists"},
    {"effect": "NoExecute", "operator": "Exists"},
    {"effect": "NoSchedule", "operator": "Exists"},
]


def meta(name: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Obj:
    """An object's metadata."""
    out: Obj = {"name": name}
    if namespace:
        out["namespace"] = namespace
    if labels:
        out["labels"] = dict(labels)
    return out


def namespace(name: str, labels: Mapping[str, str] | None = None) -> Obj:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta(name, labels=labels)}


def service_account(name: str, namespace: str) -> Obj:
    """A service account."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name, namespace)}


def cluster_role(name: str, rules: Sequence[Obj], labels: Mapping[str, str] | None = None) -> Obj:
    """A cluster role."""
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": meta(name, labels=labels), "rules": list(rules)}


def binding(name: str, role: str, *subjects: Obj) -> Obj:
    """A cluster role given to subjects."""
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": meta(name),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": list(subjects)}


def account_subject(name: str, namespace: str) -> Obj:
    """A service account as a binding's subject."""
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def subject(kind: Literal["Group", "User"], name: str) -> Obj:
    """Who is no service account as a binding's subject."""
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def field_env(name: str, path: str) -> Obj:
    """An environment variable from a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
