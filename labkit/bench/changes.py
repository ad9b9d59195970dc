"""One service that comes, and one that comes and goes: what changes of services take."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from labkit.bench import services, workload
from labkit.bench.workload import NAMESPACE
from labkit.errors import MeasurementError
from labkit.kube import Kube, wait_for
from labkit.plan import Evidence

CHANGING = "changing"
"""The name of the service that comes and goes."""
_WAITER = """
import socket, sys, time
end = time.time() + 60
while time.time() < end:
    with socket.socket() as s:
        s.settimeout(0.02)
        try:
            s.connect((sys.argv[1], 80))
            print(time.time(), s.getsockname()[1])
            break
        except OSError:
            time.sleep(0.005)
"""


@dataclass(frozen=True)
class Answer:
    """The first answer of a new service.

    Args:
        seconds: from before the write of the service until then.
        write: seconds that the write itself took.
        address: of the service.
        port: the client's, of the connection that was answered.
    """

    seconds: float
    write: float
    address: str
    port: int


def time_to_answer(kube: Kube) -> Answer:
    """How long a new service takes to answer in the client's pod. It stays there: see `settle`.

    The pod tries its address every few milliseconds while the service is created. The pod's clock is compared with
    ours beforehand: see `clock_offset`.

    Args:
        kube: the cluster.

    Raises:
        MeasurementError: it never answered.
    """
    manifest = services.manifest(99999)
    manifest["metadata"]["name"] = CHANGING
    # An address that is free: one that a service has just had.
    forget(kube)
    address = kube.create(manifest)["spec"]["clusterIP"]
    settle(kube, address)
    asked = time.time()
    theirs = float(workload.python(kube, "import time; print(time.time())"))
    offset = clock_offset(asked, theirs, time.time())
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiter = pool.submit(workload.python, kube, _WAITER, address, timeout=70)
        time.sleep(0.5)  # the waiter has started; until the service exists it only fails
        manifest["spec"]["clusterIP"] = address
        created = time.time()
        kube.create(manifest)
        written = time.time() - created
        answer = waiter.result().split()
    if not answer:
        forget(kube)
        raise MeasurementError("A new service did not answer within a minute.", "", "`lab.diagnose()` says why.")
    return Answer(float(answer[0]) - offset - created, written, address, int(answer[1]))


def clock_offset(asked: float, theirs: float, heard: float) -> float:
    """How far another machine's clock is ahead of ours, in seconds.

    A clock that says a time between our question and its answer agrees with ours as far as can be told: then it is 0,
    however long the process that reads it took to start. Otherwise the error is half a round trip.

    Args:
        asked: our time before the question.
        theirs: what the other clock said.
        heard: our time after the answer.
    """
    return 0.0 if asked <= theirs <= heard else theirs - (asked + heard) / 2


def churn(kube: Kube, seconds: float, rate: float) -> tuple[int, str]:
    """Let one service come and go; in the end it is there: see `settle`.

    Args:
        kube: the cluster.
        seconds: how long.
        rate: changes per second, as far as the API keeps up.

    Returns:
        How many changes were made in that time, and the service's address.
    """
    manifest = services.manifest(99999)
    manifest["metadata"]["name"] = CHANGING
    forget(kube)
    begin, made, address = time.monotonic(), 0, ""
    while (elapsed := time.monotonic() - begin) < seconds:
        if made % 2 == 0:
            address = kube.create(manifest)["spec"]["clusterIP"]
        else:
            forget(kube)
        made += 1
        time.sleep(max(0.0, made / rate - elapsed))
    if made % 2 == 0:
        address = kube.create(manifest)["spec"]["clusterIP"]
    return made, address


def forget(kube: Kube) -> None:
    """Delete the service that changes."""
    kube.delete("services", CHANGING, NAMESPACE)


def settle(kube: Kube, address: str) -> None:
    """Delete the service that changes, and wait until that is programmed: what comes next begins at rest.

    Args:
        kube: the cluster.
        address: of the service.

    Raises:
        WaitError: it goes on answering.
    """
    forget(kube)
    _silent(kube, address)


def _silent(kube: Kube, address: str) -> None:
    """Wait until an address no longer answers: what programmed it has taken it back."""
    line = f"import socket; socket.create_connection(({address!r}, 80), 0.2).close()"

    def silent() -> Evidence:
        done = kube.exec("client", NAMESPACE, ["python3", "-c", line], check=False, timeout=20)
        return Evidence(done.exit_code != 0, f"{address} still answers")

    wait_for("the deleted service to be gone from the nodes", silent, timeout=60)
