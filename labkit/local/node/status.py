"""A pod's status from what its containers do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from labkit.local.client import Obj, timestamp

Phase = Literal["waiting", "running", "terminated"]
KINDS = ("containers", "initContainers", "ephemeralContainers")
_BACKOFF_FIRST, _BACKOFF_MOST, _BACKOFF_FORGOTTEN = 10.0, 300.0, 600.0


@dataclass(frozen=True)
class Ended:
    """How a container's attempt ended."""

    code: int
    signal: int
    started: float
    finished: float
    reason: str = ""
    message: str = ""

    def state(self, container_id: str) -> Obj:
        """As a container state."""
        result: Obj = {
            "exitCode": self.code, "reason": self.reason or ("Completed" if self.code == 0 else "Error"),
            "startedAt": timestamp(self.started), "finishedAt": timestamp(self.finished), "containerID": container_id,
        }
        if self.signal:
            result["signal"] = self.signal
        if self.message:
            result["message"] = self.message
        return result


@dataclass(frozen=True)
class ContainerState:
    """What a container does now, and what it did before."""

    name: str
    image: str
    phase: Phase = "waiting"
    reason: str = "ContainerCreating"
    message: str = ""
    started_at: float = 0.0
    ended: Ended | None = None
    last: Ended | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""

    def waiting(self, reason: str, message: str = "") -> ContainerState:
        """The same container, waiting for a reason."""
        last = self.ended or self.last
        return replace(self, phase="waiting", reason=reason, message=message, ended=None, last=last,
                       ready=False, started=False)

    def running(self, at: float, container_id: str) -> ContainerState:
        """The same container, running."""
        return replace(self, phase="running", reason="", message="", started_at=at, ended=None,
                       last=self.ended or self.last, container_id=container_id, ready=False, started=False)

    def terminated(self, ended: Ended) -> ContainerState:
        """The same container, at its end."""
        return replace(self, phase="terminated", ended=ended, ready=False, started=False)

    def as_status(self) -> Obj:
        """As an entry of containerStatuses."""
        if self.phase == "running":
            state: Obj = {"running": {"startedAt": timestamp(self.started_at)}}
        elif self.phase == "terminated" and self.ended:
            state = {"terminated": self.ended.state(self.container_id)}
        else:
            state = {"waiting": {"reason": self.reason} | ({"message": self.message} if self.message else {})}
        return {
            "name": self.name, "image": self.image, "imageID": f"labkit://{self.image}" if self.container_id else "",
            "containerID": self.container_id, "ready": self.ready, "started": self.started,
            "restartCount": self.restarts, "state": state,
            "lastState": {"terminated": self.last.state(self.container_id)} if self.last else {},
        }


def should_restart(policy: str, code: int) -> bool:
    """Whether a container that ended is started again."""
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def backoff(previous: float, ran_for: float) -> float:
    """Seconds to wait before the next start: 10, doubling to 300, forgotten after ten good minutes."""
    if previous == 0 or ran_for > _BACKOFF_FORGOTTEN:
        return _BACKOFF_FIRST
    return min(previous * 2, _BACKOFF_MOST)


def phase(policy: str, init: Sequence[ContainerState], main: Sequence[ContainerState]) -> str:
    """Pending, Running, Succeeded or Failed, by Kubernetes' rules."""
    for state in init:
        if state.phase == "terminated" and state.ended:
            if state.ended.code and policy == "Never":
                return "Failed"
            if state.ended.code == 0:
                continue
        return "Pending"
    if any(state.phase == "waiting" and not state.last for state in main):
        return "Pending"
    if all(state.phase == "terminated" for state in main):
        codes = [state.ended.code for state in main if state.ended]
        if policy == "Always":
            return "Running"
        if all(code == 0 for code in codes):
            return "Succeeded"
        return "Failed" if policy == "Never" else "Running"
    return "Running"


def conditions(pod: Obj, pod_phase: str, initialised: bool, main: Sequence[ContainerState],
               previous: Iterable[Mapping[str, Any]]) -> list[Obj]:
    """The pod's conditions; one that did not change keeps the time at which it last did."""
    old = {condition["type"]: condition for condition in previous}
    unready = [state.name for state in main if not state.ready]
    finished = pod_phase in ("Succeeded", "Failed")
    all_ready = not unready and not finished
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    shut = [f'the status of pod readiness gate "{gate}" is not "True", but {old[gate]["status"]}' if gate in old
            else f'corresponding condition of pod readiness gate "{gate}" does not exist.'
            for gate in gates if old.get(gate, {}).get("status") != "True"]
    because: tuple[str, str] = ("", "")
    if pod_phase == "Succeeded":
        because = ("PodCompleted", "")
    elif not all_ready:
        because = ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    done_early = ("PodCompleted", "") if pod_phase == "Succeeded" else ("", "")
    wanted = [
        ("Initialized", initialised, done_early if initialised else ("ContainersNotInitialized", "")),
        ("Ready", all_ready and not shut, because if not all_ready else ("ReadinessGatesNotReady", ", ".join(shut))),
        ("ContainersReady", all_ready, because), ("PodScheduled", True, ("", "")),
    ]
    result = []
    for kind, holds, (reason, message) in wanted:
        status = "True" if holds else "False"
        before = old.get(kind, {})
        changed = timestamp() if before.get("status") != status else before.get("lastTransitionTime", timestamp())
        condition: Obj = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": changed}
        if reason and not (holds and kind in ("Ready", "ContainersReady")):
            condition |= {"reason": reason} | ({"message": message} if message else {})
        result.append(condition)
    managed = {kind for kind, _, _ in wanted}
    return result + [dict(condition) for kind, condition in old.items() if kind not in managed]


def containers(pod: Obj) -> list[Obj]:
    """All containers of a pod."""
    return [container for kind in KINDS for container in pod["spec"].get(kind) or ()]


def pod_status(pod: Obj, *, init: Sequence[ContainerState], main: Sequence[ContainerState],
               debuggers: Sequence[ContainerState], initialised: bool, host_ip: str, pod_ip: str,
               start_time: str) -> Obj:
    """The whole status of a pod that its node looks after."""
    policy = pod["spec"].get("restartPolicy", "Always")
    pod_phase = phase(policy, init, main)
    status: Obj = {
        "phase": pod_phase, "hostIP": host_ip, "startTime": start_time,
        "conditions": conditions(pod, pod_phase, initialised, main, pod.get("status", {}).get("conditions") or ()),
        "containerStatuses": [state.as_status() for state in main],
    }
    if init:
        status["initContainerStatuses"] = [state.as_status() for state in init]
    if debuggers:
        status["ephemeralContainerStatuses"] = [state.as_status() for state in debuggers]
    if pod_ip:
        status |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    return status
