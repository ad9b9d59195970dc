from __future__ import annotations

from labkit.local.programs import monitor


def test_shares_of_the_whole_node() -> None:
    before = monitor.cpu_ticks("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 ...")
    after = monitor.cpu_ticks("cpu  150 0 120 820 0 5 5 0 0 0\n")
    assert monitor.percentages(before, after) == [50.0, 0.0, 30.0, 0.0, 0.0]


def test_memory_in_use() -> None:
    assert monitor.used_megabytes("MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\n") == 2000


def test_a_span_has_the_columns_names_first_because_knb_skips_a_line() -> None:
    log = "".join(f"1.00 0.00 2.00 0.00 0.00 900 {second}\n" for second in (10, 11, 12, 13)) + "1.00 0.00"
    lines = monitor.between(log, 11, 12)
    assert lines[0].split() == ["cpu-user", "cpu-nice", "cpu-system", "cpu-iowait", "cpu-steal", "memory-used",
                                "timestamp"]
    assert [line.split()[-1] for line in lines[1:]] == ["11", "12"]
