"""A pod's cells: what `kubectl get pods` says of its containers. Pure."""

from __future__ import annotations

from typing import Any

from labkit.local.client import Obj

from .words import NONE, age


def _init_status(pod: Obj) -> str | None:
    specs = {c["name"]: c for c in pod["spec"].get("initContainers") or ()}
    for i, status in enumerate(pod.get("status", {}).get("initContainerStatuses") or ()):
        state = status.get("state") or {}
        done = state.get("terminated")
        if done and done.get("exitCode") == 0:
            continue
        if specs.get(status["name"], {}).get("restartPolicy") == "Always" and status.get("started"):
            continue
        if done:
            if reason := done.get("reason"):
                return f"Init:{reason}"
            return f"Init:Signal:{done['signal']}" if done.get("signal") else f"Init:ExitCode:{done['exitCode']}"
        waiting = state.get("waiting") or {}
        if (reason := waiting.get("reason")) and reason != "PodInitializing":
            return f"Init:{reason}"
        return f"Init:{i}/{len(specs)}"
    return None


def status_of(pod: Obj) -> str:
    """The STATUS column."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    init = _init_status(pod)
    if init:
        reason = init
    else:
        running = False
        for one in reversed(status.get("containerStatuses") or ()):
            state = one.get("state") or {}
            waiting, done = state.get("waiting") or {}, state.get("terminated")
            if waiting.get("reason"):
                reason = waiting["reason"]
            elif done:
                reason = done.get("reason") or (f"Signal:{done['signal']}" if done.get("signal")
                                                else f"ExitCode:{done.get('exitCode')}")
            elif one.get("ready") and "running" in state:
                running = True
        if reason == "Completed" and running:
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
            reason = "Running" if ready else "NotReady"
    if "deletionTimestamp" in pod["metadata"]:
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(reason)


def ready(pod: Obj) -> str:
    """The READY column."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ready = sum(bool(s.get("ready")) and "running" in (s.get("state") or {}) for s in statuses)
    return f"{ready}/{len(pod['spec'].get('containers') or ())}"


def restarts(pod: Obj) -> Any:
    """The RESTARTS column."""
    status = pod.get("status") or {}
    which = "initContainerStatuses" if _init_status(pod) else "containerStatuses"
    statuses = status.get(which) or ()
    count = sum(s.get("restartCount", 0) for s in statuses)
    ends = [((s.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for s in statuses]
    last = max((e for e in ends if e), default=None)
    return f"{count} ({age(last)} ago)" if count and last else str(count)


def address(pod: Obj) -> str:
    """The IP column."""
    return (pod.get("status") or {}).get("podIP") or NONE


def gates(pod: Obj) -> str:
    """The READINESS GATES column."""
    gates = pod["spec"].get("readinessGates") or ()
    if not gates:
        return NONE
    true = {c["type"] for c in (pod.get("status") or {}).get("conditions") or () if c["status"] == "True"}
    return f"{sum(g['conditionType'] in true for g in gates)}/{len(gates)}"
