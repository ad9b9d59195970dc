"""The shape of what clusters' API takes and gives, as JSON Schema: derived from the SDK's models of that API version.

The SDK is generated from Microsoft's published specification of the API; the part that the course needs is kept in
`schema.json`, so that a test says in which property a request or a reply differs from it. Write it anew with
`python -m tests.arm.shapes` when the SDK is another; a test sees when that is due.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import json
import sys
import types
import typing
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from azure.mgmt.containerservice import models as aks
from azure.mgmt.resource.resources import models as groups

FILE = Path(__file__).parent / "schema.json"
ROOTS = {"ManagedCluster": aks, "AgentPool": aks, "KubernetesVersionListResult": aks, "CredentialResults": aks,
         "ResourceGroup": groups}


def derive() -> dict[str, Any]:
    """The schemas of `ROOTS` and of what they hold."""
    found: dict[str, Any] = {}
    for name, module in ROOTS.items():
        _model(getattr(module, name), found)
    return dict(sorted(found.items()))


def _model(model: type, found: dict[str, Any]) -> dict[str, Any]:
    name = model.__name__
    if name not in found:
        found[name] = {}  # models hold one another
        properties: dict[str, Any] = {}
        model.__new__(model)  # the SDK fills in its table of fields at the first instance
        for cls in reversed(model.__mro__):
            for attribute, written in inspect.get_annotations(cls).items():
                rest = model._attr_to_rest_field.get(attribute)
                if rest is None:
                    continue
                schema = _annotation(_evaluated(written, cls), found)
                if rest._visibility == ["read"]:
                    schema = {**schema, "readOnly": True}
                properties[rest._rest_name] = schema
        found[name] = {"type": "object", "properties": dict(sorted(properties.items())), "additionalProperties": False}
    return {"$ref": f"#/$defs/{name}"}


def _evaluated(written: Any, cls: type) -> Any:
    """An annotation, which the SDK writes as text where it names a model."""
    names = {**vars(sys.modules[cls.__module__]), "_models": aks if "containerservice" in cls.__module__ else groups}
    names["_types"] = sys.modules.get(cls.__module__.rsplit(".", 2)[0] + "._types")
    return typing.get_type_hints(types.SimpleNamespace(__annotations__={"x": written}), names)["x"]


def _annotation(annotation: Any, found: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        if any(isinstance(a, type) and issubclass(a, enum.Enum) for a in rest):
            return {"type": ["string", "null"]}  # Azure adds values to its enumerations between versions
        first = _annotation(rest[0], found)
        return {"anyOf": [first, {"type": "null"}]} if len(rest) < len(arguments) else first
    if origin is list:
        return {"type": "array", "items": _annotation(arguments[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _annotation(arguments[1], found)}
    if isinstance(annotation, type) and issubclass(annotation, MutableMapping):
        return _model(annotation, found)
    plain = {str: "string", int: "integer", bool: "boolean", float: "number", bytes: "string",
             datetime.datetime: "string"}.get(annotation)
    return {"type": plain} if plain else {}


def request(schema: Any) -> Any:
    """The same for what is sent: what only Azure may say is not in it."""
    if isinstance(schema, dict):
        return {key: request({k: v for k, v in value.items() if not (isinstance(v, dict) and v.get("readOnly"))}
                             if key == "properties" and isinstance(value, dict) else value)
                for key, value in schema.items()}
    return schema


if __name__ == "__main__":
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in derive().items())
    FILE.write_text(f"{{\n{lines}\n}}\n")
