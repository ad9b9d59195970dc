"""Whose CPU it was: nodes by /proc/stat, the two containers by their cgroups, and the path between them.

Nodes of a local lab share one kernel, so /proc/stat there is the whole machine's and counts once. The cgroups of the
client's and the server's container tell these two apart; what is left is the path: softirqs that no program was
charged for, kernel threads, and whatever else runs.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

from labkit.bench import cpu, meter, workload
from labkit.bench.workload import Workload
from labkit.errors import MeasurementError
from labkit.kube import Kube

FIGURES = {
    "cores": "busy CPUs of both nodes by /proc/stat; nodes with one kernel are counted once",
    "node_percent": "the same in percent of a node, summed over nodes: all CPUs of one node busy is 100",
    "cores_above_idle": "cores, less what the nodes spent while nothing was measured in the same block",
    "softirq_cores": "the part of cores that /proc/stat has as softirq",
    "client_cores": "the client's node alone; where nodes share a kernel there is none",
    "server_cores": "the server's node alone; where nodes share a kernel there is none",
    "client_container_cores": "the client's container by its cgroup: what its processes were charged for",
    "server_container_cores": "the server's container by its cgroup",
    "client_program_cores": "iperf3 at the client by its own getrusage(), warm-up included",
    "server_program_cores": "iperf3 at the server by its own getrusage(), warm-up included",
    "path_cores": "cores above idle, less both containers: what the way between them cost that no container was "
                  "charged for",
    "steal_percent": "percent of the time that the hypervisor gave to others, on the worse node",
    "cores_per_10_gbit": "cores × 10 / gbit_per_s",
    "node_percent_per_10_gbit": "node_percent × 10 / gbit_per_s, the unit of knb and of the article's chart",
    "cores_per_10_gbit_above_idle": "cores_above_idle × 10 / gbit_per_s",
    **{f"{program}_{figure}": f"{program} on the client's node: CPU of its processes, in their own /proc, {over}"
       for program in ("kube-proxy", "calico-node")
       for figure, over in (("percent_of_core", "in percent of one CPU"),
                            ("cpu_ms_per_change", "over the changes that were made, in milliseconds"))},
}
"""What each figure is; a run carries it."""


@dataclass(frozen=True)
class Window:
    """The seconds that count, and what was spent in them.

    Args:
        output: what the command wrote.
        nodes: CPU of the client's node and of the server's; of one where they share a kernel.
        ends: the same of the client's node and of the server's, each by its own reading.
        containers: CPU seconds of the client's and the server's container; None where no cgroup is shown to them.
        memory_mb: memory in use at both ends, after the window.
        series: busy percent of the client's node over time, as (seconds from the start, percent).
    """

    output: str
    nodes: tuple[cpu.Usage, ...]
    ends: tuple[cpu.Usage, cpu.Usage]
    containers: tuple[float | None, float | None]
    memory_mb: tuple[float, float]
    series: tuple[tuple[float, float], ...] = ()

    @property
    def busy(self) -> float:
        """CPU seconds of all nodes."""
        return sum(u.busy for u in self.nodes)

    @property
    def cores(self) -> float:
        """Busy CPUs of all nodes."""
        return sum(u.cores for u in self.nodes)

    def by_node(self) -> dict[str, float]:
        """Kinds of CPU time and memory of both ends, in knb's units: percent of the node, and MB."""
        found: dict[str, float] = {}
        for name, usage, memory in zip(("client", "server"), self.ends, self.memory_mb, strict=True):
            found |= {f"{name}_{kind}_percent": usage.percent_of(kind)
                      for kind in ("user", "nice", "system", "iowait", "steal")}
            found[f"{name}_memory_mb"] = memory
        return found

    def metrics(self, background: float | None) -> dict[str, float]:
        """The window's CPU, by the names of FIGURES.

        Args:
            background: cores that the nodes spend when idle; None where it is not known.
        """
        found = {
            "cores": self.cores, "node_percent": sum(u.percent for u in self.nodes),
            "softirq_cores": sum(u.percent_of("softirq") * u.cpus / 100 for u in self.nodes),
            "steal_percent": max(u.steal_percent for u in self.nodes),
        }
        if len(self.nodes) == 2:
            found |= {"client_cores": self.nodes[0].cores, "server_cores": self.nodes[1].cores}
        of_containers = [seconds / usage.seconds for seconds, usage in zip(self.containers, self.ends, strict=True)
                         if seconds is not None and usage.seconds]
        if len(of_containers) == 2:
            found |= {"client_container_cores": of_containers[0], "server_container_cores": of_containers[1]}
        if background is not None:
            found["cores_above_idle"] = max(0.0, self.cores - background)
            if len(of_containers) == 2:
                found["path_cores"] = max(0.0, self.cores - background - sum(of_containers))
        return found


def spend(kube: Kube, at: Workload, argv: list[str], seconds: float, *, warm: float, server: str = "",
          every: float = 0.0) -> Window:
    """Run a command in the client's pod, and what it costs at both ends once it is warm.

    Args:
        kube: the cluster.
        at: where the pods are.
        argv: the command.
        seconds: how long it should take, warm-up included.
        warm: seconds to leave out.
        server: address of the pod that gives the other end's readings; "" means iperf3's server.
        every: seconds between readings for `series`; 0 for none.

    Raises:
        MeasurementError: the image lacks the program, or the other end does not answer.
    """
    request = {"argv": argv, "warm": warm, "host": server or at.server_ip, "port": workload.READINGS_PORT,
               "every": every}
    code = ["python3", "-c", workload.script(meter), "run", json.dumps(request)]
    done = kube.exec("client", workload.NAMESPACE, code, timeout=seconds + 60, check=False)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        raise MeasurementError("The client's pod could not measure.", (done.stderr or done.stdout).strip()[-300:],
                               "see whether both pods run and reach each other: `kubectl -n labkit-bench get pods "
                               "-o wide`.") from None
    if "missing" in document:
        raise MeasurementError(f"The client's image has no {argv[0]}.", document["missing"],
                               f"the image is {workload.TOOLS_IMAGE}; on a registry of your own, mirror that one.")
    return read(document, one_machine=at.one_machine)


def read(document: dict[str, Any], *, one_machine: bool) -> Window:
    """Make a window of what the meter wrote.

    Args:
        document: what it wrote.
        one_machine: whether both ends' /proc/stat are the same machine's.
    """
    ends = [document["client"], document["server"]]

    def usage(before: dict[str, Any], after: dict[str, Any]) -> cpu.Usage:
        return cpu.between(cpu.parse(before["stat"]), cpu.parse(after["stat"]))

    usages = [usage(*end) for end in ends]
    containers = [None if before["container_usec"] is None or after["container_usec"] is None
                  else (after["container_usec"] - before["container_usec"]) / 1e6 for before, after in ends]
    readings = document["series"]
    series = [(after["at"] - readings[0]["at"], usage(before, after).percent)
              for before, after in itertools.pairwise(readings)]
    return Window(document["output"], tuple(usages[:1] if one_machine else usages), (usages[0], usages[1]),
                  (containers[0], containers[1]), tuple(document["memory_mb"]), tuple(series))
