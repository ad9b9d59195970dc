"""Flows between two nodes, as k8s-bench-suite measures them: throughput, and the CPU that it takes.

CPU and bytes cover the same seconds: the warm-up is left out of both (`meter`). The unit is the article's, spelled out:

    cores per 10 Gbit/s = busy cores of both nodes × 10 / measured Gbit/s

It is an extrapolation wherever less than 10 Gbit/s flows. Nodes that are one machine are counted once.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.bench import iperf, noise
from labkit.bench.accounts import Window, spend
from labkit.bench.proof import Traffic, Witness
from labkit.bench.results import Sample, now
from labkit.bench.suite import Arm, Task
from labkit.errors import MeasurementError

_TRIES = 5
OVERHEAD_SECONDS = 0.5
"""Of a sample, beside the seconds that it measures: exec, Python, iperf3's handshake, the agents' counters."""
REACHED = 0.9
"""Of a fixed rate, what must arrive for the work to be equal."""


@dataclass(frozen=True)
class Flow:
    """A kind of traffic.

    Args:
        name: as tables show it.
        protocol: "tcp" or "udp".
        through_service: to the service's address rather than the pod's.
        host: the name to ask for instead of an address, or "".
        payload: of UDP datagrams, in bytes; None leaves it to iperf3.
    """

    name: str
    protocol: iperf.Protocol
    through_service: bool
    host: str = ""
    payload: int | None = 1400


FLOWS = (
    Flow("pod to pod, TCP", "tcp", False), Flow("pod to pod, UDP", "udp", False),
    Flow("pod to service, TCP", "tcp", True), Flow("pod to service, UDP", "udp", True),
)
KNB = (  # knb's names, and its own command lines: the service by its name, datagrams as iperf3 makes them
    Flow("p2ptcp", "tcp", False), Flow("p2pudp", "udp", False, payload=None),
    Flow("p2stcp", "tcp", True, host="server.labkit-bench"),
    Flow("p2sudp", "udp", True, host="server.labkit-bench", payload=None),
)
IDLE = "idle"


class Block:
    """What samples of one arm in one round share: the counters' last state, and the idle background.

    Args:
        arm: whose.
    """

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._witness: Witness | None = None
        self.background: float | None = None

    def witness(self) -> Witness:
        """Whoever saw the last flow; made when the first one is about to start, after the switch."""
        if self._witness is None:
            at = self._arm.workload
            self._witness = Witness(self._arm.kube, at.client_node, self._arm.name, at.service_ip, iperf.PORT)
        return self._witness


def tasks(arms: Sequence[Sequence[Arm]], flows: Sequence[Flow], seconds: int, rate: str | None, *,
          idle_seconds: float | None = None, strict: bool = False) -> list[Task]:
    """All samples of flows, in the order of measuring.

    Args:
        arms: the arms of each round in their order.
        flows: what to measure in each block of a round; none measures idling only.
        seconds: of each, the warm-up not counted.
        rate: a fixed rate, or None.
        idle_seconds: of the idle window that starts a block; None means one, or `seconds` where that is less.
        strict: end the run where the machine does not come to rest.
    """
    rest = float(min(1, seconds)) if idle_seconds is None else idle_seconds
    found: list[Task] = []
    for number, order in enumerate(arms):
        for arm in order:
            block = Block(arm)
            found.append(Task(arm, IDLE, number, rest + OVERHEAD_SECONDS, _idle(block, arm, number, rest, strict)))
            found += [Task(arm, flow.name, number, iperf.WARM_SECONDS + seconds + OVERHEAD_SECONDS,
                           _flow(block, arm, flow, number, seconds, rate)) for flow in flows]
    return found


def _idle(block: Block, arm: Arm, number: int, seconds: float, strict: bool) -> Callable[[], Sample]:
    def take() -> Sample:
        block.witness()
        sample = noise.rest(lambda: idle(arm, number, seconds), strict=strict)
        block.background = sample.metrics["cores"]
        return sample

    return take


def _flow(block: Block, arm: Arm, flow: Flow, number: int, seconds: int, rate: str | None) -> Callable[[], Sample]:
    return lambda: measure(arm, flow, number, seconds, rate, block)


def measure(arm: Arm, flow: Flow, round_: int, seconds: int, rate: str | None, block: Block) -> Sample:
    """One flow, once.

    Args:
        arm: where.
        flow: what.
        round_: its number.
        seconds: how long, after the warm-up.
        rate: a fixed rate, or None for as fast as it goes.
        block: what it shares with the arm's other flows of this round.

    Raises:
        MeasurementError: nothing arrived, the rate was not reached, or the packets took another path.
    """
    at = arm.workload
    host = flow.host or (at.service_ip if flow.through_service else at.server_ip)
    words = iperf.command(host, flow.protocol, seconds, rate, payload=flow.payload)
    witness = block.witness()
    if block.background is None:  # the block goes on after an interruption
        block.background = idle(arm, round_, 1.0).metrics["cores"]
    window = _patiently(arm, words, iperf.WARM_SECONDS + seconds)
    result = iperf.parse(window.output)
    verdict = witness.testify(Traffic(
        result.bytes, flow.protocol, at.client_ip, result.ports, at.server_ip,
        at.service_ip if flow.through_service else "", iperf.PORT))
    return Sample(arm.name, flow.name, round_, metrics(result, window, block.background, flow.protocol, rate),
                  shlex.join(words), now(), detail=verdict.detail(flow.name, arm.name))


def metrics(result: iperf.Throughput, window: Window, background: float | None, protocol: iperf.Protocol,
            rate: str | None) -> dict[str, float]:
    """A flow's numbers.

    Args:
        result: what iperf3 counted.
        window: what was spent.
        background: cores while idle.
        protocol: "tcp" or "udp".
        rate: the fixed rate that was asked for, or None.

    Raises:
        MeasurementError: less than the rate arrived.
    """
    gbit = result.bits_per_second / 1e9
    if rate and result.bits_per_second < REACHED * iperf.rate(rate):
        raise MeasurementError(f"Of the {rate}bit/s that were asked for, {gbit:.2f} Gbit/s arrived.",
                               "CPU at equal work can be compared only where the work is done",
                               f"give a lower rate, such as rate=\"{gbit * 800:.0f}M\".")
    found = {"gbit_per_s": gbit, **window.metrics(background), **window.by_node(), "bytes": result.bytes}
    for name, unit in (("cores", "cores_per_10_gbit"), ("node_percent", "node_percent_per_10_gbit"),
                       ("cores_above_idle", "cores_per_10_gbit_above_idle")):
        if name in found:
            found[unit] = found[name] * 10 / gbit
    for name, cores in (("client", result.client_cores), ("server", result.server_cores)):
        if cores is not None:
            found[f"{name}_program_cores"] = cores
    if protocol == "udp":
        return found | {"lost_percent": result.lost_percent, "jitter_ms": result.jitter_ms}
    return found | {"retransmits": result.retransmits}


def idle(arm: Arm, round_: int, seconds: float) -> Sample:
    """What the nodes spend while nothing is measured: the background of all other numbers."""
    window = spend(arm.kube, arm.workload, ["sleep", f"{seconds:g}"], seconds, warm=0)
    found = {"cores": window.cores, "node_percent": sum(u.percent for u in window.nodes),
             "steal_percent": max(u.steal_percent for u in window.nodes), **window.by_node()}
    return Sample(arm.name, IDLE, round_, found, f"sleep {seconds:g}", now())


def _patiently(arm: Arm, words: list[str], seconds: float) -> Window:
    """Run iperf3; a server that still serves a run which was killed is given time."""
    for _ in range(_TRIES):
        window = spend(arm.kube, arm.workload, words, seconds, warm=iperf.WARM_SECONDS)
        if not iperf.is_busy(window.output):
            break
        time.sleep(1)
    return window
