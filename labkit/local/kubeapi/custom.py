"""Custom resource definitions: creating one serves the new kind at once."""

from __future__ import annotations

from typing import Any

from labkit.local.client import Obj, copy_of, timestamp

from . import errors
from .errors import FieldError
from .kinds import Kind, Served
from .schema import apply_defaults, prune, schema_errors
from .strategies import Strategy

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


class DefinitionStrategy(Strategy):
    """Serves what definitions define, and empties what a deleted one leaves."""

    STATUS_METADATA = ("managedFields",)

    def loaded(self, obj: Obj) -> None:
        """A definition was read from disk at the start."""
        self._serve(obj)

    def default(self, kind: Kind, obj: Obj) -> None:
        """Names and conversion."""
        spec = obj.setdefault("spec", {})
        names = spec.setdefault("names", {})
        if names.get("kind"):
            names.setdefault("singular", names["kind"].lower())
            names.setdefault("listKind", names["kind"] + "List")
        spec.setdefault("conversion", {"strategy": "None"})

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """Accept the names: nothing else uses a lab's API groups."""
        spec, now = obj["spec"], timestamp()
        obj["metadata"]["finalizers"] = [*(obj["metadata"].get("finalizers") or ()), CLEANUP]
        obj["status"] = {
            "acceptedNames": copy_of(spec.get("names", {})),
            "storedVersions": [v["name"] for v in spec.get("versions") or () if v.get("storage")],
            "conditions": [
                {"type": "NamesAccepted", "status": "True", "lastTransitionTime": now, "reason": "NoConflicts",
                 "message": "no conflicts found"},
                {"type": "Established", "status": "True", "lastTransitionTime": now, "reason": "InitialNamesAccepted",
                 "message": "the initial names have been accepted"}],
        }

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Names, scope, and exactly one storage version."""
        spec = new["spec"]
        names = spec.get("names") or {}
        out = [errors.required(f"spec.names.{k}") for k in ("plural", "kind") if not names.get(k)]
        if not spec.get("group"):
            out.append(errors.required("spec.group"))
        if spec.get("scope") not in ("Cluster", "Namespaced"):
            out.append(errors.unsupported("spec.scope", spec.get("scope") or "", ("Cluster", "Namespaced")))
        versions = spec.get("versions") or []
        if sum(bool(v.get("storage")) for v in versions) != 1:
            out.append(FieldError("FieldValueInvalid", "spec.versions", "Invalid value: must have exactly one version"
                                  " marked as storage version"))
        out += [errors.required(f"spec.versions[{i}].schema.openAPIV3Schema", "schemas are required")
                for i, v in enumerate(versions) if not (v.get("schema") or {}).get("openAPIV3Schema")]
        expected = f"{names.get('plural')}.{spec.get('group')}"
        if not out and new["metadata"]["name"] != expected:
            out.append(errors.bad_value("metadata.name", new["metadata"]["name"],
                                        'must be spec.names.plural+"."+spec.group'))
        return out

    def stored(self, kind: Kind, new: Obj, old: Obj | None) -> None:
        """Serve the kind as it is defined now; empty it if its definition is going."""
        if old is None or old["spec"] != new["spec"]:
            self._serve(new)
        if "deletionTimestamp" in new["metadata"]:
            self._empty(new)

    def removed(self, kind: Kind, last: Obj) -> None:
        """Stop serving the kind."""
        self.api.registry.remove(last["metadata"]["name"])

    def _serve(self, definition: Obj) -> None:
        kind = kind_of(definition)
        self.api.registry.add(kind, _served(definition, kind))

    def _empty(self, definition: Obj) -> None:
        from .machinery import DeleteOptions

        resource = definition["metadata"]["name"]
        if (custom := self.api.registry.kinds.get(resource)) is None:
            return
        for (namespace, name), entry in list(self.api.store.shelf(resource).entries(None)):
            if "deletionTimestamp" not in entry.obj["metadata"]:
                self.api.remove(custom, namespace, name, DeleteOptions())
        self.finish(resource)

    def finish(self, resource: str) -> None:
        """Let a definition go whose last object went."""
        entry = self.api.store.find("customresourcedefinitions.apiextensions.k8s.io", "", resource)
        if entry is None or "deletionTimestamp" not in entry.obj["metadata"] or self.api.store.shelf(resource).count():
            return
        kind = self.api.registry.kind("customresourcedefinitions.apiextensions.k8s.io")

        def release(obj: Obj) -> Obj:
            obj["metadata"]["finalizers"] = [f for f in obj["metadata"].get("finalizers") or () if f != CLEANUP]
            return obj

        if CLEANUP in (entry.obj["metadata"].get("finalizers") or ()):
            self.api.change(kind, "", resource, release)


class CustomStrategy(Strategy):
    """Objects of a custom kind: what their schema says."""

    STATUS_METADATA = ("managedFields",)

    def default(self, kind: Kind, obj: Obj) -> None:
        """Drop what the schema does not know, then fill in its defaults."""
        if (schema := _schema(kind)) is not None:
            prune(schema, obj)
            apply_defaults(schema, obj)

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Required fields, types, enumerations, patterns and bounds."""
        schema = _schema(kind)
        return [] if schema is None else schema_errors(schema, new)

    def removed(self, kind: Kind, last: Obj) -> None:
        """A definition that is going waits for its last object."""
        definitions = self.api.strategies["customresourcedefinitions.apiextensions.k8s.io"]
        assert isinstance(definitions, DefinitionStrategy)
        definitions.finish(kind.resource)


def _schema(kind: Kind) -> Any:
    assert kind.crd is not None
    return kind.crd["schemas"].get(kind.version)


def kind_of(definition: Obj) -> Kind:
    """The kind that a definition defines, at its storage version."""
    spec = definition["spec"]
    names = spec["names"]
    storage = next(v for v in spec["versions"] if v.get("storage"))
    return Kind(
        spec["group"], storage["name"], names["kind"], names["plural"], spec["scope"] == "Namespaced",
        short=tuple(names.get("shortNames") or ()), categories=tuple(names.get("categories") or ()),
        subresources=tuple(s for s in ("status", "scale") if s in (storage.get("subresources") or {})),
        singular=names.get("singular") or names["kind"].lower(),
        fields=tuple(f["jsonPath"].lstrip(".") for f in storage.get("selectableFields") or ()),
        crd={
            "schemas": {v["name"]: (v.get("schema") or {}).get("openAPIV3Schema") for v in spec["versions"]},
            "columns": {v["name"]: v.get("additionalPrinterColumns") for v in spec["versions"]},
            "scale": (storage.get("subresources") or {}).get("scale"),
        })


def _served(definition: Obj, kind: Kind) -> tuple[Served, ...]:
    out = []
    for version in definition["spec"]["versions"]:
        if version.get("served", True):
            name = version["name"]
            if name == kind.version:
                out.append(Served(kind, kind.group, name))
            else:
                out.append(Served(kind, kind.group, name, _relabel(f"{kind.group}/{name}"),
                                  _relabel(kind.api_version)))
    return tuple(out)


def _relabel(api_version: str) -> Any:
    """Conversion strategy None: only apiVersion changes."""
    return lambda obj: {**obj, "apiVersion": api_version}
