"""Services at scale: first-packet latency, time until a change is programmed, and what churn costs.

At each number of services they are created once in all clusters; then rounds alternate between the clusters, as flows
do, so that a machine which gets slower or busier hurts all alike.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from labkit.bench import changes, noise, probe, proof, services, workload
from labkit.bench.accounts import spend
from labkit.bench.results import Sample, now
from labkit.bench.suite import Arm, Task
from labkit.bench.workload import NAMESPACE
from labkit.errors import ExecError, MeasurementError
from labkit.kube import wait_for
from labkit.plan import Evidence

FIRST_PACKET, CHANGE, QUIET, CHURN = "first packet", "change", "quiet", "churn"
MEASURES = (FIRST_PACKET, CHANGE, QUIET, CHURN)
MOST_SERVICES = 20_000
"""The service range of an AKS cluster has 65,000 addresses; what a lab of 2 cores can hold is less."""
_TICKS = 100
_WARM = 0.5
_CREATED_PER_SECOND = 200.0


def tasks(arms: Sequence[Arm], orders: Sequence[Sequence[Arm]], counts: Sequence[int], measures: Sequence[str], *,
          connects: int, seconds: float, rate: float, say: Callable[[str], None], strict: bool = False) -> list[Task]:
    """All samples, in the order of measuring.

    Args:
        arms: all of them, each once.
        orders: the arms of each round in their order.
        counts: how many services, each in turn.
        measures: of MEASURES.
        connects: fresh connections of a first-packet sample.
        seconds: of a quiet or churning phase.
        rate: changes per second while churning.
        say: hears that services are created.
        strict: end the run where nodes do not come to rest for a quiet phase.
    """
    found = []
    stage = Stage(arms, say)
    costs = {FIRST_PACKET: 1.0 + connects * 0.0005, CHANGE: 3.0, QUIET: seconds + 1.5, CHURN: seconds + 1.5}
    takers = {
        FIRST_PACKET: lambda arm, count, n: first_packet(arm, stage.at(count)[arm.name], count, n, connects),
        CHANGE: lambda arm, count, n: (stage.at(count), change(arm, count, n))[1],
        QUIET: lambda arm, count, n: (stage.at(count), noise.rest(
            lambda: phase(arm, QUIET, count, n, seconds, 0.0), strict=strict))[1],
        CHURN: lambda arm, count, n: (stage.at(count), phase(arm, CHURN, count, n, seconds, rate))[1],
    }

    def taker(measure: str, arm: Arm, count: int, number: int) -> Callable[[], Sample]:
        return lambda: takers[measure](arm, count, number)

    for count in counts:
        creating = count / _CREATED_PER_SECOND
        for number, order in enumerate(orders):
            for arm in order:
                for measure in measures:
                    found.append(Task(arm, case(measure, count), number, costs[measure] + creating,
                                      taker(measure, arm, count, number)))
                    creating = 0.0
    return found


def case(measure: str, count: int) -> str:
    """What a sample is called: "first packet, 1,000 services"."""
    return f"{measure}, {count:,} services"


class Stage:
    """How many services there are now, in all clusters alike.

    Args:
        arms: whose clusters.
        say: hears that services are created.
    """

    def __init__(self, arms: Sequence[Arm], say: Callable[[str], None]) -> None:
        self._clusters = {id(arm.kube): arm for arm in arms}
        self._arms, self._say = arms, say
        self._count = -1
        self._addresses: dict[int, dict[str, str]] = {}

    def at(self, count: int) -> dict[str, dict[str, str]]:
        """Have exactly so many services; their addresses by name, by arm.

        Args:
            count: how many.

        Raises:
            WaitError: they are not programmed.
        """
        if count != self._count:
            self._say(f"{count:,} services are being created in {len(self._clusters)} clusters at once")
            with ThreadPoolExecutor(max_workers=len(self._clusters)) as pool:
                made = {key: pool.submit(_scaled, arm, count) for key, arm in self._clusters.items()}
                self._addresses = {key: future.result() for key, future in made.items()}
            self._count = count
        return {arm.name: self._addresses[id(arm.kube)] for arm in self._arms}


def _scaled(arm: Arm, count: int) -> dict[str, str]:
    services.ensure_backend(arm.kube, arm.workload.server_node)
    return services.scale(arm.kube, count)


def programmed(arm: Arm, addresses: dict[str, str], count: int) -> None:
    """Wait until the last service answers: after its creation, and after a switch of the data plane.

    Args:
        arm: where.
        addresses: of the services, by name.
        count: how many there are.

    Raises:
        WaitError: it does not.
    """
    last = addresses[services.name(count - 1)]
    line = f"import socket; socket.create_connection(({last!r}, 80), 1).close()"

    def answers() -> Evidence:
        done = arm.kube.exec("client", NAMESPACE, ["python3", "-c", line], check=False, timeout=20)
        return Evidence(done.exit_code == 0, f"{services.name(count - 1)} at {last} does not answer yet")

    wait_for(f"the last of {count} services to be programmed", answers, timeout=300)


def first_packet(arm: Arm, addresses: dict[str, str], count: int, round_: int, connects: int) -> Sample:
    """How long a fresh connection takes among N services.

    The first, the middle and the last service are asked in turn, because a rule's place in a list is what may matter.

    Args:
        arm: where.
        addresses: of the services, by name.
        count: how many there are.
        round_: its number.
        connects: fresh connections.

    Raises:
        MeasurementError: none succeeded.
    """
    programmed(arm, addresses, count)
    picked = [addresses[services.name(i)] for i in sorted({0, count // 2, count - 1})]
    times: list[float] = []
    failed = 0
    for address in picked:
        each = str(max(1, connects // len(picked)))
        answer = json.loads(workload.python(arm.kube, workload.script(probe), address, "80", each))
        times += answer["microseconds"]
        failed += answer["failed"]
    if not times:
        raise MeasurementError(f"No connection to any of {count} services succeeded.", "", "`lab.diagnose()` says why.")
    p = np.percentile(times, [50, 90, 99])
    return Sample(
        arm.name, case(FIRST_PACKET, count), round_,
        {"p50_us": float(p[0]), "p90_us": float(p[1]), "p99_us": float(p[2]), "mean_us": float(np.mean(times)),
         "connects": float(len(times)), "failed": float(failed)},
        f"probe.py {' '.join(picked)}: {connects} fresh connections", now(), float(count))


def change(arm: Arm, count: int, round_: int) -> Sample:
    """How long it takes from creating one more service until it answers.

    Args:
        arm: where.
        count: how many others there are.
        round_: its number.

    Raises:
        MeasurementError: it never answered.
    """
    seconds, write = changes.time_to_answer(arm.kube)
    return Sample(arm.name, case(CHANGE, count), round_, {"seconds_to_answer": seconds, "seconds_to_write": write},
                  "create a service; connect every 5 ms until it answers", now(), float(count))


def phase(arm: Arm, kind: str, count: int, round_: int, seconds: float, rate: float) -> Sample:
    """What the client's node spends while one service comes and goes, or while nothing changes.

    Args:
        arm: where.
        kind: QUIET or CHURN.
        count: how many other services there are.
        round_: its number.
        seconds: how long.
        rate: changes per second; 0 for none.
    """
    before = programs(arm)
    with ThreadPoolExecutor(max_workers=1) as pool:
        measured = pool.submit(spend, arm.kube, arm.workload, ["sleep", f"{_WARM + seconds:g}"], _WARM + seconds,
                               warm=_WARM, every=0.5)
        made = changes.churn(arm.kube, _WARM + seconds, rate) if rate else 0
        window = measured.result()
    after = programs(arm)
    usage = window.ends[0]
    metrics = {"node_percent": usage.percent, "node_cores": usage.cores, "steal_percent": usage.steal_percent,
               "changes_per_s": made / (_WARM + seconds), **window.by_node()}
    for name, ticks in after.items():
        if name in before:
            spent = max(0, ticks - before[name]) / _TICKS
            metrics[f"{name}_percent_of_core"] = 100 * spent / (_WARM + seconds)
            if made:
                metrics[f"{name}_cpu_ms_per_change"] = 1000 * spent / made
    detail = {"series": {"seconds": [round(t, 3) for t, _ in window.series],
                         "node_percent": [round(p, 2) for _, p in window.series]}}
    return Sample(arm.name, case(kind, count), round_, metrics, f"{count} services; {rate:g} changes a second", now(),
                  float(count), detail)


def programs(arm: Arm) -> dict[str, int]:
    """CPU ticks of the programs on the client's node that handle services, where their images let them be read."""
    ticks: dict[str, int] = {}
    for pod, namespace in proof.agents(arm.kube, arm.workload.client_node).items():
        component = "kube-proxy" if pod.startswith("kube-proxy") else "calico-node"
        with contextlib.suppress(ExecError):  # some images have no shell: then only the node as a whole is known
            output = arm.kube.exec(pod, namespace, ["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null"], check=False)
            if output.stdout:
                ticks[component] = process_ticks(output.stdout)
    return ticks


def process_ticks(text: str) -> int:
    """CPU ticks of all processes in /proc/<pid>/stat lines, with their children that have ended.

    Args:
        text: the lines.
    """
    total = 0
    for line in text.splitlines():
        fields = line.rpartition(")")[2].split()
        if len(fields) > 14:
            total += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return total
