"""k8s-bench-suite's knb: its five tests as a run of ours, and a run of ours as knb's report.

knb measures once, averages, and keeps percent of a node for each end; a run has rounds, arms and a metric for each of
those figures. So one arm of a run is a report (its medians, where it has rounds), and a report is a run of one round.
`knb_files` has the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from labkit.bench import stats
from labkit.bench.results import Run, Sample
from labkit.errors import ResultsError
from labkit.version import __version__

TESTS = ("idle", "p2ptcp", "p2pudp", "p2stcp", "p2sudp")
"""knb's tests, in its order, by the names of its option `-ot`: the cases of a run of kind "knb"."""

CPU = ("user", "nice", "system", "iowait", "steal")
"""The parts of knb's CPU, each in percent of the whole node; `system` is with interrupts."""

VERSION = "1.5.0"
_FLOWS = {"pod to pod, TCP": "p2ptcp", "pod to pod, UDP": "p2pudp", "pod to service, TCP": "p2stcp",
          "pod to service, UDP": "p2sudp"}
_FACTS = {"client_node": "client_node", "server_node": "server_node", "cpu": "cpu", "kernel": "kernel",
          "k8s_version": "kubernetes", "mtu": "mtu"}  # knb's names, and those of provenance
_BOTH_ENDS = ("knb watches each node by itself, and node_percent adds both. If they are one machine, as nodes of a "
              "local lab are, everything in it is there twice.")


@dataclass(frozen=True)
class End:
    """What one node spent during a test: percent of the node by kind of time, and memory in use in MB."""

    cpu: Mapping[str, float]
    ram: float

    @property
    def total(self) -> float:
        """The total as knb has it: of all kinds, waiting and stolen time too."""
        return sum(self.cpu.values())


@dataclass(frozen=True)
class Test:
    """One test: Mbit/s at the receiver, and what both nodes spent.

    Args:
        bandwidth: 0 for "idle".
        client: the client's node.
        server: the server's node.
        at: when it ended, in UTC, or "".
        log: what iperf3 printed, or "".
    """

    bandwidth: float
    client: End
    server: End
    at: str = ""
    log: str = ""


@dataclass(frozen=True)
class Report:
    """What knb knows after a run; field names are those of its files."""

    name: str
    date: str
    server_node: str
    client_node: str
    tests: Mapping[str, Test]
    socket_buffer_size: str = "auto"
    cpu: str = ""
    kernel: str = ""
    k8s_version: str = ""
    mtu: str = ""
    version: str = VERSION
    generator: str = "knb"


def test_of(case: str) -> str | None:
    """The test of knb's that a case is, under its name there or as a flow; None for one that knb does not have.

    Args:
        case: "p2ptcp", or "pod to pod, TCP".
    """
    test = _FLOWS.get(case, case)
    return test if test in TESTS else None


def from_run(run: Run, arm: str | None = None) -> Report:
    """One arm of a run as knb reports it; of several rounds, the medians.

    Args:
        run: of kind "knb", or another whose samples have knb's figures.
        arm: which; None where there is only one.

    Raises:
        ResultsError: there are several arms, or none of knb's tests, or figures are missing that knb has.
    """
    if arm is None and len(run.arms) > 1:
        raise ResultsError("knb's files hold one arm, and this run has several.", "",
                           f"say which: {', '.join(run.arms)}.")
    arm = arm or next(iter(run.arms), "")
    if arm not in run.arms:
        raise ResultsError(f"The run has no arm {arm}." if arm else "The run has no samples.", "",
                           f"it has: {', '.join(run.arms)}." if arm else "")
    about: dict[str, Any] = run.provenance.get("arms", {}).get(arm, {})
    tests = {test: _test(run, arm, case, test) for case in run.cases if (test := test_of(case))
             and any(s.case == case and s.arm == arm for s in run.samples)}
    if not tests:
        raise ResultsError("None of knb's tests is in this run.", f"it has: {', '.join(run.cases)}",
                           "measure them: `lab.bench.knb()`.")
    started = datetime.fromisoformat(run.started or run.samples[0].at).astimezone(UTC)
    return Report(
        name=_plain(about.get("name") or f"{arm} by labkit"), date=f"{started:%Y-%m-%d %H:%M:%S}",
        tests={name: tests[name] for name in TESTS if name in tests},
        socket_buffer_size=_plain(run.provenance.get("parameters", {}).get("socket_buffer_size", "auto")),
        **{name: _plain(about.get(ours, "")) for name, ours in _FACTS.items()})


