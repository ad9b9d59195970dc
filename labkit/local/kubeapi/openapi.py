"""OpenAPI documents: what `kubectl explain` prints, and what tells kubectl that the API checks fields itself.

Built when first asked for, one group and version at a time, from the Python client's models and from the
schemas in custom resource definitions.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from labkit.local.client import Obj

from . import aggregation, errors, models
from .kinds import BUILT_IN, REVIEW_RESOURCES, Registry, Served
from .models import Field, Model
from .openapi_proto import V2_TYPE, V3_TYPE, v2_without_definitions, v3_paths
from .request import Receive, Reply, Request, Send, json_reply

_META_TYPES = frozenset({
    "ObjectMeta", "ListMeta", "LabelSelector", "LabelSelectorRequirement", "OwnerReference", "ManagedFieldsEntry",
    "Condition", "DeleteOptions", "Preconditions", "Status", "StatusCause", "StatusDetails",
    "FieldSelectorRequirement"})
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_TIME, _QUANTITY = _META + "Time", "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_PACKAGES = {"apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
             "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration"}
_LEAVES: dict[str, Obj] = {
    "string": {"type": "string"}, "integer": {"type": "integer", "format": "int32"}, "number": {"type": "number"},
    "boolean": {"type": "boolean"}, "bytes": {"type": "string", "format": "byte"}, "any": {"type": "object"}}
_NAMED_LEAVES: dict[str, tuple[str, Obj]] = {
    "time": (_TIME, {"type": "string", "format": "date-time"}),
    "quantity": (_QUANTITY, {"oneOf": [{"type": "string"}, {"type": "number"}],
                               "description": "A fixed-point number, such as 500m or 1.5Gi."}),
    "intOrString": (_INT_OR_STRING, {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string",
                                     "description": "An integer, or a string."})}
_CONVENTIONS = "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#"
_USUAL = {"metadata": f"Standard object's metadata. {_CONVENTIONS}metadata",
          "spec": f"Specification of the desired behavior. {_CONVENTIONS}spec-and-status",
          "status": f"Most recently observed status. {_CONVENTIONS}spec-and-status"}
"""What Kubernetes says of these fields of every kind; the client's models leave it out."""
_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")


@cache
def _core_classes() -> frozenset[str]:
    """What core's kinds are made of: other groups use these types too."""
    return frozenset(_closure(filter(None, (models.class_of("", "v1", k.kind) for k in BUILT_IN if not k.group))))


def _closure(classes: Iterable[str]) -> set[str]:
    """Classes, and all that they refer to."""
    seen: set[str] = set()
    todo = list(classes)
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += [f.kind for f in models.model(name).fields.values() if f.is_model]
    return seen


class Documents:
    """One cluster's OpenAPI documents.

    Args:
        registry: the kinds that are served.
        version: the Kubernetes version.
    """

    def __init__(self, registry: Registry, version: str) -> None:
        self._registry, self._version = registry, version
        self._made: dict[tuple[str, str], tuple[str, bytes]] = {}

    def answer(self, request: Request, rest: list[str]) -> Any:
        """The answer to a path below /openapi.

        Raises:
            ApiError: NotFound, when nothing is served there.
        """
        match rest:
            case ["v2"]:
                accept = request.header(b"accept")
                if "protobuf" in accept and "json" not in accept:
                    served = [one for key in self._registry.served for one in self._served(*key)]
                    return Reply(200, v2_without_definitions(self._version, _paths(served)), V2_TYPE)
                return Later(self._v2)
            case ["v3"]:
                return json_reply({"paths": {_path(g, v): {"serverRelativeURL":
                                             f"/openapi/v3/{_path(g, v)}?hash={self._hash(g, v)}"}
                                             for g, v in self._registry.served}})
            case ["v3", "api", version]:
                return self._v3("", version, request)
            case ["v3", "apis", group, version]:
                return self._v3(group, version, request)
        raise errors.page_not_found()

    def _v3(self, group: str, version: str, request: Request) -> Any:
        if (group, version) not in self._registry.served:
            raise errors.page_not_found()
        etag = self._hash(group, version)
        headers: tuple[tuple[bytes, bytes], ...] = ((b"etag", f'"{etag}"'.encode()), (b"vary", b"Accept"))
        if request.query.get("hash") == etag:           # so kubectl reads it from its own cache the next time
            headers += ((b"cache-control", b"public, max-age=31536000, immutable"),)
        if request.header(b"if-none-match") == f'"{etag}"':
            return Reply(304, b"", headers=headers)
        accept = request.header(b"accept")
        if "protobuf" in accept and "json" not in accept:
            return Reply(200, v3_paths(self._version, _paths(self._served(group, version))), V3_TYPE, headers)
        return Later(lambda: Reply(200, self._document(group, version, etag), headers=headers))

    def _served(self, group: str, version: str) -> list[Served]:
        plurals = self._registry.served[(group, version)]
        return [s for _, s in sorted(plurals.items())
                if s.kind.resource not in REVIEW_RESOURCES and s.group != aggregation.GROUP]

    def _hash(self, group: str, version: str) -> str:
        """Changes with the document, and is known without it."""
        about = [[models.models_version(), self._version],
                 *([s.kind.resource, s.kind.crd] for s in self._served(group, version))]
        return hashlib.sha256(orjson.dumps(about)).hexdigest()[:32].upper()

    def _document(self, group: str, version: str, etag: str) -> bytes:
        made = self._made.get((group, version))
        if made is None or made[0] != etag:
            served = self._served(group, version)
            body = orjson.dumps({
                "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": self._version},
                "paths": _paths(served),
                "components": {"schemas": _schemas(served, "#/components/schemas/")}})
            made = self._made[(group, version)] = (etag, body)
        return made[1]

    def _v2(self) -> Reply:
        definitions: Obj = {}
        for group, version in tuple(self._registry.served):
            definitions |= _schemas(self._served(group, version), "#/definitions/")
        return json_reply({"swagger": "2.0", "info": {"title": "Kubernetes", "version": self._version}, "paths": {},
                           "definitions": definitions})


