"""Strategic merge patch: lists of objects are merged by a key that depends on the field.

Kubernetes takes the keys from struct tags. Here they are a table of the fields' names: within the
kinds that are served a field's name and its parent settle the key. Pure.
"""

from __future__ import annotations

from typing import Any

from labkit.local.client import ApiError, Obj, copy_of

from .errors import go_print

MERGE_KEYS: dict[str, str] = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "volumes": "name",
    "env": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath", "imagePullSecrets": "name",
    "hostAliases": "ip", "conditions": "type", "ownerReferences": "uid", "addresses": "type", "secrets": "name",
    "topologySpreadConstraints": "topologyKey", "resourceClaims": "name", "podIPs": "ip", "hostIPs": "ip",
}
"""Fields whose key does not depend on where they are."""

PORT_KEYS: dict[str, str] = {"containers": "containerPort", "initContainers": "containerPort",
                             "ephemeralContainers": "containerPort", "Service": "port"}
"""Ports are keyed by what holds them; everywhere else they are replaced whole."""

SETS = frozenset({"finalizers"})
"""Lists of plain values that are merged as sets."""

_DIRECTIVES = ("$patch", "$retainKeys")


def merge_key(field: str, holder: str) -> str | None:
    """The key of a list: `holder` is the list that the field's object is in, or the kind at the top."""
    if field == "ports":
        return PORT_KEYS.get(holder)
    if field == "addresses" and holder != "Node":
        return None
    if field == "secrets" and holder != "ServiceAccount":
        return None
    return MERGE_KEYS.get(field)


def strategic_merge(target: Obj, patch: Obj, holder: str) -> Obj:
    """`target` changed by `patch`; neither is kept, `target` is changed in place.

    Raises:
        ApiError: when a merged list's item lacks its key, or a directive is unknown.
    """
    match patch.get("$patch"):
        case "replace":
            replaced: Obj = _clean({k: v for k, v in patch.items() if k != "$patch"})
            return replaced
        case "delete":
            return {}
        case None | "merge":
            pass
        case other:
            raise ApiError(400, "BadRequest", f"Unknown patch type: {other}")
    retain = patch.get("$retainKeys")
    if retain is not None:
        for key in [k for k in target if k not in retain]:
            del target[key]
    for field, value in patch.items():
        if field in _DIRECTIVES or field.startswith("$setElementOrder/"):
            continue
        if field.startswith("$deleteFromPrimitiveList/"):
            name = field.partition("/")[2]
            if isinstance(have := target.get(name), list):
                target[name] = [v for v in have if v not in value]
        elif value is None:
            target.pop(field, None)
        elif isinstance(value, dict):
            have = target.get(field)
            merged = strategic_merge(have if isinstance(have, dict) else {}, value,
                                     holder if field in ("spec", "status") and holder[:1].isupper() else field)
            if value.get("$patch") == "delete":
                target.pop(field, None)
            else:
                target[field] = merged
        elif isinstance(value, list):
            target[field] = _merge_list(target.get(field), value, field, holder,
                                        patch.get(f"$setElementOrder/{field}"))
        else:
            target[field] = value
    for field in [f for f in patch if f.startswith("$setElementOrder/")]:
        name = field.partition("/")[2]
        if name not in patch and isinstance(have := target.get(name), list):
            target[name] = _ordered(have, patch[field], have, merge_key(name, holder))
    return target


def _merge_list(have: Any, patch: list[Any], field: str, holder: str, order: list[Any] | None) -> list[Any]:
    old: list[Any] = have if isinstance(have, list) else []
    if field in SETS:
        return _ordered(old + [v for v in patch if v not in old], order or patch, old, None)
    key = merge_key(field, holder)
    if key is None or not all(isinstance(v, dict) for v in patch):
        return _clean_list([v for v in patch if not (isinstance(v, dict) and "$patch" in v and len(v) == 1)])
    if any(v.get("$patch") == "replace" and len(v) == 1 for v in patch):
        return _clean_list([v for v in patch if v != {"$patch": "replace"}])
    out = list(old)
    for one in patch:
        if key not in one:
            raise ApiError(500, "", f"map: {go_print(one)} does not contain declared merge key: {key}")
        at = next((i for i, o in enumerate(out) if isinstance(o, dict) and o.get(key) == one[key]), None)
        if one.get("$patch") == "delete":
            out = [o for o in out if o.get(key) != one[key]]
        elif at is None:
            out.append(strategic_merge({}, one, field))
        else:
            out[at] = strategic_merge(out[at], one, field)
    return _ordered(out, order or [one for one in patch if "$patch" not in one], old, key)


def _ordered(items: list[Any], order: list[Any], server: list[Any], key: str | None) -> list[Any]:
    """Items in the patch's order; what it does not name keeps its place before those that it stood before.

    So what a patch adds comes before what it does not name, as `kubectl patch` on a service's ports shows.
    """
    def identity(item: Any) -> str:
        return repr(item.get(key) if isinstance(item, dict) and key else item)

    rank = {identity(o): i for i, o in enumerate(order)}
    place = {identity(o): i for i, o in enumerate(server)}
    named = sorted((i for i in items if identity(i) in rank), key=lambda i: rank[identity(i)])
    out: list[Any] = []
    for other in (i for i in items if identity(i) not in rank):
        while named and not place[identity(other)] < place.get(identity(named[0]), -1):
            out.append(named.pop(0))
        out.append(other)
    return out + named


def _clean_list(values: list[Any]) -> list[Any]:
    return [_clean(v) for v in values if not (isinstance(v, dict) and v.get("$patch") == "delete")]


def _clean(value: Any) -> Any:
    """A value without directives."""
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    if isinstance(value, list):
        return _clean_list(value)
    return copy_of(value)
