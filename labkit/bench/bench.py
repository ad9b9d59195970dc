"""Bench: what a notebook calls to measure a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from labkit.bench import flows, scale, workload
from labkit.bench.flows import FLOWS, Arm
from labkit.bench.results import OnSample, Run, Sample, now
from labkit.errors import MeasurementError
from labkit.kube import Kube


class Bench:
    """Benchmarks on one cluster, in the state that it is in.

    Args:
        kube: the cluster.
        dataplane: says which data plane it has now; that is the name of its arm in results.
        provenance: says where a measurement was taken.
        not_modelled: what a reader must know of the target.
    """

    def __init__(self, kube: Kube, dataplane: Callable[[], str], provenance: Callable[[], dict[str, Any]],
                 not_modelled: str = "") -> None:
        self._kube, self._dataplane, self._provenance = kube, dataplane, provenance
        self._not_modelled = not_modelled

    def prepare(self) -> workload.Workload:
        """Run the measuring pods, so that the first measurement need not wait for them."""
        return workload.ensure(self._kube)

    def arm(self, name: str | None = None) -> Arm:
        """The cluster as one side of a comparison.

        Args:
            name: None means the data plane's.
        """
        return Arm(name or self._dataplane(), self._kube, self.prepare())

    def flows(self, *, rounds: int = 5, seconds: int = 2, cases: Sequence[str] | None = None,
              against: Iterable[Bench] = (), rate: str | None = None, on_sample: OnSample | None = None) -> Run:
        """Throughput and CPU of flows between two nodes; rounds of several clusters are interleaved.

        Args:
            rounds: at least five for a claim.
            seconds: of each flow, in whole seconds.
            cases: names of flows ("pod to pod, TCP" …); None means all four.
            against: benches of other clusters, such as `lab.vanilla.bench`; they come first in tables.
            rate: a fixed rate such as "500M", to compare CPU at equal work; None means as fast as it goes.
            on_sample: hears of each sample as it is taken.

        Raises:
            MeasurementError: there is no such flow, or nothing arrived.
        """
        picked = [f for f in FLOWS if cases is None or f.name in cases]
        if not picked:
            raise MeasurementError(f"There are no flows {', '.join(cases or ())}.", "",
                                   f"they are: {'; '.join(f.name for f in FLOWS)}.")
        benches = [*against, self]
        arms = [bench.arm() for bench in benches]
        started = now()
        samples = flows.rounds(arms, picked, rounds, seconds, rate, on_sample)
        parameters = {"rounds": rounds, "seconds": seconds, "rate": rate or "unlimited"}
        return self._run("flows", "CPU and throughput of flows between two nodes", samples, parameters, arms,
                         benches, started)

    def first_packet(self, *, services: Sequence[int] = (10, 100, 1000), connects: int = 300, rounds: int = 3,
                     on_sample: OnSample | None = None, progress: scale.Progress | None = None) -> Run:
        """How long a fresh connection to a service takes, among more and more services.

        Args:
            services: how many, each in turn.
            connects: fresh connections in each round.
            rounds: how often.
            on_sample: hears of each sample.
            progress: hears what is being done.
        """
        arm, started = self.arm(), now()
        samples = scale.first_packet(arm, services, connects, rounds, on_sample, progress)
        return self._run("first-packet", "First-packet latency among N services", samples,
                         {"services": list(services), "connects": connects, "rounds": rounds}, [arm], [self],
                         started)

    def programming(self, *, services: Sequence[int] = (10, 1000), rounds: int = 3,
                    on_sample: OnSample | None = None, progress: scale.Progress | None = None) -> Run:
        """How long it takes from creating a service, among N others, until it answers.

        Args:
            services: how many others, each in turn.
            rounds: how often.
            on_sample: hears of each sample.
            progress: hears what is being done.
        """
        arm, started = self.arm(), now()
        samples = scale.programming(arm, services, rounds, on_sample, progress)
        return self._run("programming", "From creating a service to its first answer", samples,
                         {"services": list(services), "rounds": rounds}, [arm], [self], started)

    def churn(self, *, services: int = 1000, seconds: float = 5.0, rounds: int = 2, rate: float = 10.0,
              on_sample: OnSample | None = None, progress: scale.Progress | None = None) -> Run:
        """What the nodes spend while one service among N comes and goes.

        Args:
            services: how many others.
            seconds: of each phase.
            rounds: quiet and churning phases.
            rate: changes per second.
            on_sample: hears of each sample.
            progress: hears what is being done.
        """
        arm, started = self.arm(), now()
        samples = scale.churn(arm, services, seconds, rounds, rate, on_sample, progress)
        return self._run("churn", "CPU while one service comes and goes", samples,
                         {"services": services, "seconds": seconds, "rounds": rounds, "rate": rate}, [arm],
                         [self], started)

    def remove(self) -> None:
        """Delete all that benchmarks have made in the cluster."""
        workload.remove(self._kube)

    def _run(self, kind: str, title: str, samples: Sequence[Sample], parameters: dict[str, Any],
             arms: Sequence[Arm], benches: Sequence[Bench], started: str) -> Run:
        provenance: dict[str, Any] = {
            "parameters": parameters,
            "arms": {arm.name: bench._provenance() | {
                "kernel": arm.workload.kernel, "cpu": arm.workload.cpu,
                "client_node": arm.workload.client_node, "server_node": arm.workload.server_node,
                "one_machine": arm.workload.one_machine,
            } for arm, bench in zip(arms, benches, strict=True)},
        }
        notes = [self._not_modelled] if self._not_modelled else []
        if any(arm.workload.one_machine for arm in arms):
            notes.append("Client and server node are one machine: its CPU is counted once, and it includes "
                         "whatever else runs on it.")
        return Run(kind, title, tuple(samples), provenance, tuple(notes), started)
