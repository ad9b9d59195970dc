"""CPU that a machine spends, from two readings of /proc/stat; idle and steal are told apart."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.errors import MeasurementError

TICKS_PER_SECOND = 100  # USER_HZ, which /proc reports in on every Linux that runs AKS


@dataclass(frozen=True)
class Reading:
    """CPU time since boot in ticks, summed over all CPUs, and how many CPUs there are."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int
    irq: int
    softirq: int
    steal: int
    cpus: int


@dataclass(frozen=True)
class Usage:
    """What was spent between two readings, in CPU seconds; `system` is with interrupts, as sar has it."""

    user: float
    nice: float
    system: float
    softirq: float
    iowait: float
    idle: float
    steal: float
    cpus: int

    @property
    def busy(self) -> float:
        """CPU seconds in which something of this machine ran."""
        return self.user + self.nice + self.system

    @property
    def seconds(self) -> float:
        """How long it was, by the machine's own clock."""
        return (self.busy + self.idle + self.iowait + self.steal) / self.cpus

    @property
    def cores(self) -> float:
        """Busy CPUs on average."""
        return self.busy / self.seconds if self.seconds else 0.0

    @property
    def percent(self) -> float:
        """Percent of the node: all CPUs busy is 100."""
        return 100 * self.cores / self.cpus

    @property
    def steal_percent(self) -> float:
        """Percent of the time that the hypervisor gave to others."""
        return self.percent_of("steal")

    def percent_of(self, kind: str) -> float:
        """Percent of the node for one kind of time.

        Args:
            kind: "user", "nice", "system", "softirq", "iowait", "idle" or "steal".
        """
        return 100 * float(getattr(self, kind)) / (self.seconds * self.cpus) if self.seconds else 0.0


def parse(text: str) -> Reading:
    """Read /proc/stat.

    Args:
        text: its content, or its lines that start with "cpu".

    Raises:
        MeasurementError: there is no line of totals in it.
    """
    lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    totals = next((words[1:] for words in lines if words[0] == "cpu"), None)
    if totals is None or len(totals) < 8:
        raise MeasurementError("The monitor pod did not return /proc/stat.", text[:200])
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in totals[:8])
    return Reading(user, nice, system, idle, iowait, irq, softirq, steal, cpus=max(1, len(lines) - 1))


def between(before: Reading, after: Reading) -> Usage:
    """What was spent between two readings of one machine.

    Args:
        before: the first.
        after: the second.
    """
    def seconds(*names: str) -> float:
        ticks: int = sum(getattr(after, n) - getattr(before, n) for n in names)
        return ticks / TICKS_PER_SECOND

    return Usage(user=seconds("user"), nice=seconds("nice"), system=seconds("system", "irq", "softirq"),
                 softirq=seconds("softirq"), iowait=seconds("iowait"), idle=seconds("idle"), steal=seconds("steal"),
                 cpus=after.cpus)
