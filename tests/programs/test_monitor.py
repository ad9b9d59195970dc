from __future__ import annotations

from labkit.local.programs import monitor


def test_shares_of_the_whole_node() -> None:
    before = monitor.cpu_ticks("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 ...")
    after = monitor.cpu_ticks("cpu  150 0 120 820 0 5 5 0 0 0\n")
    assert monitor.percentages(before, after) == [50.0, 0.0, 30.0, 0.0, 0.0]


def test_memory_in_use() -> None:
    assert monitor.used_megabytes("MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\n") == 2000
