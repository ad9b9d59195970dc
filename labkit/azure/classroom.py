"""Clusters for a class: all made, or all deleted, at the same time and within what AKS takes.

AKS takes 20 requests to create or change clusters at once, and then one a minute (learn.microsoft.com/azure/aks/
quotas-skus-regions). So they are sent at that pace; one that is refused as too many is sent again. What exists is
not made again: running the same once more finishes what an interrupt or a failure has left.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from labkit.azure import states, steps, tags
from labkit.azure.arm import Azure
from labkit.azure.names import for_student
from labkit.azure.settings import ClusterSettings
from labkit.errors import AzureError, LabError, OperationInterruptedError
from labkit.plan import Plan, Reporter, Step, StepResult, run

Hear = Callable[[str, str], None]
"""Called with a student and a line about their cluster; from several threads, one at a time."""
_ATTEMPTS = 10  # of one student's plan, where Azure says: too many


@dataclass(frozen=True)
class Outcome:
    """How it went for one student.

    Args:
        student: as given.
        cluster: the cluster's name.
        group: its resource group.
        error: why it failed, or None.
    """

    student: str
    cluster: str
    group: str
    error: LabError | None = None


class Pace:
    """When the next request may go: some at once, then one at a time.

    Args:
        burst: how many at once.
        every: seconds for each one after them.
    """

    def __init__(self, burst: int = 20, every: float = 60.0) -> None:
        self._burst, self._every = burst, every
        self._left, self._then = float(burst), time.monotonic()
        self._lock = threading.Lock()

    def wait(self, say: Callable[[str], None]) -> None:
        """Return when it is one's turn.

        Args:
            say: hears how long that takes.
        """
        with self._lock:
            now = time.monotonic()
            self._left = min(float(self._burst), self._left + (now - self._then) / self._every)
            self._then = now
            self._left -= 1.0  # below zero: a place in the line
            seconds = max(0.0, -self._left * self._every)
        if seconds > 0:
            say(f"AKS takes {self._burst} at once: its turn comes in {seconds:.0f} s")
            time.sleep(seconds)


class Classroom:
    """The clusters of a class.

    Args:
        azure: the subscription.
        base: what all of them share.
        students: numbers or names, one cluster each.
        hear: hears of progress.
        pace: when requests may go; None means AKS's own limits.
    """

    def __init__(self, azure: Azure, base: ClusterSettings, students: Sequence[str], hear: Hear,
                 pace: Pace | None = None) -> None:
        self._azure, self._hear, self._lock = azure, hear, threading.Lock()
        self._pace = pace or Pace()
        self.settings = {student: for_student(base, student) for student in students}

    def create(self, hours: float = tags.HOURS) -> list[Outcome]:
        """Make what is not there yet.

        Args:
            hours: after which the labs count as forgotten.

        Raises:
            OperationInterruptedError: somebody interrupted; Azure goes on.
        """
        marks = tags.tags(hours)
        there = {(_group_of(c), str(c["name"]).lower()) for c in self._azure.clusters()
                 if states.of(c) in states.BUSY | {"Succeeded"}}

        def make(student: str, settings: ClusterSettings) -> LabError | None:
            if (settings.resource_group.lower(), settings.name.lower()) not in there:
                self._pace.wait(lambda line: self._say(student, line))
            return self._run(student, steps.create(self._azure, replace(settings, tags=marks)))

        return self._all("creating", make)

    def delete(self) -> list[Outcome]:
        """Delete all of them with their groups, and see that they are gone.

        Raises:
            OperationInterruptedError: somebody interrupted; Azure goes on.
        """
        return self._all("deleting", lambda student, settings: self._run(
            student, steps.delete(self._azure, (settings, settings.vanilla()), None)))

    def _run(self, student: str, plan: Plan) -> LabError | None:
        for _ in range(_ATTEMPTS):
            result = run(plan, _Listener(student, self._say))
            error = next((step.error for step in result.steps if step.error), None)
            if error is None or getattr(error.__cause__, "status", None) != 429:
                return error
            self._say(student, "Azure has too many requests at once: it is tried again in its turn")
            self._pace.wait(lambda line: self._say(student, line))
        return error

    def _all(self, doing: str, work: Callable[[str, ClusterSettings], LabError | None]) -> list[Outcome]:
        done: queue.Queue[Outcome] = queue.Queue()

        def one(student: str, settings: ClusterSettings) -> None:
            error: LabError | None
            try:
                error = work(student, settings)
            except LabError as caught:
                error = caught
            except Exception as caught:  # a thread that dies silently would be waited for without end
                error = AzureError(f"Something that labkit does not expect: {caught!r}", code="Unexpected")
            self._say(student, f"failed: {error}" if error else "done")
            done.put(Outcome(student, settings.name, settings.resource_group, error))

        for student, settings in self.settings.items():
            threading.Thread(target=one, args=(student, settings), daemon=True).start()
        found: dict[str, Outcome] = {}
        try:
            while len(found) < len(self.settings):
                outcome = done.get()
                found[outcome.student] = outcome
        except KeyboardInterrupt as error:
            missing = [settings.resource_group for s, settings in self.settings.items() if s not in found]
            raise OperationInterruptedError(
                f"You stopped waiting while {doing}: {len(found)} of {len(self.settings)} are done.",
                f"Azure goes on with what it has begun, and it costs money: {', '.join(missing)}"
                + (", and so do those that are done." if doing == "creating" and found else "."),
                "run the same again to follow it to its end; `labkit classroom delete` deletes all of it.",
                code="Interrupted") from error
        return [found[student] for student in self.settings]

    def _say(self, student: str, line: str) -> None:
        with self._lock:
            self._hear(student, line)


class _Listener(Reporter):
    def __init__(self, student: str, say: Hear) -> None:
        self._student, self._say = student, say

    def log(self, step: Step, line: str) -> None:
        self._say(self._student, line)

    def finished(self, step: Step, result: StepResult) -> None:
        if result.evidence is not None:
            self._say(self._student, result.evidence.text)


def _group_of(cluster: dict[str, object]) -> str:
    return str(cluster["id"]).split("/")[4].lower()
