"""Pods: defaults, what may change, graceful deletion."""

from __future__ import annotations

import json
import secrets

from labkit.local.client import Obj, copy_of

from . import defaults, errors
from .errors import FieldError
from .kinds import Kind
from .pod_rules import debugger_errors
from .strategies import Strategy
from .validation import pod_spec_errors

_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_VOLUME: Obj = {
    "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
                                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]},
}
_TOLERATED = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class PodStrategy(Strategy):
    """A pod's specification is fixed once it is created; its deletion waits for the kubelet."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """Kubernetes' defaults, and those of its default admission plug-ins."""
        spec = obj.setdefault("spec", {})
        if isinstance(spec, dict):
            spec.setdefault("enableServiceLinks", True)
            defaults.pod_spec(spec)
            defaults.requests(spec)

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """What the admission plug-ins ServiceAccount, Priority and DefaultTolerationSeconds add."""
        spec = obj["spec"]
        if self.api.minor < 23:
            spec.pop("ephemeralContainers", None)
        if not spec.get("serviceAccountName"):
            spec["serviceAccountName"] = spec["serviceAccount"] = "default"
        self._admit_service_account(obj)
        self._admit_priority(kind, obj)
        tolerations = spec.setdefault("tolerations", [])
        for key in _TOLERATED:
            if not any(t.get("key") in (key, None, "") and t.get("effect") in ("NoExecute", None, "")
                       for t in tolerations):
                tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute",
                                    "tolerationSeconds": 300})
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}

    def _admit_service_account(self, obj: Obj) -> None:
        """The account's token, the API's authority and the namespace, as files in every container."""
        spec, meta = obj["spec"], obj["metadata"]
        account = self.api.store.find("serviceaccounts", meta.get("namespace", ""), spec["serviceAccountName"])
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account is None or account.obj.get("automountServiceAccountToken", True)
        containers = [c for c in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
                      if all(m.get("mountPath") != _TOKEN_PATH for m in c.get("volumeMounts", ()))]
        if not wanted or not containers:
            return
        volume = copy_of(_TOKEN_VOLUME) | {"name": f"kube-api-access-{secrets.token_hex(3)[:5]}"}
        spec.setdefault("volumes", []).append(volume)
        for container in containers:
            container.setdefault("volumeMounts", []).append(
                {"name": volume["name"], "readOnly": True, "mountPath": _TOKEN_PATH})

    def _admit_priority(self, kind: Kind, obj: Obj) -> None:
        spec = obj["spec"]
        if name := spec.get("priorityClassName"):
            if (value := {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}.get(name)) is None:
                found = self.api.store.find("priorityclasses.scheduling.k8s.io", "", name)
                if found is None:
                    raise errors.forbidden(kind, obj["metadata"].get("name", ""),
                                           f"no PriorityClass with name {name} was found")
                value = int(found.obj.get("value", 0))
            spec["priority"] = value
        else:
            spec.setdefault("priority", 0)
        spec.setdefault("preemptionPolicy", "PreemptLowerPriority")

    def separate(self, kind: Kind, new: Obj, old: Obj, sub: str | None) -> Obj:
        """A binding changes what it likes; who debugs a pod adds containers and nothing else."""
        if sub == "binding":
            return new
        if sub == "ephemeralcontainers":
            spec = {**old["spec"], "ephemeralContainers": new["spec"].get("ephemeralContainers") or []}
            for container in spec["ephemeralContainers"]:
                defaults.container(container)
            return {**old, "metadata": {**old["metadata"], "managedFields": new["metadata"].get("managedFields")},
                    "spec": spec}
        return super().separate(kind, new, old, sub)

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """A new pod's specification, or that a change keeps to what may change."""
        if old is None:
            found = pod_spec_errors(new.get("spec") or {}, "spec")
            if (new.get("spec") or {}).get("ephemeralContainers"):
                found.append(errors.denied("spec.ephemeralContainers", "cannot be set on create"))
            return found
        if sub == "ephemeralcontainers":
            return debugger_errors(new["spec"], old["spec"])
        if sub is not None or new["spec"] == old["spec"]:
            return []
        return _change_errors(new["spec"], old["spec"])

    def grace_period(self, obj: Obj, asked: int | None) -> int:
        """None for a pod that no node runs; else as asked, else the pod's own."""
        spec = obj["spec"]
        if not spec.get("nodeName") or obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return 0
        grace = asked if asked is not None else spec.get("terminationGracePeriodSeconds", 30)
        return max(0, int(grace))

    def may_go(self, obj: Obj) -> bool:
        """Once its kubelet has said that it ended, by a deletion without grace."""
        return not obj["metadata"].get("deletionGracePeriodSeconds")


def _change_errors(new: Obj, old: Obj) -> list[FieldError]:
    masked = dict(new)
    masked.pop("activeDeadlineSeconds", None)
    if "activeDeadlineSeconds" in old:
        masked["activeDeadlineSeconds"] = old["activeDeadlineSeconds"]
    if [t for t in old.get("tolerations") or () if t not in (new.get("tolerations") or ())] == []:
        masked["tolerations"] = old.get("tolerations", [])
    for key in ("containers", "initContainers"):
        if len(new.get(key) or ()) == len(old.get(key) or ()) and old.get(key):
            masked[key] = [{**c, "image": o.get("image")} for c, o in zip(new[key], old[key], strict=True)]
    if len(new.get("containers") or ()) != len(old.get("containers") or ()):
        return [errors.denied("spec.containers", "pod updates may not add or remove containers")]
    if masked == {**old, "tolerations": masked.get("tolerations", [])} or masked == old:
        return []
    changed = sorted(k for k in masked.keys() | old.keys() if masked.get(k) != old.get(k))
    diff = "\n".join(f"- \t{k}: {json.dumps(old.get(k))},\n+ \t{k}: {json.dumps(masked.get(k))}," for k in changed)
    return [errors.denied(
        "spec", "pod updates may not change fields other than `spec.containers[*].image`,"
        " `spec.initContainers[*].image`, `spec.activeDeadlineSeconds` or `spec.tolerations` (only additions to"
        f" existing tolerations)\n{diff}\n")]


def qos_class(spec: Obj) -> str:
    """Guaranteed, Burstable or BestEffort, from requests and limits."""
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    anything, guaranteed = False, True
    for c in containers:
        resources = c.get("resources") or {}
        requests = {k: v for k, v in (resources.get("requests") or {}).items() if k in ("cpu", "memory")}
        limits = {k: v for k, v in (resources.get("limits") or {}).items() if k in ("cpu", "memory")}
        anything = anything or bool(requests or limits)
        guaranteed = guaranteed and set(limits) == {"cpu", "memory"} and requests == limits
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
