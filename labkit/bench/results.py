"""A run of a benchmark: every sample, with what it takes to judge and to repeat it.

A run is one JSON document with a schema version. Tables, charts and reports are views of it: nothing
that they show is stored apart from the samples that it was computed from.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.bench import schema, stats
from labkit.bench.schema import SCHEMA
from labkit.errors import ResultsError


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Args:
        arm: what is compared, such as "vanilla", "iptables" or "ebpf".
        case: what was measured, such as "pod-to-pod TCP", or a number of services.
        round: which round, from 0.
        metrics: numbers by name; the unit is in the name, such as "gbit_per_s" or "cores_per_10_gbit".
        command: the command line that measured.
        at: when, in UTC.
        x: the quantity that was varied, such as the number of services, or None.
        detail: what is not a number, as JSON: proof that the data plane carried the packets, CPU by program.
    """

    arm: str
    case: str
    round: int
    metrics: dict[str, float]
    command: str = ""
    at: str = ""
    x: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """The median of a metric over rounds, with its bootstrap interval."""

    arm: str
    case: str
    metric: str
    n: int
    median: float
    low: float
    high: float
    x: float | None = None


@dataclass(frozen=True)
class Comparison:
    """How two arms differ in a metric: the ratio of medians `other / base`, with its interval.

    Args:
        verdict: in words: "21 % less (95 % interval 17 to 25 %)", or "no detectable difference".
    """

    case: str
    metric: str
    base: str
    other: str
    n: int
    ratio: float
    low: float
    high: float
    verdict: str
    x: float | None = None

    @property
    def detectable(self) -> bool:
        """Whether a difference may be claimed: the interval excludes 1, and it comes of enough rounds."""
        return self.n >= stats.CLAIM_ROUNDS and (self.low > 1 or self.high < 1)


@dataclass(frozen=True)
class Run:
    """One run of one benchmark.

    Args:
        kind: the suite ("article", "scale", "latency", "knb") or the single measurement ("flows",
            "first-packet", "programming", "churn").
        title: for people.
        samples: everything measured, in the order of measuring.
        provenance: target, versions, kernel, CPU, parameters.
        notes: what a reader must know, such as what the target does not model.
        started: when, in UTC.
        finished: when, in UTC; "" while it is under way, and for ever in a run that was killed.
    """

    kind: str
    title: str
    samples: tuple[Sample, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    started: str = ""
    finished: str = ""
    schema: str = SCHEMA

    @property
    def arms(self) -> tuple[str, ...]:
        """What was compared: in the order of provenance, for a first round may go backwards; else as they appear."""
        there = dict.fromkeys(s.arm for s in self.samples)
        return tuple(dict.fromkeys([*(arm for arm in self.provenance.get("arms", {}) if arm in there), *there]))

    @property
    def cases(self) -> tuple[str, ...]:
        """What was measured, in order of appearance."""
        return tuple(dict.fromkeys(s.case for s in self.samples))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics, in order of appearance."""
        return tuple(dict.fromkeys(name for s in self.samples for name in s.metrics))

    def values(self, arm: str, case: str, metric: str) -> list[float]:
        """One metric's samples, in order of rounds."""
        return [s.metrics[metric] for s in self.samples
                if s.arm == arm and s.case == case and metric in s.metrics]

    def x(self, case: str) -> float | None:
        """The quantity that was varied in a case."""
        return next((s.x for s in self.samples if s.case == case), None)

    def summary(self, metric: str) -> list[Summary]:
        """The median and its interval for each arm and case."""
        rows = []
        for case in self.cases:
            for arm in self.arms:
                if values := self.values(arm, case, metric):
                    low, high = stats.median_interval(values)
                    rows.append(Summary(arm, case, metric, len(values), stats.median(values), low, high,
                                        self.x(case)))
        return rows

    def compare(self, metric: str, base: str | None = None) -> list[Comparison]:
        """Every other arm against the base (the first arm, unless given), case by case."""
        first = base or self.arms[0]
        return [found for case in self.cases for arm in self.arms if arm != first
                if (found := self._compare(case, metric, first, arm))]

    def _compare(self, case: str, metric: str, base: str, other: str) -> Comparison | None:
        left, right = self.values(base, case, metric), self.values(other, case, metric)
        if not left or not right or stats.median(left) == 0:
            return None
        ratio, low, high = stats.ratio_interval(left, right)
        return Comparison(case, metric, base, other, min(len(left), len(right)), ratio, low, high,
                          stats.verdict(ratio, low, high, min(len(left), len(right))), self.x(case))

    # Files

    def to_json(self) -> str:
        """The document.

        Raises:
            ValueError: a metric is infinite or no number, which JSON does not have.
        """
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def save(self, path: str | Path) -> Path:
        """Write the document; folders are made. A reader finds the old one or the new one, never a part."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with part.open("w", encoding="utf-8") as file:
            file.write(self.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        return target

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "This text") -> Run:
        """Read a document.

        Args:
            text: the document.
            name: how to call it in errors.

        Raises:
            ResultsError: it is not one, it is cut off, or a newer labkit has written it.
        """
        data = schema.parse(text, name)
        samples = tuple(Sample(**sample) for sample in data.pop("samples"))
        return cls(**{**data, "samples": samples, "notes": tuple(data["notes"])})

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a file.

        Raises:
            ResultsError: there is no such file, or it is not a results document.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ResultsError(f"{path} cannot be read.", error.strerror or str(error), "give another path.") from error
        return cls.from_json(data, str(path))

    def to_csv(self) -> str:
        """One line for each sample and metric."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["kind", "arm", "case", "x", "round", "metric", "value", "at"])
        for s in self.samples:
            for name, value in s.metrics.items():
                x = "" if s.x is None else s.x
                table.writerow([self.kind, s.arm, s.case, x, s.round, name, value, s.at])
        return out.getvalue()


def now() -> str:
    """The moment in UTC, as documents carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def table(run: Run, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Medians as rows for a table: one row for each arm and case."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for metric in metrics:
        for s in run.summary(metric):
            row = rows.setdefault((s.case, s.arm), {"case": s.case, "arm": s.arm, "rounds": s.n})
            row[metric] = s.median
    return list(rows.values())
