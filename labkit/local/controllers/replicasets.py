"""Replica sets and replication controllers: as many pods as asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from labkit.local.client import ApiError, Obj

from .objects import (
    active,
    annotations_of,
    available_in,
    condition,
    controller_of,
    deleting,
    labels_of,
    pod_from,
    ready,
    saying,
    with_condition,
)
from .owners import OwnerController
from .queue import Key
from .store import key_of

BURST = 25
"""Pods created or deleted at a time, so that a set of hundreds leaves the loop free in between."""


class ReplicaSets(OwnerController):
    """Creates and deletes pods, and counts them."""

    component = "replicaset-controller"
    kind, resource = "ReplicaSet", "replicasets.apps"

    def reconcile(self, key: Key) -> None:
        """Create or delete pods until the number is right."""
        owner = self.owners.get(key)
        if owner is None:
            return
        failure: ApiError | None = None
        pods = [pod for pod in self.claim(owner) if active(pod)]
        if not deleting(owner):
            try:
                pods = self._scale(owner, pods)
            except ApiError as error:
                failure = error
        status, again = status_of(owner, pods, failure)
        self.stores.update_status(self.resource, owner, status)
        if again:
            self.enqueue_after(key, again)
        if failure:
            raise failure

    def _scale(self, owner: Obj, pods: list[Obj]) -> list[Obj]:
        missing = owner["spec"].get("replicas", 1) - len(pods)
        if missing > 0:
            pods = pods + [
                self.create_pod(owner, pod_from(owner["spec"]["template"], owner)) for _ in range(min(missing, BURST))
            ]
        elif missing < 0:
            doomed = victims(pods, min(-missing, BURST), self._crowd(owner))
            for pod in doomed:
                self.delete_pod(owner, pod)
            gone = {pod["metadata"]["uid"] for pod in doomed}
            pods = [pod for pod in pods if pod["metadata"]["uid"] not in gone]
        if abs(missing) > BURST:
            self.enqueue(key_of(owner))
        return pods

    def _crowd(self, owner: Obj) -> Counter[str]:
        """How many pods of the same deployment each node has: the fullest gives up a pod first."""
        parent, count = controller_of(owner), Counter[str]()
        for sibling in self.owners.by("namespace", owner["metadata"]["namespace"]):
            other = controller_of(sibling)
            if sibling is owner or (parent and other and other["uid"] == parent["uid"]):
                for pod in self.children.by("controller", sibling["metadata"]["uid"]):
                    if active(pod):
                        count[pod["spec"].get("nodeName", "")] += 1
        return count


class ReplicationControllers(ReplicaSets):
    """What replica sets were called before they had expressions to select by; the same otherwise."""

    component = "replication-controller"
    kind, resource = "ReplicationController", "replicationcontrollers"

    def selector(self, owner: Obj) -> Obj | None:
        """Its selector is labels alone."""
        return {"matchLabels": owner["spec"].get("selector")}


def victims(pods: list[Obj], count: int, crowd: Counter[str]) -> list[Obj]:
    """The pods that are missed least, in Kubernetes' order."""
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}

    def rank(pod: Obj) -> tuple[Any, ...]:
        node = pod["spec"].get("nodeName", "")
        status = pod.get("status", {})
        since = (condition(pod, "Ready") or {}).get("lastTransitionTime", "")
        restarts = max((c.get("restartCount", 0) for c in status.get("containerStatuses") or ()), default=0)
        cost = annotations_of(pod).get("controller.kubernetes.io/pod-deletion-cost", "0")
        return (
            bool(node),
            phases.get(status.get("phase", "Pending"), 2),
            ready(pod),
            int(cost) if cost.lstrip("-").isdigit() else 0,
            -crowd[node],
            _newest_first(since),
            -restarts,
            _newest_first(pod["metadata"]["creationTimestamp"]),
        )

    return sorted(pods, key=rank)[:count]


def _newest_first(stamp: str) -> tuple[int, ...]:
    return tuple(-ord(c) for c in stamp)


def status_of(owner: Obj, pods: list[Obj], failure: ApiError | None = None) -> tuple[Obj, float]:
    """The status of a replica set with these active pods, and when to look again."""
    spec, old = owner["spec"], owner.get("status") or {}
    wanted = (spec["template"].get("metadata") or {}).get("labels") or {}
    waits = [available_in(pod, spec.get("minReadySeconds", 0)) for pod in pods]
    status: Obj = {"replicas": len(pods), "observedGeneration": owner["metadata"].get("generation", 1)}
    for field, number in {
        "fullyLabeledReplicas": sum(wanted.items() <= labels_of(pod).items() for pod in pods),
        "readyReplicas": sum(wait is not None for wait in waits),
        "availableReplicas": sum(wait == 0 for wait in waits),
    }.items():
        if number:
            status[field] = number
    conditions = [c for c in old.get("conditions") or () if c["type"] != "ReplicaFailure"]
    if failure:
        conditions = with_condition(
            old.get("conditions"),
            saying("ReplicaFailure", True, "FailedCreate", str(failure)),
        )
    if conditions:
        status["conditions"] = conditions
    return status, min((wait for wait in waits if wait), default=0)
