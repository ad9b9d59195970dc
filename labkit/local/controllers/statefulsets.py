"""Stateful sets: pods with names that stay, started in order and ended in reverse."""

from __future__ import annotations

from labkit.local.client import Obj

from .base import Context
from .objects import active, available_in, deleting, finished, labels_of, pod_from, ready
from .owners import OwnerController
from .queue import Key
from .revisions import HASH_LABEL, Revisions


def ordinal(owner: Obj, pod: Obj) -> int:
    """The number at the end of the pod's name; -1 if the name is not one of the set's."""
    stem, _, digits = str(pod["metadata"]["name"]).rpartition("-")
    return int(digits) if stem == owner["metadata"]["name"] and digits.isdigit() else -1


class StatefulSets(OwnerController):
    """Runs ordered pods. Volume claims are data in this cluster: nothing provisions them."""

    component = "statefulset-controller"
    kind, resource = "StatefulSet", "statefulsets.apps"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.revisions = Revisions(self.stores)

    def reconcile(self, key: Key) -> None:
        """Take the next step of this set."""
        owner = self.owners.get(key)
        if owner is None or deleting(owner):
            return
        value, revisions = self.revisions.current(owner)
        pods = {number: pod for pod in self.claim(owner) if (number := ordinal(owner, pod)) >= 0}
        self._step(owner, value, pods)
        pods = {ordinal(owner, pod): pod for pod in self.claim(owner)}
        self.revisions.trim(owner, revisions, {labels_of(pod).get(HASH_LABEL, "") for pod in pods.values()})
        self._status(owner, value, pods)

    def _step(self, owner: Obj, value: str, pods: dict[int, Obj]) -> None:
        """One step: start what is missing, end what is too many, then replace what is old."""
        spec, minimum = owner["spec"], owner["spec"].get("minReadySeconds", 0)
        ordered = spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady"
        wanted = spec.get("replicas", 1)

        def good(pod: Obj | None) -> bool:
            return pod is not None and active(pod) and available_in(pod, minimum) == 0

        for number in range(wanted):
            pod = pods.get(number)
            if pod is not None and finished(pod) and not deleting(pod):
                self.delete_pod(owner, pod)
                return
            if pod is None:
                self._create(owner, value, number)
            if ordered and not good(pod):
                return
        for number in sorted((n for n in pods if n >= wanted), reverse=True):
            if not deleting(pods[number]):
                self.delete_pod(owner, pods[number])
            if ordered:
                return
        strategy = spec.get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return
        partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
        for number in range(wanted - 1, partition - 1, -1):
            pod = pods.get(number)
            if pod is not None and labels_of(pod).get(HASH_LABEL) != self._name(owner, value) and not deleting(pod):
                self.delete_pod(owner, pod)
                return
            if not good(pod):
                return

    @staticmethod
    def _name(owner: Obj, value: str) -> str:
        return f"{owner['metadata']['name']}-{value}"

    def _create(self, owner: Obj, value: str, number: int) -> None:
        name = f"{owner['metadata']['name']}-{number}"
        labels = {HASH_LABEL: self._name(owner, value), "statefulset.kubernetes.io/pod-name": name}
        if self.settings.minor >= 28:
            labels["apps.kubernetes.io/pod-index"] = str(number)
        pod = pod_from(owner["spec"]["template"], owner, generate=False, labels=labels)
        pod["metadata"]["name"] = name
        pod["spec"]["hostname"] = name
        if service := owner["spec"].get("serviceName"):
            pod["spec"]["subdomain"] = service
        self.create_pod(owner, pod)

    def _status(self, owner: Obj, value: str, pods: dict[int, Obj]) -> None:
        alive = [pod for pod in pods.values() if not finished(pod)]
        name, minimum = self._name(owner, value), owner["spec"].get("minReadySeconds", 0)
        wanted = owner["spec"].get("replicas", 1)
        updated = [pod for pod in alive if labels_of(pod).get(HASH_LABEL) == name and not deleting(pod)]
        good = [pod for pod in alive if ready(pod) and not deleting(pod)]
        before = owner.get("status") or {}
        done = len(updated) == len(good) == wanted == len(alive)
        current = name if done else before.get("currentRevision") or name
        status: Obj = {
            "observedGeneration": owner["metadata"].get("generation", 1),
            "replicas": len(alive),
            "currentRevision": current,
            "updateRevision": name,
            "collisionCount": before.get("collisionCount", 0),
            "readyReplicas": len(good),
            "updatedReplicas": len(updated),
            "currentReplicas": sum(labels_of(pod).get(HASH_LABEL) == current for pod in alive),
            "availableReplicas": sum(available_in(pod, minimum) == 0 for pod in good),
        }
        self.stores.update_status(self.resource, owner, status)
