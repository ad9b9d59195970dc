"""Benchmarks: flows, first-packet latency, services at scale; statistics and results."""

from labkit.bench.bench import Bench
from labkit.bench.results import Comparison, Run, Sample, Summary

__all__ = ["Bench", "Comparison", "Run", "Sample", "Summary"]
