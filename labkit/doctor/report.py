"""What the doctor found, in words and as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "unknown", "warning", "problem"]
MARKS: dict[Level, str] = {"ok": "✓", "unknown": "?", "warning": "!", "problem": "✗"}
_FIRST: tuple[Level, ...] = ("problem", "warning", "unknown", "ok")


@dataclass(frozen=True)
class Finding:
    """One check and what it found.

    Args:
        id: stable name, such as "ep-missing".
        title: what was looked at.
        level: "ok", "unknown" (it could not be looked at), "warning" or "problem".
        evidence: what was seen.
        symptom: what a user notices.
        cause: why.
        cure: the next thing to do, in words.
        command: the same as a command that works when pasted; empty where there is none.
        source: where it is documented or was met.
        group: what it belongs to, such as "Services".
    """

    id: str
    title: str
    level: Level
    evidence: str
    symptom: str = ""
    cause: str = ""
    cure: str = ""
    command: str = ""
    source: str = ""
    group: str = ""

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """What there is to say beside the evidence, labelled, where the finding is not well."""
        said = (("symptom", self.symptom), ("cause", self.cause), ("cure", self.cure), ("source", self.source))
        return tuple((label, text) for label, text in said if text) if self.level != "ok" else ()

    def __str__(self) -> str:
        lines = [f"{MARKS[self.level]} {self.title}: {self.evidence} [{self.id}]"]
        for label, text in self.parts:
            lines.append(f"    {label}: {text}")
            if label == "cure" and self.command:
                lines += [f"      {line}" for line in self.command.splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """All findings of one look, in the order of looking."""

    title: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem; warnings and what could not be looked at do not count."""
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

    def groups(self) -> Iterator[tuple[str, tuple[Finding, ...]]]:
        """Findings by group: groups with problems first, and in each the worst first."""
        def worst(findings: tuple[Finding, ...]) -> int:
            return min(_FIRST.index(f.level) for f in findings)

        names = dict.fromkeys(f.group for f in self.findings)
        groups = [(name, tuple(sorted((f for f in self.findings if f.group == name),
                                      key=lambda f: _FIRST.index(f.level)))) for name in names]
        yield from sorted(groups, key=lambda group: worst(group[1]))

    @property
    def verdict(self) -> str:
        """The report in a few words."""
        words = []
        for level, name in (("problem", "problem"), ("warning", "warning"), ("unknown", "not seen")):
            if count := sum(1 for f in self.findings if f.level == level):
                words.append(f"{count} {name}{'s' if count > 1 and name != 'not seen' else ''}")
        return ", ".join(words) or "all is well"

    def brief(self) -> str:
        """The verdict, and what is not well."""
        return self._text(lambda f: f.level != "ok")

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON, for programs."""
        return {"title": self.title, "ok": self.ok, "verdict": self.verdict,
                "findings": [asdict(finding) for finding in self.findings]}

    def _text(self, shown: Any = lambda f: True) -> str:
        lines = [f"{self.title}: {self.verdict}"]
        for group, findings in self.groups():
            if seen := [str(f) for f in findings if shown(f)]:
                lines += [*([f"{group}"] if group else []), *seen]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self._text()

    __repr__ = __str__
