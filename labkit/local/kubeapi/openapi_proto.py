"""The little of gnostic's protobuf form of OpenAPI that kubectl asks for.

kubectl takes types and merge keys from itself and from the JSON documents; of this form it wants to know
which parameters a kind's patches take, before it leaves the check of fields to the API.
"""

from __future__ import annotations

from labkit.local.client import Obj

V2_TYPE = b"application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
V3_TYPE = b"application/com.github.proto-openapi.spec.v3.v1.0+protobuf"

_V3_METHODS = {"get": 4, "post": 6, "patch": 10}        # fields of PathItem
_V2_METHODS = {"get": 2, "post": 4, "patch": 8}


def _field(number: int, data: bytes | str) -> bytes:
    """A length-delimited field."""
    if isinstance(data, str):
        data = data.encode()
    size, length = len(data), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2,)) + bytes(length) + data


def v2_without_definitions(version: str, paths: Obj) -> bytes:
    """An OpenAPI v2 document of paths, as v3_paths, without definitions."""
    info = _field(1, "Kubernetes") + _field(2, version)
    items = b"".join(_field(2, _field(1, path) + _field(2, b"".join(
        _field(_V2_METHODS[method], _v2_operation(operation)) for method, operation in item.items())))
        for path, item in paths.items())
    return _field(1, "2.0") + _field(2, info) + _field(8, items) + _field(9, b"")


def _v2_operation(operation: Obj) -> bytes:
    parameters = b"".join(_field(8, _field(1, _field(2, _field(3, _field(2, p["in"]) + _field(4, p["name"])))))
                          for p in operation.get("parameters", ()))
    return parameters + _field(13, _kind(operation))


def v3_paths(version: str, paths: Obj) -> bytes:
    """An OpenAPI v3 document of paths, their kinds and their parameters' names."""
    info = _field(1, "Kubernetes") + _field(6, version)
    items = b"".join(_field(1, _field(1, path) + _field(2, _item(item))) for path, item in paths.items())
    return _field(1, "3.0.0") + _field(2, info) + _field(4, items)


def _item(item: Obj) -> bytes:
    return b"".join(_field(_V3_METHODS[method], _operation(operation)) for method, operation in item.items())


def _operation(operation: Obj) -> bytes:
    parameters = b"".join(_field(6, _field(1, _field(1, p["name"]) + _field(2, p["in"])))
                          for p in operation.get("parameters", ()))
    return parameters + _field(13, _kind(operation))


def _kind(operation: Obj) -> bytes:
    """The extension that says which kind an operation is for."""
    about = operation["x-kubernetes-group-version-kind"]
    yaml = f'{{"group": "{about["group"]}", "version": "{about["version"]}", "kind": "{about["kind"]}"}}'
    return _field(1, "x-kubernetes-group-version-kind") + _field(2, _field(2, yaml))
