"""Services at scale: first-packet latency, time until a change is programmed, and what churn costs."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from labkit.bench import cpu, services, workload
from labkit.bench.flows import Arm
from labkit.bench.results import OnSample, Sample, now
from labkit.bench.workload import NAMESPACE
from labkit.errors import ExecError, MeasurementError
from labkit.kube import Kube, wait_for
from labkit.plan import Evidence

Progress = Callable[[str], None]
_TICKS = 100


def first_packet(arm: Arm, counts: Sequence[int], connects: int, rounds: int, on_sample: OnSample | None,
                 progress: Progress | None) -> list[Sample]:
    """How long a fresh connection takes among N services.

    The first, the middle and the last service are asked in turn, because a rule's place in a list is what
    may matter.

    Args:
        arm: where.
        counts: how many services, each in turn.
        connects: fresh connections in each round.
        rounds: how often.
        on_sample: hears of each sample.
        progress: hears what is being done.
    """
    services.ensure_backend(arm.kube, arm.workload.server_node)
    script = importlib.resources.files("labkit.bench").joinpath("probe.py").read_text()
    samples: list[Sample] = []
    for count in counts:
        addresses = _programmed(arm, count, progress)
        picked = [addresses[services.name(i)] for i in sorted({0, count // 2, count - 1})]
        for round_ in range(rounds):
            times: list[float] = []
            failed = 0
            for address in picked:
                each = str(max(1, connects // len(picked)))
                answer = json.loads(_python(arm.kube, script, address, "80", each))
                times += answer["microseconds"]
                failed += answer["failed"]
            if not times:
                raise MeasurementError(f"No connection to any of {count} services succeeded.", "",
                                       "`lab.diagnose()` says why.")
            p = np.percentile(times, [50, 90, 99])
            samples.append(Sample(
                arm.name, f"{count} services", round_,
                {"p50_us": float(p[0]), "p90_us": float(p[1]), "p99_us": float(p[2]),
                 "mean_us": float(np.mean(times)), "connects": float(len(times)), "failed": float(failed)},
                f"probe.py {' '.join(picked)}: {connects} fresh connections", now(), float(count)))
            if on_sample is not None:
                on_sample(samples[-1])
    return samples


def programming(arm: Arm, counts: Sequence[int], rounds: int, on_sample: OnSample | None,
                progress: Progress | None) -> list[Sample]:
    """How long it takes from creating a service, among N others, until it answers.

    A pod tries the address every few milliseconds while the service is created. Its clock is compared
    with ours beforehand; the error of that is half a round trip.

    Args:
        arm: where.
        counts: how many other services, each in turn.
        rounds: how often.
        on_sample: hears of each sample.
        progress: hears what is being done.
    """
    services.ensure_backend(arm.kube, arm.workload.server_node)
    samples: list[Sample] = []
    for count in counts:
        _programmed(arm, count, progress)
        for round_ in range(rounds):
            seconds, write = _time_to_answer(arm.kube)
            samples.append(Sample(arm.name, f"{count} services", round_,
                                  {"seconds_to_answer": seconds, "seconds_to_write": write},
                                  "create a service; connect every 5 ms until it answers", now(), float(count)))
            if on_sample is not None:
                on_sample(samples[-1])
    return samples


def churn(arm: Arm, count: int, seconds: float, rounds: int, rate: float, on_sample: OnSample | None,
          progress: Progress | None) -> list[Sample]:
    """What the nodes spend while one service among N comes and goes, and while nothing changes.

    Args:
        arm: where.
        count: how many other services.
        seconds: of each phase.
        rounds: quiet and churning phases.
        rate: changes per second.
        on_sample: hears of each sample.
        progress: hears what is being done.
    """
    services.ensure_backend(arm.kube, arm.workload.server_node)
    _programmed(arm, count, progress)
    samples: list[Sample] = []
    for round_ in range(rounds):
        for case in ("quiet", "churn"):
            before, began = _spent(arm), time.monotonic()
            changes = _change(arm.kube, seconds, rate) if case == "churn" else _rest(seconds)
            after, elapsed = _spent(arm), time.monotonic() - began
            usage = cpu.between(before[0], after[0])
            metrics = {"node_percent": usage.percent, "node_cores": usage.cores,
                       "steal_percent": usage.steal_percent, "changes_per_s": changes / elapsed}
            for component, ticks in after[1].items():
                if component in before[1]:
                    spent = max(0, ticks - before[1][component]) / _TICKS
                    metrics[f"{component}_percent_of_core"] = 100 * spent / elapsed
            samples.append(Sample(arm.name, case, round_, metrics,
                                  f"{count} services; {rate:g} changes a second", now(), float(count)))
            if on_sample is not None:
                on_sample(samples[-1])
    return samples


def _programmed(arm: Arm, count: int, progress: Progress | None) -> dict[str, str]:
    """Have exactly `count` services, and wait until the last one answers."""
    if progress is not None:
        progress(f"{arm.name}: {count} services are being created")
    begin = time.monotonic()
    addresses = services.scale(arm.kube, count)
    last = addresses[services.name(count - 1)]
    line = f"import socket; socket.create_connection(({last!r}, 80), 1).close()"

    def answers() -> Evidence:
        done = arm.kube.exec("python", NAMESPACE, ["python3", "-c", line], check=False, timeout=20)
        return Evidence(done.exit_code == 0, f"{services.name(count - 1)} at {last} does not answer yet")

    wait_for(f"the last of {count} services to be programmed", answers, timeout=300)
    if progress is not None:
        progress(f"{arm.name}: {count} services answer after {time.monotonic() - begin:.1f} s")
    return addresses


_WAITER = """
import socket, sys, time
end = time.time() + 60
while time.time() < end:
    with socket.socket() as s:
        s.settimeout(0.02)
        try:
            s.connect((sys.argv[1], 80))
            print(time.time())
            break
        except OSError:
            time.sleep(0.005)
