"""Server-side apply: who set which field, conflicts between managers, removal of what is no longer applied.

Fields are sets of paths. As in Kubernetes, a path's part is "f:name" for a field, "k:{...}" for a list item
with keys, "v:..." for a set's value; the tree of them is metadata.managedFields[].fieldsV1.

Managers are tracked from the first apply on. An object that nobody applied before is taken to be owned
by "before-first-apply", exactly as Kubernetes does with objects that predate the feature. To track every
writer of every object would double what a write costs, and what 10,000 services hold in memory and send to every
watch, for a field that kubectl hides.
"""

from __future__ import annotations

from typing import Any

import orjson

from labkit.local.client import ApiError, Obj, copy_of, timestamp

from . import errors
from .kinds import Served
from .machinery import Machinery
from .store import Entry
from .strategic import merge_key

Path = tuple[str, ...]

_KEYS: dict[tuple[str, str], tuple[str, ...]] = {
    ("ports", "containers"): ("containerPort", "protocol"), ("ports", "initContainers"): ("containerPort", "protocol"),
    ("ports", "Service"): ("port", "protocol"), ("topologySpreadConstraints", ""): ("topologyKey", "whenUnsatisfiable"),
}
_DEFAULT_KEYS = {"protocol": "TCP"}
_ATOMIC = frozenset({"selector", "nodeSelector", "matchLabels", "podSelector", "namespaceSelector", "resources/limits",
                     "fieldRef", "configMapKeyRef", "secretKeyRef", "resourceFieldRef"})
_IGNORED = frozenset({"managedFields", "uid", "resourceVersion", "creationTimestamp", "generation", "selfLink",
                      "deletionTimestamp", "deletionGracePeriodSeconds"})


def list_keys(field: str, holder: str) -> tuple[str, ...] | None:
    """The keys of a list whose items are merged one by one; None for one that is a single value."""
    if keys := _KEYS.get((field, holder)) or _KEYS.get((field, "")):
        return keys
    key = merge_key(field, holder)
    return (key,) if key else None


def _item_part(item: Obj, keys: tuple[str, ...]) -> str:
    values = {k: item.get(k, _DEFAULT_KEYS.get(k)) for k in keys}
    return "k:" + orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def fields_of(value: Obj, holder: str) -> set[Path]:
    """Every leaf field that a manifest sets, as paths; items of keyed lists are fields too."""
    out: set[Path] = set()
    top = {k: v for k, v in value.items() if k not in ("apiVersion", "kind")}
    metadata = top.pop("metadata", None) or {}
    if set_here := {k: v for k, v in metadata.items() if k not in _IGNORED | {"name", "namespace"}}:
        top["metadata"] = set_here
    _collect(top, (), holder, out)
    return out


def _collect(value: Any, at: Path, holder: str, out: set[Path]) -> None:
    if not isinstance(value, dict) or (not value and at):
        out.add(at)
        return
    for field, child in value.items():
        path = (*at, f"f:{field}")
        inner = holder if field in ("spec", "status") and holder[:1].isupper() else field
        if isinstance(child, dict) and field not in _ATOMIC:
            _collect(child, path, inner, out)
        elif isinstance(child, list) and (keys := list_keys(field, holder)) \
                and all(isinstance(i, dict) for i in child):
            for item in child:
                part = (*path, _item_part(item, keys))
                out.add((*part, "."))
                _collect(item, part, field, out)
        elif isinstance(child, list) and field == "finalizers":
            out.update((*path, "v:" + orjson.dumps(v).decode()) for v in child)
        else:
            out.add(path)


def lookup(obj: Any, path: Path, default: Any = None) -> Any:
    """The value at a path; `default` where there is none."""
    value = obj
    for part in path:
        if part == ".":
            return True
        found = _step(value, part)
        if found is None:
            return default
        value = found[1]
    return value


def _step(value: Any, part: str) -> tuple[Any, Any] | None:
    """(key or index, child) of one part of a path."""
    if part.startswith("f:"):
        key = part[2:]
        return (key, value[key]) if isinstance(value, dict) and key in value else None
    if not isinstance(value, list):
        return None
    wanted = orjson.loads(part[2:])
    for i, item in enumerate(value):
        if part.startswith("v:"):
            if item == wanted:
                return i, item
        elif isinstance(item, dict) and all(item.get(k, _DEFAULT_KEYS.get(k)) == v for k, v in wanted.items()):
            return i, item
    return None


