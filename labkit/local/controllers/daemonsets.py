"""Daemon sets: one pod on each node that wants it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labkit.local.client import Obj, copy_of

from .base import Context
from .fit import selected, untolerated
from .objects import (
    active,
    age,
    available_in,
    deleting,
    finished,
    labels_of,
    pod_from,
    scaled,
)
from .owners import OwnerController
from .queue import Key
from .revisions import HASH_LABEL, Revisions
from .store import key_of

TOLERATIONS = tuple(
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": effect}
    for key, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
)
HOST_TOLERATION = {
    "key": "node.kubernetes.io/network-unavailable",
    "operator": "Exists",
    "effect": "NoSchedule",
}
GENERATION = "pod-template-generation"
RETRY_FAILED = 1.0


@dataclass(frozen=True)
class Wish:
    """What a daemon set makes of a node: whether a pod should start there, and whether one may stay."""

    start: bool
    stay: bool


def tolerations_for(spec: Obj) -> list[Obj]:
    """A daemon pod's tolerations: its template's, and Kubernetes' for daemon pods."""
    ours = list(spec.get("tolerations") or ())
    extra = [*TOLERATIONS, *([HOST_TOLERATION] if spec.get("hostNetwork") else [])]
    return ours + [t for t in extra if t not in ours]


def wish_for(spec: Obj, node: Obj) -> Wish:
    """Whether the node is for pods of this template."""
    if spec.get("nodeName") and spec["nodeName"] != node["metadata"]["name"]:
        return Wish(False, False)
    if not selected(spec, node):
        return Wish(False, False)
    tolerations = tolerations_for(spec)
    if untolerated(node, tolerations, ("NoExecute",)):
        return Wish(False, False)
    return Wish(not untolerated(node, tolerations, ("NoSchedule",)), True)


def pinned(spec: Obj, node: str) -> Obj:
    """The template's spec for the pod of one node: only that node will do for the scheduler."""
    spec = copy_of(spec)
    spec["tolerations"] = tolerations_for(spec)
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [{**term, "matchFields": [here]} for term in terms]
    return dict(spec)