"""


def _time_to_answer(kube: Kube) -> tuple[float, float]:
    """Seconds from before the write to the first answer, and seconds that the write itself took."""
    manifest = services.manifest(99999)
    manifest["metadata"]["name"] = "fresh"
    # An address that is free: one that a service has just had.
    kube.delete("services", "fresh", NAMESPACE)
    address = kube.create(manifest)["spec"]["clusterIP"]
    kube.delete("services", "fresh", NAMESPACE)
    begin = time.time()
    theirs = float(_python(kube, "import time; print(time.time())"))
    offset = theirs - (begin + time.time()) / 2
    if abs(offset) < 0.2:
        offset = 0.0  # within what a process takes to start: the clocks agree as far as we can tell
    _silent(kube, address)
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiter = pool.submit(_python, kube, _WAITER, address, timeout=70)
        time.sleep(0.5)  # the waiter has started; until the service exists it only fails
        manifest["spec"]["clusterIP"] = address
        created = time.time()
        kube.create(manifest)
        written = time.time() - created
        answer = waiter.result().strip()
    kube.delete("services", "fresh", NAMESPACE)
    if not answer:
        raise MeasurementError("A new service did not answer within a minute.", "", "`lab.diagnose()` says why.")
    return float(answer) - offset - created, written


def _silent(kube: Kube, address: str) -> None:
    """Wait until an address no longer answers: what programmed it has taken it back."""
    line = f"import socket; socket.create_connection(({address!r}, 80), 0.2).close()"

    def silent() -> Evidence:
        done = kube.exec("python", NAMESPACE, ["python3", "-c", line], check=False, timeout=20)
        return Evidence(done.exit_code != 0, f"{address} still answers")

    wait_for("the deleted service to be gone from the nodes", silent, timeout=60)


def _change(kube: Kube, seconds: float, rate: float) -> int:
    """Let one service come and go; returns how many changes were made."""
    manifest = services.manifest(99998)
    manifest["metadata"]["name"] = "churn"
    kube.delete("services", "churn", NAMESPACE)
    begin, changes = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        if changes % 2 == 0:
            kube.create(manifest)
        else:
            kube.delete("services", "churn", NAMESPACE)
        changes += 1
        time.sleep(max(0.0, changes / rate - elapsed))
    kube.delete("services", "churn", NAMESPACE)
    return changes


def _rest(seconds: float) -> int:
    time.sleep(seconds)
    return 0


def _spent(arm: Arm) -> tuple[cpu.Reading, dict[str, int]]:
    """The client node's /proc/stat, and ticks of the programs there that handle services, where readable."""
    ticks: dict[str, int] = {}
    for namespace, component in (("kube-system", "kube-proxy"), ("calico-system", "calico-node")):
        for pod in arm.kube.list("pods", namespace, field_selector=f"spec.nodeName={arm.workload.client_node}"):
            if pod["metadata"]["name"].startswith(f"{component}-"):
                # Some images have no shell: then only the node as a whole is known.
                with contextlib.suppress(ExecError):
                    output = arm.kube.exec(pod["metadata"]["name"], namespace,
                                           ["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null"], check=False)
                    if output.stdout:
                        ticks[component] = process_ticks(output.stdout)
    return cpu.parse(workload.shell(arm.kube, "client", "grep ^cpu /proc/stat")), ticks


def process_ticks(text: str) -> int:
    """CPU ticks of all processes in /proc/<pid>/stat lines, with their children that have ended.

    Args:
        text: the lines.
    """
    total = 0
    for line in text.splitlines():
        fields: list[Any] = line.rpartition(")")[2].split()
        if len(fields) > 14:
            total += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return total


def _python(kube: Kube, script: str, *args: str, timeout: float = 120.0) -> str:
    return kube.exec("python", NAMESPACE, ["python3", "-c", script, *args], timeout=timeout).stdout
