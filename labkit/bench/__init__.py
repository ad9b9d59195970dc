"""Benchmarks: flows, first-packet latency, services at scale; statistics and results."""
