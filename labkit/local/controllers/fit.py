"""Whether a pod fits a node, and how well: pure, with Kubernetes' own words for what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from labkit.local.client import Obj
from labkit.local.kubeapi.selectors import requirement, selects

from .objects import labels_of, quantity

PLACING = ("NoSchedule", "NoExecute")


@dataclass(frozen=True)
class Need:
    """What a pod asks of a node."""

    cpu: float
    memory: float
    ports: frozenset[tuple[str, str, int]]


@dataclass
class Load:
    """What the pods on a node have taken."""

    pods: int = 0
    cpu: float = 0.0
    memory: float = 0.0
    ports: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    owners: Counter[str] = field(default_factory=Counter)

    def add(self, need: Need, owner: str, sign: int = 1) -> None:
        """Take in (1) or out (-1) what a pod needs."""
        self.pods += sign
        self.cpu += sign * need.cpu
        self.memory += sign * need.memory
        for port in need.ports:
            self.ports[port] += sign
        if owner:
            self.owners[owner] += sign
            if not self.owners[owner]:
                del self.owners[owner]


def need_of(pod: Obj) -> Need:
    """What a pod asks for: the sum over its containers, or its largest init container if that is more."""
    spec = pod["spec"]

    def asked(containers: Iterable[Obj] | None, resource: str) -> list[float]:
        return [quantity((c.get("resources") or {}).get("requests", {}).get(resource, 0)) for c in containers or ()]

    def total(resource: str) -> float:
        return max(sum(asked(spec["containers"], resource)), *asked(spec.get("initContainers"), resource), 0.0)

    ports = frozenset(
        (port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"])
        for c in spec["containers"]
        for port in c.get("ports") or ()
        if port.get("hostPort")
    )
    return Need(total("cpu"), total("memory"), ports)


def tolerates(tolerations: Iterable[Obj] | None, taint: Obj) -> bool:
    """Whether one of the tolerations covers the taint."""
    return any(_covers(toleration, taint) for toleration in tolerations or ())


def _covers(toleration: Obj, taint: Obj) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(node: Obj, tolerations: Iterable[Obj] | None, effects: Sequence[str] = PLACING) -> Obj | None:
    """The first taint that keeps a pod off the node."""
    listed = list(tolerations or ())
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] in effects and not tolerates(listed, taint):
            return dict(taint)
    return None


def selected(spec: Obj, node: Obj) -> bool:
    """Whether the node has what the pod's node selector and required node affinity ask for."""
    labels = labels_of(node)
    if not (spec.get("nodeSelector") or {}).items() <= labels.items():
        return False
    required = _node_affinity(spec).get("requiredDuringSchedulingIgnoredDuringExecution")
    return not required or any(_term(term, node) for term in required.get("nodeSelectorTerms") or ())


def preferred(spec: Obj, node: Obj) -> int:
    """The weight of the node affinities that a pod would like and this node has."""
    wishes = _node_affinity(spec).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(wish["weight"] for wish in wishes if _term(wish["preference"], node))


def _node_affinity(spec: Obj) -> Obj:
    return (spec.get("affinity") or {}).get("nodeAffinity") or {}


def _term(term: Obj, node: Obj) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    names = {"metadata.name": node["metadata"]["name"]}
    return all(requirement(item, labels_of(node)) for item in expressions) and all(
        requirement(item, names) for item in fields
    )


def affinity_terms(kind: Literal["podAffinity", "podAntiAffinity"], pod: Obj) -> list[Obj]:
    """What the pod must, or must not, share a topology domain with."""
    affinity = (pod["spec"].get("affinity") or {}).get(kind) or {}
    return list(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ())


def term_selects(term: Obj, namespace: str, other: Obj) -> bool:
    """Whether a pod affinity term of a pod in `namespace` selects the other pod."""
    namespaces = term.get("namespaces") or [namespace]
    return other["metadata"]["namespace"] in namespaces and selects(term.get("labelSelector"), labels_of(other))


def misfit(pod: Obj, need: Need, node: Obj, load: Load, minor: int) -> str | None:
    """Why the pod cannot run on the node, in the words of that Kubernetes version; None if it can."""
    spec = pod["spec"]
    if node["spec"].get("unschedulable") and not tolerates(
        spec.get("tolerations"), {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    ):
        return "node(s) were unschedulable"
    taint = untolerated(node, spec.get("tolerations"))
    if taint:
        text = f"{{{taint['key']}: {taint.get('value') or ''}}}"
        if minor < 24:
            return f"node(s) had taint {text}, that the pod didn't tolerate"
        return f"node(s) had untolerated taint {text}"
    if not selected(spec, node):
        return (
            "node(s) didn't match node selector" if minor < 21 else "node(s) didn't match Pod's node affinity/selector"
        )
    if any(load.ports[port] > 0 for port in need.ports):
        return "node(s) didn't have free ports for the requested pod ports"
    room = node["status"].get("allocatable") or node["status"].get("capacity") or {}
    if load.pods + 1 > quantity(room.get("pods", 110)):
        return "Too many pods"
    if need.cpu and load.cpu + need.cpu > quantity(room.get("cpu", inf)) + 1e-9:
        return "Insufficient cpu"
    if need.memory and load.memory + need.memory > quantity(room.get("memory", inf)):
        return "Insufficient memory"
    return None


def refusal(total: int, reasons: Counter[str], minor: int) -> str:
    """The message of a FailedScheduling event."""
    if not total:
        return "no nodes available to schedule pods"
    text = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    message = f"0/{total} nodes are available: {text}."
    if minor >= 24:
        message += f" preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
    return message
