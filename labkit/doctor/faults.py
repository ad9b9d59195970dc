"""Faults to find: plans that break something through the Kubernetes API, and mend it again.

Running a fault's plan breaks; reverting it, or `mend`, mends. Each shows as the finding of the doctor that
bears its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from labkit.calico import ClusterFacts, DataPlane, NetworkProfile, choose_lane, observe
from labkit.doctor import fault_steps as steps
from labkit.doctor.fault_steps import NAMESPACE, WebApplication
from labkit.errors import NotSupportedError
from labkit.kube import Kube, wait_for
from labkit.plan import Evidence, Plan, Step, revert_plan

Maker = Callable[[Kube, WebApplication, ClusterFacts], Callable[[str, str], Step]]


@dataclass(frozen=True)
class Fault:
    """Something to break.

    Args:
        name: also the id of the doctor's finding.
        symptom: what a learner is told.
        needs: the data plane that the cluster must have, or None for any with Calico or without.
        lanes: the lanes that it needs one of; none means any.
    """

    name: str
    symptom: str
    needs: DataPlane | None = None
    lanes: tuple[str, ...] = ()


FAULTS: Mapping[str, tuple[Fault, Maker]] = {fault.name: (fault, make) for fault, make in (
    (Fault("wrong-image", "A new version of the web application never starts."), steps.wrong_image),
    (Fault("no-endpoints", "The web application runs, but its service does not answer."), steps.no_endpoints),
    (Fault("policy-denies", "The web application's service has stopped answering; connections hang."),
     steps.policy_denies),
    (Fault("kube-proxy-gone", "Services that exist answer; a service that was made a minute ago never does.",
           needs="iptables", lanes=("article",)), steps.kube_proxy_away),
    (Fault("kp-back", "kube-proxy was taken off the nodes, and a minute later it is back.", lanes=("A",)),
     steps.kube_proxy_away),
    (Fault("op-addr", "Changes of Calico's Installation no longer take effect."), steps.two_methods),
    (Fault("op-refuse", "Somebody followed an old article, and now the operator is Degraded.", needs="iptables",
           lanes=("A", "B", "C")), steps.hand_set),
    (Fault("ep-missing", "All works, but the next restart of calico-node may be its last.", needs="ebpf",
           lanes=("article", "C")), steps.endpoint_missing),
    (Fault("ep-wrong", "calico-node rolls out since a while ago, and does not come to an end.", needs="ebpf",
           lanes=("A", "B", "C")), steps.endpoint_wrong),
    (Fault("kp-fight", "All answers, but calico-node and kube-proxy are busy though nothing changes.", needs="ebpf",
           lanes=("A", "B")), steps.fight),
    (Fault("kp-healthz", "calico-node's log fills with one error, every ten seconds.", needs="ebpf", lanes=("A", "B")),
     steps.health_port),
    (Fault("lb-ranges", "Outside clients reach the load balancer; the cluster's own pods no longer do.",
           needs="ebpf"), steps.source_ranges),
    (Fault("lb-local", "The node port of the web application answers on one node only.", needs="ebpf"),
     steps.local_policy),
)}


class Faults:
    """The faults of a cluster.

    Args:
        kube: the cluster.
        network: what Azure says about its network, where there is Azure: it says which lane the cluster is of.
    """

    def __init__(self, kube: Kube, network: NetworkProfile | None = None) -> None:
        self._kube, self._network = kube, network

    def _observed(self) -> ClusterFacts:
        return observe(self._kube, self._network)

    @property
    def names(self) -> tuple[str, ...]:
        """All faults, also those that need another data plane."""
        return tuple(FAULTS)

    def possible(self) -> tuple[Fault, ...]:
        """The faults that this cluster can have in the state that it is in."""
        facts = self._observed()
        return tuple(fault for fault, _ in FAULTS.values() if not _obstacle(fault, facts))

    def inject(self, which: str | Fault) -> Plan:
        """The plan that breaks something.

        Args:
            which: the fault, or its name. Who is to find it had better not read the name.

        Raises:
            NotSupportedError: there is no such fault, or the cluster is not in the state for it.
        """
        fault, make = self._find(which)
        facts = self._observed()
        if obstacle := _obstacle(fault, facts):
            raise NotSupportedError(f"The fault {fault.name} is not possible here.", obstacle,
                                    f'`lab.ensure("{fault.needs or "cluster"}")` first.')
        return self._plan(fault, make, facts)

    def mend(self, which: str | Fault) -> Plan:
        """The plan that mends what `inject` of the same fault has broken.

        Args:
            which: the fault, or its name.
        """
        fault, make = self._find(which)
        back = revert_plan(self._plan(fault, make, self._observed()))
        (step,) = back.steps
        return replace(back, title=f"Mend it: {fault.symptom}", steps=(
            replace(step, title="Put back what was there", why="Its command says what was wrong."),))

    def remove(self) -> None:
        """Delete the web application that the faults are shown on, and wait until it has gone."""
        self._kube.delete("namespaces", NAMESPACE)

        def gone() -> Evidence:
            found = self._kube.find("namespaces", NAMESPACE)
            return Evidence(found is None, "it is still there" if found else "it is gone")

        wait_for(f"the namespace {NAMESPACE} is gone", gone)

    def _find(self, which: str | Fault) -> tuple[Fault, Maker]:
        name = which.name if isinstance(which, Fault) else which
        if name not in FAULTS:
            raise NotSupportedError(f"There is no fault {name!r}.", "it is one of `lab.faults.possible()`, or a name.",
                                    f"faults are {', '.join(self.names)}.")
        return FAULTS[name]

    def _plan(self, fault: Fault, make: Maker, facts: ClusterFacts) -> Plan:
        step = make(self._kube, WebApplication(self._kube), facts)(fault.name, fault.symptom)
        return Plan(f"fault-{fault.name}", f"Break it: {fault.symptom}", (step,))


def _obstacle(fault: Fault, facts: ClusterFacts) -> str:
    """Why a fault is not possible in this cluster; empty where it is."""
    if fault.needs and facts.dataplane != fault.needs:
        return f"it needs the data plane {fault.needs}, and this cluster has {facts.dataplane}."
    if (fault.lanes or fault.name == "op-addr") and facts.dataplane == "vanilla":
        return "it needs Calico, and this cluster has none."
    if fault.lanes:
        try:
            lane = choose_lane(facts).id
        except NotSupportedError as error:
            return error.why
        if lane not in fault.lanes:
            return f"it needs a cluster of the lane {' or '.join(fault.lanes)}, and this one is of the lane {lane}."
    return ""
