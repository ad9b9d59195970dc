"""How the operator reports: a TigeraStatus from what its objects and pods look like. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.local.client import Obj

from .release import Release


@dataclass(frozen=True, slots=True)
class Degraded:
    """Why the operator stopped half way.

    Args:
        reason: one word, such as "InvalidConfigurationError".
        doing: what it was doing.
        error: what stopped it.
    """

    reason: str
    doing: str
    error: str


@dataclass(frozen=True, slots=True)
class Health:
    """What its workloads tell."""

    progressing: tuple[str, ...]
    failing: tuple[str, ...]


def health(daemonset: Obj | None, deployment: Obj | None, pods: Iterable[Obj]) -> Health:
    """What is still on its way, and what fails."""
    progressing = []
    if daemonset is not None:
        progressing += _daemonset(daemonset)
    if deployment is not None:
        progressing += _deployment(deployment)
    failing = [message for pod in pods if (message := _pod(pod))]
    return Health(tuple(progressing), tuple(failing))


def conditions(release: Release, state: Health | None, degraded: Degraded | None, old: Iterable[Obj],
               now: str) -> list[Obj]:
    """TigeraStatus' conditions.

    Args:
        release: of the operator; wording changed over time.
        state: of the workloads; None before there are any.
        degraded: an error of the operator's own.
        old: the conditions that are there, for their times.
        now: the time, for those that change.
    """
    failing = state.failing if state else ()
    progressing = state.progressing if state else ()
    fine = state is not None and not failing and not progressing
    bad = [f"{degraded.doing}: {degraded.error}"] if degraded else []
    bad += failing
    said: dict[str, tuple[bool, str, str]] = {}
    if release.reasons:
        all_good = ("AllObjectsAvailable", "All Objects Available") if fine else ("Unknown", "")
        said["Available"] = (fine, *(("AllObjectsAvailable", "All objects available") if fine else all_good))
        said["Progressing"] = ((True, "ResourceNotReady", "\n".join(progressing)) if progressing and not failing
                               else (False, *all_good))
        reason = degraded.reason if degraded else "PodFailure"
        said["Degraded"] = (True, reason, "\n".join(bad)) if bad else (False, *all_good)
    else:
        said["Available"] = (fine, "All objects available" if fine else "", "")
        said["Progressing"] = ((True, "Not all pods are ready", "\n".join(progressing))
                               if progressing and not failing else (False, "", ""))
        reasons = ([degraded.doing] if degraded else []) + (["Some pods are failing"] if failing else [])
        messages = ([degraded.error] if degraded else []) + list(failing)
        said["Degraded"] = (True, "; ".join(reasons), "\n".join(messages)) if bad else (False, "", "")
    known = {condition["type"]: condition for condition in old}
    out = []
    for type, (on, reason, message) in said.items():
        status = "True" if on else "False"
        before = known.get(type)
        since = before["lastTransitionTime"] if before and before["status"] == status else now
        condition = {"type": type, "status": status, "lastTransitionTime": since}
        out.append(condition | ({"reason": reason} if reason else {}) | ({"message": message} if message else {}))
    return out


def _daemonset(obj: Obj) -> list[str]:
    name = f'"{obj["metadata"]["namespace"]}/{obj["metadata"]["name"]}"'
    status = obj.get("status") or {}
    updated, desired = status.get("updatedNumberScheduled", 0), status.get("desiredNumberScheduled", 0)
    if updated < desired:
        return [f"DaemonSet {name} update is rolling out ({updated} out of {desired} updated)"]
    if status.get("numberUnavailable", 0) > 0:
        return [f"DaemonSet {name} is not available (awaiting {status['numberUnavailable']} nodes)"]
    if status.get("numberAvailable", 0) == 0:
        return [f"DaemonSet {name} is not yet scheduled on any nodes"]
    return _processed(f"DaemonSet {name}", obj)


def _deployment(obj: Obj) -> list[str]:
    name = f'"{obj["metadata"]["namespace"]}/{obj["metadata"]["name"]}"'
    status = obj.get("status") or {}
    if status.get("unavailableReplicas", 0) > 0:
        return [f"Deployment {name} is not available (awaiting {status['unavailableReplicas']} replicas)"]
    if status.get("availableReplicas", 0) == 0:
        return [f"Deployment {name} is not yet scheduled on any nodes"]
    return _processed(f"Deployment {name}", obj)


def _processed(said: str, obj: Obj) -> list[str]:
    observed, generation = (obj.get("status") or {}).get("observedGeneration", 0), obj["metadata"].get("generation", 0)
    return [f"{said} update is being processed (generation {generation}, observed generation "
            f"{observed})"] if observed < generation else []


def _pod(pod: Obj) -> str | None:
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return f"Pod {where} has failed"
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        state = container.get("state") or {}
        waiting = (state.get("waiting") or {}).get("reason")
        if waiting == "CrashLoopBackOff":
            return f"Pod {where} has crash looping container: {container['name']}"
        if waiting in ("ImagePullBackOff", "ErrImagePull"):
            return f"Pod {where} failed to pull container image for: {container['name']}"
        if (state.get("terminated") or {}).get("reason") == "Error":
            return f"Pod {where} has terminated container: {container['name']}"
    return None
