"""How a deployment gets from its old replica sets to its new one: pure, as Kubernetes does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.local.client import Obj

from .objects import annotations_of, scaled

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"


@dataclass(frozen=True)
class Scale:
    """Give a replica set this many replicas."""

    replica_set: Obj
    replicas: int


def replicas_of(obj: Obj) -> int:
    """The replicas that a deployment or replica set asks for."""
    return int(obj["spec"].get("replicas", 1))


def available_of(replica_set: Obj) -> int:
    """The replicas of it that are available."""
    return int((replica_set.get("status") or {}).get("availableReplicas", 0))


def recreates(deployment: Obj) -> bool:
    """Whether its old pods go before new ones come."""
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "Recreate")


def limits(deployment: Obj) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; both 0 for Recreate; never both 0 for a rolling update."""
    if recreates(deployment):
        return 0, 0
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    total = replicas_of(deployment)
    surge = scaled(rolling.get("maxSurge", "25%"), total, up=True)
    unavailable = scaled(rolling.get("maxUnavailable", "25%"), total, up=False)
    return (surge, 1) if not surge and not unavailable else (surge, min(unavailable, total))


def same_template(deployment: Obj, replica_set: Obj) -> bool:
    """Whether the replica set makes the deployment's pods."""
    ours, theirs = deployment["spec"]["template"], replica_set["spec"]["template"]
    return _bare(ours) == _bare(theirs)


def _bare(template: Obj) -> Obj:
    meta = template.get("metadata") or {}
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != HASH_LABEL}
    return {"labels": labels, "annotations": meta.get("annotations") or {}, "spec": template["spec"]}


def revision_of(replica_set: Obj) -> int:
    """The revision that a replica set stands for; 0 if it does not say."""
    text = annotations_of(replica_set).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def oldest_first(replica_sets: Sequence[Obj]) -> list[Obj]:
    """Replica sets by age."""
    return sorted(replica_sets, key=lambda rs: (rs["metadata"]["creationTimestamp"], rs["metadata"]["name"]))


def plan_scale(deployment: Obj, new: Obj | None, old: Sequence[Obj]) -> list[Scale]:
    """When only the number of replicas changed: keep proportions between the sets of a rollout."""
    with_pods = [rs for rs in (*old, *([new] if new else [])) if replicas_of(rs)]
    wanted = replicas_of(deployment)
    if len(with_pods) <= 1:
        only = with_pods[0] if with_pods else new
        return [Scale(only, wanted)] if only and replicas_of(only) != wanted else []
    if new and replicas_of(new) == wanted and available_of(new) == wanted:
        return [Scale(rs, 0) for rs in old if replicas_of(rs)]
    if recreates(deployment):
        return []
    surge, _ = limits(deployment)
    total, allowed = sum(map(replicas_of, with_pods)), (wanted + surge if wanted else 0)
    missing = rest = allowed - total
    result = {id(rs): replicas_of(rs) for rs in with_pods}
    ordered = sorted(with_pods, key=lambda rs: (replicas_of(rs), rs["metadata"]["creationTimestamp"]), reverse=True)
    for rs in ordered:
        before = replicas_of(rs)
        known = int(annotations_of(rs).get(MAXIMUM, total) or total)
        share = round(before * (allowed / known)) - before
        share = max(0, min(share, rest)) if missing > 0 else min(0, max(share, rest))
        result[id(rs)] += share
        rest -= share
    result[id(ordered[0])] = max(0, result[id(ordered[0])] + rest)
    return [Scale(rs, result[id(rs)]) for rs in with_pods if result[id(rs)] != replicas_of(rs)]


def plan_new(deployment: Obj, new: Obj, old: Sequence[Obj]) -> list[Scale]:
    """Scale the new set up as far as the surge allows, or down to what is wanted."""
    wanted, have = replicas_of(deployment), replicas_of(new)
    if have > wanted:
        return [Scale(new, wanted)]
    surge, _ = limits(deployment)
    room = wanted + surge - sum(map(replicas_of, (*old, new)))
    up = min(room, wanted - have)
    return [Scale(new, have + up)] if up > 0 else []


def plan_old(deployment: Obj, new: Obj, old: Sequence[Obj]) -> list[Scale]:
    """Scale old sets down as far as availability allows: first what is not available anyway."""
    left = {id(rs): replicas_of(rs) for rs in old}
    if not any(left.values()):
        return []
    _, unavailable = limits(deployment)
    minimum = replicas_of(deployment) - unavailable
    new_unavailable = replicas_of(new) - available_of(new)
    budget = sum(left.values()) + replicas_of(new) - minimum - new_unavailable
    if budget <= 0:
        return []
    ordered, cleaned = oldest_first(old), 0
    for rs in ordered:
        down = min(budget - cleaned, replicas_of(rs) - available_of(rs))
        if down > 0:
            left[id(rs)] -= down
            cleaned += down
    # What an old set says of itself may be from before it was scaled down: then there is less to spare.
    spare = min(sum(map(available_of, (*old, new))) - minimum, budget - cleaned)
    for rs in ordered:
        down = min(spare, left[id(rs)])
        if down > 0:
            left[id(rs)] -= down
            spare -= down
    return [Scale(rs, left[id(rs)]) for rs in ordered if left[id(rs)] != replicas_of(rs)]


def complete(deployment: Obj, status: Obj) -> bool:
    """Whether a rollout is done."""
    wanted = replicas_of(deployment)
    return bool(
        status.get("updatedReplicas", 0) == wanted == status.get("replicas", 0)
        and status.get("availableReplicas", 0) == wanted
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    )


def progressing(old: Obj, new: Obj) -> bool:
    """Whether a rollout moved between two statuses."""

    def old_replicas(status: Obj) -> int:
        return int(status.get("replicas", 0)) - int(status.get("updatedReplicas", 0))

    return bool(
        new.get("updatedReplicas", 0) > old.get("updatedReplicas", 0)
        or old_replicas(new) < old_replicas(old)
        or new.get("readyReplicas", 0) > old.get("readyReplicas", 0)
        or new.get("availableReplicas", 0) > old.get("availableReplicas", 0)
    )


def count(deployment: Obj, new: Obj | None, all_sets: Sequence[Obj]) -> Obj:
    """The numbers of a deployment's status; zeros are left out, as Kubernetes does."""

    def total(field: str, sets: Sequence[Obj]) -> int:
        return sum((rs.get("status") or {}).get(field, 0) for rs in sets)

    available = total("availableReplicas", all_sets)
    status = {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        "replicas": total("replicas", all_sets),
        "updatedReplicas": total("replicas", [new] if new else []),
        "readyReplicas": total("readyReplicas", all_sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(map(replicas_of, all_sets)) - available),
    }
    return {field: number for field, number in status.items() if number}


def with_hash(labels: Obj | None, value: str) -> Obj:
    """Labels, or a selector's matchLabels, with the template's hash."""
    return {**(labels or {}), HASH_LABEL: value}
