"""What traffic costs in each data plane: CPU per gigabit, per request and per connection, eBPF beside kube-proxy.

Two clusters, the same pods in both, rounds interleaved, by the suites that a learner runs. A ratio is of medians,
with a bootstrap interval of 95 %.
"""

from __future__ import annotations

from benchmarks.table import Row
from labkit.bench import Comparison, flows
from labkit.lab import Lab

LEAST = {"pod to pod, UDP": 0.9, "pod to service, UDP": 0.9}    # of kube-proxy's CPU; 1 for the other flows
PLANES = ("vanilla", "ebpf")


def rows(lab: Lab, *, rounds: int = 7, seconds: int = 2) -> list[Row]:
    """Measure both clusters.

    Args:
        lab: a lab whose cluster is in eBPF mode; its vanilla one has kube-proxy and no Calico.
        rounds: of each measurement.
        seconds: of each.
    """
    run = lab.bench.article(rounds=rounds, seconds=seconds, planes=PLANES, accept_noise=True)
    found = [_row(f"CPU per gigabit, {c.case}, eBPF / kube-proxy", c, LEAST.get(c.case, 1.0))
             for c in run.compare("cores_per_10_gbit", "vanilla") if c.case != flows.IDLE]
    run = lab.bench.latency(rounds=rounds, seconds=seconds, planes=PLANES, accept_noise=True)
    for kind, what in (("request", "request"), ("connection", "connection, with one request")):
        (cost,), (rate,) = run.compare(f"cpu_us_per_{kind}", "vanilla"), run.compare(f"{kind}s_per_s", "vanilla")
        found.append(_row(f"CPU per {what}, pod to service, eBPF / kube-proxy", cost, 1.0))
        found.append(_row(f"{kind}s per second, one client, eBPF / kube-proxy", rate, 1.0, "more"))
    return found


def _row(what: str, found: Comparison, goal: float, better: str = "less") -> Row:
    against = f"kube-proxy in this run; 95 % interval {found.low:.2f} to {found.high:.2f}"
    return Row(what, found.ratio, "×", goal, against, better)
