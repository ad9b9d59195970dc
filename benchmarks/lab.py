"""The lab itself: starting, creating a cluster, switching it, idling, services at scale."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from statistics import fmean, median

from benchmarks.table import Row
from labkit import plan
from labkit.bench import scale as bench_scale
from labkit.bench import services, stats
from labkit.errors import LabError
from labkit.lab import Lab
from labkit.local.dataplane.iptables import Iptables
from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle, report


def start(paths: LabPaths, times: int = 3) -> list[Row]:
    """`labkit up` until the API answers, from nothing; the last one stays up."""
    took = []
    for _ in range(times):
        lifecycle.down(paths)
        started = time.perf_counter()
        report.fetch(paths, lifecycle.up(paths, port=0))
        took.append(time.perf_counter() - started)
    return [Row(f"`labkit up` to first answer, median of {times}", median(took), "s", 2, "goal")]


def create(lab: Lab) -> list[Row]:
    """From the create call to all system pods ready."""
    started = time.perf_counter()
    lab.ensure("cluster")
    _wait(lambda: _all_ready(lab))
    return [Row("create call to all system pods ready", time.perf_counter() - started, "s", 6, "goal")]


def idle(paths: LabPaths, seconds: float = 20) -> list[Row]:
    """The daemon with one cluster and nothing to do."""
    info = lifecycle.running(paths)
    assert info
    time.sleep(5)
    before = report.fetch(paths, info)["lab"]["cpu_seconds"]
    time.sleep(seconds)
    after = report.fetch(paths, info)["lab"]
    share = (after["cpu_seconds"] - before) / seconds * 100
    return [
        Row("daemon idle, of one core", share, "%", 2, "goal (Kubernetes' own: 7 %)"),
        Row("daemon memory, one cluster", after["memory_mb"], "MB", 250, "goal (Kubernetes' own: 436 MB)"),
    ]


def switch(lab: Lab, paths: LabPaths) -> list[Row]:
    """Two nodes to eBPF: from the answer to the plan's last patch until the kernel of each has it."""
    steps = lab.enable_ebpf().steps
    for step in steps[:-1]:
        result = plan.run_step(step)
        assert result.ok, result
    # the last step's own patch, without its wait for the effect
    lab.kube.patch("felixconfigurations.crd.projectcalico.org", "default", {"spec": {"bpfEnabled": True}})
    patched = time.perf_counter()
    nodes = [n["metadata"]["name"] for n in lab.kube.list("nodes")]
    _wait(lambda: all(_attached(paths, node) for node in nodes))
    return [Row("two nodes switched to eBPF after the last patch", time.perf_counter() - patched, "s", 2, "goal")]


def rule_repaired(lab: Lab, paths: LabPaths, times: int = 3) -> list[Row]:
    """A rule of kube-proxy's that somebody deletes on a node, until it is back."""
    enter = _enter(paths, lab.kube.list("nodes")[0]["metadata"]["name"])
    iptables = Iptables(prefix=enter)
    took = []
    for _ in range(times):
        chain = next(line.split()[1] for line in iptables.save("nat").splitlines() if line.startswith("-A KUBE-SEP-"))
        wanted = iptables.save("nat")
        subprocess.run([*enter, f"iptables-{iptables.variant}", "-w", "-t", "nat", "-D", chain, "1"], check=True)
        took.append(_seconds_until(lambda wanted=wanted: _rules(iptables.save("nat")) == _rules(wanted)))
    return [Row("a rule deleted by hand is back, kube-proxy", max(took), "s", 10, "goal")]


def _rules(saved: str) -> list[str]:
    return sorted(line for line in saved.splitlines() if line.startswith("-A"))


def programs_repaired(lab: Lab, paths: LabPaths, times: int = 3) -> list[Row]:
    """The eBPF programs of a node's uplink, which somebody takes away, until they are back."""
    node = lab.kube.list("nodes")[0]["metadata"]["name"]
    took = []
    for _ in range(times):
        subprocess.run([*_enter(paths, node), "tc", "qdisc", "del", "dev", "eth0", "clsact"], check=True)
        took.append(_seconds_until(lambda: _attached(paths, node)))
    return [Row("programs taken away by hand are back, eBPF", max(took), "s", 10, "goal")]


