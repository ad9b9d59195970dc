"""Deployments, replica sets, daemon sets, stateful sets, jobs, and the small kinds with defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from labkit.local.client import Obj

from . import defaults, errors
from .errors import FieldError
from .kinds import Kind
from .strategies import Strategy
from .subresources import label_selector
from .validation import immutable, template_errors

if TYPE_CHECKING:
    from .machinery import Machinery

_HIGHEST_PRIORITY = 1_000_000_000


class SpecDefaults(Strategy):
    """A kind whose spec has defaults.

    Args:
        machinery: the API.
        fill: sets them.
    """

    def __init__(self, machinery: Machinery, fill: Callable[[Obj], None]) -> None:
        super().__init__(machinery)
        self._fill = fill

    def default(self, kind: Kind, obj: Obj) -> None:
        """The defaults."""
        if isinstance(spec := obj.setdefault("spec", {}), dict):
            self._fill(spec)


class WorkloadStrategy(SpecDefaults):
    """A controller of pods: a selector that stays and a template."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """The spec's defaults and its pod template's."""
        super().default(kind, obj)
        if isinstance(spec := obj["spec"], dict):
            template = spec.setdefault("template", {})
            template.setdefault("metadata", {}).setdefault("creationTimestamp", None)
            defaults.pod_spec(template.setdefault("spec", {}))

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Selector against template, and that the selector stays."""
        if sub is not None:
            return []
        return template_errors(new) + strategy_errors(kind, new["spec"]) \
            + (immutable(new, old, "selector") if old else [])


_STRATEGIES = {"Deployment": ("strategy", "Recreate"), "DaemonSet": ("updateStrategy", "OnDelete"),
               "StatefulSet": ("updateStrategy", "OnDelete")}


def strategy_errors(kind: Kind, spec: Obj) -> list[FieldError]:
    """How a workload changes its pods: one of two ways, and a rolling one that can move."""
    if kind.kind not in _STRATEGIES:
        return []
    key, other = _STRATEGIES[kind.kind]
    given = spec[key]
    if given["type"] not in (known := (other, "RollingUpdate")):
        return [errors.unsupported(f"spec.{key}.type", given["type"], known)]
    rolling = given.get("rollingUpdate")
    if kind.kind != "Deployment" or rolling is None:
        return []
    if given["type"] == "Recreate":
        return [errors.denied("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")]
    if all(rolling.get(part) in (0, "0%") for part in ("maxSurge", "maxUnavailable")):
        return [errors.bad_value("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"],
                                 "may not be 0 when `maxSurge` is 0")]
    return []


class DeploymentStrategy(WorkloadStrategy):
    """Its labels are no part of its status."""

    STATUS_METADATA = ("managedFields", "annotations")


class ReplicationControllerStrategy(WorkloadStrategy):
    """A replica set whose selector is labels, and those of its template where it names none."""

    PROPAGATION = "Orphan"

    def default(self, kind: Kind, obj: Obj) -> None:
        """The template's labels are the selector's, and its own, too."""
        super().default(kind, obj)
        if labels := obj["spec"]["template"]["metadata"].get("labels"):
            obj["spec"].setdefault("selector", labels)
            obj["metadata"].setdefault("labels", labels)

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Selector against template; the selector may change."""
        if sub is not None:
            return []
        return template_errors({**new, "spec": {**new["spec"], "selector": label_selector(kind.kind, new["spec"])}})


class JobStrategy(WorkloadStrategy):
    """A job selects its pods by its own uid; its template is fixed."""

    PROPAGATION = "Orphan"

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """Make the selector, unless the manifest insists on one."""
        super().prepare_create(kind, obj)
        spec, meta = obj["spec"], obj["metadata"]
        if spec.get("manualSelector"):
            return
        mine = {"controller-uid": meta["uid"], "job-name": meta.get("name", "")}
        selector = {"controller-uid": meta["uid"]}
        if self.api.minor >= 27:
            mine |= {f"batch.kubernetes.io/{k}": v for k, v in tuple(mine.items())}
            selector = {"batch.kubernetes.io/controller-uid": meta["uid"]}
        labels = spec["template"]["metadata"].get("labels") or {}
        spec["template"]["metadata"]["labels"] = {**labels, **mine}
        spec["selector"] = {"matchLabels": selector}

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """The template stays."""
        if sub is not None:
            return []
        out = template_errors(new, restart="Job")
        for key in ("parallelism", "completions", "backoffLimit"):
            if isinstance(value := new["spec"].get(key), int) and value < 0:
                out.append(errors.bad_value(f"spec.{key}", value, "must be greater than or equal to 0"))
        if old:
            for key in ("completions", "selector", "template"):
                out += immutable(new, old, key)
        return out


class EndpointsStrategy(Strategy):
    """Endpoints and slices: TCP unless said otherwise."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """Ports' defaults."""
        if kind.plural == "endpointslices":
            obj.setdefault("endpoints", [])
            for port in obj.get("ports") or ():
                port.setdefault("name", "")
                port.setdefault("protocol", "TCP")
            return
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                port.setdefault("protocol", "TCP")

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """A slice has one address type, for good."""
        if kind.plural != "endpointslices":
            return []
        known = ("FQDN", "IPv4", "IPv6")
        if not (given := new.get("addressType")):
            return [errors.required("addressType")]
        if given not in known:
            return [errors.unsupported("addressType", given, known)]
        if old and old.get("addressType") != given:
            return [errors.bad_value("addressType", given, "field is immutable")]
        return []


