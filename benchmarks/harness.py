"""What measuring costs: a flow as the suite measures it, beside plain iperf3 in the same namespaces.

Both run from the same pods' network namespaces to the same server, and take turns. The plain one is iperf3 alone:
entered by nsenter, no exec through the API, no meter, no counters. Its CPU is read from /proc/stat on this machine,
over the same part of it: after the second of warm-up, until it ends.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import Row
from labkit.bench import cpu, flows, iperf, stats, workload
from labkit.bench.accounts import spend
from labkit.bench.suite import Arm
from labkit.lab import Lab
from labkit.local.paths import LabPaths

THROUGHPUT, CPU = 0.98, 1.03
"""At least so much of plain iperf3's throughput, and at most so much of its CPU."""


@dataclass(frozen=True)
class Cost:
    """What one flow brought and took."""

    gbit_per_s: float
    cores: float


def rows(lab: Lab, paths: LabPaths, *, rounds: int = 7, seconds: int = 2) -> list[Row]:
    """Measure TCP and UDP, pod to pod.

    Args:
        lab: a lab with a cluster.
        paths: its files.
        rounds: of each way; they alternate, and each second round goes backwards.
        seconds: of each flow, warm-up not counted.
    """
    arm = lab.bench.arm()
    netns = _netns(paths, lab, "client")
    found = []
    for flow in flows.FLOWS[:2]:
        words = iperf.command(arm.workload.server_ip, flow.protocol, seconds)
        plain: list[Cost] = []
        ours: list[Cost] = []
        for number in range(rounds):
            for way in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
                if way == "plain":
                    plain.append(_plain(netns, words))
                else:
                    ours.append(_ours(arm, words, seconds))
        found += _compare(flow.name, plain, ours)
    return found


def _compare(name: str, plain: list[Cost], ours: list[Cost]) -> list[Row]:
    rows = []
    for what, better, goal, pick in (
            ("throughput", "more", THROUGHPUT, lambda c: c.gbit_per_s), ("CPU", "less", CPU, lambda c: c.cores)):
        ratio, low, high = stats.ratio_interval([pick(c) for c in plain], [pick(c) for c in ours])
        against = f"plain iperf3 in this run; 95 % interval {low:.3f} to {high:.3f}"
        rows.append(Row(f"{what} as the suite measures it / plain iperf3, {name}", ratio, "×", goal, against, better))
    return rows


def _plain(netns: Path, words: list[str]) -> Cost:
    command = subprocess.Popen(["nsenter", f"--net={netns}", "--", *words], stdout=subprocess.PIPE, text=True)
    time.sleep(iperf.WARM_SECONDS)
    before = cpu.parse(Path("/proc/stat").read_text())
    output, _ = command.communicate(timeout=60)
    usage = cpu.between(before, cpu.parse(Path("/proc/stat").read_text()))
    return Cost(iperf.parse(output).bits_per_second / 1e9, usage.cores)


def _ours(arm: Arm, words: list[str], seconds: int) -> Cost:
    window = spend(arm.kube, arm.workload, words, iperf.WARM_SECONDS + seconds, warm=iperf.WARM_SECONDS)
    return Cost(iperf.parse(window.output).bits_per_second / 1e9, window.cores)


def _netns(paths: LabPaths, lab: Lab, pod: str) -> Path:
    """The network namespace of a measuring pod."""
    uid = lab.kube.get("pods", pod, workload.NAMESPACE)["metadata"]["uid"]
    (found,) = Path("/run/netns").glob(f"{paths.prefix}*-pod-{uid[:8]}")
    return found
