"""The table of kinds that the API serves, and the registry that custom kinds join.

The machinery is generic: what it needs to know of a kind is a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from labkit.local.client import ApiError, Obj

Convert = Callable[[Obj], Obj]


@dataclass(frozen=True)
class Kind:
    """One kind, at its storage version.

    Args:
        generation: whether a change of the desired state increases metadata.generation.
        fields: paths that a field selector may name, beside metadata.name and metadata.namespace.
        crd: the custom resource definition's schema and columns, by version, for a custom kind.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    generation: bool = False
    fields: tuple[str, ...] = ()
    singular: str = ""
    crd: Obj | None = None

    @cached_property
    def resource(self) -> str:
        """Plural and group: "deployments.apps"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @cached_property
    def group_kind(self) -> str:
        """"Deployment.apps", as in messages about invalid objects."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @cached_property
    def api_version(self) -> str:
        """The storage version, as objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def has_status(self) -> bool:
        """Whether status is written apart from the rest."""
        return "status" in self.subresources


@dataclass(frozen=True)
class Served:
    """A kind at one version that clients can ask for; the two functions go from and to storage."""

    kind: Kind
    group: str
    version: str
    to_wire: Convert | None = None
    from_wire: Convert | None = None

    @cached_property
    def api_version(self) -> str:
        """What objects at this version carry."""
        return f"{self.group}/{self.version}" if self.group else self.version


def _k(group: str, version: str, kind: str, plural: str, *flags: str, **more: Any) -> Kind:
    """A row. Flags: "cluster" for cluster scope, "gen" for generations, else a subresource."""
    more.setdefault("singular", kind.lower())
    subs = tuple(f for f in flags if f not in ("cluster", "gen"))
    return Kind(group, version, kind, plural, namespaced="cluster" not in flags, generation="gen" in flags,
                subresources=subs, **more)


_ALL = ("all",)
_EVENT_FIELDS = ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
                 "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
                 "reason", "reportingComponent", "source", "type")
_RBAC = "rbac.authorization.k8s.io"

BUILT_IN: tuple[Kind, ...] = (
    _k("", "v1", "Namespace", "namespaces", "cluster", "status", "finalize", short=("ns",), fields=("status.phase",)),
    _k("", "v1", "Node", "nodes", "cluster", "status", "proxy", short=("no",), fields=("spec.unschedulable",)),
    _k("", "v1", "Pod", "pods", "status", "binding", "eviction", "log", "exec", "attach", "portforward",
       "proxy", "ephemeralcontainers", short=("po",), categories=_ALL,
       fields=("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
               "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName")),
    _k("", "v1", "ReplicationController", "replicationcontrollers", "gen", "status", "scale", short=("rc",),
       categories=_ALL, fields=("status.replicas",)),
    _k("", "v1", "Service", "services", "status", "proxy", short=("svc",), categories=_ALL,
       fields=("spec.clusterIP", "spec.type")),
    _k("", "v1", "Endpoints", "endpoints", short=("ep",)),
    _k("", "v1", "ConfigMap", "configmaps", short=("cm",)),
    _k("", "v1", "Secret", "secrets", fields=("type",)),
    _k("", "v1", "ServiceAccount", "serviceaccounts", "token", short=("sa",)),
    _k("", "v1", "Event", "events", short=("ev",), fields=_EVENT_FIELDS),
    _k("", "v1", "PersistentVolume", "persistentvolumes", "cluster", "status", short=("pv",)),
    _k("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "status", short=("pvc",)),
    _k("", "v1", "ResourceQuota", "resourcequotas", "status", short=("quota",)),
    _k("", "v1", "LimitRange", "limitranges", short=("limits",)),
    _k("", "v1", "PodTemplate", "podtemplates"),
    _k("apps", "v1", "Deployment", "deployments", "gen", "status", "scale", short=("deploy",), categories=_ALL),
    _k("apps", "v1", "ReplicaSet", "replicasets", "gen", "status", "scale", short=("rs",), categories=_ALL,
       fields=("status.replicas",)),
    _k("apps", "v1", "DaemonSet", "daemonsets", "gen", "status", short=("ds",), categories=_ALL),
    _k("apps", "v1", "StatefulSet", "statefulsets", "gen", "status", "scale", short=("sts",), categories=_ALL),
    _k("apps", "v1", "ControllerRevision", "controllerrevisions"),
    _k("batch", "v1", "Job", "jobs", "gen", "status", categories=_ALL, fields=("status.successful",)),
    _k("batch", "v1", "CronJob", "cronjobs", "gen", "status", short=("cj",), categories=_ALL),
    _k("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "status", short=("hpa",),
       categories=_ALL),
    _k("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "gen", "status", short=("pdb",)),
    _k("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "gen"),
    _k("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "gen", short=("netpol",)),
    _k("networking.k8s.io", "v1", "Ingress", "ingresses", "gen", "status", short=("ing",)),
    _k("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "gen", "cluster"),
    _k("coordination.k8s.io", "v1", "Lease", "leases"),
    _k("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "gen", "cluster", short=("pc",)),
    _k("storage.k8s.io", "v1", "StorageClass", "storageclasses", "cluster", short=("sc",)),
    _k("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "cluster"),
    _k("storage.k8s.io", "v1", "CSINode", "csinodes", "cluster"),
    _k(_RBAC, "v1", "Role", "roles"),
    _k(_RBAC, "v1", "RoleBinding", "rolebindings"),
    _k(_RBAC, "v1", "ClusterRole", "clusterroles", "cluster"),
    _k(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", "cluster"),
    _k("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", "gen", "cluster",
       "status", short=("crd", "crds"), categories=("api-extensions",)),
    _k("apiregistration.k8s.io", "v1", "APIService", "apiservices", "cluster", "status",
       categories=("api-extensions",)),
    _k("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations",
       "gen", "cluster", categories=("api-extensions",)),
    _k("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration",
       "validatingwebhookconfigurations", "gen", "cluster", categories=("api-extensions",)),
)

REVIEWS: tuple[Kind, ...] = (
    _k("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "cluster"),
    _k("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "cluster"),
    _k("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "cluster"),
    _k("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "cluster"),
    _k("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "cluster"),
    _k("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews"),
)
"""Kinds that are asked, not stored: a create answers, and nothing else is served."""

REVIEW_RESOURCES = frozenset(k.resource for k in REVIEWS)


@dataclass
class Registry:
    """What is served now. Custom kinds come and go."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    served: dict[tuple[str, str], dict[str, Served]] = field(default_factory=dict)

    def add(self, kind: Kind, versions: tuple[Served, ...] = ()) -> None:
        """Serve a kind, at its storage version where no versions are given."""
        self.remove(kind.resource)
        self.kinds[kind.resource] = kind
        for one in versions or (Served(kind, kind.group, kind.version),):
            self.served.setdefault((one.group, one.version), {})[kind.plural] = one

    def remove(self, resource: str) -> None:
        """Stop serving a kind."""
        if (kind := self.kinds.pop(resource, None)) is None:
            return
        for key, plurals in list(self.served.items()):
            if (one := plurals.get(kind.plural)) is not None and one.kind is kind:
                del plurals[kind.plural]
            if not plurals:
                del self.served[key]

    def kind(self, resource: str) -> Kind:
        """The kind behind "deployments.apps".

        Raises:
            ApiError: NotFound, when nothing of that name is served.
        """
        try:
            return self.kinds[resource]
        except KeyError:
            raise ApiError(404, "NotFound",
                           f"the server could not find the requested resource ({resource})") from None

    def groups(self) -> Iterator[tuple[str, list[str]]]:
        """Each named group with its versions, the preferred one first."""
        out: dict[str, list[str]] = {}
        for group, version in self.served:
            if group:
                out.setdefault(group, []).append(version)
        for group, versions in out.items():
            yield group, sorted(versions, key=version_order)


def version_order(version: str) -> tuple[int, int, int, str]:
    """Sorts v2, v1, v1beta2, v1beta1, v1alpha1, then anything else, as Kubernetes ranks versions."""
    import re

    if (m := re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)) is None:
        return (9, 0, 0, version)
    rank = {None: 0, "beta": 1, "alpha": 2}[m[2]]
    return (rank, -int(m[1]), -int(m[3] or 0), version)
