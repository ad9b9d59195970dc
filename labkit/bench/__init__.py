"""Benchmarks: flows, first-packet latency, services at scale; statistics and results."""

from labkit.bench.bench import Bench, Side
from labkit.bench.results import Comparison, Run, Sample, Summary
from labkit.bench.watch import Progress, Watch

__all__ = ["Bench", "Comparison", "Progress", "Run", "Sample", "Side", "Summary", "Watch"]
