"""tcpdump's lines as packets. Pure.

The lines are those of `tcpdump -i any -nn -tt -S -l`, version 4.99 and later, which name the interface and the
direction. What VXLAN wraps is printed on a line of its own after the line of the outer packet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from labkit.sourceip.trace_model import Ends

_HEAD = re.compile(r"^(\d+\.\d+) (\S+)\s+(In|Out|P|B|M)\s+(?=IP)")
_IP = re.compile(r"^IP6? (\S+) > (\S+): (.*)$")
_FLAGS = re.compile(r"^Flags \[([^\]]*)\]")
_SEQ, _ACK, _LENGTH = (re.compile(rf"\b{word} (\d+)") for word in ("seq", "ack", "length"))


@dataclass(frozen=True)
class Packet:
    """One TCP packet as one interface saw it.

    Args:
        time: seconds, by the clock of where it was captured.
        interface: such as "eth0".
        direction: "In" or "Out".
        ends: its addresses; those inside, where VXLAN wraps it.
        flags: TCP's, as tcpdump writes them: "S", "S.", "P.".
        seq: the sequence number, or None where tcpdump prints none.
        ack: the acknowledgement number, or None.
        length: bytes of data.
        outer: the addresses of the VXLAN packet around it.
        line: what tcpdump wrote.
    """

    time: float
    interface: str
    direction: str
    ends: Ends
    flags: str
    seq: int | None
    ack: int | None
    length: int
    outer: Ends | None
    line: str

    @property
    def sight(self) -> tuple[str, str, Ends, Ends | None]:
        """What makes two sightings of one packet the same place on its way."""
        return self.interface, self.direction, self.ends, self.outer


def parse(lines: Iterable[str]) -> tuple[Packet, ...]:
    """The TCP packets of a capture, in the order in which they were seen."""
    return tuple(_packets(lines))


def _packets(lines: Iterable[str]) -> Iterator[Packet]:
    around: Packet | None = None
    for line in lines:
        head = _HEAD.match(line)
        if head is None:
            inside = _packet(line, around.time, around.interface, around.direction) if around else None
            if inside and around:
                yield replace(inside, outer=around.ends, line=f"{around.line} | {inside.line}")
            around = None
            continue
        # "P" is what an interface heard that was not for its own link address, such as what a tunnel unwrapped.
        direction = "Out" if head[3] == "Out" else "In"
        packet = _packet(line[head.end():], float(head[1]), head[2], direction)
        if packet is None:
            around = None
        elif packet.flags == "VXLAN":
            around = replace(packet, line=line)
        else:
            around = None
            yield replace(packet, line=line)


def _packet(text: str, time: float, interface: str, direction: str) -> Packet | None:
    found = _IP.match(text)
    if not found:
        return None
    ends, rest = Ends(_end(found[1]), _end(found[2])), found[3]
    flags = "VXLAN" if rest.startswith("VXLAN") else ""
    if tcp := _FLAGS.match(rest):
        flags = tcp[1]
    if not flags:
        return None
    return Packet(time, interface, direction, ends, flags, _number(_SEQ, rest), _number(_ACK, rest),
                  _number(_LENGTH, rest) or 0, None, text)


def _end(text: str) -> str:
    address, _, port = text.rpartition(".")
    return f"{address}:{port}"


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None