def _remove(obj: Any, path: Path) -> None:
    parts = path[:-1] if path[-1] == "." else path
    chain, value = [], obj
    for part in parts:
        if (found := _step(value, part)) is None:
            return
        chain.append((value, found[0]))
        value = found[1]
    container, key = chain[-1]
    del container[key]
    for container, key in reversed(chain[:-1]):     # a map or list that this emptied goes too
        if container[key] in ({}, []) and key not in ("metadata", "spec", "status"):
            del container[key]
        else:
            break


def _is_key(path: Path) -> bool:
    """Whether a path is the key of a list's item: it goes with its item, and never alone."""
    return len(path) > 1 and path[-2].startswith("k:") and path[-1][2:] in orjson.loads(path[-2][2:])


def _merge(target: Any, source: Any, holder: str) -> Any:
    """`target` with what `source` sets, in place."""
    if not isinstance(source, dict) or not isinstance(target, dict):
        return copy_of(source)
    for field, value in source.items():
        inner = holder if field in ("spec", "status") and holder[:1].isupper() else field
        have = target.get(field)
        if isinstance(value, dict) and isinstance(have, dict) and field not in _ATOMIC:
            target[field] = _merge(have, value, inner)
        elif isinstance(value, list) and isinstance(have, list) and (keys := list_keys(field, holder)) \
                and all(isinstance(i, dict) for i in value):
            for item in value:
                found = _step(have, _item_part(item, keys))
                if found:
                    have[found[0]] = _merge(found[1], item, field)
                else:
                    have.append(copy_of(item))
        elif isinstance(value, list) and isinstance(have, list) and field == "finalizers":
            have.extend(v for v in value if v not in have)
        else:
            target[field] = copy_of(value)
    return target


# managedFields

def _encode(paths: set[Path]) -> Obj:
    tree: Obj = {}
    for path in sorted(paths):
        node = tree
        for part in path:
            node = node.setdefault(part, {})
    return tree


def _decode(tree: Obj, at: Path = ()) -> set[Path]:
    if not tree:
        return {at} if at else set()
    out: set[Path] = set()
    for part, child in tree.items():
        out |= _decode(child, (*at, part))
    return out


def _managers(obj: Obj) -> dict[tuple[str, str, str], set[Path]]:
    """Fields by (manager, operation, subresource)."""
    out: dict[tuple[str, str, str], set[Path]] = {}
    for entry in obj["metadata"].get("managedFields") or ():
        key = (entry.get("manager", ""), entry.get("operation", ""), entry.get("subresource", ""))
        out[key] = _decode(entry.get("fieldsV1") or {})
    return out


def _set_managers(obj: Obj, managers: dict[tuple[str, str, str], set[Path]], api_version: str,
                  changed: tuple[str, str, str]) -> None:
    old = {(e.get("manager", ""), e.get("operation", ""), e.get("subresource", "")): e
           for e in obj["metadata"].get("managedFields") or ()}
    entries = []
    for key, paths in managers.items():
        if not paths:
            continue
        was = old.get(key)
        fields = _encode(paths)
        if was and was.get("fieldsV1") == fields:
            entries.append(was)
            continue
        entry: Obj = {"manager": key[0], "operation": key[1],
                      "apiVersion": was["apiVersion"] if was and key != changed else api_version,
                      "time": timestamp(), "fieldsType": "FieldsV1", "fieldsV1": fields}
        if key[2]:
            entry["subresource"] = key[2]
        entries.append(entry)
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def note_update(before: Obj, after: Obj, manager: str, sub: str | None, api_version: str) -> None:
    """Record that an ordinary write changed fields: they are its manager's now, and nobody else's."""
    asked = after["metadata"].get("managedFields")
    if asked == [] or asked == [{}]:                # Kubernetes' way to switch tracking off for an object
        after["metadata"].pop("managedFields", None)
        return
    after["metadata"]["managedFields"] = before["metadata"]["managedFields"]
    managers = _managers(before)
    kind = after.get("kind", "")
    now, then = fields_of(after, kind), fields_of(before, kind)
    missing = object()
    changed = {p for p in now if p not in then or lookup(before, p, missing) != lookup(after, p, missing)}
    key = (manager, "Update", sub or "")
    for other, paths in managers.items():
        managers[other] = {p for p in paths if lookup(after, p, missing) is not missing
                           and (other == key or p not in changed)}
    if changed:
        managers[key] = managers.get(key, set()) | changed
    _set_managers(after, managers, api_version, key)


