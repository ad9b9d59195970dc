"""knb's monitor: once a second, the node's CPU and memory, from /proc.

Each line of /data/metrics.log is `%user %nice %system %iowait %steal usedMB epoch`, in percent of the
whole node. `stats.sh START END` prints the lines of a span of time, below the columns' names: knb skips the first line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

_LOG = Path("/data/metrics.log")
_COLUMNS = "cpu-user cpu-nice cpu-system cpu-iowait cpu-steal memory-used timestamp"


def cpu_ticks(text: str) -> list[int]:
    """The node's counters of time: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(word) for word in text.split("\n", 1)[0].split()[1:9]]


def percentages(before: list[int], after: list[int]) -> list[float]:
    """What the CPUs did between two readings: user, nice, system (with interrupts), iowait, steal."""
    spent = [b - a for a, b in zip(before, after, strict=True)]
    whole = sum(spent) or 1
    user, nice, system, _, iowait, irq, softirq, steal = (100 * part / whole for part in spent)
    return [user, nice, system + irq + softirq, iowait, steal]


def used_megabytes(text: str) -> int:
    """Memory in use, as `free -m` counts it."""
    values = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if ":" in line}
    return (values["MemTotal"] - values["MemAvailable"]) // 1024


def between(log: str, start: int, end: int) -> list[str]:
    """The columns' names, then the lines of a span of time.

    Args:
        log: what the monitor has written.
        start: the first second, by the epoch.
        end: the last second, which counts too.
    """
    whole = (line for line in log.splitlines() if len(line.split()) == 7)  # the last one may be under way
    return [_COLUMNS, *(line for line in whole if start <= int(line.split()[-1]) <= end)]


def _monitor() -> None:
    _LOG.parent.mkdir(parents=True, exist_ok=True)
    before = cpu_ticks(Path("/proc/stat").read_text())
    with _LOG.open("a", buffering=1) as log:
        while True:
            time.sleep(1)
            after = cpu_ticks(Path("/proc/stat").read_text())
            numbers = " ".join(f"{value:.2f}" for value in percentages(before, after))
            log.write(f"{numbers} {used_megabytes(Path('/proc/meminfo').read_text())} {int(time.time())}\n")
            before = after


def main() -> None:
    """Monitor for ever, or print a span of what was seen."""
    if len(sys.argv) == 3:
        print("\n".join(between(_LOG.read_text(), int(sys.argv[1]), int(sys.argv[2]))))
        return
    _monitor()


if __name__ == "__main__":
    main()
