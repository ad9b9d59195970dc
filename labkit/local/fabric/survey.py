"""What a namespace's links, addresses, routes and neighbours are, and which of them are missing; asked by netlink.

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

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE = 18, 22, 26, 30, 34
_ERROR, _DONE = 2, 3                               # NLMSG_…
_REQUEST, _DUMP = 1, 0x300
_UP = 1                                            # IFF_UP
_MAIN, _UNICAST, _PERMANENT = 254, 1, 0x80         # routing table, kind of route, state of a neighbour
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 3, 4, 5
_IFA_LOCAL, _FRA_PRIORITY = 2, 6
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 7, 8
_RTAX_MTU = 2
_NDA_DST, _NDA_LLADDR = 1, 2


@dataclass(frozen=True)
class Links:
    """Of a namespace, what the fabric makes: who is up, and how to reach whom."""

    up: frozenset[str]                             # interfaces
    down: frozenset[str]
    routes: frozenset[tuple[str, str, str]]        # destination as "10.0.0.1/32", interface, next hop or ""
    neighbours: frozenset[tuple[str, str, str]]    # address, interface, hardware address; fixed ones alone
    addresses: frozenset[tuple[str, str]] = frozenset()    # as "10.0.0.1/32", interface
    mtus: frozenset[tuple[str, int]] = frozenset()         # interface, its MTU
    ends: frozenset[tuple[str, int, int]] = frozenset()    # interface, its index, and that of a link's other end or 0
    rules: frozenset[int] = frozenset()                    # preferences at which a routing table is looked up
    sources: frozenset[tuple[str, str, str]] = frozenset()      # of a route: destination, interface, its "src" or ""
    route_mtus: frozenset[tuple[str, str, int]] = frozenset()   # and its "mtu" or 0

    @property
    def names(self) -> frozenset[str]:
        """All interfaces."""
        return self.up | self.down


def look(space: str) -> Links:
    """Read them; some hundred microseconds.

    Raises:
        OSError: the namespace is gone, or the kernel refuses.
    """
    return netns.run_inside(space, here)


def has_other_way(there: Links) -> bool:
    """Whether a pod has a default route of its own making: then its routes are its own affair. Pure."""
    return any(to == "0.0.0.0/0" and hop != topology.GATEWAY for to, _, hop in there.routes)


def other_end(far: Links, link: str, here: Links) -> str:
    """What the other end of a link is called here, or "". Pure.

    Args:
        far: the link's own namespace.
        link: its name there.
        here: where its other end is.
    """
    known = {(index, other) for name, index, other in far.ends if name == link}
    return next((name for name, index, other in here.ends if (other, index) in known), "")


def missing(there: Links, commands: Sequence[str]) -> list[str]:
    """Of `ip` commands of `topology`, those whose effect is not there any more, in words. Pure.

    Knows links that are set up or have an MTU, addresses, routes and neighbours; nothing is missing on an interface
    that is gone itself.
    """
    gone = []
    for command in commands:
        words = command.split()
        options = dict(pairwise(words[2:]))
        dev = options.get("dev", words[2])
        if dev not in there.names:
            continue
        match words[:2]:
            case ["link", "set"] if mtu := options.get("mtu"):
                gone += [f"the MTU of {dev} was {size}"
                         for name, size in there.mtus if name == dev and size != int(mtu)]
            case ["link", "set"] if dev in there.down:
                gone.append(f"link {dev} was down")
            case ["addr", "replace"] if (words[2], dev) not in there.addresses:
                gone.append(f"address {words[2]} of {dev} was missing")
            case ["neigh", "replace"] if (words[2], dev, options["lladdr"]) not in there.neighbours:
                known = {(ip, link) for ip, link, _ in there.neighbours}
                how = "had another hardware address" if (words[2], dev) in known else "was missing"
                gone.append(f"neighbour {words[2]} on {dev} {how}")
            case ["route", "replace"]:
                to = "0.0.0.0/0" if words[2] == "default" else words[2]
                to = to if "/" in to else f"{to}/32"
                if (to, dev, options.get("via", "")) not in there.routes:
                    gone.append(f"route {words[2]} by {dev} was missing")
                elif (to, dev, options.get("src", "")) not in there.sources:
                    gone.append(f"route {words[2]} by {dev} had another source address")
                elif (to, dev, int(options.get("mtu", 0))) not in there.route_mtus:
                    gone.append(f"route {words[2]} by {dev} had another MTU")
    return gone


def here() -> Links:
    """`look` at the namespace that this runs in."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(10)
        names: dict[int, str] = {}
        up, mtus, ends = set[str](), set[tuple[str, int]](), set[tuple[str, int, int]]()
        down: set[str] = set()
        for body in _dump(link, _GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
            index, flags = struct.unpack_from("=iI", body, 4)
            found = attributes(body[16:])
            names[index] = found[_IFLA_IFNAME].rstrip(b"\0").decode()
            (up if flags & _UP else down).add(names[index])
            mtus.add((names[index], _int(found[_IFLA_MTU])))
            ends.add((names[index], index, _int(found.get(_IFLA_LINK, b""))))
        addresses = set()
        for body in _dump(link, _GETADDR, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0)):
            length, index = struct.unpack_from("=xBxxI", body)
            if local := attributes(body[8:]).get(_IFA_LOCAL):
                addresses.add((f"{_ip(local)}/{length}", names.get(index, "")))
        routes, sources, route_mtus = set(), set(), set()
        for body in _dump(link, _GETROUTE, struct.pack("=BBBBBBBBI", socket.AF_INET, *bytes(7), 0)):
            _, length, _, _, table, _, _, kind = struct.unpack_from("=8B", body)
            found = attributes(body[12:])
            if table == _MAIN and kind == _UNICAST and _RTA_OIF in found:
                route = f"{_ip(found.get(_RTA_DST, bytes(4)))}/{length}", names.get(_int(found[_RTA_OIF]), "")
                routes.add((*route, _ip(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else ""))
                sources.add((*route, _ip(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else ""))
                metrics = attributes(found.get(_RTA_METRICS, b""))
                route_mtus.add((*route, _int(metrics.get(_RTAX_MTU, b""))))
        neighbours = set()
        for body in _dump(link, _GETNEIGH, struct.pack("=BxxxiHBB", socket.AF_INET, 0, 0, 0, 0)):
            index, state = struct.unpack_from("=iH", body, 4)
            found = attributes(body[12:])
            if state & _PERMANENT and _NDA_LLADDR in found:
                neighbours.add((_ip(found[_NDA_DST]), names.get(index, ""), found[_NDA_LLADDR].hex(":")))
        rules = {_int(attributes(body[12:]).get(_FRA_PRIORITY, b""))
                 for body in _dump(link, _GETRULE, struct.pack("=BBBBBBBBI", socket.AF_INET, *bytes(7), 0))}
    return Links(frozenset(up), frozenset(down), frozenset(routes), frozenset(neighbours), frozenset(addresses),
                 frozenset(mtus), frozenset(ends), frozenset(rules), frozenset(sources), frozenset(route_mtus))


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