def server_side_apply(machinery: Machinery, served: Served, namespace: str, name: str, applied: Any, *,
                      sub: str | None, manager: str, force: bool, dry_run: bool) -> tuple[Entry, bool]:
    """Apply a manifest for a manager; creates the object where there is none.

    Raises:
        ApiError: Conflict, when another manager owns a field that the manifest sets differently.
    """
    kind = served.kind
    if not isinstance(applied, dict):
        raise errors.bad_request("the applied configuration is no Kubernetes object")
    if applied.get("kind") != kind.kind or not applied.get("apiVersion"):
        raise errors.bad_request(f"invalid object type: {applied.get('apiVersion', '')},"
                                 f" Kind={applied.get('kind', '')}")
    m = applied.setdefault("metadata", {})
    if m.get("managedFields"):
        raise errors.bad_request("metadata.managedFields must be nil")
    if served.from_wire:
        applied = served.from_wire(applied)
        m = applied["metadata"]
    if m.get("name", name) != name:
        raise errors.bad_request(f"the name of the object ({m['name']}) does not match the name on the URL ({name})")
    key = (manager, "Apply", sub or "")
    mine = fields_of(applied, kind.kind)
    old = machinery.store.find(kind.resource, namespace if kind.namespaced else "", name)
    if old is None:
        if sub:
            raise errors.not_found(kind, name)
        new = copy_of(applied)
        new["metadata"] |= {"name": name}
        _set_managers(new, {key: mine}, served.api_version, key)
        return machinery.create(kind, new, namespace, dry_run=dry_run), True
    managers = _managers(old.obj)
    if not managers:
        managers = {("before-first-apply", "Update", ""): fields_of(
            {k: v for k, v in old.obj.items() if k != "status"}, kind.kind)}
    _check_conflicts(old.obj, applied, mine, managers, key, force, served.api_version)
    new = _merge(copy_of(old.obj), applied, kind.kind)
    for other in managers:
        if other != key:
            managers[other] = {p for p in managers[other]
                               if p not in mine or lookup(old.obj, p) == lookup(new, p)}
    owned_by_others = set().union(*(paths for other, paths in managers.items() if other != key))
    # Whole items first: without its key an item could not be found again.
    for path in sorted(managers.get(key, set()) - mine - owned_by_others, key=lambda p: (p[-1] != ".", -len(p))):
        shared = path[-1] == "." and any(p[:len(path) - 1] == path[:-1] for p in owned_by_others)
        if not shared and not _is_key(path):
            _remove(new, path)
    managers[key] = mine
    _set_managers(new, managers, served.api_version, key)
    if not m.get("resourceVersion"):
        new["metadata"].pop("resourceVersion", None)
    return machinery.save(kind, old, new, sub=sub, dry_run=dry_run), False


def _check_conflicts(old: Obj, applied: Obj, mine: set[Path],
                     managers: dict[tuple[str, str, str], set[Path]], key: tuple[str, str, str],
                     force: bool, api_version: str) -> None:
    missing = object()
    conflicts: dict[str, list[str]] = {}
    versions = {e.get("manager", ""): e.get("apiVersion", "") for e in old["metadata"].get("managedFields") or ()
                if e.get("operation") == "Update"}
    for other, paths in managers.items():
        if other == key:
            continue
        who = f'"{other[0]}"'
        if other[1] == "Update":
            who += f" using {versions.get(other[0]) or api_version}"
        for path in sorted(mine & paths):
            if path[-1] != "." and lookup(old, path, missing) != lookup(applied, path, missing):
                conflicts.setdefault(who, []).append(_dotted(path))
    if not conflicts or force:
        return
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": field}
              for who, fields in conflicts.items() for field in fields]
    if len(causes) == 1:
        text = f'{causes[0]["message"]}: {causes[0]["field"]}'
        raise ApiError(409, "Conflict", f"Apply failed with 1 conflict: {text}", {"causes": causes})
    lines = "\n".join(f"conflicts with {who}:\n" + "\n".join(f"- {f}" for f in fields)
                      for who, fields in conflicts.items())
    raise ApiError(409, "Conflict", f"Apply failed with {len(causes)} conflicts: {lines}", {"causes": causes})


def _dotted(path: Path) -> str:
    out = ""
    for part in path:
        if part.startswith("f:"):
            out += "." + part[2:]
        elif part.startswith("k:"):
            values = orjson.loads(part[2:])
            out += "[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in values.items()) + "]"
        else:
            out += f"[={part[2:]}]"
    return out
