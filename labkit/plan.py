"""Step and Plan: one way to do, show, check and undo everything that changes a cluster.

A planner is a pure function: from what was observed it returns a `Plan`, a tuple of `Step`s. A notebook
shows the plan as cards and calls `run_step`, `check_step` and `revert_step`; a script calls `run`. The
two run the same code.

Steps are idempotent. `run_step` first asks `verify`: what already holds is not done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from labkit.errors import LabError, StepError

_changes = 0

Log = Callable[[str], None]
"""Where a step says what it is doing, line by line, while it does it."""


@dataclass(frozen=True)
class Evidence:
    """What a check saw.

    Args:
        ok: whether the step's effect is there.
        text: the observation in words, quoting what was read.
    """

    ok: bool
    text: str

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class Step:
    """One thing to do, with its reason, its command-line twin, its check and its way back.

    Args:
        id: stable name, unique in the plan, such as "endpoint".
        title: what it does, in the imperative.
        why: the reason.
        without: what breaks if it is left out.
        command: the same as `az` or `kubectl`; it works when pasted.
        apply: does it.
        verify: looks whether it took effect, without changing anything. It is called again until it
            holds or `timeout` has passed, because clusters converge.
        revert: undoes it, or None where there is nothing to undo.
        revert_command: the way back as `az` or `kubectl`.
        reverted: looks whether it is undone; None means whether `verify` no longer holds.
        hint: what to try when it fails.
        timeout: seconds to wait for `verify` after `apply`.
    """

    id: str
    title: str
    why: str
    without: str
    command: str
    apply: Callable[[Log], None]
    verify: Callable[[], Evidence]
    revert: Callable[[Log], None] | None = None
    revert_command: str = ""
    reverted: Callable[[], Evidence] | None = None
    hint: str = ""
    timeout: float = 120.0


@dataclass(frozen=True)
class Plan:
    """Steps in order, and what they are for.

    Args:
        id: stable name, such as "enable-ebpf".
        title: what it achieves.
        steps: in order.
        note: what the planner wants to say about its choice, such as the lane and its reason.
    """

    id: str
    title: str
    steps: tuple[Step, ...]
    note: str = ""

    def __getitem__(self, step_id: str) -> Step:
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(f"{step_id!r}: this plan has {', '.join(s.id for s in self.steps)}")

    def __len__(self) -> int:
        return len(self.steps)

    def __add__(self, other: Plan) -> Plan:
        return Plan(f"{self.id}+{other.id}", f"{self.title}, then {other.title}", self.steps + other.steps,
                    "\n".join(n for n in (self.note, other.note) if n))


class State(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    ALREADY_DONE = "already done"
    FAILED = "failed"
    REVERTED = "reverted"
    NOTHING_TO_REVERT = "nothing to revert"


@dataclass(frozen=True)
class StepResult:
    """How one step went.

    Args:
        step_id: the step.
        state: where it stands now.
        seconds: how long it took.
        evidence: what its check saw last, or None where it never came to that.
        log: what it said.
        error: why it failed, or None.
    """

    step_id: str
    state: State
    seconds: float = 0.0
    evidence: Evidence | None = None
    log: tuple[str, ...] = ()
    error: LabError | None = None

    @property
    def ok(self) -> bool:
        """Whether the step is where it was asked to be."""
        return self.state not in (State.FAILED, State.PENDING, State.RUNNING)


@dataclass(frozen=True)
class PlanResult:
    """How a plan went; steps after a failure are absent."""

    plan: Plan
    steps: tuple[StepResult, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every step of the plan is done."""
        return len(self.steps) == len(self.plan.steps) and all(step.ok for step in self.steps)

    @property
    def seconds(self) -> float:
        """How long it took in all."""
        return sum(step.seconds for step in self.steps)

    def __getitem__(self, step_id: str) -> StepResult:
        for step in self.steps:
            if step.step_id == step_id:
                return step
        raise KeyError(step_id)

    def raise_for_failure(self) -> None:
        """Raise the error of the step that failed, if one did."""
        for step in self.steps:
            if step.error:
                raise step.error


class Reporter:
    """Hears of a plan's progress; override what you need. Calls come from the thread that runs the plan."""

    def started(self, step: Step) -> None:
        """A step begins."""

    def log(self, step: Step, line: str) -> None:
        """A step says something."""

    def finished(self, step: Step, result: StepResult) -> None:
        """A step has ended, well or not."""


class PrintReporter(Reporter):
    """Prints one line for each step, and its log below it where that is wanted."""

    def __init__(self, verbose: bool = False, write: Callable[[str], object] = print) -> None:
        self._verbose, self._write = verbose, write

    def log(self, step: Step, line: str) -> None:
        """Print what the step says."""
        if self._verbose:
            self._write(f"    {line}")

    def finished(self, step: Step, result: StepResult) -> None:
        """Print how the step went."""
        mark = "✓" if result.ok else "✗"
        seen = f" — {result.evidence.text}" if result.evidence else ""
        self._write(f"{mark} {step.title} [{result.state}, {result.seconds:.1f} s]{seen}")


