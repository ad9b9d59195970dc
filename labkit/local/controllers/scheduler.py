"""The scheduler: a node for each pod that has none."""

from __future__ import annotations

from collections import Counter

from labkit.local.client import Obj, timestamp, tolerating

from .base import Context, Controller
from .fit import (
    Load,
    Need,
    affinity_terms,
    misfit,
    need_of,
    preferred,
    refusal,
    term_selects,
    untolerated,
)
from .objects import active, controller_of, deleting, finished, labels_of, saying
from .queue import Key
from .store import key_of

PREFERRED_TAINT = ("PreferNoSchedule",)


class Scheduler(Controller):
    """Spreads pods: away from their siblings first, then to the node with the fewest."""

    component = "default-scheduler"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods, self.nodes = self.stores["pods"], self.stores["nodes"]
        self._loads: dict[str, Load] = {}
        self._needs: dict[str, tuple[str, Need, str]] = {}
        self._exclusive: dict[Key, Obj] = {}
        self._waiting: set[Key] = set()
        self.pods.subscribe(self._on_pod)
        self.nodes.subscribe(self._on_node)

    # What is known

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        obj = new or old
        assert obj is not None
        key, uid = key_of(obj), obj["metadata"]["uid"]
        node = new["spec"].get("nodeName", "") if new is not None and not finished(new) else ""
        before = self._needs.get(uid)
        if before and before[0] != node:
            self._loads[before[0]].add(before[1], before[2], -1)
            del self._needs[uid]
            self._exclusive.pop(key, None)
            self._retry_waiting()
        if node and not (before and before[0] == node):
            assert new is not None
            owner = controller_of(new)
            entry = self._needs[uid] = (node, need_of(new), owner["uid"] if owner else "")
            self._loads.setdefault(node, Load()).add(entry[1], entry[2])
            if affinity_terms("podAntiAffinity", new):
                self._exclusive[key] = new
            self._waiting.discard(key)
            if self._waiting and labels_of(new):
                self._retry_affine()
        if new is None or node or not self._mine(new):
            self._waiting.discard(key)
        elif old is None or key not in self._waiting:
            self.enqueue(key)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is None or old is None or _placement(old) != _placement(new):
            self._retry_waiting()

    def _retry_waiting(self) -> None:
        for key in self._waiting:
            self.enqueue(key)

    def _retry_affine(self) -> None:
        for key in self._waiting:
            pod = self.pods.get(key)
            if pod is not None and affinity_terms("podAffinity", pod):
                self.enqueue(key)

    @staticmethod
    def _mine(pod: Obj) -> bool:
        spec = pod["spec"]
        return (
            not spec.get("nodeName")
            and not deleting(pod)
            and not finished(pod)
            and spec.get("schedulerName", "default-scheduler") == "default-scheduler"
        )

    # Placing

    def reconcile(self, key: Key) -> None:
        """Bind this pod to the best node, or say why none will do."""
        pod = self.pods.get(key)
        if pod is None or not self._mine(pod):
            self._waiting.discard(key)
            return
        need, minor = need_of(pod), self.settings.minor
        fitting, reasons = [], Counter[str]()
        for node in self.nodes:
            load = self._loads.get(node["metadata"]["name"]) or Load()
            reason = misfit(pod, need, node, load, minor) or self._affinity_misfit(pod, node)
            if reason:
                reasons[reason] += 1
            else:
                fitting.append(node)
        if fitting:
            self._bind(pod, min(fitting, key=lambda node: self._cost(pod, node)))
        else:
            self._waiting.add(key)
            self._refuse(pod, refusal(len(self.nodes), reasons, minor))

    def _cost(self, pod: Obj, node: Obj) -> tuple[float, ...]:
        name, owner = node["metadata"]["name"], controller_of(pod)
        load = self._loads.get(name) or Load()
        siblings = load.owners[owner["uid"]] if owner else 0
        shunned = untolerated(node, pod["spec"].get("tolerations"), PREFERRED_TAINT) is not None
        return shunned, -preferred(pod["spec"], node), siblings, load.pods, load.cpu, _rank(name)

    def _affinity_misfit(self, pod: Obj, node: Obj) -> str | None:
        namespace = pod["metadata"]["namespace"]
        for other in self._exclusive.values():
            if other["metadata"]["uid"] != pod["metadata"]["uid"] and active(other):
                for term in affinity_terms("podAntiAffinity", other):
                    if self._same_domain(term, other, node) and term_selects(term, other["metadata"]["namespace"], pod):
                        return "node(s) didn't satisfy existing pods anti-affinity rules"
        for term in affinity_terms("podAntiAffinity", pod):
            if any(
                self._same_domain(term, other, node) and term_selects(term, namespace, other)
                for other in self._placed()
            ):
                return "node(s) didn't match pod anti-affinity rules"
        for term in affinity_terms("podAffinity", pod):
            placed = [other for other in self._placed() if term_selects(term, namespace, other)]
            alone = not placed and term_selects(term, namespace, pod)
            if not alone and not any(self._same_domain(term, other, node) for other in placed):
                return "node(s) didn't match pod affinity rules"
        return None

    def _placed(self) -> list[Obj]:
        return [pod for pod in self.pods if pod["spec"].get("nodeName") and active(pod)]

    def _same_domain(self, term: Obj, other: Obj, node: Obj) -> bool:
        theirs = self.nodes.get(("", other["spec"].get("nodeName", "")))
        key = term["topologyKey"]
        return theirs is not None and key in labels_of(node) and labels_of(theirs).get(key) == labels_of(node)[key]

    def _bind(self, pod: Obj, node: Obj) -> None:
        meta, name = pod["metadata"], node["metadata"]["name"]
        with tolerating(404):
            self.context.client.create("pods/binding", {
                "apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
                "target": {"apiVersion": "v1", "kind": "Node", "name": name}}, meta["namespace"])
            self.pods.put(self.context.client.get("pods", meta["name"], meta["namespace"]))
            self.events.normal(pod, "Scheduled", f"Successfully assigned {meta['namespace']}/{meta['name']} to {name}")

    def _refuse(self, pod: Obj, message: str) -> None:
        self.events.warning(pod, "FailedScheduling", message)
        refused = saying("PodScheduled", False, "Unschedulable", message)
        conditions = (pod.get("status") or {}).get("conditions") or []
        if any(refused.items() <= c.items() for c in conditions):
            return
        others = [c for c in conditions if c["type"] != "PodScheduled"]
        refused |= {"lastProbeTime": None, "lastTransitionTime": timestamp()}
        self.stores.patch("pods", key_of(pod), {"status": {"conditions": [*others, refused]}}, subresource="status")


def _placement(node: Obj) -> tuple[object, ...]:
    return (
        node["spec"].get("unschedulable"),
        node["spec"].get("taints"),
        labels_of(node),
        (node.get("status") or {}).get("allocatable"),
    )


def _rank(name: str) -> int:
    """A tie goes to the node with the lowest number, so that a lab looks the same each time."""
    digits = "".join(c for c in name[-6:] if c.isdigit())
    return int(digits or 0)
