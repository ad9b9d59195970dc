"""What AKS makes for `--network-policy calico`: the operator, and the Installation that it acts on.

And what Calico publishes, for those who install an operator of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from labkit.local.client import Obj

from .crds import calico_definitions, operator_definitions
from .objects import ADDON, TOLERATE_ALL, account_subject, binding, cluster_role, field_env, meta, namespace
from .objects import service_account as account
from .releases import Release

NAMESPACE = "tigera-operator"
ENDPOINT_CONFIG = "kubernetes-services-endpoint"
PUBLISHED = ("v3.32.1", "v1.42.3")
"""The Calico that can be installed by one's own operator, and that operator."""


def _operator(version: str, registry: str, *, article: bool = False, owner: Mapping[str, str] | None = None) -> Obj:
    labels = {"name": "tigera-operator", "k8s-app": "tigera-operator"}
    container: Obj = {
        "name": "tigera-operator",
        "image": f"{registry}/tigera/operator:{version}",
        "env": [{"name": "WATCH_NAMESPACE", "value": ""}, field_env("POD_NAME", "metadata.name"),
                {"name": "OPERATOR_NAME", "value": "tigera-operator"},
                {"name": "TIGERA_OPERATOR_INIT_IMAGE_VERSION", "value": version}],
        "resources": {"requests": {"cpu": "50m"}},
    }
    # The operator of 2021 hands its own environment on, so it knows another API address only after a
    # restart. Since then it watches the ConfigMap; upstream's manifest still carries the reference.
    container["envFrom"] = [{"configMapRef": {"name": ENDPOINT_CONFIG, "optional": True}}]
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": meta("tigera-operator", NAMESPACE, {**(owner or {}), "k8s-app": "tigera-operator"}),
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"name": "tigera-operator"}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "tigera-operator", "hostNetwork": True,
                    "dnsPolicy": "Default" if article else "ClusterFirstWithHostNet",
                    "nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": TOLERATE_ALL,
                    "terminationGracePeriodSeconds": 5, "containers": [container],
                }}}}


def installation(*, article: bool) -> Obj:
    """The Installation as AKS writes it.

    In the article's days it named no way to find a node's address; since late 2021 AKS writes one. It names
    no data plane: what a user patches in stays, for the add-on manager takes back only what AKS wrote.
    """
    network: Obj = {"bgp": "Disabled", "ipPools": []}
    if not article:
        network |= {"nodeAddressAutodetectionV4": {"canReach": "1.1.1.1"}}
    return {
        "apiVersion": "operator.tigera.io/v1", "kind": "Installation",
        "metadata": meta("default", labels={ADDON: "Reconcile"}),
        "spec": {
            "variant": "Calico", "kubernetesProvider": "AKS", "registry": "mcr.microsoft.com/",
            "imagePath": "oss/calico", "cni": {"type": "AzureVNET", "ipam": {"type": "AzureVNET"}},
            "calicoNetwork": network,
        }}


def _around_operator(owner: Mapping[str, str] | None = None) -> list[Obj]:
    """Where the operator runs, and what it may do."""
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    return [
        namespace(NAMESPACE, {"name": NAMESPACE, **(owner or {})}),
        account("tigera-operator", NAMESPACE),
        cluster_role("tigera-operator", [everything]),
        binding("tigera-operator", "tigera-operator", account_subject("tigera-operator", NAMESPACE)),
    ]


def calico(release: Release, minor: int) -> list[Obj]:
    """All that AKS makes for Calico; the operator makes the rest."""
    article, owner = minor < 30, {ADDON: "Reconcile"}
    return [
        *operator_definitions(minor), *calico_definitions(), *_around_operator(owner),
        installation(article=article),
        _operator(release.operator, "mcr.microsoft.com/oss", article=article, owner=owner),
    ]


def published() -> dict[str, list[Obj]]:
    """The manifests of `PUBLISHED` as Calico's release has them, by file name.

    They have the same names and are applied in the same order as Calico's own, and make the lab's operator: nobody's
    but the user's, so no label of an add-on manager.
    """
    return {
        "v1_crd_projectcalico_org.yaml": [*operator_definitions(99), *calico_definitions()],
        "tigera-operator.yaml": [*_around_operator(), _operator(PUBLISHED[1], "quay.io")],
    }
