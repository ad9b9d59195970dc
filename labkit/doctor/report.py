"""What the doctor found, in words and as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]
_MARKS = {"ok": "✓", "warning": "!", "problem": "✗"}


@dataclass(frozen=True)
class Finding:
    """One check and what it found.

    Args:
        id: stable name, such as "endpoint-missing".
        title: what was looked at.
        level: "ok", "warning" or "problem".
        evidence: what was seen.
        symptom: what a user notices.
        cause: why.
        cure: the next thing to do; a command that works when pasted, where there is one.
    """

    id: str
    title: str
    level: Level
    evidence: str
    symptom: str = ""
    cause: str = ""
    cure: str = ""

    def __str__(self) -> str:
        lines = [f"{_MARKS[self.level]} {self.title}: {self.evidence}"]
        if self.level != "ok":
            labelled = (("symptom", self.symptom), ("cause", self.cause), ("cure", self.cure))
            lines += [f"    {label}: {text}" for label, text in labelled if text]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """All findings of one look, in the order of looking."""

    title: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem; warnings do not count."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What has to be mended."""
        return tuple(f for f in self.findings if f.level == "problem")

    def __getitem__(self, finding_id: str) -> Finding:
        for finding in self.findings:
            if finding.id == finding_id:
                return finding
        raise KeyError(finding_id)

    def __contains__(self, finding_id: str) -> bool:
        return any(f.id == finding_id for f in self.findings)

    @property
    def verdict(self) -> str:
        """The report in a few words."""
        count = len(self.problems)
        return "all is well" if not count else f"{count} problem{'s' if count > 1 else ''}"

    def brief(self) -> str:
        """The verdict, and what is not well."""
        return "\n".join([f"{self.title}: {self.verdict}", *(str(f) for f in self.findings if f.level != "ok")])

    def __str__(self) -> str:
        return "\n".join([f"{self.title}: {self.verdict}", *map(str, self.findings)])

    __repr__ = __str__
