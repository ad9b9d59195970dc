"""A check: a row of what is known about one fault, and a pure function that looks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from labkit.azure.refusals import Refusal, known
from labkit.doctor.report import Finding, Level
from labkit.errors import AzureError

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """What is known about one fault.

    Args:
        id: stable name; where facts about AKS and Calico name the fault, theirs.
        group: what it belongs to.
        title: what is looked at.
        symptom: what a user notices.
        cause: why.
        cure: the next thing to do.
        source: where it is documented or was met: an address, or "repository#issue".
    """

    id: str
    group: str
    title: str
    symptom: str
    cause: str
    cure: str
    source: str

    def found(self, seen: Seen) -> Finding:
        """The finding of this row."""
        return Finding(self.id, self.title, seen.level, seen.evidence, self.symptom, self.cause,
                       seen.cure or self.cure, seen.command if seen.level != "ok" else "", self.source, self.group)

    def __str__(self) -> str:
        return (f"{self.id}: {self.title} ({self.group})\n  symptom: {self.symptom}\n  cause: {self.cause}\n"
                f"  cure: {self.cure}\n  source: {self.source}")


@dataclass(frozen=True)
class Seen:
    """What a check saw.

    Args:
        level: how bad it is.
        evidence: what was read, in words.
        command: what mends it here, as a command that works when pasted.
        cure: what mends it here, where the row's own words do not fit.
    """

    level: Level
    evidence: str
    command: str = ""
    cure: str = ""


@dataclass(frozen=True)
class Check(Generic[T]):
    """A row and how to look for it.

    Args:
        row: what is known.
        look: a pure function of what was read.
    """

    row: Row
    look: Callable[[T], Seen]

    def __call__(self, subject: T) -> Finding:
        """Look, and say what was found."""
        return self.row.found(self.look(subject))


def check(id: str, group: str, title: str, *, symptom: str, cause: str, cure: str,
          source: str) -> Callable[[Callable[[T], Seen]], Check[T]]:
    """Make a check of a function; the arguments are the row's."""
    row = Row(id, group, title, symptom, cause, cure, source)

    def made(look: Callable[[T], Seen]) -> Check[T]:
        return Check(row, look)

    return made


def ok(evidence: str) -> Seen:
    """All is well."""
    return Seen("ok", evidence)


def unknown(evidence: str) -> Seen:
    """It could not be looked at."""
    return Seen("unknown", evidence)


def warning(evidence: str, command: str = "", cure: str = "") -> Seen:
    """Worth a look."""
    return Seen("warning", evidence, command, cure)


def problem(evidence: str, command: str = "", cure: str = "") -> Seen:
    """To be mended."""
    return Seen("problem", evidence, command, cure)


def azure_row(refusal: Refusal) -> Row:
    """The doctor's row of one of Azure's refusals."""
    return Row(refusal.id, "Azure", refusal.title, refusal.symptom, refusal.cause, refusal.fix, refusal.source)


def explain(error: AzureError) -> Finding:
    """An error of Azure's as a finding: the row that explains it, else the error's own words.

    Args:
        error: what Azure refused.
    """
    evidence = f"{error.what} {error.why}".strip()
    if refusal := known(error.code, error.why, error.status):
        return azure_row(refusal).found(problem(evidence, cure=error.fix))
    return Finding("azure", "Azure Resource Manager", "problem", evidence, cure=error.fix, group="Azure")
