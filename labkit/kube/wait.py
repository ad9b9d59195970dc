"""Waiting for a cluster to converge; every wait says what it saw last when it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable

from labkit.errors import KubeError, WaitError
from labkit.kube.client import Obj
from labkit.plan import Evidence


def wait_for(what: str, look: Callable[[], Evidence], timeout: float = 120.0,
             pause: float = 0.05) -> Evidence:
    """Look until it holds.

    Args:
        what: what is waited for, for the message.
        look: looks once.
        timeout: seconds.
        pause: seconds between the first two looks; later ones are rarer, up to half a second.

    Raises:
        WaitError: it did not come.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            evidence = look()
        except KubeError as error:
            evidence = Evidence(False, error.what)
        if evidence:
            return evidence
        if time.monotonic() > deadline:
            raise WaitError(f"{what}: not so within {timeout:.0f} s.", f"last seen: {evidence.text}",
                            "look with `lab.diagnose()`.")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


def rolled_out(obj: Obj) -> Evidence:
    """Whether a deployment's or daemon set's pods are all new and ready, as `kubectl rollout status` judges.

    Args:
        obj: the deployment or daemon set.
    """
    status = obj.get("status", {})
    name = obj["metadata"]["name"]
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return Evidence(False, f"{name}: the change is not observed yet")
    if obj["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        updated, ready = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
        old = 0
    else:
        wanted = obj["spec"].get("replicas", 1)
        updated, ready = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        old = status.get("replicas", 0) - updated
    said = f"{name}: {updated} of {wanted} pods updated, {ready} available"
    if old > 0:
        return Evidence(False, f"{said}, {old} old ones still there")
    return Evidence(updated >= wanted and ready >= wanted, said)


def is_ready(obj: Obj) -> bool:
    """Whether a pod's or a node's Ready condition is true."""
    conditions = obj.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def waiting_reason(pod: Obj) -> str:
    """Why a container of a pod waits, such as "ErrImagePull"; empty where none does."""
    for status in pod.get("status", {}).get("containerStatuses", []):
        waiting = status.get("state", {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", ""))
    return ""
