"""Lab: the one object that a notebook holds.

    lab = Lab.open()                      # the local lab, or what LABKIT_TARGET says
    lab.run(lab.create_cluster())         # every verb that changes something returns a plan
    lab.ensure("ebpf")                    # or: whatever it takes to get there
    lab.bench.flows()

A Lab is bound to one cluster. What the article compares with, a cluster without Calico, is a Lab of its
own: `lab.vanilla`.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from labkit import calico, targets
from labkit import plan as plans
from labkit import student as students
from labkit.azure import Azure, ClusterSettings, cost, names, versions
from labkit.azure import steps as cluster_steps
from labkit.azure.kube_proxy import KubeProxySwitch
from labkit.azure.tags import HOURS
from labkit.errors import LabError, TargetError
from labkit.kube import Kube, kubeconfig
from labkit.kube.readiness import ready_step
from labkit.plan import Plan, PlanResult, Reporter

if TYPE_CHECKING:
    from labkit.bench import Bench
    from labkit.doctor import Faults, Report
    from labkit.sourceip import Policies, SourceIp

Wanted = Literal["empty", "cluster", "vanilla", "iptables", "ebpf"]


class Lab:
    """A target, and one cluster on it.

    Args:
        target: where the APIs are.
        settings: the cluster.
        beside: this is the cluster that another lab is compared with, so kubectl keeps the other one.
    """

    def __init__(self, target: targets.Target, settings: ClusterSettings, *, beside: bool = False) -> None:
        self.target, self.settings, self._beside = target, settings, beside
        self._kube: Kube | None = None
        self._profile: calico.NetworkProfile | None = None

    @classmethod
    def open(cls, target: str | None = None, *, cluster: str = "MyCalicoCluster",
             resource_group: str = "CalicoDemoRG", location: str = "canadaeast",
             kubernetes_version: str | None = None, node_count: int = 2,
             node_vm_size: str = "Standard_D2s_v3", subscription: str | None = None,
             context: str | None = None, student: str | None = None, credential: str | None = None,
             cloud: str | None = None, start: bool = True) -> Lab:
        """Open a target. The cluster need not exist yet; its parameters are the article's.

        What a shell needs (KUBECONFIG, for `az` its settings) is put into this process's environment, so
        that a notebook's `!kubectl` reaches the same cluster.

        Args:
            target: "local", "aks" or "kind"; None means LABKIT_TARGET, else local.
            cluster: the cluster's name.
            resource_group: its resource group.
            location: its region.
            kubernetes_version: None means the article's where it is offered, else the newest.
            node_count: how many nodes.
            node_vm_size: their size.
            subscription: for aks; None means what `az` uses.
            context: for kind; None means the kubeconfig's current context.
            student: a number or a name that makes the cluster's and the group's names one's own, in a class that
                shares a subscription; None means LABKIT_STUDENT, else the names as they are.
            credential: for aks: "default", "cli" or "devicecode"; None means LABKIT_CREDENTIAL, else the default.
            cloud: for aks: "public", "china" or "usgovernment"; None means LABKIT_CLOUD, else the public one.
            start: start the local lab where it is down, as root; False for who only looks.

        Raises:
            TargetError: the target is unknown or does not answer.
            AzureError: a parameter is not possible.
        """
        settings = ClusterSettings(
            name=cluster, resource_group=resource_group, location=location,
            kubernetes_version=kubernetes_version, node_count=node_count, node_vm_size=node_vm_size)
        if whose := student or os.environ.get(students.VARIABLE):
            settings = names.for_student(settings, whose)
        found = targets.open_target(target, subscription=subscription, context=context, credential=credential,
                                    cloud=cloud, start=start, student=student)
        os.environ.update(found.env)
        return cls(found, settings)

    def __repr__(self) -> str:
        return f"Lab({self.target.name}, {self.settings.name} in {self.settings.resource_group})"

    # The two APIs

    @cached_property
    def azure(self) -> Azure:
        """Azure Resource Manager.

        Raises:
            NotSupportedError: the target has none.
        """
        url = self.target.require_arm()
        return Azure(url, self.target.subscription or "", self.target.credential, self.target.ca_bundle,
                     self.target.poll_seconds, scope=self.target.scope)

    @property
    def kube(self) -> Kube:
        """The cluster's Kubernetes API.

        Raises:
            AzureNotFoundError: the cluster does not exist yet.
        """
        if self._kube is None:
            self._kube = self._connect()
        return self._kube

    def _connect(self) -> Kube:
        if self.target.arm_url is None:
            return Kube(kubeconfig.load_all(), self.target.context)
        found = cluster_steps.credentials(self.azure, self.settings, login=self.target.kubelogin)
        return Kube(kubeconfig.named(found, self.settings.context), self.settings.context)

    def forget(self) -> None:
        """Drop the connection: the next use fetches credentials again."""
        if self._kube is not None:
            self._kube.close()
        self._kube = self._profile = None

    def close(self) -> None:
        """Close the connections to both APIs; the next use opens them again."""
        self.forget()
        if "azure" in self.__dict__:
            self.azure.close()

    @cached_property
    def vanilla(self) -> Lab:
        """The lab of the cluster without Calico that this one is compared with, in the same group."""
        return Lab(self.target, self.settings.vanilla(), beside=True)

    # Looking

    def preflight(self) -> Report:
        """Check this machine and the target before anything is created."""
        from labkit.doctor import preflight

        return preflight(self.target, self.azure if self.target.arm_url else None, self.settings)

    def diagnose(self) -> Report:
        """Check the cluster: what is wrong with it, why, and how to mend it."""
        from labkit.doctor import diagnose

        return diagnose(lambda: self.kube, self.azure if self.target.arm_url else None, self.settings)

    def facts(self) -> calico.ClusterFacts:
        """What is true of the cluster's networking now."""
        return calico.observe(self.kube, self._network())

    def _network(self) -> calico.NetworkProfile | None:
        """What Azure says about the cluster's network; asked once for each connection, because it stays."""
        if self.target.arm_url is None:
            return None
        if self._profile is None:
            self._profile = calico.NetworkProfile.of(
                self.azure.cluster(self.settings.resource_group, self.settings.name))
        return self._profile

    def dataplane(self) -> calico.DataPlane:
        """Which data plane carries the cluster's services: "vanilla", "iptables" or "ebpf"."""
        return self.facts().dataplane

    def exists(self) -> bool:
        """Whether the cluster is there and running."""
        if self.target.arm_url is None:
            return True
        found = self.azure.cluster(self.settings.resource_group, self.settings.name)
        return cluster_steps.cluster_is_up(found, self.settings).ok

    # Plans

    def create_cluster(self, *, kubernetes_version: str | None = None, node_count: int | None = None,
                       node_vm_size: str | None = None, network_policy: str | None = None,
                       network_plugin: str | None = None, pod_cidr: str | None = None,
                       tags: dict[str, str] | None = None, hours: float = HOURS) -> Plan:
        """The plan that creates the resource group and the cluster; its note says what is made and what it costs.

        Args:
            kubernetes_version: instead of the one that the lab was opened with.
            node_count: likewise.
            node_vm_size: likewise.
            network_policy: "calico" or "none".
            network_plugin: "azure", or "none" for a cluster that brings its own network.
            pod_cidr: where pods' addresses are from, where the plugin is "none".
            tags: on the group and the cluster, beside labkit's own (run, owner, expiry).
            hours: after which the lab counts as forgotten, for `labkit gc`.

        Raises:
            AzureError: a parameter is not possible, or the location does not offer the version.
        """
        if network_plugin == "none" and network_policy is None:
            network_policy = "none"  # who brings a network brings its policies too
        given: dict[str, Any] = {
            "kubernetes_version": kubernetes_version, "node_count": node_count, "node_vm_size": node_vm_size,
            "network_policy": network_policy, "network_plugin": network_plugin, "pod_cidr": pod_cidr,
            "tags": MappingProxyType(tags) if tags else None,
        }
        self.settings = replace(self.settings, **{k: v for k, v in given.items() if v is not None})
        offered = self.azure.versions(self.settings.location)
        version = versions.choose(offered, self.settings.kubernetes_version, self.settings.location)
        return cluster_steps.create(self.azure, self.settings, version, hours=hours)

    def get_credentials(self, *, admin: bool = True) -> Plan:
        """The plan that backs up the kubeconfig, merges the cluster's into it, and waits for the cluster.

        Args:
            admin: the cluster's own administrator; False means who is logged in, by kubelogin where the cluster
                has Microsoft Entra ID.
        """
        path = self.target.kubeconfig or kubeconfig.default_path()
        merge = cluster_steps.get_credentials(self.azure, self.settings, path, admin=admin,
                                              login=self.target.kubelogin)
        if self.settings.network_plugin == "none":
            return merge  # nodes wait for a network, and whoever brings it needs the credentials
        ready = ready_step(lambda: self.kube, calico=self.settings.network_policy == "calico")
        return replace(merge, steps=(*merge.steps, ready))

    def enable_ebpf(self, *, recheck: float | None = None) -> Plan:
        """The plan that turns Calico's eBPF data plane on, by the lane that fits this cluster.

        Args:
            recheck: seconds after which a last step looks whether AKS has taken something back; None means what
                the target says, 0 leaves the step out.

        Raises:
            NotSupportedError: no lane fits.
        """
        return calico.plan_enable_ebpf(self.facts(), self.kube, self._around(recheck))

    def disable_ebpf(self) -> Plan:
        """The plan that turns it off again."""
        return calico.plan_disable_ebpf(self.facts(), self.kube, self._around(0))

    def _around(self, recheck: float | None) -> calico.Around:
        target, settings = self.target, self.settings
        proxy = KubeProxySwitch(self.azure, settings.resource_group, settings.name) if target.arm_url else None
        return calico.Around(target.calico_releases or calico.RELEASES,
                             target.takes_back_seconds if recheck is None else recheck, proxy)

    def clean_up(self) -> Plan:
        """The plan that deletes this cluster, the vanilla one beside it, their group and their contexts."""
        path = self.target.kubeconfig or kubeconfig.default_path()
        return cluster_steps.delete(self.azure, (self.settings, self.settings.vanilla()), path)

    def abort(self) -> Plan:
        """The plan that aborts what is under way on the cluster in Azure, such as a creation nobody waits for."""
        return cluster_steps.abort(self.azure, self.settings)

    def cost(self) -> str:
        """What this cluster and the vanilla one have cost since they were made, with rates, sources and dates."""
        if self.target.arm_url is None:
            return f"{self.target.title}: there is no Azure here, and nothing that it would bill."
        both = (self.settings, self.settings.vanilla())
        found = [self.azure.cluster(s.resource_group, s.name) for s in both]
        return cost.report([cluster for cluster in found if cluster], self.settings, billed=self.target.billed)

    # Running

    def run(self, plan: Plan, reporter: Reporter | None = None, *, check: bool = True) -> PlanResult:
        """Run a plan without anybody clicking.

        Args:
            plan: what to do.
            reporter: hears of progress.
            check: raise the error of a step that fails, rather than return it.

        Raises:
            StepError: a step failed.
            TargetError: it is no plan.
        """
        if not isinstance(plan, Plan):
            raise TargetError(f"{plan!r} is not a plan.", "a plan is what `lab.enable_ebpf()` and its like return.",
                              'to get to a state name it to `lab.ensure`, such as `lab.ensure("ebpf")`.')
        result = plans.run(plan, reporter)
        if plan.id in ("clean-up",):
            self.forget()
            self.vanilla.forget()
        if check:
            result.raise_for_failure()
        return result

    def ensure(self, state: Wanted, reporter: Reporter | None = None) -> Lab:
        """Bring the lab to a state, from whatever state it is in; nothing is done twice.

        Args:
            state: "empty" (no cluster), "cluster" (it is there, whatever its data plane), "iptables" or
                "ebpf" (it is there, with that data plane), "vanilla" (the cluster without Calico is there).
            reporter: hears of progress.

        Returns:
            The lab whose cluster is in that state: this one, or `lab.vanilla`.

        Raises:
            StepError: a step on the way failed.
        """
        if state == "vanilla":
            return self.vanilla.ensure("cluster", reporter)
        if state not in ("empty", "cluster", "iptables", "ebpf"):
            raise TargetError(f"{state!r} is not a state of the lab.", "",
                              'use "empty", "cluster", "vanilla", "iptables" or "ebpf".')
        if state == "empty":
            self.run(self.clean_up(), reporter)
            return self
        self._ensure_cluster(reporter)
        if state == "ebpf":
            self.run(self.enable_ebpf(recheck=0), reporter)
        elif state == "iptables" and self.dataplane() != "iptables":
            self.run(self.disable_ebpf(), reporter)
        return self

    def _ensure_cluster(self, reporter: Reporter | None) -> None:
        if self.target.arm_url is None:
            return
        if not self.exists():
            self.forget()
            self.run(self.create_cluster(), reporter)
        elif self._kube is not None and not self._answers():
            self.forget()
        reach = self.get_credentials()
        self.run(replace(reach, steps=reach.steps[1:]) if self._beside else reach, reporter)

    def _answers(self) -> bool:
        """Whether the credentials that we hold are still good: the cluster may have been made anew."""
        try:
            self.kube.version()
        except LabError:
            return False
        return True

    # The rooms above the cluster

    @property
    def bench(self) -> Bench:
        """Benchmarks on this cluster."""
        from labkit.bench import Bench, Side

        def side(name: Literal["iptables", "ebpf"], seconds: float) -> Side:
            return Side(name, lambda: self.bench, lambda: self._switch(name), seconds)

        sides = [] if self._beside else [side("iptables", 9), side("ebpf", 3)]
        if sides and self.target.arm_url is not None:
            sides.insert(0, Side("vanilla", lambda: self.ensure("vanilla").bench, lambda: None))
        return Bench(self.kube, self.dataplane, self._provenance, self.target.not_modelled, sides=sides)

    def _switch(self, dataplane: Literal["iptables", "ebpf"]) -> None:
        """Bring the cluster to a data plane for a while, by the plan, and see that it is there."""
        if dataplane == "ebpf":
            self.run(self.enable_ebpf(recheck=0))
        elif self.dataplane() != "iptables":
            self.run(calico.plan_disable_ebpf(self.facts(), self.kube, self._around(0), for_now=True))
        if (found := self.dataplane()) != dataplane:
            raise TargetError(f"The cluster should have the data plane {dataplane} now, and has {found}.", "",
                              "`lab.diagnose()` says why.")

    @property
    def source_ip(self) -> SourceIp:
        """The echo service, and which address it sees of whom."""
        from labkit.sourceip import SourceIp

        return SourceIp(self.kube, self.target)

    @property
    def policies(self) -> Policies:
        """Policies on outside clients."""
        from labkit.sourceip import Policies

        return Policies(self.kube, self.source_ip)

    @property
    def faults(self) -> Faults:
        """Faults to find, each a plan that breaks something and mends it again."""
        from labkit.doctor import Faults

        return Faults(self.kube, self._network())

    @property
    def course(self) -> Any:
        """Checks, hints and progress; `labkit.course` builds on the lab, so it is looked up by name."""
        return importlib.import_module("labkit.course").Course(self)

    def _provenance(self) -> dict[str, Any]:
        """What a measurement says about where it was taken."""
        facts = self.facts()
        return {
            "target": self.target.name, "cluster": self.settings.name, "location": self.settings.location,
            "node_count": len(facts.nodes), "node_vm_size": self.settings.node_vm_size,
            "kubernetes": facts.version, "calico": facts.calico_version, "operator": facts.operator_version,
            "dataplane": facts.dataplane,
        }