class EventStrategy(Strategy):
    """An event is in the namespace of what it is about."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """Fields that readers expect."""
        obj.setdefault("type", "Normal")
        obj.setdefault("source", {})
        for key in ("reportingComponent", "reportingInstance"):
            obj.setdefault(key, "")


def rule_errors(rule: Obj, at: str) -> list[FieldError]:
    """One rule of a role."""
    out = []
    if not rule.get("verbs"):
        out.append(errors.required(f"{at}.verbs", "verbs must contain at least one value"))
    if rule.get("nonResourceURLs"):
        return out
    if not rule.get("apiGroups"):
        out.append(errors.required(f"{at}.apiGroups", "resource rules must supply at least one api group"))
    if not rule.get("resources"):
        out.append(errors.required(f"{at}.resources", "resource rules must supply at least one resource"))
    return out


class RbacStrategy(Strategy):
    """Role bindings: whom they bind stays readable without its API group."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """API groups of subjects and of the role."""
        group = "rbac.authorization.k8s.io"
        if isinstance(ref := obj.get("roleRef"), dict):
            ref.setdefault("apiGroup", group)
        for subject in obj.get("subjects") or ():
            if subject.get("kind") in ("User", "Group"):
                subject.setdefault("apiGroup", group)

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """A binding's role stays; a role's rules say what they are about."""
        if kind.kind in ("Role", "ClusterRole"):
            return [e for i, rule in enumerate(new.get("rules") or ()) for e in rule_errors(rule, f"rules[{i}]")]
        if old and new.get("roleRef") != old.get("roleRef"):
            ref = new.get("roleRef") or {}
            shown = ", ".join(f'{shown}:"{ref.get(key, "")}"' for key, shown in (
                ("apiGroup", "APIGroup"), ("kind", "Kind"), ("name", "Name")))
            return [FieldError("FieldValueInvalid", "roleRef",
                               f"Invalid value: rbac.RoleRef{{{shown}}}: cannot change roleRef")]
        return []


class PriorityClassStrategy(Strategy):
    """The highest priorities are Kubernetes' own."""

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """The value is in its range, and does not change."""
        if old and new.get("value", 0) != old.get("value", 0):
            return [errors.denied("value", "may not be changed in an update.")]
        if not new["metadata"]["name"].startswith("system-") and new.get("value", 0) > _HIGHEST_PRIORITY:
            return [errors.denied("value", f"maximum allowed value of a user defined priority is {_HIGHEST_PRIORITY}")]
        return []


class StorageClassStrategy(Strategy):
    """Defaults of storage classes."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """Delete at once, bind at once."""
        obj.setdefault("reclaimPolicy", "Delete")
        obj.setdefault("volumeBindingMode", "Immediate")


class ClaimStrategy(Strategy):
    """Volumes and claims begin as Pending."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """A file system, unless a block device is asked for."""
        spec = obj.setdefault("spec", {})
        spec.setdefault("volumeMode", "Filesystem")
        if kind.plural == "persistentvolumes":
            spec.setdefault("persistentVolumeReclaimPolicy", "Retain")

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """No controller binds here."""
        obj["status"] = {"phase": "Available" if kind.plural == "persistentvolumes" else "Pending"}


def workload_strategies(machinery: Machinery) -> dict[str, Strategy]:
    """The strategies of this module by resource."""
    minor = machinery.minor
    endpoints, rbac, claims = EndpointsStrategy(machinery), RbacStrategy(machinery), ClaimStrategy(machinery)
    rbac_group = "rbac.authorization.k8s.io"
    return {
        "deployments.apps": DeploymentStrategy(machinery, defaults.deployment),
        "replicasets.apps": WorkloadStrategy(machinery, defaults.replica_set),
        "replicationcontrollers": ReplicationControllerStrategy(machinery, defaults.replica_set),
        "daemonsets.apps": WorkloadStrategy(machinery, lambda spec: defaults.daemon_set(spec, minor)),
        "statefulsets.apps": WorkloadStrategy(machinery, defaults.stateful_set),
        "jobs.batch": JobStrategy(machinery, lambda spec: defaults.job(spec, minor)),
        "cronjobs.batch": SpecDefaults(machinery, defaults.cron_job),
        "horizontalpodautoscalers.autoscaling": SpecDefaults(machinery, defaults.autoscaler),
        "endpoints": endpoints,
        "endpointslices.discovery.k8s.io": endpoints,
        "events": EventStrategy(machinery),
        f"roles.{rbac_group}": rbac,
        f"clusterroles.{rbac_group}": rbac,
        f"rolebindings.{rbac_group}": rbac,
        f"clusterrolebindings.{rbac_group}": rbac,
        "priorityclasses.scheduling.k8s.io": PriorityClassStrategy(machinery),
        "storageclasses.storage.k8s.io": StorageClassStrategy(machinery),
        "persistentvolumes": claims,
        "persistentvolumeclaims": claims,
    }
