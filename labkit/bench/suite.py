"""A suite is a list of samples to take, in an order; here they are taken.

The list is data: how long it takes, and in which order arms alternate, is known before anything runs. Between blocks of
two arms the arm that comes is entered: the plan that switches its cluster runs, and is verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.bench import noise
from labkit.bench.recording import Recording
from labkit.bench.results import Run, Sample
from labkit.bench.watch import Progress, Watch
from labkit.bench.workload import Workload
from labkit.errors import MeasurementError
from labkit.kube import Kube

_CLAIMS = ("vanilla", "iptables", "ebpf")  # names of arms that say which data plane was measured


def _nothing() -> None:
    """Enter a cluster that is as it should be."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a cluster in one state.

    Args:
        name: in results; "vanilla", "iptables" and "ebpf" are claims that the counters are held to.
        kube: the cluster.
        workload: its measuring pods.
        enter: brings the cluster to the state, and verifies it.
        about: what is known of it once it is there.
        enter_seconds: how long that takes, about.
        now: says which data plane the cluster has; None where nobody can say.
    """

    name: str
    kube: Kube
    workload: Workload
    enter: Callable[[], None] = _nothing
    about: Callable[[], dict[str, Any]] = field(default=dict)
    enter_seconds: float = 0.0
    now: Callable[[], str] | None = None

    def stay(self) -> None:
        """See that nobody has switched the cluster while it was measured.

        Raises:
            MeasurementError: somebody has; the sample is of neither data plane.
        """
        if self.now is not None and self.name in _CLAIMS and (found := self.now()) != self.name:
            raise MeasurementError(
                f"The cluster should have the data plane {self.name}, and has {found}.",
                "somebody has switched it while it was measured; the sample under way is not kept, those before are.",
                "run it again, and let nobody switch the cluster meanwhile.")

    def facts(self) -> dict[str, Any]:
        """What results say of it."""
        at = self.workload
        return {**self.about(), "kernel": at.kernel, "cpu": at.cpu, "mtu": at.mtu, "client_node": at.client_node,
                "server_node": at.server_node, "one_machine": at.one_machine}


@dataclass(frozen=True)
class Task:
    """A sample to take.

    Args:
        arm: where.
        case: what.
        round: which round, from 0.
        seconds: how long it takes, about.
        take: takes it.
    """

    arm: Arm
    case: str
    round: int
    seconds: float
    take: Callable[[], Sample]


def orders(arms: Sequence[Arm], rounds: int, first: str | None = None) -> list[list[Arm]]:
    """The arms of each round: A B C, then C B A, so that what drifts hits all alike.

    An arm that ends a round starts the next, so a cluster is switched once in a round.

    Args:
        arms: in the order of tables.
        rounds: how many.
        first: the data plane that the cluster has now: if the last arm, the first round goes backwards.
    """
    turned = int(bool(arms) and first == arms[-1].name and len(arms) > 1)
    return [list(arms) if (number + turned) % 2 == 0 else list(reversed(arms)) for number in range(rounds)]


def seconds_of(tasks: Sequence[Task]) -> float:
    """How long tasks take, with the switches between their arms."""
    total, arm = 0.0, None
    for task in tasks:
        total += task.seconds + (task.arm.enter_seconds if task.arm is not arm else 0.0)
        arm = task.arm
    return total


def conduct(tasks: Sequence[Task], recording: Recording, watch: Watch, *, seconds: float | None = None,
            strict: bool = False) -> Run:
    """Take all samples that the recording does not have.

    Args:
        tasks: in their order.
        recording: keeps them.
        watch: hears of each, and may stop.
        seconds: the budget; a round that no longer fits is not begun.
        strict: end the run when too many samples were disturbed.

    Returns:
        The run; without a time of finishing if it was stopped, so that it can go on.

    Raises:
        LabError: something failed; the samples until then are kept.
    """
    open_ = [t for t in tasks if not recording.has(t.arm.name, t.case, t.round)]
    begun, passed, expected = time.monotonic(), 0.0, seconds_of(open_)
    arm: Arm | None = None
    described: set[str] = set()
    before = len(recording.run.samples)  # what an attempt before met is no reason to end this one
    for index, task in enumerate(open_):
        rest = seconds_of(open_[index:])
        elapsed = time.monotonic() - begun
        pace = elapsed / passed if passed else 1.0
        starts_round = index > 0 and task.round != open_[index - 1].round
        done = len(tasks) - len(open_) + index
        if watch.stopped:
            recording.note(f"Stopped after {done} of {len(tasks)} samples.")
            return recording.run
        if seconds is not None and starts_round and elapsed + pace * _round_seconds(open_[index:]) > seconds:
            recording.note(f"The budget of {seconds:g} s was spent after {done} of {len(tasks)} samples.")
            return _finish(recording)
        if task.arm is not arm:
            watch.progress(Progress(done, len(tasks), f"to {task.arm.name}", pace * rest))
            task.arm.enter()
            if task.arm.name not in described:
                recording.describe(task.arm.name, task.arm.facts())
                described.add(task.arm.name)
            arm = task.arm
        watch.progress(Progress(done, len(tasks), f"{task.arm.name}: {task.case}, round {task.round + 1}",
                                pace * rest))
        sample = noise.marked(task.take())
        arm.stay()
        recording.add(sample)
        watch.sample(sample)
        if strict:
            noise.check(recording.run.samples[before:])
        passed = expected - seconds_of(open_[index + 1:])
    watch.progress(Progress(len(tasks), len(tasks), "done", 0.0))
    return _finish(recording)


def _round_seconds(tasks: Sequence[Task]) -> float:
    return seconds_of([t for t in tasks if t.round == tasks[0].round])


def _finish(recording: Recording) -> Run:
    run = recording.run
    noisy = [f"{s.arm}, {s.case}, round {s.round + 1}: {s.detail['noisy']}" for s in run.samples if "noisy" in s.detail]
    if noisy:
        recording.note(f"The machine was noisy in {len(noisy)} samples; the first: {noisy[0]}.")
    unproven = {s.arm: s.detail["proof"]["evidence"] for s in run.samples
                if s.detail.get("proof", {}).get("state") == "not proven"}
    for arm, evidence in unproven.items():
        why = evidence[-1].rstrip(".") if evidence else ""
        recording.note(f"{arm}: not proven that its data plane carried every flow: {why}.")
    return recording.finish()
