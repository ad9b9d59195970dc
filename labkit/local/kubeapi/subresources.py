"""Subresources with a meaning of their own: scale, binding, eviction, token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labkit.local.client import ApiError, Obj, timestamp

from . import errors
from .kinds import Kind
from .machinery import DeleteOptions

if TYPE_CHECKING:
    from .api import Api


def _at(obj: Obj, path: str) -> Any:
    value: Any = obj
    for part in path.lstrip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def scale_of(kind: Kind, obj: Obj) -> Obj:
    """An object's Scale."""
    m = obj["metadata"]
    paths = (kind.crd or {}).get("scale") or {}
    replicas = _at(obj, paths.get("specReplicasPath", ".spec.replicas"))
    status: Obj = {"replicas": _at(obj, paths.get("statusReplicasPath", ".status.replicas")) or 0}
    if kind.crd:
        if path := paths.get("labelSelectorPath"):
            status["selector"] = _at(obj, path) or ""
    else:
        status["selector"] = selector_text(label_selector(kind.kind, obj["spec"]))
    return {"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {k: m[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
                         if k in m},
            "spec": {"replicas": replicas or 0}, "status": status}


def set_scale(kind: Kind, obj: Obj, scale: Obj) -> Obj:
    """The object with the replicas of a Scale."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    name = obj["metadata"]["name"]
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise errors.bad_request("Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal"
                                 f" {errors.go_type(replicas)} into Go struct field ScaleSpec.spec.replicas of type"
                                 " int32")
    if replicas < 0:
        raise errors.invalid(kind, name, [errors.bad_value("spec.replicas", replicas,
                                                           "must be greater than or equal to 0")])
    path = ((kind.crd or {}).get("scale") or {}).get("specReplicasPath", ".spec.replicas").lstrip(".").split(".")
    target = obj
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = replicas
    if rv := (scale.get("metadata") or {}).get("resourceVersion"):
        obj["metadata"]["resourceVersion"] = rv
    return obj


def label_selector(kind: str, spec: Obj) -> Obj:
    """A workload's selector; a replication controller's is labels alone."""
    selector: Obj = spec.get("selector") or {}
    return {"matchLabels": selector} if kind == "ReplicationController" else selector


def selector_text(selector: Obj) -> str:
    """A LabelSelector as text."""
    terms = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for e in selector.get("matchExpressions") or ():
        values = ",".join(e.get("values") or ())
        terms.append({"In": f"{e['key']} in ({values})", "NotIn": f"{e['key']} notin ({values})",
                      "Exists": e["key"]}.get(e["operator"], f"!{e['key']}"))
    return ",".join(terms)


def post(api: Api, kind: Kind, sub: str, namespace: str, name: str, body: Obj, *, dry_run: bool = False) -> Obj:
    """Create a subresource."""
    match kind.resource, sub:
        case "pods", "binding":
            return _bind(api, kind, namespace, name, body, dry_run)
        case "pods", "eviction":
            from .disruption import evict

            options = delete_options(body.get("deleteOptions") or {})
            return evict(api, kind, namespace, name, replace(options, dry_run=options.dry_run or dry_run))
        case "serviceaccounts", "token":
            return _token(api, kind, namespace, name, body)
    raise errors.method_not_allowed()


def _bind(api: Api, kind: Kind, namespace: str, name: str, body: Obj, dry_run: bool) -> Obj:
    node = (body.get("target") or {}).get("name")
    if not node:
        raise errors.invalid(kind, name, [errors.required("target.name")])

    def bind(pod: Obj) -> Obj:
        if taken := pod["spec"].get("nodeName"):
            raise ApiError(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{name}": pod {name} is'
                           f' already assigned to node "{taken}"', {"name": name, "kind": "pods/binding"})
        if "deletionTimestamp" in pod["metadata"]:
            raise errors.conflict(kind, name, f"pod {name} is being deleted, cannot be assigned to a host")
        pod["spec"]["nodeName"] = node
        conditions = pod.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [c for c in conditions if c["type"] != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None,
                           "lastTransitionTime": timestamp()})
        annotations = (body.get("metadata") or {}).get("annotations")
        if annotations:
            pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), **annotations}
        return pod

    api.machinery.change(kind, namespace, name, bind, sub="binding", dry_run=dry_run)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _token(api: Api, kind: Kind, namespace: str, name: str, body: Obj) -> Obj:
    account = api.machinery.entry(kind, namespace, name).obj
    spec = body.get("spec") or {}
    seconds = spec.get("expirationSeconds") or 3600
    if not isinstance(seconds, int) or seconds < 600:
        raise ApiError(422, "Invalid", 'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds:'
                       f" Invalid value: {errors.go_value(seconds)}: may not specify a duration less than 10 minutes")
    pod = None
    if (ref := spec.get("boundObjectRef")) and ref.get("kind") == "Pod":
        found = api.machinery.entry(api.machinery.registry.kind("pods"), namespace, ref.get("name", ""))
        pod = {"name": ref["name"], "uid": ref.get("uid") or found.obj["metadata"]["uid"]}
    audiences = spec.get("audiences")
    token, expires = api.tokens.issue(namespace, account, seconds=seconds, audiences=audiences, pod=pod)
    return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timestamp()},
            "spec": {**spec, "expirationSeconds": seconds, "audiences": audiences or []},
            "status": {"token": token, "expirationTimestamp": timestamp(expires)}}


def delete_options(body: Obj, query: dict[str, str] | None = None) -> DeleteOptions:
    """DeleteOptions from a request's body, else its query."""
    query = query or {}
    if "propagationPolicy" in query:
        body = {"propagationPolicy": query["propagationPolicy"], **body}
    if "gracePeriodSeconds" in query:
        body = {"gracePeriodSeconds": int(query["gracePeriodSeconds"]), **body}
    propagation = body.get("propagationPolicy")
    if propagation is None and body.get("orphanDependents") is not None:
        propagation = "Orphan" if body["orphanDependents"] else "Background"
    if propagation not in (None, "Orphan", "Foreground", "Background"):
        raise ApiError(422, "Invalid", 'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: '
                       f"{errors.go_value(propagation)}: supported values: \"Foreground\", \"Background\", \"Orphan\", "
                       '"nil"')
    wanted = body.get("preconditions") or {}
    return DeleteOptions(body.get("gracePeriodSeconds"), propagation, wanted.get("uid"),
                         wanted.get("resourceVersion"), bool(body.get("dryRun") or query.get("dryRun")))
