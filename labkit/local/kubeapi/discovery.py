"""What the API says about itself: version, health, groups, resources, OpenAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.local.client import Obj

from . import aggregation, errors
from .kinds import REVIEW_RESOURCES, Served
from .request import Reply, Request, json_reply

if TYPE_CHECKING:
    from .api import Api

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUB_KINDS: dict[str, tuple[str, str, str, list[str]]] = {
    # kind, group, version, verbs
    "scale": ("Scale", "autoscaling", "v1", ["get", "patch", "update"]),
    "binding": ("Binding", "", "", ["create"]),
    "eviction": ("Eviction", "policy", "v1", ["create"]),
    "log": ("Pod", "", "", ["get"]),
    "exec": ("PodExecOptions", "", "", ["create", "get"]),
    "attach": ("PodAttachOptions", "", "", ["create", "get"]),
    "portforward": ("PodPortForwardOptions", "", "", ["create", "get"]),
    "proxy": ("", "", "", ["create", "delete", "get", "patch", "update"]),
    "token": ("TokenRequest", "authentication.k8s.io", "v1", ["create"]),
    "finalize": ("Namespace", "", "", ["update"]),
    "ephemeralcontainers": ("Pod", "", "", ["get", "patch", "update"]),
}


def open_path(api: Api, request: Request) -> Reply:
    """Paths that need no token."""
    if request.path == "/version" or request.path == "/version/":
        return json_reply(version_info(api.version))
    if request.query.get("verbose") is not None:
        body = b"[+]ping ok\n[+]log ok\n%b check passed\n" % request.path.strip("/").encode()
        return Reply(200, body, b"text/plain; charset=utf-8")
    return Reply(200, b"ok", b"text/plain; charset=utf-8")


def version_info(version: str) -> Obj:
    """/version."""
    major, minor = version.lstrip("v").split(".")[:2]
    return {"major": major, "minor": minor, "gitVersion": version, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "labkit", "platform": "linux/amd64"}


def answer(api: Api, request: Request, parts: list[str]) -> Any:
    """The answer to a path that is about the API itself; None for any other path."""
    registry = api.machinery.registry
    match parts:
        case []:
            return _read(request, {"paths": _paths(api)})
        case ["api"]:
            if version := _aggregated_version(request):
                return _aggregated(api, version, core=True)
            return _read(request, {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": request.header(b"host")}]})
        case ["apis"]:
            if version := _aggregated_version(request):
                return _aggregated(api, version, core=False)
            return _read(request, {"kind": "APIGroupList", "apiVersion": "v1",
                                   "groups": [_group(g, vs) for g, vs in registry.groups()]})
        case ["apis", group]:
            for name, versions in registry.groups():
                if name == group:
                    return _read(request, {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)})
            raise errors.page_not_found()
        case ["api", version]:
            return _resource_list(api, request, "", version)
        case ["apis", group, version]:
            return _resource_list(api, request, group, version)
        case ["metrics"]:
            if request.method != "GET":
                raise errors.method_not_allowed()
            return api.metrics.answer(api)
        case ["openapi", *rest]:
            return api.openapi.answer(request, rest)
    return None


def _read(request: Request, obj: Obj) -> Reply:
    if request.method != "GET":
        raise errors.method_not_allowed()
    return json_reply(obj)


def _group(name: str, versions: list[str]) -> Obj:
    listed = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _resource_list(api: Api, request: Request, group: str, version: str) -> Reply:
    plurals = api.machinery.registry.served.get((group, version))
    if plurals is None:
        raise errors.page_not_found()
    resources: list[Obj] = []
    for plural, served in sorted(plurals.items()):
        resources += _resources(plural, served, api.machinery.minor)
    return _read(request, {"kind": "APIResourceList", "apiVersion": "v1",
                           "groupVersion": f"{group}/{version}" if group else version, "resources": resources})


def _resources(plural: str, served: Served, minor: int) -> list[Obj]:
    kind = served.kind
    if kind.resource in REVIEW_RESOURCES:
        return [{"name": plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
                 "verbs": ["create"]}]
    entry: Obj = {"name": plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
                  "verbs": _verbs(served)}
    if kind.short:
        entry["shortNames"] = list(kind.short)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    out = [entry]
    for sub in sorted(kind.subresources):
        name, group, version, verbs = _SUB_KINDS.get(sub, (kind.kind, "", "", ["get", "patch", "update"]))
        if sub == "proxy":
            name = f"{kind.kind}ProxyOptions"
        one: Obj = {"name": f"{plural}/{sub}", "singularName": "", "namespaced": kind.namespaced, "kind": name,
                    "verbs": verbs}
        if group:
            one |= {"group": group, "version": "v1beta1" if sub == "eviction" and minor < 22 else version}
        out.append(one)
    return out


def _verbs(served: Served) -> list[str]:
    """All verbs; namespaces and services could not be deleted by collection for long, and metrics are read alone."""
    if served.group == aggregation.GROUP:
        return ["get", "list"]
    if served.kind.resource in ("namespaces", "services"):
        return [v for v in _VERBS if v != "deletecollection"]
    return _VERBS


def _paths(api: Api) -> list[str]:
    out = ["/api", "/api/v1", "/apis"]
    for group, versions in api.machinery.registry.groups():
        out += [f"/apis/{group}", *(f"/apis/{group}/{v}" for v in versions)]
    return [*out, "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]


def _aggregated_version(request: Request) -> str | None:
    accept = request.header(b"accept")
    for version in ("v2", "v2beta1"):
        if f"g=apidiscovery.k8s.io;v={version};" in accept.replace(" ", ""):
            return version
    return None


def _aggregated(api: Api, version: str, *, core: bool) -> Reply:
    """All groups and their resources in one document, which saves kubectl a request for each group."""
    registry = api.machinery.registry
    groups = [("", ["v1"])] if core else list(registry.groups())
    items: list[Obj] = []
    for group, versions in groups:
        listed = []
        for one in versions:
            resources = [_aggregated_resource(plural, served, api.machinery.minor)
                         for plural, served in sorted(registry.served[(group, one)].items())]
            listed.append({"version": one, "resources": resources, "freshness": "Current"})
        items.append({"metadata": {"name": group, "creationTimestamp": None} if group else
                      {"creationTimestamp": None}, "versions": listed})
    body = json_reply({"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {},
                       "items": items})
    media_type = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    return Reply(200, body.body, media_type.encode())


def _aggregated_resource(plural: str, served: Served, minor: int) -> Obj:
    first, *subs = _resources(plural, served, minor)
    out: dict[str, Any] = {
        "resource": plural,
        "responseKind": {"group": served.group, "version": served.version, "kind": served.kind.kind},
        "scope": "Namespaced" if served.kind.namespaced else "Cluster", "singularResource": first["singularName"],
        "verbs": first["verbs"]}
    for key in ("shortNames", "categories"):
        if key in first:
            out[key] = first[key]
    if subs:
        out["subresources"] = [{
            "subresource": s["name"].partition("/")[2], "verbs": s["verbs"],
            "responseKind": {"group": s.get("group", served.group), "version": s.get("version", served.version),
                             "kind": s["kind"]}} for s in subs]
    return out
