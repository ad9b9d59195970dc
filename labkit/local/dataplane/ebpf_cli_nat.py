"""`calico-node -bpf nat …`: services as the programs look them up, and which client stays with which back end."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from socket import inet_aton, inet_ntoa

from labkit.local.client import Obj
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.ebpf_cli_conntrack import duration

Entries = Iterable[tuple[bytes, bytes]]
_PROTOCOLS = {"tcp": 6, "udp": 17}


@dataclass(frozen=True)
class Frontend:
    """An address that is served, for one net of clients or for all; a count of -1 lets nobody in."""

    address: str
    port: int
    protocol: int
    id: int
    count: int
    local: int
    flags: str
    source: str
    backends: tuple[str, ...]

    def line(self, *, with_source: bool) -> str:
        """As `nat dump` prints it."""
        return (f"{self.address} port {self.port} proto {self.protocol} id {self.id} count {self.count} "
                f"local {self.local}{f' flags {self.flags}' if self.flags else ''}"
                f"{f' src {self.source}' if self.source and with_source else ''}")

    def obj(self) -> Obj:
        """As `nat dump --json` prints it."""
        return {"addr": self.address, "port": self.port, "proto": self.protocol,
                **({"src_cidr": self.source} if self.source else {}), "id": self.id, "count": self.count,
                "local": self.local, **({"flags": self.flags} if self.flags else {})}

    @property
    def order(self) -> tuple[int, bytes, bytes, int]:
        """Where Calico's key would stand: who is asked by fewer comes later."""
        return (int(self.source.partition("/")[2] or 0), inet_aton(self.address),
                self.port.to_bytes(2, "little"), self.protocol)


def frontends(fronts: Entries, backends: Entries, sets: Mapping[int, Sequence[str]]) -> Iterator[Frontend]:
    """What the maps hold: a frontend with source ranges is there for each of them, and for nobody else. Pure."""
    ends = {struct.unpack("=II", key): end(value) for key, value in backends}
    for key, value in sorted(fronts):
        service, count, local, _, flags, ranges = struct.unpack("=IHHIII", value)
        # A cluster's address has one policy, whoever asks: Calico calls it the internal one.
        flag = ("internal-local" if flags & maps.FE_INTERNAL_LOCAL else
                "external-local" if flags & maps.FE_EXTERNAL_LOCAL else "")
        at = inet_ntoa(key[:4]), int.from_bytes(key[4:6], "big"), key[6], service
        for net in sets.get(ranges) or [""]:
            yield Frontend(*at, count, local, flag, net, tuple(ends.get((service, i), "") for i in range(count)))
        if flags & maps.FE_SOURCE_RANGES:
            yield Frontend(*at, -1, 0, "", "", ())


def of_service(found: Sequence[Frontend], address: str, port: str, protocol: str) -> list[Frontend]:
    """All frontends of the service that one of them is of.

    Raises:
        LookupError: there is none.
    """
    number = _PROTOCOLS.get(protocol.lower()) or int(protocol, 0)
    ids = [each.id for each in found if (each.address, each.port, each.protocol) == (address, int(port, 0), number)]
    if not ids:
        raise LookupError(f"frontend {address}:{port} proto {number} not found in NAT map")
    return [each for each in found if each.id == ids[0]]


def lines(found: Sequence[Frontend], *, grouped: bool, with_source: bool) -> Iterator[str]:
    """As `nat dump` prints them. Pure."""
    for group in _groups(found, grouped=grouped):
        yield from (each.line(with_source=with_source) for each in group)
        for index, backend in enumerate(group[0].backends):
            yield f"\t{group[0].id}:{index}\t {backend or 'is missing'}"


def objects(found: Sequence[Frontend], *, grouped: bool) -> list[Obj]:
    """As `nat dump --json` prints them. Pure."""
    out: list[Obj] = []
    for group in _groups(found, grouped=grouped):
        ends = [_end_obj(backend) if backend else {"addr": "missing", "port": 0}
                for backend in group[0].backends] or None
        out.append({"id": group[0].id, "frontends": [each.obj() for each in group], "backends": ends} if grouped
                   else {"frontend": group[0].obj(), "backends": ends})
    return out


def _groups(found: Sequence[Frontend], *, grouped: bool) -> list[list[Frontend]]:
    if not grouped:
        return [[each] for each in found]
    ordered = sorted(found, key=lambda each: (each.id, *each.order))
    return [list(group) for _, group in groupby(ordered, key=lambda each: each.id)]


@dataclass(frozen=True)
class Affinity:
    """A client that stays with a back end; since when is in the time since boot."""

    client: str
    protocol: int
    front: str
    backend: str
    since: int

    def line(self) -> str:
        """As `nat aff` prints it."""
        return (f"client {self.client} svc proto {self.protocol} {self.front} -> {self.backend} "
                f"ts {duration(self.since)}")

    def old_line(self) -> str:
        """As `nat aff` printed it before v3.32."""
        (front, port), (backend, its_port) = self.front.split(":"), self.backend.split(":")
        key = (f"AffinityKey{{ClientIP:{self.client} FrontEndAffinityKey{{Proto:{self.protocol} Addr:{front} "
               f"Port:{port}}}}}")
        value = f"NATBackendValue{{Addr:{backend} Port:{its_port}}}"
        return f"{key:<40} AffinityValue{{Timestamp:{self.since},Backend:{value}}}"

    def obj(self) -> Obj:
        """As `nat aff --json` prints it."""
        return {"client_ip": self.client, "proto": self.protocol, **_end_obj(self.front),
                "backend": _end_obj(self.backend), "timestamp": duration(self.since)}


def affinities(entries: Entries, fronts: Entries) -> list[Affinity]:
    """What the map holds, by service and client. Pure."""
    by_id = {value[:4]: key for key, value in fronts}
    found = []
    for key, value in entries:
        client = struct.unpack_from("=Q", key)[0]
        name = (f"netns {client & ~(1 << 63)}" if client >> 63 else
                f"socket {client & ~(1 << 62)}" if client >> 62 else inet_ntoa(key[:4]))
        front = by_id.get(key[8:12], bytes(8))
        found.append(Affinity(name, front[6], end(front), end(value[12:]), struct.unpack_from("=Q", value)[0]))
    return sorted(found, key=lambda each: (*_sortable(each.front), each.protocol, each.client))


def _sortable(address: str) -> tuple[str, int]:
    ip, _, port = address.partition(":")
    return ip, int(port)


def _end_obj(text: str) -> Obj:
    ip, port = _sortable(text)
    return {"addr": ip, "port": port}


def end(raw: bytes) -> str:
    """An address and a port."""
    return f"{inet_ntoa(raw[:4])}:{int.from_bytes(raw[4:6], 'big')}"
