"""Requests and replies held against what Azure publishes about them: `schema.json`, which says where each is from.

The wire between a client and Resource Manager writes down all that passes; `problems` says what of it does not hold:
an operation that Azure does not publish, a version of the API, a name in a path, a property that is missing, unknown,
of another type or value, a property that only Azure sets, a status, a header that clients need.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jsonschema import Draft202012Validator, ValidationError, validators

from tests.arm.wire import Exchange

SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text())
_GROUP = "/subscriptions/{subscription}/resourcegroups/{group}"
_AKS = "providers/Microsoft.ContainerService"
_STARTS = {"{aks}": f"/subscriptions/{{subscription}}/{_AKS}", "{group}/{aks}": f"{_GROUP}/{_AKS}",
           "{cluster}": f"{_GROUP}/{_AKS}/managedClusters/{{cluster}}", "{group}": _GROUP}


def problems(exchanges: Iterable[Exchange], *, sent: bool = True) -> list[str]:
    """What does not hold of what passed; each once.

    Args:
        exchanges: what passed.
        sent: whether the requests are looked at, too, not only the replies.
    """
    found: dict[str, None] = {}
    seen = set()
    for exchange in exchanges:
        key = (exchange.method, exchange.path, exchange.query, exchange.status,
               json.dumps([exchange.body, exchange.answer], sort_keys=True))
        if key not in seen:
            seen.add(key)
            where = f"{exchange.method} {exchange.path} -> {exchange.status}"
            found |= dict.fromkeys(f"{where}: {problem}" for problem in _of(exchange, sent=sent))
    return list(found)


def of_document(name: str, document: Any, *, sent: bool = False, preview: bool = False) -> list[str]:
    """What does not hold of one document.

    Args:
        name: its type, as the schema names it.
        document: the JSON.
        sent: whether it is a request: what only Azure sets may not be in it.
        preview: whether a preview version of the API is spoken.
    """
    errors = _validator(name, sent, preview).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


def _of(exchange: Exchange, *, sent: bool) -> Iterator[str]:
    operation = next((o for o in SCHEMA["operations"] if o["method"] == exchange.method
                      and _pattern(o["path"]).fullmatch(exchange.path)), None)
    if operation is None:
        if sent:
            yield "Azure publishes no such operation, or its schema is not here"
        return
    version = parse_qs(exchange.query.lower()).get("api-version", [""])[0]
    preview = "preview" in version
    if sent:
        known = next(v for namespace, v in SCHEMA["versions"].items() if namespace in _whole(operation["path"]))
        if version not in known:
            yield f"api-version {version}, not {known}"
        if kind := operation.get("sends"):
            yield from (f"sent {problem}" for problem in of_document(kind, exchange.body, sent=True, preview=preview))
    if not exchange.genuine:
        return
    status = str(exchange.status)
    if status not in operation["answers"]:
        yield from of_document("Refusal", exchange.answer) if exchange.status >= 400 else ["a status not published"]
        return
    kind = operation["answers"][status]
    if isinstance(kind, str):
        yield from of_document(kind, exchange.answer, preview=preview)
    elif kind is None and exchange.answer is not None:
        yield "a body where none is published"
    for header in operation.get("headers", {}).get(status, ()):
        if header not in exchange.headers:
            yield f"no header {header}"


def _whole(path: str) -> str:
    """A path of the schema without its abbreviations."""
    start = next((s for s in sorted(_STARTS, key=len, reverse=True) if path.startswith(s)), "")
    return _STARTS.get(start, "") + path.removeprefix(start)


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    """The pattern of a path: names as published, all else without case."""
    parts = re.split(r"\{(\w+)\}", _whole(path))
    return re.compile("".join(f"(?:{SCHEMA['parameters'][part]})" if i % 2 else f"(?i:{re.escape(part)})"
                              for i, part in enumerate(parts)))


@functools.cache
def _validator(name: str, sent: bool, preview: bool) -> Any:
    rules = {"enum": _enum}
    if sent:
        rules["readOnly"] = _refusing("only Azure sets it")
    else:
        rules["writeOnly"] = _refusing("a secret is never shown")
    if not preview:
        rules["x-preview"] = _refusing("only preview versions of the API know it")
    kind = validators.extend(Draft202012Validator, rules)
    return kind({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


def _enum(validator: Any, values: list[str], instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, str) or instance.lower() not in [value.lower() for value in values]:
        yield ValidationError(f"{instance!r} is none of {values}")


def _refusing(why: str) -> Any:
    def rule(validator: Any, value: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
        yield ValidationError(why)

    return rule
