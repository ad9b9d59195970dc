"""Flows between two nodes, as k8s-bench-suite measures them: throughput, and the CPU that it takes.

The CPU window and the byte count cover the same seconds: /proc/stat is read in the client's pod just
before and just after iperf3 runs. The unit is the article's, spelled out:

    cores per 10 Gbit/s = busy cores of both nodes × 10 / measured Gbit/s

It is an extrapolation wherever less than 10 Gbit/s flows. Nodes that are one machine are counted once.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from labkit.bench import cpu, iperf, workload
from labkit.bench.results import OnSample, Sample, now
from labkit.bench.workload import Workload
from labkit.errors import MeasurementError
from labkit.kube import Kube

_MARK = "--labkit--"


@dataclass(frozen=True)
class Flow:
    """A kind of traffic.

    Args:
        name: as tables show it.
        protocol: "tcp" or "udp".
        through_service: to the service's address rather than the pod's.
    """

    name: str
    protocol: iperf.Protocol
    through_service: bool


FLOWS = (
    Flow("pod to pod, TCP", "tcp", False), Flow("pod to pod, UDP", "udp", False),
    Flow("pod to service, TCP", "tcp", True), Flow("pod to service, UDP", "udp", True),
)
IDLE = "idle"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a cluster in one state."""

    name: str
    kube: Kube
    workload: Workload


def measure(arm: Arm, flow: Flow, round_: int, seconds: int, rate: str | None) -> Sample:
    """One flow, once.

    Args:
        arm: where.
        flow: what.
        round_: its number.
        seconds: how long.
        rate: a fixed rate, or None for as fast as it goes.

    Raises:
        MeasurementError: nothing arrived.
    """
    host = arm.workload.service_ip if flow.through_service else arm.workload.server_ip
    words = iperf.command(host, flow.protocol, seconds, rate)
    output, client, server = _with_cpu(arm, shlex.join(words), seconds)
    result = iperf.parse(output)
    gbit = result.bits_per_second / 1e9
    usages = [client] if server is None else [client, server]
    cores, percent = sum(u.cores for u in usages), sum(u.percent for u in usages)
    metrics = {
        "gbit_per_s": gbit, "cores": cores, "node_percent": percent,
        "cores_per_10_gbit": cores * 10 / gbit, "node_percent_per_10_gbit": percent * 10 / gbit,
        "softirq_cores": sum(u.softirq / u.seconds for u in usages),
        "steal_percent": max(u.steal_percent for u in usages), "bytes": result.bytes,
    }
    if flow.protocol == "udp":
        metrics |= {"lost_percent": result.lost_percent, "jitter_ms": result.jitter_ms}
    else:
        metrics["retransmits"] = result.retransmits
    return Sample(arm.name, flow.name, round_, metrics, shlex.join(words), now())


def idle(arm: Arm, round_: int, seconds: float) -> Sample:
    """What the nodes spend while nothing is measured: the background of all other numbers."""
    _, client, server = _with_cpu(arm, f"sleep {seconds:g}", seconds)
    usages = [client] if server is None else [client, server]
    metrics = {"cores": sum(u.cores for u in usages), "node_percent": sum(u.percent for u in usages),
               "steal_percent": max(u.steal_percent for u in usages)}
    return Sample(arm.name, IDLE, round_, metrics, f"sleep {seconds:g}", now())


def rounds(arms: Sequence[Arm], flows: Sequence[Flow], count: int, seconds: int, rate: str | None,
           on_sample: OnSample | None) -> list[Sample]:
    """All flows of all arms, round by round, A B then B A: what drifts hits every arm alike.

    Args:
        arms: what to compare.
        flows: what to measure.
        count: rounds.
        seconds: of each flow.
        rate: a fixed rate, or None.
        on_sample: hears of each sample.
    """
    samples: list[Sample] = []

    def take(sample: Sample) -> None:
        samples.append(sample)
        if on_sample is not None:
            on_sample(sample)

    for number in range(count):
        order = list(arms) if number % 2 == 0 else list(reversed(arms))
        for arm in order:
            take(idle(arm, number, min(seconds, 1.0)))
        for flow in flows:
            for arm in order:
                take(measure(arm, flow, number, seconds, rate))
    return samples


def _with_cpu(arm: Arm, line: str, seconds: float) -> tuple[str, cpu.Usage, cpu.Usage | None]:
    """Run a line in the client's pod, and what its node and, if it is another machine, the server's spent."""
    stat = "grep ^cpu /proc/stat"
    around = f"{stat}; echo {_MARK}; {line}; echo; echo {_MARK}; {stat}"
    with ThreadPoolExecutor(max_workers=1) as pool:
        other = None
        if not arm.workload.one_machine:
            other = pool.submit(workload.shell, arm.kube, "monitor",
                                f"{stat}; echo {_MARK}; sleep {seconds:g}; {stat}", seconds + 30)
        parts = workload.shell(arm.kube, "client", around, seconds + 30).split(_MARK)
        if len(parts) != 3:
            raise MeasurementError("The client's pod was interrupted while it measured.", parts[-1][-200:])
        here = cpu.between(cpu.parse(parts[0]), cpu.parse(parts[2]))
        there = None
        if other is not None:
            before, _, after = other.result().partition(_MARK)
            there = cpu.between(cpu.parse(before), cpu.parse(after))
    return parts[1].strip(), here, there
