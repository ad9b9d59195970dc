"""iperf3: its command line, and what its JSON says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from labkit.errors import MeasurementError

Protocol = Literal["tcp", "udp"]
PORT = 5201
WARM_SECONDS = 1
"""What `-O` leaves out: iperf3 knows whole seconds only."""
FASTEST_GBIT = 400.0
"""No network card or kernel that runs Kubernetes today carries more in one stream."""
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Throughput:
    """What arrived, as the receiver counted it; the warm-up is left out, but for the programs' CPU.

    Args:
        bits_per_second: at the receiver.
        bytes: at the receiver.
        seconds: of the test.
        retransmits: TCP segments sent again.
        lost_percent: UDP datagrams that did not arrive.
        jitter_ms: UDP's.
        client_cores: CPU of iperf3 at the client, by its own getrusage(); None where it says nothing.
        server_cores: at the server.
        ports: of the client, of the streams.
    """

    bits_per_second: float
    bytes: float
    seconds: float
    retransmits: float = 0.0
    lost_percent: float = 0.0
    jitter_ms: float = 0.0
    client_cores: float | None = None
    server_cores: float | None = None
    ports: tuple[int, ...] = ()


def rate(text: str) -> float:
    """A rate such as "500M" in bits per second.

    Args:
        text: a number, with K, M or G.

    Raises:
        MeasurementError: it is no rate, or one that no machine reaches.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text.strip(), re.IGNORECASE)
    bits = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not bits:
        raise MeasurementError(f"{text!r} is not a rate.", "", 'give bits per second, such as rate="500M" or "2G".')
    if bits > FASTEST_GBIT * 1e9:
        raise MeasurementError(f"No machine carries {text}bit/s in one stream.",
                               f"{FASTEST_GBIT:.0f}G is the limit here",
                               "measure once without `rate`: `gbit_per_s` says what this one reaches.")
    return bits


def command(host: str, protocol: Protocol, seconds: int, rate: str | None = None, *, warm: int = WARM_SECONDS,
            payload: int | None = 1400) -> list[str]:
    """The client's command line.

    Args:
        host: the server's address.
        protocol: "tcp" or "udp".
        seconds: how long, after the warm-up.
        rate: bits per second to send, such as "500M"; None means as fast as it goes.
        warm: seconds before that, which are not counted.
        payload: of UDP datagrams, in bytes; 1400 fit an MTU of 1500 with VXLAN's 50 bytes, so no fragments are
            measured. None leaves it to iperf3, as knb does.
    """
    words = ["iperf3", "-c", host, "-p", str(PORT), "-O", str(warm), "-t", str(seconds), "-J"]
    if protocol == "udp":
        words += ["-u", *(["-l", str(payload)] if payload else []), "-b", rate or "0"]
    elif rate:
        words += ["-b", rate]
    return words


def is_busy(text: str) -> bool:
    """Whether the server still serves somebody else, such as a run that was killed."""
    return "server is busy" in text


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
        raise MeasurementError("iperf3 did not answer with JSON.", text.strip()[:300],
                               "the images of client and server must have iperf3 3.1 or newer.") from error
    if document.get("error"):
        raise MeasurementError("iperf3 could not measure.", document["error"],
                               "see whether the server's pod is ready, and whether a policy is in the way.")
    end = document.get("end") or {}
    received = end.get("sum_received") or end.get("sum") or {}
    if not received.get("bytes"):
        raise MeasurementError("iperf3 measured no bytes at the receiver.", text.strip()[:200])
    spent = end.get("cpu_utilization_percent") or {}
    cores = [spent[key] / 100 if key in spent else None for key in ("host_total", "remote_total")]
    return Throughput(
        bits_per_second=float(received["bits_per_second"]), bytes=float(received["bytes"]),
        seconds=float(received["seconds"]), lost_percent=float(received.get("lost_percent", 0.0)),
        jitter_ms=float(received.get("jitter_ms", 0.0)),
        retransmits=float((end.get("sum_sent") or {}).get("retransmits", 0)),
        client_cores=cores[0], server_cores=cores[1],
        ports=tuple(c["local_port"] for c in (document.get("start") or {}).get("connected") or ()),
    )
