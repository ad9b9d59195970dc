"""The agent's side of connection tracking: forget what is idle, and what must not go on. Mostly pure."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.bpfsys import Map

_SECOND = 1_000_000_000
_NODE_PORT = socket.inet_aton(maps.NODE_PORT)
_HELD = 120 * _SECOND                           # a connection that is silent for longer does not delay a detach


class Stale:
    """Connections that must not go on: of addresses that moved, or over UDP to backends that are gone."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = {socket.inet_aton(ip) for ip in addresses}
        self._backends: set[bytes] = set()      # address and port
        self._frontends: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._addresses or self._backends)

    def add(self, backends: Iterable[bytes], frontends: Iterable[bytes]) -> None:
        """Backends that a service lost. UDP has no end of its own: a client would talk to them for ever."""
        for key in frontends:
            if key[6] == 17:
                self._frontends.add(key[:6])
                self._backends.update(backend[:6] for backend in backends)

    def has(self, key: bytes, value: bytes) -> bool:
        """Whether an entry of cali_v4_ct is one of them."""
        if self._addresses and not self._addresses.isdisjoint((key[:4], key[4:8], value[:4], value[4:8])):
            return True
        if key[12] != 17 or not self._backends:
            return False
        source, destination = key[:4] + key[8:10], key[4:8] + key[10:12]
        if source in self._backends or value[4:8] + value[10:12] in self._backends:
            return True
        # Another node translates it. Its frontend may be a node port, which any address of a node's is.
        return (value[16] == maps.PATH_TUNNEL
                and not self._frontends.isdisjoint((destination, _NODE_PORT + destination[4:])))


def forget(connections: Map, stale: Stale) -> None:
    """Delete the entries that are stale."""
    for key, value in list(connections.items()):
        if stale.has(key, value):
            connections.discard(key)


def collect_garbage(connections: Map, now: int) -> None:
    """Delete entries that are idle in both directions.

    Reading a full map takes a while, and in the meantime a client may begin anew from a port that it has used before.
    """
    entries = {key: maps.Connection.read(value) for key, value in connections.items()}
    for key, entry in entries.items():
        seen, flags = _both(entry, entries)
        if now - seen > idle_seconds(key[12], flags) * _SECOND and not _seen_since(
                connections, (key, entry.to.reversed().pack()), seen):
            connections.discard(key)


def _seen_since(connections: Map, keys: Iterable[bytes], then: int) -> bool:
    values = (connections.get(key) for key in keys)
    return any(maps.Connection.read(value).seen > then for value in values if value)


def idle_seconds(protocol: int, tcp_flags: int) -> int:
    """Calico's time-outs."""
    if protocol == 6:
        if tcp_flags & (maps.TCP_FIN | maps.TCP_RST):
            return 30
        return 3600 if tcp_flags & maps.TCP_ACK else 20
    return 60 if protocol == 17 else 5


def drain(connections: Map, now: int) -> int:
    """Delete what the host's stack can do without us; an entry that is left over leads a reply past its translation.

    Returns:
        How many established connections only these programs can translate, in either direction.
    """
    entries = {key: maps.Connection.read(value) for key, value in connections.items()}
    kept, held = set[bytes](), 0
    for key, entry in entries.items():
        if entry.to.pack() == key and entry.path != maps.PATH_TUNNEL:
            continue                             # nothing is translated
        seen, flags = _both(entry, entries)
        established = bool(entry.tcp_flags & maps.TCP_ACK and not flags & (maps.TCP_FIN | maps.TCP_RST))
        patience = _HELD if established else idle_seconds(17, 0) * _SECOND if key[12] == 17 else 0
        if now - seen < patience:
            kept |= {key, entry.to.reversed().pack()}
            held += established
    for key in entries.keys() - kept:
        connections.discard(key)
    return held


def _both(entry: maps.Connection, entries: Mapping[bytes, maps.Connection]) -> tuple[int, int]:
    """When a connection was last seen, and its TCP flags, over both directions."""
    other = entries.get(entry.to.reversed().pack(), entry)
    return max(entry.seen, other.seen), entry.tcp_flags | other.tcp_flags