def node_of(pod: Obj) -> str:
    """The node that a daemon pod is on, or is for."""
    if name := pod["spec"].get("nodeName"):
        return str(name)
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    for term in (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms", ()):
        for item in term.get("matchFields") or ():
            if item["key"] == "metadata.name" and item["values"]:
                return str(item["values"][0])
    return ""


def plan_update(daemon: Obj, value: str, wanted: Sequence[str], by_node: dict[str, list[Obj]]) -> list[Obj]:
    """The pods of old templates to delete now, so that no more than maxUnavailable nodes lack one."""
    strategy = daemon["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return []
    minimum = daemon["spec"].get("minReadySeconds", 0)
    limit = max(1, scaled((strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1), len(wanted), up=True))
    unavailable = 0
    broken: list[Obj] = []
    good: list[Obj] = []
    for node in wanted:
        pods = [pod for pod in by_node.get(node, ()) if active(pod)]
        if not any(available_in(pod, minimum) == 0 for pod in pods):
            unavailable += 1
        for pod in pods:
            if labels_of(pod).get(HASH_LABEL) != value:
                (good if available_in(pod, minimum) == 0 else broken).append(pod)
    return broken + good[: max(0, limit - unavailable)]


class DaemonSets(OwnerController):
    """Creates and deletes daemon pods as nodes come, go and change."""

    component = "daemonset-controller"
    kind, resource = "DaemonSet", "daemonsets.apps"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.nodes = self.stores["nodes"]
        self.revisions = Revisions(self.stores)
        self.nodes.subscribe(self._on_node)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if (
            old is None
            or new is None
            or labels_of(old) != labels_of(new)
            or old["spec"].get("taints") != new["spec"].get("taints")
        ):
            for owner in self.owners:
                self.enqueue(key_of(owner))

    def reconcile(self, key: Key) -> None:
        """Start, end and renew the daemon pods of this set."""
        daemon = self.owners.get(key)
        if daemon is None:
            return
        wishes = {node["metadata"]["name"]: wish_for(daemon["spec"]["template"]["spec"], node) for node in self.nodes}
        by_node: dict[str, list[Obj]] = {}
        for pod in self.claim(daemon):
            by_node.setdefault(node_of(pod), []).append(pod)
        if deleting(daemon):
            return
        value, revisions = self.revisions.current(daemon)
        self._manage(daemon, value, wishes, by_node)
        wanted = [name for name, wish in wishes.items() if wish.start]
        for pod in plan_update(daemon, value, wanted, by_node):
            self.delete_pod(daemon, pod)
        pods = self.children.by("controller", daemon["metadata"]["uid"])
        self.revisions.trim(daemon, revisions, {labels_of(pod).get(HASH_LABEL, "") for pod in pods})
        status, again = status_of(daemon, value, wishes, pods)
        self.stores.update_status(self.resource, daemon, status)
        if again:
            self.enqueue_after(key, again)

    def _manage(self, daemon: Obj, value: str, wishes: dict[str, Wish], by_node: dict[str, list[Obj]]) -> None:
        for name in {*wishes, *by_node}:
            wish, pods = wishes.get(name, Wish(False, False)), by_node.get(name, [])
            alive = [pod for pod in pods if not deleting(pod)]
            if not wish.stay:
                for pod in alive:
                    self.delete_pod(daemon, pod)
                continue
            working = [pod for pod in alive if not finished(pod)]
            for pod in alive:
                if finished(pod):
                    self._retire(daemon, pod, name)
            for extra in sorted(working, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))[1:]:
                self.delete_pod(daemon, extra)
            if wish.start and not pods:
                self._create(daemon, value, name)

    def _retire(self, daemon: Obj, pod: Obj, node: str) -> None:
        """A daemon pod has ended, which it never should: away with it, but not in a tight circle."""
        if age(pod["metadata"]["creationTimestamp"]) < RETRY_FAILED:
            self.enqueue_after(key_of(daemon), RETRY_FAILED)
            return
        self.events.warning(
            daemon,
            "FailedDaemonPod",
            "Found failed daemon pod "
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']} on node {node}, will try to kill it",
        )
        self.delete_pod(daemon, pod)

    def _create(self, daemon: Obj, value: str, node: str) -> None:
        template = daemon["spec"]["template"]
        labels = {HASH_LABEL: value, GENERATION: str(daemon["metadata"].get("generation", 1))}
        pod = pod_from({**template, "spec": pinned(template["spec"], node)}, daemon, labels=labels)
        self.create_pod(daemon, pod)


def status_of(daemon: Obj, value: str, wishes: dict[str, Wish], pods: Iterable[Obj]) -> tuple[Obj, float]:
    """The daemon set's status, and when to look again."""
    minimum = daemon["spec"].get("minReadySeconds", 0)
    by_node: dict[str, list[Obj]] = {}
    for pod in pods:
        if not deleting(pod):
            by_node.setdefault(node_of(pod), []).append(pod)
    number = dict.fromkeys(("desired", "current", "ready", "available", "updated", "misplaced"), 0)
    again = 0.0
    for name, wish in wishes.items():
        here = sorted(by_node.get(name, ()), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        if not wish.start:
            number["misplaced"] += bool(here)
            continue
        number["desired"] += 1
        if here:
            number["current"] += 1
            number["updated"] += labels_of(here[0]).get(HASH_LABEL) == value
            wait = available_in(here[0], minimum)
            number["ready"] += wait is not None
            number["available"] += wait == 0
            again = min(filter(None, (again, wait or 0.0)), default=0.0)
    status = {
        "currentNumberScheduled": number["current"],
        "numberMisscheduled": number["misplaced"],
        "desiredNumberScheduled": number["desired"],
        "numberReady": number["ready"],
        "observedGeneration": daemon["metadata"].get("generation", 1),
    }
    for field, count in (
        ("updatedNumberScheduled", number["updated"]),
        ("numberAvailable", number["available"]),
        ("numberUnavailable", number["desired"] - number["available"]),
    ):
        if count:
            status[field] = count
    return status, again