def changes() -> int:
    """How many steps this process has done or undone: who shows what a cluster is looks again when there are more."""
    return _changes


def run(plan: Plan, reporter: Reporter | None = None) -> PlanResult:
    """Run a plan's steps in order; stop at the first that fails.

    Args:
        plan: what to do.
        reporter: hears of progress.
    """
    results: list[StepResult] = []
    for step in plan.steps:
        results.append(run_step(step, reporter))
        if not results[-1].ok:
            break
    return PlanResult(plan, tuple(results))


def revert(plan: Plan, reporter: Reporter | None = None) -> PlanResult:
    """Undo a plan's steps, the last one first; stop at the first that fails.

    Args:
        plan: what to undo.
        reporter: hears of progress.
    """
    results: list[StepResult] = []
    for step in reversed(plan.steps):
        results.append(revert_step(step, reporter))
        if not results[-1].ok:
            break
    return PlanResult(plan, tuple(results))


def run_step(step: Step, reporter: Reporter | None = None) -> StepResult:
    """Do one step, unless its effect is already there, and wait until it is.

    Args:
        step: what to do.
        reporter: hears of progress.
    """
    def work(log: Log) -> tuple[State, Evidence]:
        evidence = step.verify()
        if evidence:
            return State.ALREADY_DONE, evidence
        step.apply(log)
        return State.DONE, _settle(step, log)

    return _guarded(step, reporter, work)


def check_step(step: Step) -> Evidence:
    """Look whether a step's effect is there; an error is evidence that it is not.

    Args:
        step: what to look at.
    """
    try:
        return step.verify()
    except LabError as error:
        return Evidence(False, error.what)


def revert_step(step: Step, reporter: Reporter | None = None) -> StepResult:
    """Undo one step.

    Args:
        step: what to undo.
        reporter: hears of progress.
    """
    def work(log: Log) -> tuple[State, Evidence | None]:
        if step.revert is None:
            return State.NOTHING_TO_REVERT, None
        step.revert(log)
        return State.REVERTED, None

    return _guarded(step, reporter, work)


def revert_plan(plan: Plan) -> Plan:
    """A plan's way back as a plan of its own, so that it can be shown as cards too.

    Args:
        plan: the plan to turn around; steps with nothing to revert are left out.
    """
    return Plan(f"revert-{plan.id}", f"Undo: {plan.title}", tuple(_turned(plan.steps)))


def _turned(steps: Iterable[Step]) -> Iterable[Step]:
    for step in reversed(tuple(steps)):
        if step.revert is not None:
            yield Step(
                id=f"undo-{step.id}", title=f"Undo: {step.title}", why=f"It takes back: {step.why}",
                without="", command=step.revert_command, revert_command=step.command,
                apply=step.revert, verify=step.reverted or _negated(step), revert=step.apply, timeout=step.timeout,
            )


def _negated(step: Step) -> Callable[[], Evidence]:
    def verify() -> Evidence:
        evidence = step.verify()
        return Evidence(not evidence.ok, evidence.text)

    return verify


def _settle(step: Step, log: Log) -> Evidence:
    """Ask `verify` until it holds; quickly at first, because a local cluster converges in milliseconds."""
    deadline = time.monotonic() + step.timeout
    pause, said = 0.05, ""
    while True:
        error: LabError | None = None
        try:
            evidence = step.verify()
        except LabError as caught:  # a cluster that converges may refuse for a while
            error, evidence = caught, Evidence(False, caught.what)
        if evidence:
            return evidence
        if time.monotonic() > deadline:
            raise StepError(
                f"{step.title}: it was done, but its effect did not show within {step.timeout:.0f} s.",
                f"the check last saw: {evidence.text}", step.hint or "look with `lab.diagnose()`.",
                step_id=step.id,
            ) from error
        if evidence.text != said:
            log(f"waiting: {evidence.text}")
            said = evidence.text
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


def _guarded(step: Step, reporter: Reporter | None,
             work: Callable[[Log], tuple[State, Evidence | None]]) -> StepResult:
    """Run a step's work with its log, its time and its errors recorded."""
    listener = reporter or Reporter()
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        listener.log(step, line)

    listener.started(step)
    begin = time.monotonic()
    try:
        state, evidence = work(log)
        result = StepResult(step.id, state, time.monotonic() - begin, evidence, tuple(lines))
    except LabError as error:
        failure = error if isinstance(error, StepError) else StepError(
            f"{step.title}: {error.what}", error.why, _both(error.fix, step.hint), step_id=step.id,
        )
        if failure is not error:
            failure.__cause__ = error
        failure.step_id, failure.log = step.id, tuple(lines)
        result = StepResult(step.id, State.FAILED, time.monotonic() - begin, None, tuple(lines), failure)
    global _changes
    _changes += result.state != State.ALREADY_DONE
    listener.finished(step, result)
    return result


def _both(fix: str, hint: str) -> str:
    return f"{fix} {hint}".strip() if hint not in fix else fix
