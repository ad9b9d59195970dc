"""Services at scale: first-packet latency, time until a change is programmed, and what churn costs.

At each number of services they are created once in all clusters; then rounds alternate between the clusters, as flows
do, so that a machine which gets slower or busier hurts all alike.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from labkit.bench import changes, flows, noise, probe, proof, services, workload
from labkit.bench.accounts import spend
from labkit.bench.results import Sample, now
from labkit.bench.suite import Arm, Task
from labkit.bench.workload import NAMESPACE
from labkit.errors import ExecError, MeasurementError
from labkit.kube import wait_for
from labkit.plan import Evidence

FIRST_PACKET, CHANGE, QUIET, CHURN = "first packet", "change", "quiet", "churn"
MEASURES = (FIRST_PACKET, CHANGE, QUIET, CHURN)
IDLE = flows.IDLE
"""Comes first in every block: whether the machine is at rest."""
MOST_SERVICES = 20_000
"""The service range of an AKS cluster has 65,000 addresses; what a lab of 2 cores can hold is less."""
PORT = 80
_TICKS = 100
_WARM = 0.5
_IDLE_SECONDS = 0.5
_PROVING_CONNECTS = 10
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
        strict: end the run where the machine does not come to rest.
    """
    found: list[Task] = []
    stage = Stage(arms, say)
    costs = {IDLE: _IDLE_SECONDS + flows.OVERHEAD_SECONDS, FIRST_PACKET: 1.0 + connects * 0.0015, CHANGE: 3.5,
             QUIET: seconds + 2.0, CHURN: seconds + 2.5}

    def taker(block: Block, measure: str) -> Callable[[], Sample]:
        return {
            IDLE: lambda: at_rest(block, strict=strict),
            FIRST_PACKET: lambda: first_packet(block, connects),
            CHANGE: lambda: change(block),
            QUIET: lambda: phase(block, QUIET, seconds, 0.0),
            CHURN: lambda: phase(block, CHURN, seconds, rate),
        }[measure]

    for count in counts:
        creating = count / _CREATED_PER_SECOND
        for number, order in enumerate(orders):
            for arm in order:
                block = Block(arm, stage, count, number)
                for measure in (IDLE, *measures):
                    found.append(Task(arm, case(measure, count), number, costs[measure] + creating,
                                      taker(block, measure)))
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
            at_once = f" in {len(self._clusters)} clusters at once" if len(self._clusters) > 1 else ""
            self._say(f"{count:,} services are being created{at_once}")
            with ThreadPoolExecutor(max_workers=len(self._clusters)) as pool:
                made = {key: pool.submit(_scaled, arm, count) for key, arm in self._clusters.items()}
                self._addresses = {key: future.result() for key, future in made.items()}
            self._count = count
        return {arm.name: self._addresses[id(arm.kube)] for arm in self._arms}


def _scaled(arm: Arm, count: int) -> dict[str, str]:
    services.ensure_backend(arm.kube, arm.workload.server_node)
    return services.scale(arm.kube, count)


