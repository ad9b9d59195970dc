"""Checks: whether the cluster shows what the lesson was about.

A check is a function that looks at the lab and returns its evidence, or raises `CheckFailed` with what it
found instead. It never changes anything. Its hint says where to look, not what to type.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from labkit.errors import LabError
from labkit.markup import STATES, Fragment, badge, details, escape, prose

if TYPE_CHECKING:
    from labkit.lab import Lab

__all__ = ["CHECKS", "Check", "CheckFailed", "CheckReport", "CheckResult", "check", "run", "select"]


class CheckFailed(Exception):  # noqa: N818 - reads as a sentence where it is raised
    """What the check found instead of what it looked for."""


@dataclass(frozen=True)
class Check:
    """One thing to verify."""

    id: str
    title: str
    hint: str
    test: "Callable[[Lab], str]"


@dataclass(frozen=True)
class CheckResult:
    """What one check saw."""

    check: Check
    passed: bool
    evidence: str

    def fragment(self) -> Fragment:
        """Return the result as a card, with the hint folded away."""
        state = "passed" if self.passed else "failed"
        hint = "" if self.passed else details("Hint", f"<p>{prose(self.check.hint)}</p>")
        html = (
            f'<div class="lk-card {state}"><div class="lk-title">{badge(state)} {escape(self.check.title)} '
            f'<span class="muted">{escape(self.check.id)}</span></div>'
            f"<p>{escape(self.evidence)}</p>{hint}</div>"
        )
        text = f"{STATES[state][0]} {self.check.id} {self.check.title}: {self.evidence}"
        return Fragment(html, text if self.passed else f"{text}\n  hint: {self.check.hint}")


@dataclass(frozen=True, repr=False)
class CheckReport:
    """What several checks saw."""

    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether all of them passed."""
        return all(result.passed for result in self.results)

    def __bool__(self) -> bool:
        return self.passed

    def _repr_html_(self) -> str:
        return self.fragment()._repr_html_()

    def __repr__(self) -> str:
        return self.fragment().text

    def fragment(self) -> Fragment:
        """Return all results, one card each."""
        parts = [result.fragment() for result in self.results]
        return Fragment("".join(part.html for part in parts), "\n".join(part.text for part in parts))


CHECKS: Final[dict[str, Check]] = {}


def check(id: str, title: str, *, hint: str) -> "Callable[[Callable[[Lab], str]], Callable[[Lab], str]]":
    """Register a check; the id starts with its lesson's two digits.

    Args:
        id: such as ``03.bpf``.
        title: what holds when it passes.
        hint: where to look when it does not.
    """

    def register(test: "Callable[[Lab], str]") -> "Callable[[Lab], str]":
        if id in CHECKS:
            raise ValueError(f"two checks are named {id}")
        CHECKS[id] = Check(id, title, hint, test)
        return test

    return register


def select(ids: Sequence[str]) -> list[Check]:
    """Return the named checks; two digits stand for a whole lesson.

    Raises:
        LabError: an id that no check has, or none at all.
    """
    if not ids:
        raise LabError("Which checks?", "none was named.", 'name a lesson, such as `lab.course.check("02")`.')
    chosen: list[Check] = []
    for wanted in ids:
        found = [c for c in CHECKS.values() if c.id == wanted or c.id.startswith(f"{wanted}.")]
        if not found:
            raise LabError(f"There is no check {wanted!r}.", "",
                           f"name a lesson by its two digits, or one of {', '.join(sorted(CHECKS))}.")
        chosen += [c for c in found if c not in chosen]
    return chosen


def run(lab: "Lab", checks: Iterable[Check]) -> CheckReport:
    """Run checks; one that cannot look counts as failed and says why."""
    return CheckReport(tuple(_run_one(lab, c) for c in checks))


def _run_one(lab: "Lab", c: Check) -> CheckResult:
    try:
        return CheckResult(c, True, c.test(lab))
    except CheckFailed as reason:
        return CheckResult(c, False, str(reason))
    except Exception as error:  # a check must answer whatever state the learner's cluster is in
        return CheckResult(c, False, f"could not look: {type(error).__name__}: {error}")
