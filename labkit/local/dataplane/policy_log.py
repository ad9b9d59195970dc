"""Calico's action Log on the lab: what iptables logs, as lines in calico-node's own log.

Linux writes what LOG sees to the kernel's log for the machine's first network namespace only, and a node here has one
of its own. So beside each LOG stands an NFLOG, which hands the packet to whoever listens in the node's namespace: to
`read`. Its lines have the kernel's form, so that what finds them on a real node finds them here.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import socket
import struct
import threading
from collections.abc import Iterator

GROUP = 3               # of NFLOG; Calico's own flow logs have 1 and 2
PREFIX = "calico-packet: "

_NETLINK_NETFILTER, _SIOCGIFNAME = 12, 0x8910
_PACKET, _CONFIG = 4 << 8, 4 << 8 | 1       # messages of nfnetlink_log
_HEADERS = 128                              # bytes of a packet that are asked for
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")

log = logging.getLogger("kernel")


def start() -> None:
    """Log this network namespace's lines, from a thread of their own."""
    def run() -> None:
        try:
            for line in read(listen()):
                log.info("%s", line)
        except OSError as error:
            log.warning("What policy logs is not shown: %s", error)

    threading.Thread(target=run, name="policy-log", daemon=True).start()


def listen() -> socket.socket:
    """A socket that gets what this network namespace logs to the lab's group.

    Raises:
        OSError: another program has the group, or the kernel has no nfnetlink_log.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        sock.bind((0, 0))
        for attribute in (struct.pack("=HHBxxx", 5, 1, 1),                   # bind to the group
                          struct.pack("=HHIBxxx", 10, 2, socket.htonl(_HEADERS), 2),     # copy packets
                          struct.pack("=HHI", 8, 5, socket.htonl(1))):       # each at once
            body = struct.pack(">BBH", socket.AF_UNSPEC, 0, GROUP) + attribute
            sock.send(struct.pack("=IHHII", 16 + len(body), _CONFIG, 5, 0, 0) + body)
            if refusal := -struct.unpack_from("=i", sock.recv(4096), 16)[0]:
                raise OSError(refusal, f"nfnetlink_log: {errno.errorcode.get(refusal, refusal)}")
    except OSError:
        sock.close()
        raise
    return sock


def read(sock: socket.socket) -> Iterator[str]:
    """The kernel's lines, as packets come. When more come than are read, the kernel leaves some out.

    Raises:
        OSError: the socket is closed, or its time is over.
    """
    while True:
        try:
            received = sock.recv(1 << 16)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue
        at = 0
        while at < len(received):
            length, kind = struct.unpack_from("=IH", received, at)
            if kind == _PACKET:
                attributes = dict(_attributes(received[at + 20:at + length]))
                yield (f"{attributes.get(10, b'').rstrip(bytes(1)).decode()}IN={_name(sock, attributes.get(4))} "
                       f"OUT={_name(sock, attributes.get(5))} {line(attributes)}")
            at += length + 3 & ~3


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    while raw:
        length, kind = struct.unpack_from("=HH", raw)
        yield kind, raw[4:length]
        raw = raw[length + 3 & ~3:]


def _name(sock: socket.socket, index: bytes | None) -> str:
    if index is None:
        return ""
    number = int.from_bytes(index, "big")
    try:                             # asked of the socket: its namespace need not be the caller's
        return fcntl.ioctl(sock, _SIOCGIFNAME, struct.pack("=16si20x", b"", number))[:16].rstrip(bytes(1)).decode()
    except OSError:                  # it has gone meanwhile
        return f"if{number}"


def line(attributes: dict[int, bytes]) -> str:
    """What the kernel's nf_log_syslog prints after the interfaces. Pure.

    Args:
        attributes: of an nfnetlink_log packet: 2 is its mark, 9 what it holds from its IP header on, 16 the header of
            its frame.
    """
    packet = attributes[9]
    tos, length, ident, fragment, ttl, protocol, source, target = struct.unpack_from(">xBHHHBBxx4s4s", packet)
    words = [f"MAC={attributes.get(16, b'').hex(':')}"] if 4 in attributes else []
    words += [f"SRC={socket.inet_ntoa(source)} DST={socket.inet_ntoa(target)} LEN={length} TOS=0x{tos & 0x1e:02X}"
              f" PREC=0x{tos & 0xe0:02X} TTL={ttl} ID={ident}"]
    words += [name for bit, name in ((0x8000, "CE"), (0x4000, "DF"), (0x2000, "MF")) if fragment & bit]
    words += [f"FRAG:{fragment & 0x1fff}"] if fragment & 0x1fff else []
    name = {1: "ICMP", 6: "TCP", 17: "UDP"}.get(protocol, str(protocol))
    inner = packet[4 * (packet[0] & 15):]
    words.append(f"PROTO={name}")
    if not fragment & 0x1fff:
        words += _transport(name, inner)
    if mark := int.from_bytes(attributes.get(2, b""), "big"):
        words.append(f"MARK=0x{mark:x}")
    return " ".join(words)


def _transport(name: str, header: bytes) -> list[str]:
    if len(header) < {"TCP": 20, "UDP": 8, "ICMP": 8}.get(name, 0):
        return [f"INCOMPLETE [{len(header)} bytes]"]
    if name == "TCP":
        source, target, bits, window, urgent = struct.unpack_from(">HH8xHHxxH", header)
        flags = [flag for bit, flag in reversed(list(enumerate(_FLAGS))) if bits >> bit & 1]
        reserved = (bits >> 8 & 15) << 2
        return [f"SPT={source} DPT={target} WINDOW={window} RES=0x{reserved:02x}", *flags, f"URGP={urgent}"]
    if name == "UDP":
        return ["SPT={} DPT={} LEN={}".format(*struct.unpack_from(">HHH", header))]
    if name == "ICMP":
        kind, code, ident, number = struct.unpack_from(">BBxxHH", header)
        return [f"TYPE={kind} CODE={code}", *([f"ID={ident} SEQ={number}"] if kind in (0, 8) else [])]
    return []