class Block:
    """What samples of one arm in one round at one number of services share: the services, and who watches their path.

    Args:
        arm: where.
        stage: has the services.
        count: how many.
        round_: its number.
    """

    def __init__(self, arm: Arm, stage: Stage, count: int, round_: int) -> None:
        self.arm, self.count, self.round = arm, count, round_
        self._stage = stage
        self._witness: proof.Witness | None = None

    def begin(self) -> proof.Witness:
        """Have the services, once they answer; whoever watches the data plane that carries what comes.

        Raises:
            WaitError: they do not, or the data plane does not have them in its tables.
        """
        if self._witness is None:
            last = self.addresses()[-1]
            _answers(self.arm, last)
            self._witness = proof.Witness(self.arm.kube, self.arm.workload.client_node, self.arm.name, last, PORT)
        return self._witness

    def addresses(self) -> list[str]:
        """The first, the middle and the last service: a rule's place in a list is what may matter."""
        found = self._stage.at(self.count)[self.arm.name]
        return [found[services.name(i)] for i in sorted({0, self.count // 2, self.count - 1})]

    def proven(self, kind: str, ports: dict[str, list[int]]) -> dict[str, Any]:
        """What a sample keeps of the proof that its connections took the path which the arm is named after.

        Args:
            kind: what was measured.
            ports: the client's, of the connections to each address.

        Raises:
            MeasurementError: they took another one.
        """
        size = proof.SYN_BYTES * sum(map(len, ports.values()))
        at = self.arm.workload
        server = self.arm.kube.get("pods", "backend", NAMESPACE)["status"]["podIP"]
        verdict = self.begin().testify(*(
            proof.Traffic(size, "tcp", at.client_ip, tuple(of), server, address, PORT, workload.BACKEND_PORT)
            for address, of in ports.items()))
        return verdict.detail(case(kind, self.count), self.arm.name)

    def sample(self, kind: str, metrics: dict[str, float], command: str, detail: dict[str, Any]) -> Sample:
        """A sample of this block."""
        return Sample(self.arm.name, case(kind, self.count), self.round, metrics, command, now(), float(self.count),
                      detail)


def _answers(arm: Arm, address: str) -> None:
    """Wait until a service answers: after its creation, and after a switch of the data plane."""
    line = f"import socket; socket.create_connection(({address!r}, {PORT}), 1).close()"

    def answers() -> Evidence:
        done = arm.kube.exec("client", NAMESPACE, ["python3", "-c", line], check=False, timeout=20)
        return Evidence(done.exit_code == 0, f"the last one, at {address}, does not answer yet")

    wait_for("the services to be programmed", answers, timeout=300)


def at_rest(block: Block, *, strict: bool) -> Sample:
    """What the nodes spend while nothing is measured, once they have come to rest.

    Args:
        block: where; it begins, and creating its services does not count as waiting for rest.
        strict: end the run where they do not.

    Raises:
        MeasurementError: they did not.
    """
    block.begin()

    def idle() -> Sample:
        sample = flows.idle(block.arm, block.round, _IDLE_SECONDS)
        return replace(sample, case=case(IDLE, block.count), x=float(block.count))

    return noise.rest(idle, strict=strict)


def first_packet(block: Block, connects: int) -> Sample:
    """How long a fresh connection takes among N services: the first, the middle and the last one are asked in turn.

    Args:
        block: where.
        connects: fresh connections.

    Raises:
        MeasurementError: none succeeded, or they took another path.
    """
    block.begin()
    addresses = block.addresses()
    words = [str(PORT), str(max(1, connects // len(addresses))), *addresses]
    window = spend(block.arm.kube, block.arm.workload, ["python3", "-c", workload.script(probe), *words],
                   1 + connects * 0.001, warm=0)
    found = _connects(window.output)
    times = [t for each in found.values() for t in each["microseconds"]]
    if not times:
        raise MeasurementError(f"No connection to any of {block.count} services succeeded.", "",
                               "`lab.diagnose()` says why.")
    detail = block.proven(FIRST_PACKET, {address: each["ports"] for address, each in found.items()})
    p = np.percentile(times, [50, 90, 99])
    return block.sample(
        FIRST_PACKET,
        {"p50_us": float(p[0]), "p90_us": float(p[1]), "p99_us": float(p[2]), "mean_us": float(np.mean(times)),
         "connects": float(len(times)), "failed": float(sum(each["failed"] for each in found.values())),
         "steal_percent": window.metrics(None)["steal_percent"]},
        f"probe.py {' '.join(words)}", detail)


def change(block: Block) -> Sample:
    """How long it takes from creating one more service until it answers.

    Args:
        block: where.

    Raises:
        MeasurementError: it never answered, or its connection took another path.
    """
    block.begin()
    answer = changes.time_to_answer(block.arm.kube)
    detail = block.proven(CHANGE, {answer.address: [answer.port]})
    changes.settle(block.arm.kube, answer.address)
    return block.sample(CHANGE, {"seconds_to_answer": answer.seconds, "seconds_to_write": answer.write},
                        "create a service; connect every 5 ms until it answers", detail)


def phase(block: Block, kind: str, seconds: float, rate: float) -> Sample:
    """What the client's node spends while one service comes and goes, or while nothing changes.

    Afterwards connections to that service, or to the last one, must show whose work it was to program it.

    Args:
        block: where.
        kind: QUIET or CHURN.
        seconds: how long.
        rate: changes per second; 0 for none.

    Raises:
        MeasurementError: the connections took another path.
    """
    witness = block.begin()
    arm, address, made = block.arm, block.addresses()[-1], 0
    before = programs(arm)
    with ThreadPoolExecutor(max_workers=1) as pool:
        measured = pool.submit(spend, arm.kube, arm.workload, ["sleep", f"{_WARM + seconds:g}"], _WARM + seconds,
                               warm=_WARM, every=0.5)
        if rate:
            made, address = changes.churn(arm.kube, _WARM + seconds, rate)
        window = measured.result()
    after = programs(arm)
    _answers(arm, address)
    witness.await_service(address, PORT)
    asked = _connects(workload.python(arm.kube, workload.script(probe), str(PORT), str(_PROVING_CONNECTS), address))
    detail = block.proven(kind, {address: asked[address]["ports"]})
    if rate:
        changes.settle(arm.kube, address)
    usage = window.ends[0]
    metrics = {"node_percent": usage.percent, "node_cores": usage.cores, "steal_percent": usage.steal_percent,
               "changes_per_s": made / (_WARM + seconds), **window.by_node()}
    for name, ticks in after.items():
        if name in before:
            spent = max(0, ticks - before[name]) / _TICKS
            metrics[f"{name}_percent_of_core"] = 100 * spent / (_WARM + seconds)
            if made:
                metrics[f"{name}_cpu_ms_per_change"] = 1000 * spent / made
    series = {"seconds": [round(t, 3) for t, _ in window.series],
              "node_percent": [round(p, 2) for _, p in window.series]}
    return block.sample(kind, metrics, f"{block.count} services; {rate:g} changes a second",
                        {**detail, "series": series})


def _connects(output: str) -> dict[str, Any]:
    """What probe.py found, by address.

    Raises:
        MeasurementError: it wrote something else.
    """
    try:
        return json.loads(output)  # type: ignore[no-any-return]
    except ValueError:
        raise MeasurementError("Connections could not be timed.", output.strip()[-300:],
                               "`lab.diagnose()` says why a service does not answer.") from None


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
