"""Label and field selectors: text to predicate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from labkit.local.client import Obj

from .errors import bad_request

Predicate = Callable[[Obj], bool]
Requirement = Callable[[dict[str, str]], bool]

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"\s*(?:(?P<not>!)\s*(?P<absent>{_KEY})|(?P<key>{_KEY})\s*"
    rf"(?:(?P<op>==|=|!=)\s*(?P<value>{_VALUE})|\s(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)")


@lru_cache(maxsize=512)
def parse_labels(text: str) -> tuple[Requirement, ...]:
    """A label selector's requirements.

    Raises:
        ApiError: BadRequest, when the text is no selector.
    """
    out: list[Requirement] = []
    at = 0
    while at < len(text):
        m = _TERM.match(text, at)
        if m is None or m.end() == at:
            raise bad_request(f"unable to parse requirement: found '{text[at:].strip()}', in label selector '{text}'")
        at = m.end()
        if m["absent"]:
            out.append(lambda labels, k=m["absent"]: k not in labels)  # type: ignore[misc]
        elif m["op"]:
            key, value = m["key"], m["value"]
            if m["op"] == "!=":
                out.append(lambda labels, k=key, v=value: labels.get(k) != v)  # type: ignore[misc]
            else:
                out.append(lambda labels, k=key, v=value: labels.get(k) == v)  # type: ignore[misc]
        elif m["set"]:
            values = frozenset(v.strip() for v in m["values"].split(","))
            if m["set"] == "in":
                out.append(lambda labels, k=m["key"], vs=values: k in labels and labels[k] in vs)  # type: ignore[misc]
            else:
                out.append(lambda labels, k=m["key"], vs=values: labels.get(k) not in vs)  # type: ignore[misc]
        else:
            out.append(lambda labels, k=m["key"]: k in labels)  # type: ignore[misc]
    return tuple(out)


def field_value(obj: Obj, path: tuple[str, ...]) -> str:
    """A field as field selectors compare it: text, and where it is missing empty, or "false" for a boolean one."""
    value: Any = obj
    for part in path:
        if not isinstance(value, dict):
            return ""
        value = value.get(part)
    if value is None:
        return "false" if path in (("spec", "hostNetwork"), ("spec", "unschedulable")) else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if path == ("source",):
        return str(obj.get("source", {}).get("component") or obj.get("reportingComponent", ""))
    return str(value)


@lru_cache(maxsize=512)
def parse_fields(text: str, allowed: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], bool, str], ...]:
    """A field selector's terms: (path, equal?, value).

    Raises:
        ApiError: BadRequest, when a field cannot be selected on.
    """
    out = []
    for term in filter(None, text.split(",")):
        m = re.fullmatch(r"\s*([^=!]+?)\s*(==|=|!=)\s*(.*?)\s*", term)
        if m is None:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        if m[1] not in ("metadata.name", "metadata.namespace") and m[1] not in allowed:
            raise bad_request(f"field label not supported: {m[1]}" if allowed else f'"{m[1]}" is not a known field'
                              ' selector: only "metadata.name", "metadata.namespace"')
        out.append((tuple(m[1].split(".")), m[2] != "!=", m[3].replace("\\", "")))
    return tuple(out)


def predicate(labels: str | None, fields: str | None, allowed: tuple[str, ...] = ()) -> Predicate | None:
    """Both selectors as one function; None where there is nothing to select by."""
    wants = parse_labels(labels) if labels else ()
    terms = parse_fields(fields, allowed) if fields else ()
    if not wants and not terms:
        return None

    def matches(obj: Obj) -> bool:
        if wants:
            have = obj["metadata"].get("labels") or {}
            if not all(want(have) for want in wants):
                return False
        return all((field_value(obj, path) == value) is equal for path, equal, value in terms)

    return matches


def exact_name(fields: str | None, allowed: tuple[str, ...]) -> str | None:
    """The name that a field selector asks for by equality, so that a read need not scan."""
    if not fields:
        return None
    for path, equal, value in parse_fields(fields, allowed):
        if path == ("metadata", "name") and equal:
            return value
    return None


def selects(selector: Obj | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects these labels; None selects nothing, {} everything."""
    if selector is None or any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    return all(requirement(item, labels) for item in selector.get("matchExpressions") or ())


def requirement(item: Obj, values: Mapping[str, str]) -> bool:
    """Whether one expression of a label or node selector holds."""
    value, listed = values.get(item["key"]), item.get("values") or []
    match item["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    try:
        have, want = int(value or ""), int(listed[0])
    except (ValueError, IndexError):
        return False
    return have > want if item["operator"] == "Gt" else have < want
