"""Times fresh connections to a service: first-packet latency. It runs inside a pod, on any Python 3.

Usage: probe.py ADDRESS PORT COUNT. Prints one JSON document: microseconds for each connect().
"""

import json
import socket
import sys
import time


def main() -> None:
    """Connect COUNT times, one after the other."""
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    times, failed = [], 0
    for number in range(count + 20):
        with socket.socket() as client:
            client.settimeout(5)
            begin = time.perf_counter_ns()
            try:
                client.connect((address, port))
            except OSError:
                failed += 1
                continue
            taken = time.perf_counter_ns() - begin
        if number >= 20:  # the first ones warm caches up
            times.append(taken / 1000)
    print(json.dumps({"microseconds": times, "failed": failed}))


if __name__ == "__main__":
    main()
