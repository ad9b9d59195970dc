"""Small questions about Kubernetes objects, asked by several controllers; all pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from labkit.local.client import Obj, copy_of, timestamp
from labkit.local.kubeapi.meta import ALPHABET
from labkit.local.kubeapi.pod_rules import amount_of

from .queue import Key


def age(text: str | None) -> float:
    """Seconds since a Kubernetes timestamp; since for ever if there is none."""
    if not text:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def hash_of(data: Any) -> str:
    """A short, stable hash of JSON-like data, in the alphabet of generated names."""
    digits = str(zlib.crc32(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)))
    return "".join(ALPHABET[ord(c) % len(ALPHABET)] for c in digits)


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


def saying(kind: str, true: bool, reason: str, message: str) -> Obj:
    """A condition."""
    return {"type": kind, "status": "True" if true else "False", "reason": reason, "message": message}


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
            result.append({**new, "lastTransitionTime": old["lastTransitionTime"] if same else timestamp()})
    if not found:
        result.append({**new, "lastTransitionTime": new.get("lastTransitionTime") or timestamp()})
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


# Quantities


def quantity(text: Any) -> float:
    """A Kubernetes quantity such as "100m" or "1Gi" as a number; 0 for what is none."""
    return float(text if isinstance(text, int | float) else amount_of(text) or 0)


def scaled(value: Any, total: int, *, up: bool) -> int:
    """An int-or-percent of a total, rounded as asked."""
    if isinstance(value, str) and value.endswith("%"):
        product = int(value[:-1]) * total
        return -(-product // 100) if up else product // 100
    return int(value)
