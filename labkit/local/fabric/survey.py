"""What a namespace's links, routes and neighbours are, asked of the kernel by netlink, and which are missing.

`ip` is a process for each question. This is for a node's agent that asks every few seconds.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from labkit.local.fabric import netns, topology
from labkit.local.fabric.netlink import attributes

_GETLINK, _GETROUTE, _GETNEIGH = 18, 26, 30
_ERROR, _DONE = 2, 3                               # NLMSG_…
_REQUEST, _DUMP = 1, 0x300
_UP = 1                                            # IFF_UP
_MAIN, _UNICAST, _PERMANENT = 254, 1, 0x80         # routing table, kind of route, state of a neighbour
_IFLA_IFNAME = 3
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR = 1, 2


@dataclass(frozen=True)
class Links:
    """Of a namespace, what the fabric makes: who is up, and how to reach whom."""

    up: frozenset[str]                             # interfaces
    down: frozenset[str]
    routes: frozenset[tuple[str, str, str]]        # destination as "10.0.0.1/32", interface, next hop or ""
    neighbours: frozenset[tuple[str, str, str]]    # address, interface, hardware address; fixed ones alone


def look(space: str) -> Links:
    """Read them; some hundred microseconds.

    Raises:
        OSError: the namespace is gone, or the kernel refuses.
    """
    return netns.run_inside(space, _look)


def is_cut_off(there: Links) -> bool:
    """Whether a pod reaches nobody: it has no default route, or does not know the next hop's hardware. Pure."""
    known = {(address, link) for address, link, _ in there.neighbours}
    ways = [(hop, link) for to, link, hop in there.routes if to == "0.0.0.0/0"]
    return not any(hop != topology.GATEWAY or (hop, link) in known for hop, link in ways)


def missing(there: Links, commands: Sequence[str]) -> list[str]:
    """Of `ip` commands of `topology`, those whose effect is not there any more, in words. Pure.

    Knows links that are set up, routes and neighbours; nothing is missing on an interface that is gone itself.
    """
    gone = []
    for command in commands:
        words = command.split()
        options = dict(pairwise(words[2:]))
        match words[:2]:
            case ["link", "set"]:
                if words[2] in there.down:
                    gone.append(f"link {words[2]} was down")
            case ["neigh", "replace"]:
                dev = options["dev"]
                if dev in there.up | there.down and (words[2], dev, options["lladdr"]) not in there.neighbours:
                    gone.append(f"neighbour {words[2]} on {dev} was missing")
            case ["route", "replace"]:
                dev, to = options["dev"], "0.0.0.0/0" if words[2] == "default" else words[2]
                to = to if "/" in to else f"{to}/32"
                if dev in there.up | there.down and (to, dev, options.get("via", "")) not in there.routes:
                    gone.append(f"route {words[2]} by {dev} was missing")
    return gone


def _look() -> Links:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(10)
        names: dict[int, str] = {}
        up: set[str] = set()
        down: set[str] = set()
        for body in _dump(link, _GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
            index, flags = struct.unpack_from("=iI", body, 4)
            names[index] = attributes(body[16:])[_IFLA_IFNAME].rstrip(b"\0").decode()
            (up if flags & _UP else down).add(names[index])
        routes = set()
        for body in _dump(link, _GETROUTE, struct.pack("=BBBBBBBBI", socket.AF_INET, *bytes(7), 0)):
            _, length, _, _, table, _, _, kind = struct.unpack_from("=8B", body)
            found = attributes(body[12:])
            if table == _MAIN and kind == _UNICAST and _RTA_OIF in found:
                routes.add((f"{_ip(found.get(_RTA_DST, bytes(4)))}/{length}", names.get(_int(found[_RTA_OIF]), ""),
                            _ip(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else ""))
        neighbours = set()
        for body in _dump(link, _GETNEIGH, struct.pack("=BxxxiHBB", socket.AF_INET, 0, 0, 0, 0)):
            index, state = struct.unpack_from("=iH", body, 4)
            found = attributes(body[12:])
            if state & _PERMANENT and _NDA_LLADDR in found:
                neighbours.add((_ip(found[_NDA_DST]), names.get(index, ""), found[_NDA_LLADDR].hex(":")))
    return Links(frozenset(up), frozenset(down), frozenset(routes), frozenset(neighbours))


def _dump(link: socket.socket, question: int, body: bytes) -> Iterator[bytes]:
    link.send(struct.pack("=IHHII", 16 + len(body), question, _REQUEST | _DUMP, 1, 0) + body)
    while True:
        data = link.recv(1 << 18)
        at = 0
        while at + 16 <= len(data):
            size, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                number = -_int(data[at + 16:at + 20]) or errno.EIO
                raise OSError(number, os.strerror(abs(number)))
            yield data[at + 16:at + size]
            at += -(-size // 4) * 4


def _int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _ip(data: bytes) -> str:
    return socket.inet_ntoa(data)
