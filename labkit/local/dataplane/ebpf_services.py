"""Services in the eBPF maps: a change of one costs the same among ten services and among ten thousand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.ebpf_connections import Stale
from labkit.local.dataplane.ebpf_mirror import IpSets, Mirror
from labkit.local.dataplane.ebpf_plan import ServiceEntries, service_entries

if TYPE_CHECKING:
    from labkit.local.dataplane.services import ServicePort

_PortKey = tuple[str, str, str, int]
_NOTHING = ServiceEntries({}, {}, frozenset())


class ServiceMaps:
    """Frontends and backends of all services.

    Args:
        frontends: cali_v4_nat_fe.
        backends: cali_v4_nat_be.
        ip_sets: for source ranges.
        node: this node's name: its backends come first.
    """

    def __init__(self, frontends: Mirror, backends: Mirror, ip_sets: IpSets, node: str) -> None:
        self._frontends, self._backends, self._ip_sets, self._node = frontends, backends, ip_sets, node
        self._ports: dict[tuple[str, str], dict[_PortKey, tuple[int, ServiceEntries]]] = {}
        self._complete = False                   # whether all that is in the maps is in _ports
        ids = [int.from_bytes(value[:4], "little") for value in frontends.known.values()]
        ids += [int.from_bytes(key[:4], "little") for key in backends.known]
        self._last_id = max(ids, default=0)

    def apply(self, changed: Iterable[tuple[tuple[str, str], tuple[ServicePort, ...]]]) -> Stale:
        """Write what changed. The first call carries everything: what it leaves out is deleted.

        Returns:
            The connections that lost their backend.
        """
        stale = Stale()
        complete, self._complete = self._complete, False         # an error leaves this to the next call
        for key, ports in changed:
            self._apply_one(key, ports, stale)
        if not complete:
            self._remove_unknown()
        self._complete = True
        return stale

    def _apply_one(self, key: tuple[str, str], ports: tuple[ServicePort, ...], stale: Stale) -> None:
        before = self._ports.get(key, {})
        after: dict[_PortKey, tuple[int, ServiceEntries]] = {}
        for port in ports:
            port_key = (port.cluster_ip, port.protocol, port.port_name, port.port)
            known = before.get(port_key)
            service = known[0] if known else self._id_of(port)
            if entries := service_entries(port, service, self._node):
                self._write(known[1] if known else _NOTHING, entries, stale)
                after[port_key] = service, entries
        for port_key, (_, old) in before.items():
            if port_key not in after:
                self._write(old, _NOTHING, stale)
        if after:
            self._ports[key] = after
        else:
            self._ports.pop(key, None)

    def _write(self, old: ServiceEntries, new: ServiceEntries, stale: Stale) -> None:
        """A frontend never promises a backend that is not there: more come before it, fewer after it."""
        self._ip_sets.use(new.ip_sets)
        steps = [(self._backends, new.backends), (self._frontends, new.frontends)]
        for mirror, entries in steps if len(new.backends) >= len(old.backends) else reversed(steps):
            for key, value in entries.items():
                mirror.set(key, value)
        for key, value in old.frontends.items():
            # Another service may have taken the address over in the meantime: then it carries another id.
            if key not in new.frontends and self._frontends.known.get(key, b"")[:4] == value[:4]:
                self._frontends.discard(key)
        for key in old.backends.keys() - new.backends.keys():
            self._backends.discard(key)
        self._ip_sets.release(old.ip_sets)
        if gone := set(old.backends.values()) - set(new.backends.values()):
            stale.add(gone, old.frontends)

    def _id_of(self, port: ServicePort) -> int:
        """A service of an earlier agent keeps its id, so that its entries need not be written again."""
        key = maps.frontend_key(port.cluster_ip, port.port, maps.PROTOCOLS.get(port.protocol, 0))
        if not self._complete and (found := self._frontends.known.get(key)):
            return int.from_bytes(found[:4], "little")
        self._last_id += 1
        return self._last_id

    def _remove_unknown(self) -> None:
        wanted = [entries for ports in self._ports.values() for _, entries in ports.values()]
        for key in self._frontends.known.keys() - {key for entries in wanted for key in entries.frontends}:
            self._frontends.discard(key)
        for key in self._backends.known.keys() - {key for entries in wanted for key in entries.backends}:
            self._backends.discard(key)
