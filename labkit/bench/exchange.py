"""Requests and connections: how many a client gets done in turn, how long each takes, and what it costs.

"request/response" exchanges 64 bytes over one connection that stays; "connect/request/close" opens a connection for
each, which is where a data plane chooses a back end. One client waits for each answer, so a rate is a latency turned
around; CPU is the nodes', by /proc/stat, over the seconds that are counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from labkit.bench import echo, flows, workload
from labkit.bench.accounts import Window, spend
from labkit.bench.proof import Traffic, Witness
from labkit.bench.results import Sample, now
from labkit.bench.suite import Arm, Task
from labkit.errors import ExecError, MeasurementError
from labkit.kube import Kube

CASES = {"request/response": "requests", "connect/request/close": "connections"}
PORT = 7777
WARM_SECONDS = 0.5
MOST = {"requests": 1_000_000, "connections": 2500}
"""A connection keeps its port for a minute, and a client has 28,000: they must last for all rounds."""


def tasks(arms: Sequence[Sequence[Arm]], cases: Sequence[str], seconds: float, *, strict: bool = False) -> list[Task]:
    """All samples, in the order of measuring.

    Args:
        arms: the arms of each round in their order.
        cases: of CASES.
        seconds: of each.
        strict: end the run where the machine does not come to rest.
    """
    found = []
    for task in flows.tasks(arms, (), 1, None, strict=strict):
        found += [task, *(Task(task.arm, case, task.round, WARM_SECONDS + seconds + flows.OVERHEAD_SECONDS,
                               _take(task.arm, case, task.round, seconds)) for case in cases)]
    return found


def _take(arm: Arm, case: str, number: int, seconds: float) -> Callable[[], Sample]:
    return lambda: measure(arm, case, number, seconds)


def measure(arm: Arm, case: str, round_: int, seconds: float) -> Sample:
    """One kind of exchange, once.

    Args:
        arm: where.
        case: of CASES.
        round_: its number.
        seconds: how long.

    Raises:
        MeasurementError: the server did not answer, or the packets took another path.
    """
    kind = CASES[case]
    service, server = serve(arm)
    argv = ["python3", "-c", workload.script(echo), kind, service, str(PORT), "{opens}", f"{seconds:g}",
            str(MOST[kind])]
    at = arm.workload
    witness = Witness(arm.kube, at.client_node, arm.name, service, PORT)
    window = spend(arm.kube, at, argv, WARM_SECONDS + seconds, warm=WARM_SECONDS, server=server)
    found = metrics(kind, window)
    told = json.loads(window.output)
    verdict = witness.testify(Traffic(
        told["exchanges"] * echo.SIZE, "tcp", at.client_ip, tuple(told["ports"]), server, service, PORT))
    return Sample(arm.name, case, round_, found, f"echo.py {kind} {service} {PORT}: {seconds:g} s", now(),
                  detail=verdict.detail(case, arm.name))


def metrics(kind: str, window: Window) -> dict[str, float]:
    """What the client wrote and what was spent, as numbers.

    Args:
        kind: "requests" or "connections".
        window: the client's output and the CPU.

    Raises:
        MeasurementError: it wrote no numbers.
    """
    try:
        found = json.loads(window.output)
        count, took, times = found["exchanges"], found["seconds"], found["us"]
    except (ValueError, KeyError, TypeError):
        raise MeasurementError("The client of requests and connections failed.", window.output.strip()[-300:],
                               "`lab.diagnose()` says why a service does not answer.") from None
    if not count:
        raise MeasurementError("Not one request was answered in time.", "", "measure for longer: `seconds=2`.")
    return {f"{kind}_per_s": count / took, f"cpu_us_per_{kind[:-1]}": 1e6 * window.busy / count,
            "cpu_us_per_exchange": 1e6 * window.busy / count,
            **{f"p{p}_us": float(times[p]) for p in ("50", "90", "99")}, **window.metrics(None)}


def serve(arm: Arm) -> tuple[str, str]:
    """Run the server, unless it runs; the addresses of its service and of its pod.

    Args:
        arm: where.
    """
    kube = arm.kube
    fresh = workload.ensure_object(kube, workload.metered_pod(
        "exchange", arm.workload.server_node, ["python3", "-c", workload.script(echo), "serve", str(PORT)]))
    if fresh:
        kube.apply(workload.service("exchange", [{"port": PORT}]))
    workload.wait_ready(kube, ("exchange",))
    service = str(kube.get("services", "exchange", workload.NAMESPACE)["spec"]["clusterIP"])
    if fresh:
        # Whoever connects before kube-proxy has its rules leaves a tracked connection without translation behind, and
        # for two minutes every connection from the same port follows it into the void.
        time.sleep(3)
        _answers(kube, service)
    return service, str(kube.get("pods", "exchange", workload.NAMESPACE)["status"]["podIP"])


def _answers(kube: Kube, service: str, times: int = 50) -> None:
    for left in reversed(range(times)):
        try:
            workload.python(kube, f"import socket; socket.create_connection(({service!r}, {PORT}), 1).close()")
            return
        except ExecError as error:
            if not left:
                raise MeasurementError("The server of requests and connections does not answer.", error.why,
                                       "`lab.diagnose()` says why.") from error
