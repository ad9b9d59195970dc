"""Calico's eBPF data plane on one node: loads the programs, attaches them, and keeps their maps up to date.

The kernel does the work without us: programs and maps are pinned, so a crash of the agent changes nothing, and an
agent that starts again adopts what it finds. Every `apply_…` writes only what differs from what is there.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labkit.local.dataplane import bpfsys, ebpf_maps as maps, ebpf_plan, ebpf_tc
from labkit.local.dataplane.ebpf_load import Loaded, load, unload

if TYPE_CHECKING:
    from labkit.local.dataplane.felix import FelixConfig
    from labkit.local.dataplane.policy import EndpointPolicy
    from labkit.local.dataplane.services import ServicePort

VXLAN = "vxlan.calico"
_GATEWAY = "169.254.1.1"                 # what pods have as their router: the node itself
_SECOND = 1_000_000_000
_PortKey = tuple[str, str, str, str]


class Log(Protocol):
    """What of logging.Logger is used here."""

    def info(self, message: str, *args: object) -> None: ...
    def warning(self, message: str, *args: object) -> None: ...


class Mirror:
    """A map and what is in it: only differences reach the kernel."""

    def __init__(self, kernel: bpfsys.Map) -> None:
        self._kernel = kernel
        self.known = dict(kernel.items())

    def set(self, key: bytes, value: bytes) -> None:
        """Write an entry, unless it is there already."""
        if self.known.get(key) != value:
            self._kernel[key] = value
            self.known[key] = value

    def discard(self, key: bytes) -> None:
        """Delete an entry, if it is there."""
        if self.known.pop(key, None) is not None:
            self._kernel.discard(key)

    def replace(self, wanted: Mapping[bytes, bytes]) -> None:
        """Make the map be exactly this."""
        for key, value in wanted.items():
            self.set(key, value)
        for key in self.known.keys() - wanted.keys():
            self.discard(key)


class EbpfDataplane:
    """One node's data plane. Not thread-safe: give it one thread.

    Call `apply_services`, `apply_policy` and `apply_routes` with everything first, then `attach`: so no packet meets
    a half-filled map. The first `apply_services` after a start must carry every service; what is not in it is
    removed. `apply_policy` and `apply_routes` always carry everything.

    Args:
        bpffs: this node's folder in a bpffs, for pins.
        cgroup: this node's cgroup: processes below it are load balanced when they connect.
        objects: the folder with tc.o and connect.o, of `labkit.local.dataplane.compile`.
        node_ip: this node's address.
        node_name: this node's name, as endpoints carry it.
        log: where to say what happens.
    """

    def __init__(self, *, bpffs: Path, cgroup: Path, objects: Path, node_ip: str, node_name: str, log: Log) -> None:
        self._bpffs, self._cgroup, self._objects = bpffs, cgroup, objects
        self._node_ip, self._node_name, self._log = node_ip, node_name, log
        self._loaded: Loaded | None = None
        self._attached = False
        self._config: FelixConfig | None = None
        self._interfaces: dict[str, int] = {}           # pod's interface -> ifindex that we attached to
        self._endpoints: Mapping[str, EndpointPolicy] = {}
        self._pods: dict[str, str] = {}
        self._reset()

    def _reset(self) -> None:
        self._mirrors: dict[str, Mirror] = {}
        self._ports: dict[tuple[str, str], dict[_PortKey, tuple[int, ebpf_plan.ServiceEntries]]] = {}
        self._next_id = 1
        self._services_complete = False
        self._policy_sets: frozenset[bytes] = frozenset()

    # --- Attach and detach

    @property
    def attached(self) -> bool:
        """Whether this agent has attached the programs."""
        return self._attached

    def attach(self, config: FelixConfig) -> None:
        """Take the node's traffic over, or change the configuration of what is attached. Idempotent.

        Connections that exist are not known here and stay with the host's stack until they end.

        Raises:
            LoadError: the kernel refuses the programs, or bpftool is missing.
        """
        self._config = config
        loaded = self._load()
        uplinks = _uplinks(config.bpf_data_iface_pattern)
        self._write_config(config, drain=False)
        for ifindex in uplinks:
            self._attach_interface(ifindex, "from_uplink", "to_uplink")
        vxlan = ebpf_tc.ensure_vxlan(VXLAN, config.vxlan_port)
        self._count_for(vxlan)
        ebpf_tc.attach(vxlan, ebpf_tc.INGRESS, loaded.programs["from_tunnel"], "from_tunnel")
        self._attached = True
        self._attach_pods()
        self._attach_connect(config)
        self._log.info("BPF programs attached to %d uplink(s), %d workload(s) and the node's cgroup",
                       len(uplinks), len(self._interfaces))

    def detach(self) -> None:
        """Give new connections back to the host's stack, at once.

        Connections from outside that are translated here go on: while there are any, the programs stay attached for
        them alone, and `tick` removes them after the last one.
        """
        loaded = self._load() if self._loaded or (self._bpffs / "maps").exists() else None
        if loaded:
            for name, kind in _CONNECT.items():
                bpfsys.detach_cgroup(self._cgroup, loaded.programs[name], kind)
            config = loaded.maps["cali_config"].get(bytes(4))
            if config:
                flags = int.from_bytes(config[20:24], "little") | maps.CONFIG_DRAIN
                loaded.maps["cali_config"][bytes(4)] = config[:20] + flags.to_bytes(4, "little")
        self._attached = False
        self._finish_detach()

    def close(self) -> None:
        """Close descriptors; the data plane goes on without this agent."""
        if self._loaded:
            self._loaded.close()
            self._loaded = None
            self._reset()

    def tick(self) -> None:
        """Housekeeping, for every ten seconds or so: forget idle connections, attach late interfaces."""
        if self._loaded is None:
            return
        if self._attached:
            self._collect_garbage()
            self._sync_interfaces()
        else:
            self._finish_detach()

    def _finish_detach(self) -> None:
        if self._loaded and (live := sum(self._held())):
            self._log.info("BPF programs stay for %d translated connection(s) until they end", live)
            return
        for _, name in socket.if_nameindex():
            if name != "lo":
                ebpf_tc.detach(socket.if_nametoindex(name))
        ebpf_tc.remove_link(VXLAN)
        if self._loaded:
            self._loaded.close()
        unload(self._bpffs)
        self._loaded = None
        self._interfaces.clear()
        self._reset()

    def _held(self) -> Iterable[bool]:
        """For each established TCP connection that only we can translate: whether it is in use."""
        assert self._loaded is not None
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        entries = {key: maps.Connection.read(value) for key, value in self._loaded.maps["cali_v4_ct"].items()}
        for key, entry in entries.items():
            translated = entry.to.pack() != key or entry.path == maps.PATH_TUNNEL
            if translated and entry.to.protocol == 6 and entry.tcp_flags & maps.TCP_ACK:
                other = entries.get(entry.to.reversed().pack())
                flags = entry.tcp_flags | (other.tcp_flags if other else 0)
                yield not flags & (maps.TCP_FIN | maps.TCP_RST) and now - entry.seen < 120 * _SECOND

    def _load(self) -> Loaded:
        if self._loaded is None:
            self._loaded = load(self._objects, self._bpffs)
            self._adopt()
        return self._loaded

    def _write_config(self, config: FelixConfig, *, drain: bool) -> None:
        flags = ((maps.CONFIG_DSR if config.bpf_external_service_mode == "DSR" else 0)
                 | (maps.CONFIG_CONNECT_UDP if config.bpf_connect_time_load_balancing == "Enabled" else 0)
                 | (maps.CONFIG_DRAIN if drain else 0))
        uplinks = _uplinks(config.bpf_data_iface_pattern)
        vxlan = ebpf_tc.ensure_vxlan(VXLAN, config.vxlan_port)
        self._load().maps["cali_config"][bytes(4)] = maps.config(
            self._node_ip, uplinks[0] if uplinks else 0, vxlan, config.vxlan_vni, config.vxlan_port, flags)

    def _attach_connect(self, config: FelixConfig) -> None:
        wanted = {"TCP": _TCP_ONLY, "Enabled": _CONNECT.keys()}.get(config.bpf_connect_time_load_balancing, set())
        programs = self._load().programs
        for name, kind in _CONNECT.items():
            if name in wanted:
                bpfsys.attach_cgroup(self._cgroup, programs[name], kind)
            else:
                bpfsys.detach_cgroup(self._cgroup, programs[name], kind)

    def _attach_interface(self, ifindex: int, ingress: str, egress: str) -> None:
        programs = self._load().programs
        self._count_for(ifindex)
        ebpf_tc.attach(ifindex, ebpf_tc.INGRESS, programs[ingress], ingress)
        ebpf_tc.attach(ifindex, ebpf_tc.EGRESS, programs[egress], egress)

    def _count_for(self, ifindex: int) -> None:
        counters = self._load().maps["cali_counters"]
        for hook in (0, 1):
            key = ifindex.to_bytes(4, "little") + hook.to_bytes(4, "little")
            if counters.get(key) is None:
                counters[key] = bytes(counters.value_size)

    # --- Services

    def apply_services(self, changed: Iterable[tuple[tuple[str, str], tuple[ServicePort, ...]]]) -> None:
        """Program the services that changed; one without ports is gone. Costs nothing for those that did not."""
        self._load()
        stale = _Stale()
        for key, ports in changed:
            self._apply_service(key, ports, stale)
        if not self._services_complete:
            self._services_complete = True
            self._remove_unknown_services()
        if stale:
            self._forget(stale)

    def _apply_service(self, key: tuple[str, str], ports: tuple[ServicePort, ...], stale: _Stale) -> None:
        before = self._ports.get(key, {})
        after: dict[_PortKey, tuple[int, ebpf_plan.ServiceEntries]] = {}
        for port in ports:
            port_key = (port.cluster_ip, port.protocol, port.port_name, str(port.port))
            service = before[port_key][0] if port_key in before else self._service_id(port)
            entries = ebpf_plan.service_entries(port, service, self._node_name)
            if entries:
                after[port_key] = service, entries
                self._write_service(entries, before.get(port_key, (0, None))[1], stale)
        for port_key, (_, old) in before.items():
            if port_key not in after:
                self._write_service(None, old, stale)
        if after:
            self._ports[key] = after
        else:
            self._ports.pop(key, None)

    def _write_service(self, new: ebpf_plan.ServiceEntries | None, old: ebpf_plan.ServiceEntries | None,
                       stale: _Stale) -> None:
        """Frontends never promise a backend that is not there: more backends come first, fewer come last."""
        frontends, backends, sets = (self._mirrors[name] for name in
                                     ("cali_v4_nat_fe", "cali_v4_nat_be", "cali_v4_ip_sets"))
        new = new or ebpf_plan.ServiceEntries({}, {}, frozenset())
        old = old or ebpf_plan.ServiceEntries({}, {}, frozenset())
        for member in new.ip_sets:
            sets.set(member, _ONE)
        steps = [(backends, new.backends), (frontends, new.frontends)]
        for mirror, entries in steps if len(new.backends) >= len(old.backends) else reversed(steps):
            for key, value in entries.items():
                mirror.set(key, value)
        for key, value in old.frontends.items():
            if key not in new.frontends and frontends.known.get(key, b"")[:4] == value[:4]:
                frontends.discard(key)
        for key in old.backends.keys() - new.backends.keys():
            backends.discard(key)
        gone = set(old.backends.values()) - set(new.backends.values())
        if gone:
            stale.add(gone, old.frontends)
        if old.ip_sets - new.ip_sets:
            self._drop_unused_sets(old.ip_sets - new.ip_sets)

    def _service_id(self, port: ServicePort) -> int:
        """An adopted service keeps its id, so that its entries are not written again."""
        key = maps.frontend_key(port.cluster_ip, port.port, maps.PROTOCOLS.get(port.protocol, 0))
        if found := self._mirrors["cali_v4_nat_fe"].known.get(key):
            return int.from_bytes(found[:4], "little")
        self._next_id += 1
        return self._next_id

    def _remove_unknown_services(self) -> None:
        for name, which in (("cali_v4_nat_fe", "frontends"), ("cali_v4_nat_be", "backends")):
            wanted = {key for ports in self._ports.values() for _, entries in ports.values()
                      for key in getattr(entries, which)}
            for key in self._mirrors[name].known.keys() - wanted:
                self._mirrors[name].discard(key)

    def _drop_unused_sets(self, candidates: Iterable[bytes]) -> None:
        used = set(self._policy_sets)
        for ports in self._ports.values():
            for _, entries in ports.values():
                used |= entries.ip_sets
        for member in set(candidates) - used:
            self._mirrors["cali_v4_ip_sets"].discard(member)

    # --- Policy

    def apply_policy(self, endpoints: Mapping[str, EndpointPolicy]) -> None:
        """Program the rules of this node's endpoints, by interface. Each switches to its new list in one step."""
        self._load()
        self._endpoints = dict(endpoints)
        plan = ebpf_plan.policy_entries(endpoints)
        for interface in plan.too_long:
            self._log.warning("policy of %s has more than %d rules: the rest is denied", interface, maps.MAX_RULES)
        sets, rules, ifaces = (self._mirrors[name] for name in ("cali_v4_ip_sets", "cali_policy", "cali_iface"))
        for member in plan.ip_sets:
            sets.set(member, _ONE)
        for key, value in plan.rules.items():
            rules.set(key, value)
        ifaces.replace({
            ifindex.to_bytes(4, "little"): ids[0].to_bytes(4, "little") + ids[1].to_bytes(4, "little")
            for name, ids in plan.interfaces.items() if (ifindex := _ifindex(name))})
        rules.replace(plan.rules)
        before, self._policy_sets = self._policy_sets, plan.ip_sets
        self._drop_unused_sets(before - plan.ip_sets)

    # --- Routes

    def apply_routes(self, nodes: Mapping[str, str], local_pods: Mapping[str, str],
                     remote_pods: Mapping[str, str]) -> None:
        """Program who has which address, and attach to this node's pods.

        Args:
            nodes: name -> address of every node.
            local_pods: address -> interface of this node's pods.
            remote_pods: address -> node's address of the other nodes' pods.
        """
        self._load()
        hosts = set(nodes.values()) | {self._node_ip}
        self._pods = {ip: interface for ip, interface in local_pods.items() if ip not in hosts}
        routes = {maps.route_key(ip): maps.route(maps.RT_HOST, node=ip) for ip in hosts}
        for ip in (self._node_ip, _GATEWAY):
            routes[maps.route_key(ip)] = maps.route(maps.RT_HOST | maps.RT_LOCAL)
        for ip, node in remote_pods.items():
            if ip not in hosts:
                routes[maps.route_key(ip)] = maps.route(maps.RT_WORKLOAD, node=node)
        for ip, interface in self._pods.items():
            if ifindex := _ifindex(interface):
                routes[maps.route_key(ip)] = maps.route(maps.RT_WORKLOAD | maps.RT_LOCAL, ifindex=ifindex)
        mirror = self._mirrors["cali_v4_routes"]
        moved = {socket.inet_ntoa(key[4:]) for key, value in mirror.known.items() if routes.get(key) != value}
        mirror.replace(routes)
        if moved:
            self._forget(_Stale(addresses=moved))
        self._attach_pods()

    def _attach_pods(self) -> None:
        if not self._attached:
            return
        there = {name: ifindex for name in self._pods.values() if (ifindex := _ifindex(name))}
        for name, ifindex in there.items():
            if self._interfaces.get(name) != ifindex:
                try:
                    self._attach_interface(ifindex, "from_workload", "to_workload")
                except OSError as error:                # gone again meanwhile
                    self._log.warning("cannot attach to %s: %s", name, error)
                    continue
                self._interfaces[name] = ifindex
        for name in self._interfaces.keys() - there.keys():
            del self._interfaces[name]

    def _sync_interfaces(self) -> None:
        """Interfaces come and go on their own time: what was applied before they came is applied now."""
        late = any(_ifindex(name) != self._interfaces.get(name, 0) for name in self._pods.values())
        if not late:
            return
        self.apply_policy(self._endpoints)
        mirror = self._mirrors["cali_v4_routes"]
        for ip, name in self._pods.items():
            if ifindex := _ifindex(name):
                mirror.set(maps.route_key(ip), maps.route(maps.RT_WORKLOAD | maps.RT_LOCAL, ifindex=ifindex))
        self._attach_pods()

    # --- Connections

    def _forget(self, stale: _Stale) -> None:
        connections = self._load().maps["cali_v4_ct"]
        for key, value in list(connections.items()):
            if stale.has(key, value):
                connections.discard(key)

    def _collect_garbage(self) -> None:
        connections = self._load().maps["cali_v4_ct"]
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        entries = {key: maps.Connection.read(value) for key, value in connections.items()}
        for key, entry in entries.items():
            other = entries.get(entry.to.reversed().pack())
            flags = entry.tcp_flags | (other.tcp_flags if other else 0)
            if now - max(entry.seen, other.seen if other else 0) > _idle(key[12], flags) * _SECOND:
                connections.discard(key)

    def _adopt(self) -> None:
        assert self._loaded is not None
        self._mirrors = {name: Mirror(self._loaded.maps[name]) for name in _WRITTEN}
        ids = [int.from_bytes(value[:4], "little") for value in self._mirrors["cali_v4_nat_fe"].known.values()]
        ids += [int.from_bytes(key[:4], "little") for key in self._mirrors["cali_v4_nat_be"].known]
        self._next_id = max(ids, default=0)
        self._policy_sets = frozenset(self._mirrors["cali_v4_ip_sets"].known)


