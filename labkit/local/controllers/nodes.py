"""Nodes that fall silent or go, and what becomes of their pods."""

from __future__ import annotations

import time

from labkit.local.client import Obj, timestamp, tolerating

from .base import Context, Controller
from .fit import tolerates
from .objects import condition, deleting, finished, is_true, with_condition
from .queue import Key
from .store import key_of

LEASES = "leases.coordination.k8s.io"
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
DEFAULT_STAY = 300
"""Seconds that a pod without a word about it stays on a node that is not ready; admission adds the same."""
PRESSURES = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def taints_for(node: Obj) -> list[Obj]:
    """The taints that a node's conditions and spec call for, beside those that others set."""
    others = [
        taint
        for taint in node["spec"].get("taints") or ()
        if taint["key"] not in (NOT_READY, UNREACHABLE, UNSCHEDULABLE)
    ]
    have = {(taint["key"], taint["effect"]): taint for taint in node["spec"].get("taints") or ()}
    status = (condition(node, "Ready") or {"status": "False"})["status"]
    wanted = [(UNSCHEDULABLE, "NoSchedule")] if node["spec"].get("unschedulable") else []
    if status != "True":
        key = NOT_READY if status == "False" else UNREACHABLE
        wanted += [(key, "NoSchedule"), (key, "NoExecute")]
    return others + [have.get(item) or {"key": item[0], "effect": item[1], "timeAdded": timestamp()} for item in wanted]


def stays(pod: Obj, taint: Obj) -> float | None:
    """Seconds that the pod stays with a NoExecute taint; None for ever."""
    covering = [t for t in pod["spec"].get("tolerations") or () if tolerates([t], taint)]
    limits = [t["tolerationSeconds"] for t in covering if t.get("tolerationSeconds") is not None]
    if covering:
        return max(0, min(limits)) if limits else None
    return DEFAULT_STAY if taint["key"] in (NOT_READY, UNREACHABLE) else 0


