"""The meter as it runs in a pod, here between processes of this machine: which seconds it covers, and whose CPU."""

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit.bench import accounts, echo, exchange, meter
from tests.ports import free_port

METER, ECHO = (Path(module.__file__).read_text() for module in (meter, echo))
BURN = "import time, sys\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"


REPORT = "import sys, time; time.sleep(float(sys.argv[1]) + 1 - time.monotonic()); print(time.monotonic())"


def wait_for(port):
    for _ in range(3000):
        with socket.socket() as s:
            if not s.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on {port}")


@contextmanager
def served(*command):
    """A server with its readings; yields the port of those."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", METER, "serve", str(port), *command], start_new_session=True)
    try:
        wait_for(port)
        yield port
    finally:
        subprocess.run(["kill", "--", f"-{server.pid}"], check=False)
        server.wait()


def measure(port, *argv, warm=0.0, every=0.0):
    request = {"argv": list(argv), "warm": warm, "host": "127.0.0.1", "port": port, "every": every}
    done = subprocess.run([sys.executable, "-c", METER, "run", json.dumps(request)], capture_output=True, text=True,
                          check=True, timeout=120)
    return json.loads(done.stdout)


def test_the_window_leaves_the_warm_up_out_and_ends_with_the_command():
    with served("sleep", "60") as port:
        asked = time.monotonic()
        found = measure(port, sys.executable, "-c", REPORT, "{opens}", warm=0.3)
    before, after = found["client"]
    assert asked + 0.3 < before["at"] < float(found["output"]) <= after["at"]
    window = accounts.read(found, one_machine=True)
    assert len(window.nodes) == 1
    assert len(accounts.read(found, one_machine=False).nodes) == 2


def test_a_program_that_the_image_lacks_is_named():
    with served("sleep", "60") as port:
        assert "iperf9" in measure(port, "iperf9")["missing"]


def test_readings_over_time_show_when_it_was_busy():
    with served("sleep", "60") as port:
        found = measure(port, sys.executable, "-c", BURN, "1", every=0.1)
    series = accounts.read(found, one_machine=True).series
    assert len(series) >= 3
    assert [t for t, _ in series] == sorted(t for t, _ in series)


@pytest.mark.parametrize("kind", ["requests", "connections"])
def test_exchanges_are_counted_from_the_moment_when_the_window_opens(kind):
    server = str(free_port())
    with served(sys.executable, "-c", ECHO, "serve", server) as port:
        wait_for(int(server))
        found = measure(port, sys.executable, "-c", ECHO, kind, "127.0.0.1", server, "{opens}", "0.4", "100000",
                        warm=0.3)
    metrics = exchange.metrics(kind, accounts.read(found, one_machine=True))
    said = json.loads(found["output"])
    assert said["seconds"] >= 0.4
    assert metrics[f"{kind}_per_s"] == pytest.approx(said["exchanges"] / said["seconds"])
    assert 0 < metrics["p50_us"] <= metrics["p90_us"] <= metrics["p99_us"]


def reading(stat, usec, at=0.0, **more):
    return {"stat": stat, "container_usec": usec, "at": at, **more}


def test_whose_cpu_it_was():
    """Two busy CPU seconds in a second of two CPUs: half a core each was the containers', half was idling anyway."""
    before, after = "cpu  0 0 0 0 0 0 0 0\ncpu0 0\ncpu1 0", "cpu  50 0 100 0 0 0 50 0\ncpu0 0\ncpu1 0"
    ends = [[reading(before, 0), reading(after, 500_000)] for _ in range(2)]
    document = {"output": "", "client": ends[0], "server": ends[1], "series": [], "memory_mb": [1.0, 2.0]}
    found = accounts.read(document, one_machine=True).metrics(background=0.5)
    assert found == pytest.approx({
        "cores": 2.0, "node_percent": 100.0, "softirq_cores": 0.5, "steal_percent": 0.0,
        "client_container_cores": 0.5, "server_container_cores": 0.5, "cores_above_idle": 1.5, "path_cores": 0.5})
    two = accounts.read(document, one_machine=False).metrics(background=0.5)
    assert (two["cores"], two["client_cores"], two["server_cores"]) == (4.0, 2.0, 2.0)
    assert set(found) <= set(accounts.FIGURES), "each figure is explained"


def test_a_container_that_cannot_see_its_cgroup_has_no_figure():
    ends = [reading("cpu  0 0 0 0 0 0 0 0\ncpu0 0", None), reading("cpu  50 0 50 0 0 0 0 0\ncpu0 0", None)]
    document = {"output": "", "client": ends, "server": ends, "series": [], "memory_mb": [1.0, 2.0]}
    assert "client_container_cores" not in accounts.read(document, one_machine=True).metrics(None)
