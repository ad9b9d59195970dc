"""Times fresh connections to services: first-packet latency. It runs inside a pod, on any Python 3.

Usage: probe.py PORT COUNT ADDRESS… Prints one JSON document: for each address microseconds of each connect(), how many
failed, and the client's ports.
"""

import json
import socket
import sys
import time

WARM = 20
"""The first ones to each address warm caches up."""


def main() -> None:
    """Connect to each address COUNT times, one after the other."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    found = {}
    for address in sys.argv[3:]:
        times, ports, failed = [], [], 0
        for number in range(count + WARM):
            with socket.socket() as client:
                client.settimeout(5)
                begin = time.perf_counter_ns()
                try:
                    client.connect((address, port))
                except OSError:
                    failed += 1
                    continue
                taken = time.perf_counter_ns() - begin
                ports.append(client.getsockname()[1])
            if number >= WARM:
                times.append(taken / 1000)
        found[address] = {"microseconds": times, "failed": failed, "ports": ports}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
