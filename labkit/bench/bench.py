"""Bench: what a notebook calls to measure a cluster.

What every suite takes is `How`. A run that can support a claim ends where the machine is too noisy for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from labkit.bench import accounts, exchange, flows, question, scale, workload
from labkit.bench import budget as budgets
from labkit.bench.recording import Recording
from labkit.bench.results import Run
from labkit.bench.stats import CLAIM_ROUNDS
from labkit.bench.suite import Arm, Task, conduct, orders, seconds_of
from labkit.bench.watch import Progress, Watch
from labkit.errors import KubeconfigError
from labkit.kube import Kube, kubeconfig

Provenance = Callable[[], dict[str, Any]]
Facts = dict[str, Any]
_PREPARE_SECONDS = 8.0


@dataclass(frozen=True)
class Side:
    """A data plane that a suite can measure.

    Args:
        name: "vanilla", "iptables" or "ebpf".
        bench: its cluster's; makes the cluster where it is missing.
        enter: brings the cluster to this data plane, and verifies it.
        enter_seconds: how long that takes, about.
    """

    name: str
    bench: Callable[[], Bench]
    enter: Callable[[], None]
    enter_seconds: float = 0.0


class How(TypedDict, total=False):
    """What every suite and every single measurement takes, beside what it measures.

    Attributes:
        budget: seconds, instead of `rounds`: as many as fit.
        watch: hears of each sample, and may stop.
        path: where the document is written as it comes; a run that was killed goes on there.
        known: a run before, to judge the spread by.
        accept_noise: go on where the machine does not come to rest; the samples and the run say so.
    """

    budget: float | None
    watch: Watch | None
    path: str | Path | None
    known: Run | None
    accept_noise: bool


class Bench:
    """Benchmarks on one cluster, in the state that it is in; and suites that compare the data planes.

    Args:
        kube: the cluster.
        dataplane: says which data plane it has now; that is the name of its arm in results.
        provenance: says where a measurement was taken.
        not_modelled: what a reader must know of the target.
        sides: the data planes that suites compare; none means this cluster as it is.
        nodes: the client's and the server's node; None means that any two will do.
    """

    def __init__(self, kube: Kube, dataplane: Callable[[], str], provenance: Provenance, not_modelled: str = "", *,
                 sides: Sequence[Side] = (), nodes: tuple[str | None, str | None] = (None, None)) -> None:
        self._kube, self._dataplane, self._provenance = kube, dataplane, provenance
        self._not_modelled, self._sides, self._nodes = not_modelled, {side.name: side for side in sides}, nodes

    @classmethod
    def for_cluster(cls, path: str | Path, context: str | None = None, *, client_node: str | None = None,
                    server_node: str | None = None, name: str = "cluster") -> Bench:
        """Benchmarks on a cluster that labkit did not make.

        Args:
            path: a kubeconfig file.
            context: a context of it; None means its current one.
            client_node: where the client runs; None means any node.
            server_node: where the server runs; None means any other one.
            name: of the arm in results. "vanilla", "iptables" and "ebpf" are claims: the data plane's counters are
                held to them, and a run that they refute ends.

        Raises:
            KubeconfigError: the file cannot be used.
            MeasurementError: there are no two such nodes.
        """
        config = kubeconfig.load(Path(path))
        contexts = [found["name"] for found in config.get("contexts", ())]
        if (context or config.get("current-context")) not in contexts:
            raise KubeconfigError(f"{path} has no context {context or 'that is current'}.", "",
                                  f"name one of it: {', '.join(contexts) or 'it has none'}.")
        kube = Kube(config, context)
        workload.place(kube, client_node, server_node)
        return cls(kube, lambda: name, lambda: {"kubernetes": kube.version(), "node_count": len(kube.list("nodes")),
                                                "api": kube.host}, nodes=(client_node, server_node))

    def prepare(self) -> workload.Workload:
        """Run the measuring pods, so that the first measurement need not wait for them."""
        return workload.ensure(self._kube, *self._nodes)

    def arm(self, name: str | None = None) -> Arm:
        """The cluster as one side of a comparison.

        Args:
            name: None means the data plane's.
        """
        return Arm(name or self._dataplane(), self._kube, self.prepare(), about=self._provenance, now=self._dataplane)

    # Suites: the data planes side by side

    def article(self, *, rounds: int = 5, seconds: int = 2, rate: str | None = None,
                planes: Iterable[str] | None = None, cases: Iterable[str] | None = None, **how: Unpack[How]) -> Run:
        """The article's first chart: CPU and throughput of four flows, for each data plane.

        Args:
            rounds: at least five for a claim.
            seconds: of each flow, in whole seconds; one second of warm-up comes before and is not counted.
            rate: a fixed rate such as "500M", to compare CPU at equal work; None means as fast as it goes.
            planes: "vanilla", "iptables", "ebpf"; None means all. The last two are one cluster, which is switched.
            cases: names of flows ("pod to pod, TCP" …); None means all four.
            how: see `How`.

        Raises:
            MeasurementError: what was asked for cannot be measured, the machine is too noisy for a claim, or packets
                took another path.
        """
        picked = question.pick("flow", cases, {f.name: f for f in flows.FLOWS})
        question.seconds(seconds, whole=True), question.rate(rate)
        parameters = {"seconds": seconds, "rate": rate or "unlimited", "cases": [f.name for f in picked]}
        return self._suite(
            "article", "CPU and throughput of flows between two nodes", planes, parameters,
            lambda each, strict, _: flows.tasks(each, picked, int(seconds), rate, strict=strict),
            rounds, **how)

    def latency(self, *, rounds: int = 5, seconds: float = 2, planes: Iterable[str] | None = None,
                cases: Iterable[str] | None = None, **how: Unpack[How]) -> Run:
        """Requests and connections through a service: rates, latencies and CPU of each, for each data plane.

        Args:
            rounds: at least five for a claim.
            seconds: of each kind.
            planes: as for `article`.
            cases: "request/response", "connect/request/close"; None means both.
            how: see `How`.

        Raises:
            MeasurementError: what was asked for cannot be measured, or the machine is too noisy for a claim.
        """
        picked = question.pick("exchange", cases, {name: name for name in exchange.CASES})
        question.seconds(seconds)
        return self._suite(
            "latency", "Requests and connections through a service", planes, {"seconds": seconds, "cases": picked},
            lambda each, strict, _: exchange.tasks(each, picked, seconds, strict=strict),
            rounds, **how)

    def scale(self, *, services: Sequence[int] = (10, 100, 1000), rounds: int = 5, connects: int = 300,
              seconds: float = 3.0, rate: float = 10.0, planes: Iterable[str] | None = ("vanilla", "ebpf"),
              measures: Iterable[str] | None = None, **how: Unpack[How]) -> Run:
        """The article's second chart, and what grows with the number of services, for each data plane.

        Args:
            services: how many, each in turn, up to 10,000 and more.
            rounds: at each number; at least five for a claim.
            connects: fresh connections of a first-packet sample.
            seconds: of a quiet or churning phase.
            rate: changes per second while one service churns.
            planes: as for `article`. With "iptables" and "ebpf" the cluster is switched in each round.
            measures: "first packet", "change", "quiet", "churn"; None means all.
            how: see `How`.

        Raises:
            MeasurementError: what was asked for cannot be measured.
        """
        return self._scale("scale", "Services at scale", services, rounds, measures, connects,
                           seconds, rate, planes, **how)

    def knb(self, *, rounds: int = 1, seconds: int = 10, planes: Iterable[str] | None = (),
            cases: Iterable[str] | None = None, **how: Unpack[How]) -> Run:
        """k8s-bench-suite's five tests by its own names and command lines: what `knb` can be compared with.

        Args:
            rounds: knb has one.
            seconds: of each test; knb's are 10.
            planes: as for `article`; () means this cluster as it is, as knb does.
            cases: of "p2ptcp", "p2pudp", "p2stcp", "p2sudp"; None means all. "idle" always comes first.
            how: see `How`.

        Raises:
            MeasurementError: what was asked for cannot be measured.
        """
        picked = question.pick("test", cases, {f.name: f for f in flows.KNB})
        question.seconds(seconds, whole=True)
        return self._suite(
            "knb", "k8s-bench-suite's five tests", planes, {"seconds": seconds, "cases": [f.name for f in picked]},
            lambda each, strict, _: flows.tasks(each, picked, int(seconds), None, strict=strict, idle_seconds=seconds),
            rounds, **how)

    # Single measurements: this cluster as it is, and others beside it

    def flows(self, *, rounds: int = 5, seconds: int = 2, cases: Iterable[str] | None = None,
              against: Iterable[Bench] = (), rate: str | None = None, **how: Unpack[How]) -> Run:
        """Throughput and CPU of flows between two nodes; rounds of several clusters are interleaved.

        Args:
            rounds: at least five for a claim.
            seconds: of each flow, in whole seconds.
            cases: names of flows ("pod to pod, TCP" …); None means all four.
            against: benches of other clusters, such as `lab.vanilla.bench`; they come first in tables.
            rate: a fixed rate such as "500M", to compare CPU at equal work; None means as fast as it goes.
            how: see `How`.

        Raises:
            MeasurementError: there is no such flow, or nothing arrived.
        """
        picked = question.pick("flow", cases, {f.name: f for f in flows.FLOWS})
        question.seconds(seconds, whole=True), question.rate(rate)
        parameters = {"seconds": seconds, "rate": rate or "unlimited", "cases": [f.name for f in picked]}
        return self._suite("flows", "CPU and throughput of flows between two nodes", (), parameters,
                           lambda each, strict, _: flows.tasks(each, picked, int(seconds), rate, strict=strict),
                           rounds, against=against, **how)

    def first_packet(self, *, services: Sequence[int] = (10, 100, 1000), connects: int = 300, rounds: int = 3,
                     **how: Unpack[How]) -> Run:
        """How long a fresh connection to a service takes, among more and more services.

        Args:
            services: how many, each in turn.
            connects: fresh connections in each round.
            rounds: how often.
            how: see `How`.
        """
        return self._scale("first-packet", "First-packet latency among N services", services, rounds,
                           [scale.FIRST_PACKET], connects, 1.0, 1.0, (), **how)

    def programming(self, *, services: Sequence[int] = (10, 1000), rounds: int = 3,
                    **how: Unpack[How]) -> Run:
        """How long it takes from creating a service, among N others, until it answers.

        Args:
            services: how many others, each in turn.
            rounds: how often.
            how: see `How`.
        """
        return self._scale("programming", "From creating a service to its first answer", services, rounds,
                           [scale.CHANGE], 1, 1.0, 1.0, (), **how)

    def churn(self, *, services: int = 1000, seconds: float = 5.0, rounds: int = 2, rate: float = 10.0,
              **how: Unpack[How]) -> Run:
        """What the nodes spend while one service among N comes and goes.

        Args:
            services: how many others.
            seconds: of each phase.
            rounds: quiet and churning phases.
            rate: changes per second.
            how: see `How`.
        """
        return self._scale("churn", "CPU while one service comes and goes", [services], rounds,
                           [scale.QUIET, scale.CHURN], 1, seconds, rate, (), **how)

    def remove(self) -> None:
        """Delete all that benchmarks have made in the cluster."""
        workload.remove(self._kube)

    # How they run

    def _scale(self, kind: str, title: str, services: Sequence[int], rounds: int, measures: Iterable[str] | None,
               connects: int, seconds: float, rate: float, planes: Iterable[str] | None, **how: Unpack[How]) -> Run:
        picked = question.pick("measure", measures, {name: name for name in scale.MEASURES})
        counts = question.counts(services, scale.MOST_SERVICES)
        question.seconds(seconds), question.rounds(connects)
        question.seconds(1 / rate if rate > 0 else 0)

        def tasks(each: Sequence[Sequence[Arm]], strict: bool, say: Callable[[str], None]) -> list[Task]:
            return scale.tasks(each[0], each, counts, picked, connects=connects, seconds=seconds, rate=rate, say=say,
                               strict=strict)

        parameters = {"services": counts, "connects": connects, "seconds": seconds, "rate": rate, "measures": picked}
        return self._suite(kind, title, planes, parameters, tasks, rounds, **how)

    def _suite(self, kind: str, title: str, planes: Iterable[str] | None, parameters: Facts,
               tasks: Callable[[Sequence[Sequence[Arm]], bool, Callable[[str], None]], list[Task]], rounds: int,
               *, against: Iterable[Bench] = (), budget: float | None = None, watch: Watch | None = None,
               path: str | Path | None = None, known: Run | None = None, accept_noise: bool = False) -> Run:
        """Measure; afterwards the cluster has the data plane that it had before."""
        watch = Watch() if watch is None else watch
        rounds, budget = question.rounds(rounds), question.budget(budget)
        sides = question.pick("data plane", planes, self._sides) if self._sides and planes != () else []
        before = self._dataplane()
        arms = self._arms(sides) if sides else [*(bench.arm() for bench in against), self.arm()]
        planned = tasks(orders(arms, 1, before), False, lambda text: None)
        expected = budgets.forecast(rounds, seconds_of(planned), _PREPARE_SECONDS, budget, known)
        parameters = {**parameters, **({"budget": budget} if budget else {"rounds": rounds}),
                      "planes": [arm.name for arm in arms]}

        def say(text: str) -> None:
            watch.progress(Progress(0, 0, text, 0.0))

        strict = expected.rounds >= CLAIM_ROUNDS and not accept_noise
        todo = tasks(orders(arms, expected.rounds, before), strict, say)
        with Recording(self._run(kind, title, arms, parameters, str(expected)), path) as recording:
            watch.progress(Progress(0, len(todo), str(expected), expected.seconds))
            try:
                return conduct(todo, recording, watch, seconds=budget, strict=strict)
            finally:
                if sides and before in self._sides and self._dataplane() != before:
                    self._sides[before].enter()

    @staticmethod
    def _arms(sides: Sequence[Side]) -> list[Arm]:
        """The arms of a comparison; those of one cluster share its pods."""
        found: list[Arm] = []
        for side in sides:
            bench = side.bench()
            same = next((arm for arm in found if arm.kube is bench._kube), None)
            arm = replace(same, name=side.name) if same else bench.arm(side.name)
            found.append(replace(arm, enter=side.enter, enter_seconds=side.enter_seconds))
        return found

    def _run(self, kind: str, title: str, arms: Sequence[Arm], parameters: Facts, forecast: str) -> Run:
        notes = [self._not_modelled] if self._not_modelled else []
        if any(arm.workload.one_machine for arm in arms):
            notes.append("Client and server node are one machine: its CPU is counted once, and it includes whatever "
                         "else runs on it. The two containers are told apart by their cgroups.")
        provenance = {"parameters": parameters, "arms": {arm.name: {} for arm in arms}, "figures": accounts.FIGURES,
                      "forecast": forecast}
        return Run(kind, title, (), provenance, tuple(notes))
