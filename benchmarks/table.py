"""Rows of the table that `make bench` prints and README quotes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        what: what was measured.
        value: the measurement.
        unit: its unit.
        baseline: what it is compared with, in the same unit.
        against: what the baseline is; "goal" where it is a promise rather than a measurement.
        better: whether less or more of it is better.
    """

    what: str
    value: float
    unit: str
    baseline: float
    against: str
    better: str = "less"

    @property
    def ratio(self) -> float:
        """The value over its baseline."""
        if self.value == self.baseline:
            return 1.0
        return self.value / self.baseline if self.baseline else float("inf")

    @property
    def kept(self) -> bool:
        """Whether the figure is at least as good as its baseline; a cost below nothing is noise, and is not."""
        return self.value >= 0 and (self.ratio <= 1 if self.better == "less" else self.ratio >= 1)


def render(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| figure | measured | baseline | ratio |  |", "| --- | ---: | --- | ---: | --- |"]
    for row in rows:
        lines.append(
            f"| {row.what} | {row.value:.3g} {row.unit} | {row.baseline:.3g} {row.unit}, {row.against} | "
            f"{row.ratio:.2f} | {'kept' if row.kept else 'missed'} |"
        )
    return "\n".join(lines)