def to_run(report: Report, arm: str | None = None) -> Run:
    """A report of knb's as a run of one round.

    Args:
        report: what was read.
        arm: how to call it in comparisons; None means the report's own name.
    """
    arm, date = arm or report.name, _utc(report.date)
    if not report.tests:
        raise ResultsError(f"There is no test in {report.name}.", "knb was interrupted", "run knb again.")
    about: dict[str, Any] = {"name": report.name}
    about |= {ours: getattr(report, name) for name, ours in _FACTS.items()}
    if report.mtu.isdigit():
        about["mtu"] = int(report.mtu)
    samples = [Sample(arm, name, 0, _metrics(name, test), f"{report.generator} {report.version}: {name}",
                      test.at or date, detail={"log": test.log} if test.log else {})
               for name, test in report.tests.items()]
    provenance = {
        "labkit": __version__, "generator": f"{report.generator} {report.version}",
        "parameters": {"rounds": 1, "socket_buffer_size": report.socket_buffer_size},
        "arms": {arm: {name: value for name, value in about.items() if value}},
    }
    return Run("knb", f"knb: {report.name}", tuple(samples), provenance, (_BOTH_ENDS,), started=date,
               finished=max([date, *(s.at for s in samples)]))


def _test(run: Run, arm: str, case: str, test: str) -> Test:
    def median(metric: str) -> float:
        if not (values := run.values(arm, case, metric)):
            raise ResultsError(f"{case} has no {metric}, which knb's files need.", "",
                               "measure with `lab.bench.knb()`, which keeps what knb keeps.")
        return stats.median(values)

    def end(side: str) -> End:
        return End({part: median(f"{side}_{part}_percent") for part in CPU}, median(f"{side}_memory_mb"))

    last = [s for s in run.samples if s.arm == arm and s.case == case][-1]
    return Test(0.0 if test == "idle" else 1000 * median("gbit_per_s"), end("client"), end("server"), last.at,
                str(last.detail.get("log", "")))


def _metrics(name: str, test: Test) -> dict[str, float]:
    found: dict[str, float] = {} if name == "idle" else {"gbit_per_s": test.bandwidth / 1000}
    for side, end in (("client", test.client), ("server", test.server)):
        found |= {f"{side}_{part}_percent": end.cpu[part] for part in CPU} | {f"{side}_memory_mb": end.ram}
    busy = sum(end.cpu[part] for end in (test.client, test.server) for part in ("user", "nice", "system"))
    found |= {"node_percent": busy, "steal_percent": max(test.client.cpu["steal"], test.server.cpu["steal"])}
    if gbit := found.get("gbit_per_s"):
        found["node_percent_per_10_gbit"] = busy * 10 / gbit
    return found


def number(text: str, what: str) -> float:
    """A figure in one of knb's files.

    Args:
        text: the figure.
        what: which one, for people.

    Raises:
        ResultsError: it is missing, as after a test of knb's that failed.
    """
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ResultsError(f"{what} is {str(text)[:40]!r}, which is no number.",
                           "that test of knb's failed, or its monitor was not ready", "run knb again.")
    return value


def _utc(date: str) -> str:
    try:
        return datetime.strptime(date, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).isoformat(timespec="milliseconds")
    except ValueError as error:
        raise ResultsError(f"The date {date!r} in knb's file cannot be read.", "it is `2021-04-27 12:00:00`, in UTC"
                           ) from error


def _plain(value: Any) -> str:
    """A word of provenance, without what would end a string in knb's JSON, which quotes nothing."""
    return re.sub(r'["\\\x00-\x1f]', " ", str(value)).strip()