def scale(lab: Lab, count: int = 5000) -> list[Row]:
    """Services created through the Python client, until each node answers on the last of them."""
    lab.bench.prepare()
    node = lab.bench.arm().workload.server_node
    services.ensure_backend(lab.kube, node)
    started = time.perf_counter()
    addresses = services.scale(lab.kube, count)
    last = addresses[services.name(count - 1)]
    pods = [p["metadata"]["name"] for p in lab.kube.list("pods", "calico-system", label_selector="k8s-app=calico-node")]
    _wait(lambda: all(_answers(lab, pod, last) for pod in pods))
    done = time.perf_counter()
    return [
        Row(f"{count:,} services created and programmed on all nodes", done - started, "s", 20, "goal"),
    ]


def first_packet(lab: Lab) -> list[Row]:
    """First packets among many services beside few, with each data plane."""
    measured = {}
    counts = (10, 1000, 10_000)
    run = lab.bench.scale(services=counts, connects=500, rounds=5, measures=[bench_scale.FIRST_PACKET])
    for arm in run.arms:
        measured[arm] = [row.median for row in sorted(run.summary("p50_us"), key=lambda r: r.x or 0) if row.arm == arm]
    lab.vanilla.bench.remove()
    flat = _flat(lab, counts[0], counts[-1])
    lab.bench.remove()
    proxy, many = measured["vanilla"], measured["ebpf"][-1]
    slope, fit = stats.slope(counts, proxy)
    return [
        flat,
        Row("first-packet p50 at 10,000 services, eBPF", many, "µs", proxy[-1], f"kube-proxy in this run: "
            f"{proxy[0]:.0f} at 10 services, and {1000 * slope:.1f} ns for each more (R² {fit:.2f})"),
    ]


def _flat(lab: Lab, few: int, many: int, rounds: int = 30) -> Row:
    """First packets among many services and, in a second cluster, among few: in turns, second by second.

    A virtual CPU may be up to half as slow while a neighbour uses its core, for a second or a minute, and no counter
    says so. What is measured a minute apart differs by that; means of many turns do not.
    """
    took: dict[int, list[float]] = {few: [], many: []}
    with contextlib.closing(Lab.open("local", cluster="Few", resource_group="Few")) as other:
        other.ensure("ebpf")
        blocks = []
        for count, arm in ((few, other.bench.arm()), (many, lab.bench.arm())):
            blocks.append(bench_scale.Block(arm, bench_scale.Stage([arm], lambda _: None), count, 0))
            bench_scale.at_rest(blocks[-1], strict=True)
        for number in range(rounds):
            for block in blocks if number % 2 == 0 else reversed(blocks):
                took[block.count].append(bench_scale.first_packet(block, 100).metrics["p50_us"])
        other.run(other.clean_up())
    base = fmean(took[few])
    return Row(f"first-packet p50 at {many:,} services, eBPF, mean of {rounds} turns", fmean(took[many]), "µs",
               base * 1.15, f"1.15 × that at {few}, {base:.1f} µs")


def _answers(lab: Lab, pod: str, address: str) -> bool:
    try:
        script = f"import socket; socket.create_connection(('{address}', 80), 1).close()"
        lab.kube.exec(pod, "calico-system", ["python3", "-c", script])
    except LabError:
        return False
    return True


def _all_ready(lab: Lab) -> bool:
    pods = lab.kube.list("pods")
    conditions = [{c["type"]: c["status"] for c in p.get("status", {}).get("conditions", [])} for p in pods]
    names = " ".join(p["metadata"]["name"] for p in pods)
    return "calico-node" in names and all(c.get("Ready") == "True" for c in conditions)


def _enter(paths: LabPaths, node: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{paths.netns('c1', node)}", "--"]


def _attached(paths: LabPaths, node: str) -> bool:
    """Whether the node's kernel runs the programs on every interface, its pods' included, and for connect()."""
    enter = _enter(paths, node)
    links = json.loads(subprocess.check_output([*enter, "ip", "-json", "link"]))
    wanted = [link["ifname"] for link in links if link["ifname"].startswith(("eth0", "azv"))]
    filters = [subprocess.check_output([*enter, "tc", "filter", "show", "dev", w, "ingress"]) for w in wanted]
    connect = subprocess.check_output(["bpftool", "cgroup", "show", str(paths.cgroup / "c1" / node)])
    return all(b"bpf" in f for f in filters) and b"connect4" in connect


def _seconds_until(holds: Callable[[], bool]) -> float:
    started = time.perf_counter()
    _wait(holds)
    return time.perf_counter() - started


def _wait(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