class _Stale:
    """Connections that must not go on: to backends that are gone, or of addresses that moved."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = {socket.inet_aton(ip) for ip in addresses}
        self._backends: set[bytes] = set()              # address and port
        self._frontends: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._addresses or self._backends)

    def add(self, backends: Iterable[bytes], frontends: Iterable[bytes]) -> None:
        """UDP has no end of its own: a client would go on talking to a backend that is gone."""
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
        source, destination, target = key[:4] + key[8:10], key[4:8] + key[10:12], value[4:8] + value[10:12]
        if source in self._backends or target in self._backends:
            return True
        tunnelled = value[16] == maps.PATH_TUNNEL
        return tunnelled and bool({destination, bytes(4) + destination[4:]} & self._frontends)


_CONNECT = {"cali_connect4": bpfsys.CGROUP_CONNECT4, "cali_getpeername4": bpfsys.CGROUP_GETPEERNAME4,
            "cali_sendmsg4": bpfsys.CGROUP_SENDMSG4, "cali_recvmsg4": bpfsys.CGROUP_RECVMSG4}
_TCP_ONLY = {"cali_connect4", "cali_getpeername4"}
_WRITTEN = ("cali_v4_nat_fe", "cali_v4_nat_be", "cali_v4_routes", "cali_v4_ip_sets", "cali_policy", "cali_iface")
_ONE = (1).to_bytes(4, "little")


def _ifindex(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _uplinks(pattern: str) -> list[int]:
    return [index for index, name in socket.if_nameindex() if re.search(pattern, name)]


def _idle(protocol: int, tcp_flags: int) -> int:
    """Calico's time-outs, in seconds."""
    if protocol == 6:
        if tcp_flags & (maps.TCP_FIN | maps.TCP_RST):
            return 30
        return 3600 if tcp_flags & maps.TCP_ACK else 20
    return 60 if protocol == 17 else 5
