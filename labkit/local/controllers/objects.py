"""Small questions about Kubernetes objects, asked by several controllers; all pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from labkit.local.client import Obj, copy_of

from .queue import Key

SAFE = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' alphabet for generated names: no vowels, so no words."""


def now() -> str:
    """The time as Kubernetes writes it."""
    return stamp(datetime.now(UTC))


def stamp(when: datetime) -> str:
    """A time as Kubernetes writes it."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def age(text: str | None) -> float:
    """Seconds since a Kubernetes timestamp; since for ever if there is none."""
    if not text:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def hash_of(data: Any) -> str:
    """A short, stable hash of JSON-like data, in the alphabet of generated names."""
    digits = str(zlib.crc32(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)))
    return "".join(SAFE[ord(c) % len(SAFE)] for c in digits)


def labels_of(obj: Obj) -> dict[str, str]:
    """An object's labels, never None."""
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Obj) -> dict[str, str]:
    """An object's annotations, never None."""
    return obj["metadata"].get("annotations") or {}


def deleting(obj: Obj) -> bool:
    """Whether deletion has begun."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def condition(obj: Obj, kind: str) -> Obj | None:
    """The condition of this type in the object's status."""
    for item in obj.get("status", {}).get("conditions") or ():
        if item["type"] == kind:
            return dict(item)
    return None


def is_true(obj: Obj, kind: str) -> bool:
    """Whether the object's condition of this type is "True"."""
    item = condition(obj, kind)
    return item is not None and item["status"] == "True"


def with_condition(conditions: Iterable[Obj] | None, new: Obj) -> list[Obj]:
    """Conditions with one put in; one that says the same stays as it is, and so do transition times."""
    result, found = [], False
    for old in conditions or ():
        if old["type"] != new["type"]:
            result.append(old)
            continue
        found = True
        if all(
            old.get(field) == new.get(field, old.get(field) if field.startswith("last") else None)
            for field in {*old, *new} - {"lastTransitionTime"}
        ):
            result.append(old)
        else:
            same = old["status"] == new["status"] and "lastTransitionTime" in old
            result.append({**new, "lastTransitionTime": old["lastTransitionTime"] if same else now()})
    if not found:
        result.append({**new, "lastTransitionTime": new.get("lastTransitionTime") or now()})
    return result


# Pods


def finished(pod: Obj) -> bool:
    """Whether the pod's containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def active(pod: Obj) -> bool:
    """Whether the pod counts towards its owner's replicas."""
    return not finished(pod) and not deleting(pod)


def ready(pod: Obj) -> bool:
    """Whether the pod's Ready condition is true."""
    return is_true(pod, "Ready")


def available_in(pod: Obj, min_ready_seconds: int) -> float | None:
    """Seconds until the pod has been ready long enough: 0 if it has, None if it is not ready."""
    item = condition(pod, "Ready")
    if item is None or item["status"] != "True":
        return None
    if not min_ready_seconds:
        return 0
    return max(0.0, min_ready_seconds - age(item.get("lastTransitionTime")))


def pod_from(template: Obj, owner: Obj, *, generate: bool = True, labels: Mapping[str, str] = {}) -> Obj:
    """The pod of an owner's template."""
    meta = template.get("metadata") or {}
    pod_meta: Obj = {
        "namespace": owner["metadata"]["namespace"],
        "labels": {**(meta.get("labels") or {}), **labels},
        "ownerReferences": [owner_reference(owner)],
    }
    if meta.get("annotations"):
        pod_meta["annotations"] = dict(meta["annotations"])
    if meta.get("finalizers"):
        pod_meta["finalizers"] = list(meta["finalizers"])
    if generate:
        pod_meta["generateName"] = owner["metadata"]["name"] + "-"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": pod_meta, "spec": copy_of(template["spec"])}


# Owners


def owner_reference(owner: Obj) -> Obj:
    """A reference to the controller of an object."""
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_of(obj: Obj) -> Obj | None:
    """The reference to the object's controller, if it has one."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def controller_uids(obj: Obj) -> tuple[str, ...]:
    """Index: under the uid of the controller; orphans under "orphan/namespace"."""
    reference = controller_of(obj)
    return (reference["uid"] if reference else "orphan/" + obj["metadata"].get("namespace", ""),)


def owner_key(obj: Obj, kind: str) -> Key | None:
    """The key of the object's controller, if that is of this kind."""
    reference = controller_of(obj)
    if reference is None or reference["kind"] != kind:
        return None
    return obj["metadata"].get("namespace", ""), reference["name"]


# Selectors and quantities


def matches(selector: Obj | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects these labels; None selects nothing, {} everything."""
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(requirement(item, labels) for item in selector.get("matchExpressions") or ())


def requirement(item: Obj, values: Mapping[str, str]) -> bool:
    """Whether one expression of a label or node selector holds."""
    key, operator = item["key"], item["operator"]
    listed = item.get("values") or []
    if operator == "In":
        return values.get(key) in listed
    if operator == "NotIn":
        return values.get(key) not in listed
    if operator == "Exists":
        return key in values
    if operator == "DoesNotExist":
        return key not in values
    try:
        have, want = int(values.get(key, "")), int(listed[0])
    except (ValueError, IndexError):
        return False
    return have > want if operator == "Gt" else have < want


SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}


def quantity(text: Any) -> float:
    """A Kubernetes quantity such as "100m" or "1Gi" as a number."""
    if isinstance(text, int | float):
        return float(text)
    digits = text.rstrip("numkKMGTPi")
    return float(digits) * SUFFIXES.get(text[len(digits) :], 1.0)


def scaled(value: Any, total: int, *, up: bool) -> int:
    """An int-or-percent of a total, rounded as asked."""
    if isinstance(value, str) and value.endswith("%"):
        product = int(value[:-1]) * total
        return -(-product // 100) if up else product // 100
    return int(value)