class Nodes(Controller):
    """Notices silence, keeps taints equal to conditions, evicts, and forgets pods of nodes that are gone."""

    component = "node-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.nodes, self.pods, self.leases = self.stores["nodes"], self.stores["pods"], self.stores[LEASES]
        self.pods.index("node", lambda pod: (pod["spec"].get("nodeName", ""),))
        self._heard: dict[str, float] = {}
        self._tainted: dict[tuple[str, str], float] = {}
        self._absent: dict[str, float] = {}
        self.nodes.subscribe(self._on_node)
        self.leases.subscribe(self._on_lease)
        self.pods.subscribe(self._on_pod)

    def start(self) -> None:
        """Begin to listen for silence."""
        self.queue.add_after(self._look_around, None, self.settings.node_check)

    def _on_lease(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and new["metadata"]["namespace"] == "kube-node-lease":
            self._heard[new["metadata"]["name"]] = time.monotonic()

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        if new is None:
            self._heard.pop(name, None)
            self._absent[name] = time.monotonic()
        else:
            if old is None or _heartbeat(old) != _heartbeat(new):
                self._heard[name] = time.monotonic()
            if old is None:
                self._absent.pop(name, None)
                if new["metadata"]["creationTimestamp"]:
                    self.events.normal(
                        _as_node(new),
                        "RegisteredNode",
                        f"Node {name} event: Registered Node {name} in Controller",
                    )
        self.enqueue(("", name))

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            return
        node = new["spec"].get("nodeName")
        if node and (old is None or old["spec"].get("nodeName") != node):
            present = self.nodes.get(("", node))
            if present is None:
                self._absent.setdefault(node, time.monotonic())
                self.enqueue(("", node))
            elif present["spec"].get("taints"):
                self.enqueue(("", node))
        elif not node and deleting(new):
            self.queue.add(self._drop_unplaced, key_of(new))

    def _drop_unplaced(self, key: Key) -> None:
        """A pod that is deleted before it has a node has no kubelet that would end it."""
        pod = self.pods.get(key)
        if pod is not None and deleting(pod) and not pod["spec"].get("nodeName"):
            self.stores.delete("pods", pod, grace_period=0)

    def _look_around(self, _: object) -> None:
        """Every few seconds: who has not been heard of for too long."""
        self.queue.add_after(self._look_around, None, self.settings.node_check)
        clock = time.monotonic()
        for node in self.nodes:
            name = node["metadata"]["name"]
            silent = clock - self._heard.setdefault(name, clock)
            if silent > self.settings.node_grace and (condition(node, "Ready") or {}).get("status") != "Unknown":
                self._mark_unknown(node)

    def _mark_unknown(self, node: Obj) -> None:
        status = node.get("status") or {}
        conditions = status.get("conditions")
        for kind in PRESSURES:
            old = condition(node, kind)
            conditions = with_condition(
                conditions,
                {
                    **(old or {"lastHeartbeatTime": timestamp()}),
                    "type": kind,
                    "status": "Unknown",
                    "reason": "NodeStatusUnknown" if old else "NodeStatusNeverUpdated",
                    "message": "Kubelet stopped posting node status." if old else "Kubelet never posted node status.",
                },
            )
        self.stores.update_status("nodes", node, {**status, "conditions": conditions})
        self.events.normal(
            _as_node(node), "NodeNotReady", f"Node {node['metadata']['name']} status is now: NodeNotReady"
        )
        for pod in self.pods.by("node", node["metadata"]["name"]):
            if is_true(pod, "Ready"):
                self._mark_pod(pod)

    def _mark_pod(self, pod: Obj) -> None:
        conditions = with_condition(
            pod["status"].get("conditions"),
            {**(condition(pod, "Ready") or {}), "type": "Ready", "status": "False"},
        )
        with tolerating(404, 409):
            self.stores.update_status("pods", pod, {**pod["status"], "conditions": conditions})
        self.events.warning(pod, "NodeNotReady", "Node is not ready")

    def reconcile(self, key: Key) -> None:
        """Taint and evict as this node's conditions say; forget the pods of one that is gone."""
        node = self.nodes.get(key)
        if node is None:
            self._collect(key)
            return
        taints = taints_for(node)
        if taints != (node["spec"].get("taints") or []):
            node = self.stores.patch(
                "nodes",
                key,
                {
                    "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
                    "spec": {"taints": taints or None},
                },
            )
        executing = [taint for taint in taints if taint["effect"] == "NoExecute"]
        clock, name = time.monotonic(), key[1]
        keys = {taint["key"] for taint in executing}
        for known in [k for k in self._tainted if k[0] == name and k[1] not in keys]:
            del self._tainted[known]
        if executing:
            since = {k: self._tainted.setdefault((name, k), clock) for k in keys}
            self._evict(name, executing, since, clock)

    def _evict(self, name: str, taints: list[Obj], since: dict[str, float], clock: float) -> None:
        for pod in self.pods.by("node", name):
            if deleting(pod) or finished(pod):
                continue
            waits = [since[taint["key"]] + stay - clock for taint in taints if (stay := stays(pod, taint)) is not None]
            if not waits:
                continue
            if min(waits) <= 0:
                self.events.normal(pod, "TaintManagerEviction", f"Marking for deletion Pod {'/'.join(key_of(pod))}")
                self.stores.delete("pods", pod)
            else:
                self.enqueue_after(("", name), min(waits) + 0.01)

    def _collect(self, key: Key) -> None:
        """The node is gone: so are its pods, once it is sure that it does not come back at once."""
        pods = self.pods.by("node", key[1])
        if not pods:
            self._absent.pop(key[1], None)
            return
        left = self._absent.setdefault(key[1], time.monotonic()) + self.settings.orphan_grace - time.monotonic()
        if left > 0:
            self.enqueue_after(key, left + 0.01)
            return
        for pod in pods:
            self.stores.delete("pods", pod, grace_period=0)
        self._absent.pop(key[1], None)


def _heartbeat(node: Obj) -> object:
    return (condition(node, "Ready") or {}).get("lastHeartbeatTime")


def _as_node(node: Obj) -> Obj:
    """Events about nodes name the node as their uid, as Kubernetes' do."""
    return {**node, "metadata": {**node["metadata"], "uid": node["metadata"]["name"]}}
