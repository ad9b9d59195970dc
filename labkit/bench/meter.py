"""Reads what a node and a container spend. It runs inside the measuring pods, on any Python 3.

    meter.py serve PORT COMMAND…   run a server, and answer every connection to PORT with a reading
    meter.py run REQUEST           run a command, with readings of both ends around the seconds that count

The window opens when the warm-up is over and shuts when the command ends: it covers the seconds whose bytes
are counted. The client's end asks for the server's reading over the network at that moment, so no clocks have to
agree. Between the two moments nothing of ours runs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

_CGROUP = "/sys/fs/cgroup"


def reading() -> dict[str, Any]:
    """CPU time since boot of this node, and of this container where its cgroup is shown to it."""
    with open("/proc/stat") as file:
        lines = [line for line in file if line.startswith("cpu")]
    return {"stat": "".join(lines), "container_usec": container_usec(), "at": time.monotonic()}


def container_usec() -> int | None:
    """Microseconds of CPU that this container has used; None where it cannot see its cgroup."""
    try:
        if os.path.exists(_CGROUP + "/cgroup.events"):  # what the machine's own root does not have
            with open(_CGROUP + "/cpu.stat") as file:
                return int(dict(line.split() for line in file)["usage_usec"])
        with open(_CGROUP + "/cpuacct/cpuacct.usage") as file:  # version 1
            return int(file.read()) // 1000
    except (OSError, KeyError, ValueError):
        return None


def memory_mb() -> float:
    """What the node has in use, as `free -m` counts and as knb's monitor does."""
    with open("/proc/meminfo") as file:
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return (sizes["MemTotal"] - sizes["MemAvailable"]) / 1024


def ask(host: str, port: int) -> Any:
    """The other end's reading."""
    with socket.create_connection((host, port), 10) as connection:
        connection.settimeout(10)
        data = b""
        while True:
            part = connection.recv(65536)
            if not part:
                return json.loads(data)
            data += part


def serve(port: int, command: list[str]) -> int:
    """Run a server until it ends; whoever connects meanwhile gets a reading."""
    listener = socket.create_server(("", port))

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(json.dumps({**reading(), "memory_mb": memory_mb()}).encode())

    threading.Thread(target=answer, daemon=True).start()
    return subprocess.call(command)


def run(request: dict[str, Any]) -> int:
    """Run a command; print its output and the readings around its window.

    A request has "argv" ("{opens}" in it becomes the moment when the window opens, by the monotonic clock), "warm"
    (seconds to leave out), "host" and "port" of the server's readings, and "every": seconds between further
    readings of this end, 0 for none.
    """
    opens = time.monotonic() + request["warm"]
    try:
        command = subprocess.Popen([word.replace("{opens}", str(opens)) for word in request["argv"]],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    except OSError as error:
        print(json.dumps({"missing": str(error)}))
        return 0
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(command.communicate()[0]))
    reader.start()
    time.sleep(max(0, opens - time.monotonic()))
    before = [reading(), ask(request["host"], request["port"])]
    series = []
    while request["every"] and command.poll() is None:
        series.append(reading())
        time.sleep(request["every"])
    reader.join()
    after = [reading(), ask(request["host"], request["port"])]
    print(json.dumps({
        "output": output[0], "exit_code": command.wait(), "client": [before[0], after[0]],
        "server": [before[1], after[1]], "series": series, "memory_mb": [memory_mb(), after[1]["memory_mb"]]}))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.exit(serve(int(sys.argv[2]), sys.argv[3:]))
    sys.exit(run(json.loads(sys.argv[2])))
