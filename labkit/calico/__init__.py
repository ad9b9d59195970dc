"""What a cluster's data plane is, and the plans that turn Calico's eBPF on and off."""

from labkit.calico.facts import ClusterFacts, DataPlane, NetworkProfile, observe
from labkit.calico.lanes import Lane, choose_lane
from labkit.calico.plans import RELEASES, Around, plan_disable_ebpf, plan_enable_ebpf

__all__ = [
    "RELEASES", "Around", "ClusterFacts", "DataPlane", "Lane", "NetworkProfile", "choose_lane", "observe",
    "plan_disable_ebpf", "plan_enable_ebpf",
]
