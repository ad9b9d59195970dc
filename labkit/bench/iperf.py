"""iperf3: its command line, and what its JSON says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from labkit.errors import MeasurementError

Protocol = Literal["tcp", "udp"]
PORT = 5201


@dataclass(frozen=True)
class Throughput:
    """What arrived, as the receiver counted it.

    Args:
        bits_per_second: at the receiver.
        bytes: at the receiver.
        seconds: of the test.
        retransmits: TCP segments sent again.
        lost_percent: UDP datagrams that did not arrive.
        jitter_ms: UDP's.
    """

    bits_per_second: float
    bytes: float
    seconds: float
    retransmits: float = 0.0
    lost_percent: float = 0.0
    jitter_ms: float = 0.0


def command(host: str, protocol: Protocol, seconds: int, rate: str | None = None) -> list[str]:
    """The client's command line.

    Args:
        host: the server's address.
        protocol: "tcp" or "udp".
        seconds: how long; iperf3 reads whole seconds only, and takes less than one for no end.
        rate: bits per second to send, such as "500M"; None means as fast as it goes.
    """
    words = ["iperf3", "-c", host, "-p", str(PORT), "-t", str(max(1, seconds)), "-J"]
    if protocol == "udp":
        # 1400 bytes of payload fit an MTU of 1500 with VXLAN's 50 bytes, so no fragments are measured.
        words += ["-u", "-l", "1400", "-b", rate or "0"]
    elif rate:
        words += ["-b", rate]
    return words


def parse(text: str) -> Throughput:
    """Read the client's JSON.

    Args:
        text: what `iperf3 -J` wrote.

    Raises:
        MeasurementError: iperf3 failed, or nothing arrived.
    """
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise MeasurementError("iperf3 did not answer with JSON.", text.strip()[:300]) from error
    if document.get("error"):
        raise MeasurementError("iperf3 could not measure.", document["error"],
                               "see whether the server's pod is ready, and whether a policy is in the way.")
    end = document.get("end") or {}
    received = end.get("sum_received") or end.get("sum") or {}
    if not received.get("bytes"):
        raise MeasurementError("iperf3 measured no bytes at the receiver.", text.strip()[:200])
    return Throughput(
        bits_per_second=float(received["bits_per_second"]), bytes=float(received["bytes"]),
        seconds=float(received["seconds"]), lost_percent=float(received.get("lost_percent", 0.0)),
        jitter_ms=float(received.get("jitter_ms", 0.0)),
        retransmits=float((end.get("sum_sent") or {}).get("retransmits", 0)),
    )
