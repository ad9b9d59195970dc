"""What a run can find out in the time that it is given, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.bench import stats
from labkit.bench.results import Run
from labkit.errors import MeasurementError

PRIOR_SPREAD = 0.05
PRIOR_SOURCE = ("nothing is known of this machine yet; in 178 cells of InfraBuilder's CNI benchmark of 2024 half had "
                "less than 3 %, nine of ten less than 12 %")
CLAIMED = ("cores_per_10_gbit", "cpu_us_per_exchange", "p50_us")
MOST_ROUNDS = 50
_MEDIAN = math.sqrt(math.pi / 2)
"""A median of normal samples scatters so much more than their mean."""


@dataclass(frozen=True)
class Forecast:
    """What to expect of a run.

    Args:
        rounds: how many there will be.
        seconds: how long they take.
        spread: of samples between rounds, as a share of their mean.
        source: where that is known from.
    """

    rounds: int
    seconds: float
    spread: float
    source: str

    @property
    def precision(self) -> float:
        """Half the interval of a ratio of two medians: a smaller difference cannot be told from none."""
        return 1.96 * _MEDIAN * math.sqrt(2 / self.rounds) * self.spread

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        said = f"{self.rounds} rounds take about {took}. " if self.rounds > 1 else f"One round takes about {took}. "
        if self.rounds < stats.CLAIM_ROUNDS:
            return said + f"That is a look and no claim: it takes {stats.CLAIM_ROUNDS} rounds."
        return said + (f"If samples scatter by {self.spread:.1%} ({self.source}), a difference of less than about "
                       f"{self.precision:.0%} cannot be told from none.")


def forecast(rounds: int, round_seconds: float, fixed_seconds: float = 0.0, budget: float | None = None,
             known: Run | None = None) -> Forecast:
    """How many rounds fit, and what they can tell.

    Args:
        rounds: as many as are asked for, without a budget.
        round_seconds: of one round.
        fixed_seconds: of what is done once.
        budget: seconds that may be spent; as many rounds are taken as fit.
        known: a run with samples of the same kind, whose spread is taken.

    Raises:
        MeasurementError: not one round fits.
    """
    if budget is not None:
        rounds = min(MOST_ROUNDS, int((budget - fixed_seconds) / round_seconds))
        if rounds < 1:
            raise MeasurementError(
                f"{budget:g} s are too few.", f"one round takes about {fixed_seconds + round_seconds:.0f} s",
                f"give at least budget={math.ceil(fixed_seconds + round_seconds)}, fewer cases, or fewer `seconds`.")
    spread = spread_of(known) if known else None
    source = PRIOR_SOURCE if spread is None else "as in the run before"
    return Forecast(rounds, fixed_seconds + rounds * round_seconds, PRIOR_SPREAD if spread is None else spread, source)


def spread_of(run: Run, metrics: Sequence[str] = CLAIMED) -> float | None:
    """The median spread of a run's samples between rounds; None where there is no case with three rounds.

    Args:
        run: what was measured.
        metrics: what to look at; those that claims are made of.
    """
    spreads = [stats.spread(values) for metric in metrics for case in run.cases for arm in run.arms
               if len(values := run.values(arm, case, metric)) >= 3]
    return stats.median(spreads) if spreads else None


def outliers(run: Run, metrics: Sequence[str]) -> list[str]:
    """A sentence for each sample that lies far from the others of its arm and case.

    Args:
        run: what was measured.
        metrics: what to look at.
    """
    found = []
    for metric in metrics:
        for case in run.cases:
            for arm in run.arms:
                samples = [s for s in run.samples if s.arm == arm and s.case == case and metric in s.metrics]
                values = [s.metrics[metric] for s in samples]
                found += [f"{arm}, {case}, round {samples[i].round + 1}: {metric} {values[i]:.3g}, beside a median of "
                          f"{stats.median(values):.3g}" for i in stats.outliers(values)]
    return found
