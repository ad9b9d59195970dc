"""Disruption budgets: how many of their pods may be evicted now. `kubectl drain` asks, by evicting."""

from __future__ import annotations

from labkit.local.client import Obj, find, timestamp
from labkit.local.kubeapi.disruption import BUDGETS, covers

from .base import Context, Controller
from .kinds import OWNABLE
from .objects import age, condition, controller_of, deleting, is_true, scaled
from .queue import Key
from .store import key_of

DELETION_TIMEOUT = 120.0
"""Seconds after which an evicted pod that is still there counts again."""
SCALED = ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController")
_UNMANAGED = ('Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the'
              ' status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account'
              ' for these pods please set ".spec.minAvailable" field of the PDB to an integer value.')


class UncountableError(Exception):
    """How many pods there should be cannot be told: then nothing may be evicted."""


class Disruption(Controller):
    """Keeps each budget's status equal to what its pods are."""

    component = "controllermanager"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.budgets, self.pods = self.stores[BUDGETS], self.stores["pods"]
        self.budgets.index("namespace", lambda obj: (obj["metadata"]["namespace"],))
        self.pods.index("namespace", lambda obj: (obj["metadata"]["namespace"],))
        self.budgets.subscribe(self.on_object)
        self.pods.subscribe(self._on_pod)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        pod = new or old
        assert pod is not None
        for budget in self.budgets.by("namespace", pod["metadata"]["namespace"]):
            if any(version is not None and covers(budget, version, self.settings.minor) for version in (old, new)):
                self.enqueue(key_of(budget))

    def reconcile(self, key: Key) -> None:
        """Count the pods, and write how many may go."""
        budget = self.budgets.get(key)
        if budget is None:
            return
        pods = [pod for pod in self.pods.by("namespace", key[0]) if covers(budget, pod, self.settings.minor)]
        if not pods:
            self.events.normal(budget, "NoPods", "No matching pods found")
        status = budget.get("status") or {}
        try:
            expected, desired = self._expected(budget, pods)
        except UncountableError as error:
            self.events.warning(budget, "CalculateExpectedPodCountFailed",
                                f"Failed to calculate the number of expected pods: {error}")
            self._write(budget, {**status, "disruptionsAllowed": 0}, "SyncFailed", str(error))
            return
        disrupted = still_disrupted(status.get("disruptedPods") or {}, pods)
        healthy = sum(is_true(pod, "Ready") and not deleting(pod) and pod["metadata"]["name"] not in disrupted
                      for pod in pods)
        allowed = max(healthy - desired, 0) if expected > 0 else 0
        self._write(budget, {**{k: v for k, v in status.items() if k != "disruptedPods"},
                             **({"disruptedPods": disrupted} if disrupted else {}),
                             "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired,
                             "expectedPods": expected, "observedGeneration": budget["metadata"]["generation"]},
                    "SufficientPods" if allowed else "InsufficientPods")
        if disrupted:
            self.enqueue_after(key, DELETION_TIMEOUT - max(map(age, disrupted.values())) + 1)

    def _write(self, budget: Obj, status: Obj, reason: str, message: str = "") -> None:
        if self.settings.minor >= 21:
            wanted = {"type": "DisruptionAllowed", "status": "True" if reason == "SufficientPods" else "False",
                      "reason": reason, "message": message,
                      "observedGeneration": status.get("observedGeneration", 0)}
            old = condition(budget, wanted["type"]) or {}
            since = old["lastTransitionTime"] if old.get("status") == wanted["status"] else timestamp()
            status = {**status, "conditions": [{**wanted, "lastTransitionTime": since}]}
        self.stores.update_status(BUDGETS, budget, status)

    def _expected(self, budget: Obj, pods: list[Obj]) -> tuple[int, int]:
        """How many pods there should be, and how many of them healthy.

        Raises:
            UncountableError: the budget asks for a part of all, and nobody says how many all are.
        """
        spec = budget["spec"]
        if (unavailable := spec.get("maxUnavailable")) is not None:
            expected = self._scale(budget, pods)
            return expected, max(expected - scaled(unavailable, expected, up=True), 0)
        available = spec.get("minAvailable")
        if isinstance(available, str):
            expected = self._scale(budget, pods)
            return expected, scaled(available, expected, up=True)
        return (0, 0) if available is None else (len(pods), available)

    def _scale(self, budget: Obj, pods: list[Obj]) -> int:
        scales: dict[str, int] = {}
        unmanaged = False
        for pod in pods:
            reference = controller_of(pod)
            if reference is None:
                if self.settings.minor < 22:
                    words = f'found no controller ref for pod "{pod["metadata"]["name"]}"'
                    self.events.warning(budget, "NoControllerRef", words)
                    raise UncountableError(words)
                unmanaged = True
            elif reference["uid"] not in scales:
                owner = self._scaled_owner(pod["metadata"]["namespace"], reference)
                if owner is None:
                    words = f'found no controllers for pod "{pod["metadata"]["name"]}"'
                    self.events.warning(budget, "NoControllers", words)
                    raise UncountableError(words)
                scales[owner["metadata"]["uid"]] = owner["spec"].get("replicas", 1)
        if unmanaged:
            self.events.warning(budget, "UnmanagedPods", _UNMANAGED.format(budget["spec"].get("selector")))
        return sum(scales.values())

    def _scaled_owner(self, namespace: str, reference: Obj) -> Obj | None:
        """Who says how many pods there should be: a Deployment for its replica sets' pods."""
        group, _, _ = reference["apiVersion"].rpartition("/")
        resource = OWNABLE.get((group, reference["kind"]))
        if resource is None or reference["kind"] not in SCALED:
            return None
        owner = find(self.context.client, resource, reference["name"], namespace)
        if owner is None or owner["metadata"]["uid"] != reference["uid"]:
            return None
        above = controller_of(owner)
        return (above and self._scaled_owner(namespace, above)) or owner


def still_disrupted(disrupted: dict[str, str], pods: list[Obj]) -> dict[str, str]:
    """Of the pods that were evicted, those that are to be deleted soon. Pure, but for the clock."""
    waiting = {pod["metadata"]["name"] for pod in pods if not deleting(pod)}
    return {name: when for name, when in disrupted.items() if name in waiting and age(when) < DELETION_TIMEOUT}