@dataclass(frozen=True)
class Later:
    """An answer that takes a while to make: made in a thread, so that the API goes on meanwhile."""

    make: Callable[[], Reply]

    async def run(self, receive: Receive, send: Send) -> None:
        """Make it and send it."""
        await (await asyncio.to_thread(self.make)).send(send)


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _gvk(served: Served) -> Obj:
    return {"group": served.group, "version": served.version, "kind": served.kind.kind}


def _paths(served: Iterable[Served]) -> Obj:
    """Enough of each resource's paths for clients to find its kind, and the parameters of its patches."""
    out: Obj = {}
    for one in served:
        base = "/" + _path(one.group, one.version)
        if one.kind.namespaced:
            base += "/namespaces/{namespace}"
        about = {"x-kubernetes-group-version-kind": _gvk(one), "responses": {"200": {"description": "OK"}}}
        parameters = [{"name": p, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
                      for p in _PARAMETERS]
        out[f"{base}/{one.kind.plural}"] = {
            "get": {"x-kubernetes-action": "list", **about},
            "post": {"x-kubernetes-action": "post", **about, "parameters": parameters}}
        out[f"{base}/{one.kind.plural}/{{name}}"] = {
            "get": {"x-kubernetes-action": "get", **about},
            "patch": {"x-kubernetes-action": "patch", **about, "parameters": parameters}}
    return out


def _schemas(served: Iterable[Served], root: str) -> Obj:
    """The definitions of the kinds, and of all that they are made of."""
    classes: set[str] = {"V1ObjectMeta"}
    out: Obj = {name: schema for name, schema in _NAMED_LEAVES.values()}
    roots: dict[str, Obj] = {}
    for one in served:
        name = models.class_of(one.group, one.version, one.kind.kind) \
            or models.class_of(one.kind.group, one.kind.version, one.kind.kind)
        if one.kind.crd:
            out[_custom_name(one)] = _custom(one, root)
        elif name:
            classes.add(name)
            roots[name] = _gvk(one)
    group = next((s.group for s in served), "")
    for name in sorted(_closure(classes)):
        model = models.model(name)
        schema = _schema(model, group, root)
        if name in roots:
            schema["x-kubernetes-group-version-kind"] = [roots[name]]
        out[_name(model, group)] = schema
    return out


def _name(model: Model, group: str) -> str:
    """A type's name in Kubernetes' document, seen from a group's."""
    if model.short in _META_TYPES:
        return _META + model.short
    version = model.name[:-len(model.short)].partition("V")[2]
    if model.name in _core_classes():
        group = ""
    package = _PACKAGES.get(group) or f"io.k8s.api.{group.partition('.')[0] or 'core'}"
    return f"{package}.v{version}.{model.short}"


def _schema(model: Model, group: str, root: str) -> Obj:
    out: Obj = {"description": model.description, "type": "object",
                "properties": {k: _property(k, field, group, root) for k, field in model.fields.items()}}
    if required := [k for k, field in model.fields.items() if field.required]:
        out["required"] = required
    if not out["properties"]:
        del out["properties"]
    return out


def _property(name: str, field: Field, group: str, root: str) -> Obj:
    about = field.description
    if field.is_model:
        model = models.model(field.kind)
        schema: Obj = {"allOf": [{"$ref": root + _name(model, group)}]}
        about = about or _USUAL.get(name) or model.description
    elif field.kind in _NAMED_LEAVES:
        schema = {"allOf": [{"$ref": root + _NAMED_LEAVES[field.kind][0]}]}
    else:
        schema = dict(_LEAVES[field.kind])
    for layer in reversed(field.outer.split(" of ")):
        if layer.startswith("list"):
            schema = {"type": "array", "items": schema}
        elif layer.startswith("map"):
            schema = {"type": "object", "additionalProperties": schema}
    return {**schema, "description": about}


def _custom_name(served: Served) -> str:
    return ".".join([*reversed(served.group.split(".")), served.version, served.kind.kind])


def _custom(served: Served, root: str) -> Obj:
    """A custom kind's schema, with what every object has."""
    assert served.kind.crd is not None
    schema: Obj = served.kind.crd["schemas"].get(served.version) or {"type": "object"}
    own = models.model("V1ConfigMap").fields
    properties: Obj = {
        "apiVersion": {"type": "string", "description": own["apiVersion"].description},
        "kind": {"type": "string", "description": own["kind"].description},
        "metadata": {"allOf": [{"$ref": root + _META + "ObjectMeta"}],
                     "description": "Standard object's metadata."}}
    return {**schema, "properties": {**(schema.get("properties") or {}), **properties},
            "x-kubernetes-group-version-kind": [_gvk(served)]}
