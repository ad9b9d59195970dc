"""Medians and bootstrap intervals; seeded, so that the same samples give the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 4000
_SEED = 20210422  # the day of the article; any fixed number does
CLAIM_ROUNDS = 5
"""With fewer rounds than this no difference is claimed, whatever the interval says."""


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return float(np.median(np.asarray(values, dtype=float)))


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """A bootstrap interval of the median.

    Args:
        values: samples.
        level: the interval's probability.
    """
    medians = _resampled_medians(values, np.random.default_rng(_SEED))
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(base: Sequence[float], other: Sequence[float],
                   level: float = 0.95) -> tuple[float, float, float]:
    """The ratio of medians `other / base` and its bootstrap interval.

    Args:
        base: samples of what is compared with.
        other: samples of what is compared.
        level: the interval's probability.
    """
    rng = np.random.default_rng(_SEED)
    below, above = _resampled_medians(base, rng), _resampled_medians(other, rng)
    usable = below != 0
    ratios = above[usable] / below[usable]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return median(other) / median(base), float(low), float(high)


def verdict(ratio: float, low: float, high: float, n: int) -> str:
    """A comparison in words; a difference is claimed only where the interval excludes 1.

    Args:
        ratio: of medians.
        low: lower end of the interval.
        high: upper end.
        n: rounds in each arm.
    """
    if n < CLAIM_ROUNDS:
        return f"too few rounds for a claim ({n}; it takes {CLAIM_ROUNDS})"
    if low <= 1 <= high:
        return "no detectable difference"
    if ratio < 1:
        return f"{_percent(1 - ratio)} less (95 % interval {_percent(1 - high)} to {_percent(1 - low)})"
    return f"{_percent(ratio - 1)} more (95 % interval {_percent(low - 1)} to {_percent(high - 1)})"


def outliers(values: Sequence[float]) -> list[int]:
    """Which samples lie far from the others: more than 3.5 robust standard deviations (Iglewicz and Hoaglin).

    They stay in every median and interval; whoever shows samples marks them.

    Args:
        values: samples; of fewer than five none is called so.

    Returns:
        Their places.
    """
    samples = np.asarray(values, dtype=float)
    if len(samples) < CLAIM_ROUNDS:
        return []
    distances = np.abs(samples - np.median(samples))
    # Where most samples are equal to a tick, the smallest step is no outlier: at least 1 % of the median is usual.
    usual = max(float(np.median(distances)), 0.01 * abs(float(np.median(samples))))
    return [i for i, distance in enumerate(distances) if usual and 0.6745 * distance / usual > 3.5]


def spread(values: Sequence[float]) -> float:
    """How far samples lie apart: their standard deviation over their mean.

    Args:
        values: at least two samples.
    """
    samples = np.asarray(values, dtype=float)
    return float(samples.std(ddof=1) / samples.mean()) if samples.mean() else 0.0


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """A least-squares line's slope and its R²: how a cost grows with the number of services.

    Args:
        x: what was varied.
        y: what was measured.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    gradient, offset = np.polyfit(xs, ys, 1)
    spread = float(np.sum((ys - ys.mean()) ** 2))
    rest = float(np.sum((ys - (gradient * xs + offset)) ** 2))
    return float(gradient), 1 - rest / spread if spread else 1.0


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if abs(share) >= 0.1 else f"{share * 100:.1f} %"


def _resampled_medians(values: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    samples = np.asarray(values, dtype=float)
    picks = rng.integers(0, len(samples), size=(_RESAMPLES, len(samples)))
    return np.asarray(np.median(samples[picks], axis=1), dtype=np.float64)
