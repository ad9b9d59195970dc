"""The fields of Kubernetes' own kinds, read from the sources of its Python client.

The client is generated from Kubernetes' OpenAPI document, so its models are that document. They are read as
text, one file for each type that is asked for: importing the package would cost the daemon a second and 100 MB.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_QUANTITIES = frozenset({
    "limits", "requests", "capacity", "allocatable", "hard", "used", "overhead", "default", "defaultRequest", "max",
    "min", "maxLimitRequestRatio", "allocatedResources", "sizeLimit", "divisor", "averageValue"})
"""Fields of type Quantity: the client has them as strings, but a number may stand there too."""

_GENERIC = re.compile(r"(List|Dict|list|dict)[\[(](?:str, )?(.*)[\])]")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a type.

    Args:
        kind: "string", "integer", "number", "boolean", "time", "bytes", "quantity", "intOrString", "any",
            or the class of another model.
        outer: "list", "map", "map of lists", or "" for a single value.
    """

    kind: str
    outer: str = ""
    description: str = ""
    required: bool = False

    @property
    def is_model(self) -> bool:
        """Whether the value is an object of another model."""
        return self.kind[0].isupper()


@dataclass(frozen=True, slots=True)
class Model:
    """A type: a class of the Python client."""

    name: str
    description: str
    fields: dict[str, Field]

    @property
    def short(self) -> str:
        """The name that the type has in Kubernetes: "PodSpec" for V1PodSpec."""
        return re.sub(r"^[A-Z]?[a-z]*V\d+((alpha|beta)\d+)?", "", self.name)


def models_version() -> str:
    """Which release of the client the models are from."""
    return importlib.metadata.version("kubernetes")


@cache
def _files() -> dict[str, Path]:
    """Each class's file; nothing is imported."""
    spec = importlib.util.find_spec("kubernetes")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "client" / "models"
    found = re.findall(r"^\s*from kubernetes\.client\.models\.(\w+) import (\w+)", (folder / "__init__.py").read_text(),
                       re.MULTILINE)
    return {name: folder / f"{module}.py" for module, name in found}


def class_of(group: str, version: str, kind: str) -> str | None:
    """The class that a kind has in the client; None where it has none."""
    prefix = (group.partition(".")[0] or "core").capitalize()
    for name in (prefix + version.capitalize() + kind, version.capitalize() + kind):
        if name in _files():
            return name
    return None


@cache
def model(name: str) -> Model:
    """One type."""
    text = _files()[name].read_text()
    start = text.index(f"\nclass {name}(")
    end = text.find("\n    __properties", start)
    tree = ast.parse(text[start:end]).body[0]
    assert isinstance(tree, ast.ClassDef)
    types: dict[str, str] = {}
    names: dict[str, str] = {}
    about: dict[str, tuple[str, bool, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.target.id == "openapi_types" and node.value is not None:
            types = ast.literal_eval(node.value)
        elif node.target.id == "attribute_map" and node.value is not None:
            names = ast.literal_eval(node.value)
        else:
            about[node.target.id] = (*_described(node.value), ast.unparse(node.annotation))
    fields = {}
    for attribute, type_ in types.items():
        description, required, annotation = about.get(attribute, ("", False, ""))
        fields[names[attribute]] = _field(names[attribute], type_, description, required, annotation)
    doc = (ast.get_docstring(tree) or "").partition("\n\nAttributes:")[0]
    return Model(name, doc.strip(), fields)


def _described(value: ast.expr | None) -> tuple[str, bool]:
    """A field's description, and whether it is required: it then has no default."""
    if value is None:
        return "", True
    if not isinstance(value, ast.Call):
        return "", False
    keywords = {k.arg: k.value for k in value.keywords}
    text = keywords.get("description")
    return str(text.value) if isinstance(text, ast.Constant) else "", "default" not in keywords


_KINDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "datetime": "time",
          "bytes": "bytes", "object": "any"}


def _field(name: str, type_: str, description: str, required: bool, annotation: str) -> Field:
    outer = ""
    while match := _GENERIC.fullmatch(type_):
        this = "list" if match[1].lower() == "list" else "map"
        outer = f"{outer} of {this}s" if outer else this
        type_ = match[2]
    kind = _KINDS.get(type_, type_)
    if kind == "any" and "StrictInt" in annotation and "StrictStr" in annotation:
        kind = "intOrString"
    elif kind == "string" and name in _QUANTITIES:
        kind = "quantity"
    return Field(kind, outer, description, required)
