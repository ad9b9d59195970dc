"""Calico's eBPF data plane on one node: loads the programs, attaches them, and keeps their maps up to date.

The kernel does the work without us: programs and maps are pinned, so a crash of the agent changes nothing, and
an agent that starts again adopts what it finds. Every `apply_…` writes only what differs from what is there.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labkit.local.dataplane import bpfsys, ebpf_connections, ebpf_plan, ebpf_tc, policy_names
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.ebpf_load import Loaded, load, unload
from labkit.local.dataplane.ebpf_mirror import IpSets, Mirror
from labkit.local.dataplane.ebpf_services import ServiceMaps
from labkit.local.dataplane.repaired import count

if TYPE_CHECKING:
    from labkit.local.dataplane.felix import FelixConfig
    from labkit.local.dataplane.policy import EndpointPolicy
    from labkit.local.dataplane.services import ServicePort

VXLAN = "vxlan.calico"
_VXLAN_BYTES = 50                        # what the tunnel adds to a packet: IP, UDP, VXLAN and Ethernet headers
_GATEWAY = "169.254.1.1"                 # what pods have as their router: the node itself
_CONNECT = {"cali_connect4": bpfsys.CGROUP_CONNECT4, "cali_getpeername4": bpfsys.CGROUP_GETPEERNAME4,
            "cali_sendmsg4": bpfsys.CGROUP_SENDMSG4, "cali_recvmsg4": bpfsys.CGROUP_RECVMSG4}
# "TCP" needs those of UDP, too: for what a node sends to a node port of its own.
_AT_CONNECT = {"TCP": set(_CONNECT), "Enabled": set(_CONNECT), "Disabled": set[str]()}


class Log(Protocol):
    """What of logging.Logger is used here."""

    def info(self, message: str, *args: object) -> None:
        """Say what happens."""

    def warning(self, message: str, *args: object) -> None:
        """Say what is not as it should be."""


@dataclass(frozen=True)
class _State:
    """What is loaded, and what is in it."""

    loaded: Loaded
    frontends: Mirror
    backends: Mirror
    services: ServiceMaps
    ip_sets: IpSets
    routes: Mirror
    policy: Mirror
    ifaces: Mirror

    @classmethod
    def adopt(cls, loaded: Loaded, node: str) -> _State:
        """Read back what an earlier agent wrote."""
        def mirror(name: str) -> Mirror:
            return Mirror(loaded.maps[name])

        ip_sets = IpSets(mirror("cali_v4_ip_sets"))
        frontends, backends = mirror("cali_v4_nat_fe"), mirror("cali_v4_nat_be")
        services = ServiceMaps(frontends, backends, ip_sets, node)
        return cls(loaded, frontends, backends, services, ip_sets, mirror("cali_v4_routes"), mirror("cali_policy"),
                   mirror("cali_iface"))

    def mirrors(self) -> dict[str, Mirror | IpSets]:
        """What only this agent writes, by the names of the maps; what is named comes before what names it."""
        return {"cali_v4_ip_sets": self.ip_sets, "cali_v4_nat_be": self.backends,
                "cali_v4_nat_fe": self.frontends, "cali_v4_routes": self.routes,
                "cali_policy": self.policy, "cali_iface": self.ifaces}


class EbpfDataplane:
    """One node's data plane. Not thread-safe: give it one thread, in the node's network namespace.

    Call `apply_services`, `apply_policy` and `apply_routes` with everything first, then `attach`: so no packet
    meets a half-filled map. The first `apply_services` after a start carries every service, and what it leaves
    out is deleted; later ones carry what changed. `apply_policy` and `apply_routes` always carry everything.

    Args:
        bpffs: this node's folder in a bpffs, for pins.
        cgroup: this node's cgroup: processes below it are load balanced when they connect.
        objects: the folder with tc.o and connect.o, of `labkit.local.dataplane.compile`.
        node_ip: this node's address.
        node_name: this node's name, as endpoints carry it.
        log: where to say what happens.
    """

    def __init__(self, *, bpffs: Path, cgroup: Path, objects: Path, node_ip: str, node_name: str,
                 log: Log) -> None:
        self._bpffs, self._cgroup, self._objects = bpffs, cgroup, objects
        self._node_ip, self._node_name, self._log = node_ip, node_name, log
        self._state: _State | None = None
        self._attached = self._keep_tunnel = False
        self._interfaces: dict[str, int] = {}           # a pod's interface -> the ifindex that we attached to
        self._hooks: dict[tuple[int, int], str] = {}    # ifindex and hook -> the program that we attached there
        self._config: FelixConfig | None = None         # what `attach` was called with
        self._devices: tuple[int, list[int], str] = (0, [], "")  # ifindex of tunnel and uplinks; the gateway there
        self._config_entry = b""                        # what is in cali_config
        self._endpoints: dict[str, EndpointPolicy] = {}
        self._policy_sets: frozenset[bytes] = frozenset()
        self._names: policy_names.Names = {}            # of the policies that rules come from
        self._optout: frozenset[bytes] = frozenset()
        self._own: tuple[str, ...] = ()                 # further addresses of this node
        self._routes: tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]] = ({}, {}, {})

    @property
    def attached(self) -> bool:
        """Whether this agent has attached the programs."""
        return self._attached

    @property
    def interfaces(self) -> frozenset[str]:
        """The pods' interfaces that this agent has attached the programs to."""
        return frozenset(self._interfaces)

    def attach(self, config: FelixConfig) -> None:
        """Take the node's traffic over, or change the configuration of what is attached. Idempotent.

        Connections that exist are not known here, and stay with the host's stack until they end.

        Raises:
            LoadError: the kernel refuses the programs, or bpftool is missing.
        """
        state = self._load()
        state.ip_sets.prune()
        uplinks = _uplinks(config)
        vxlan = ebpf_tc.ensure_vxlan(VXLAN, config.vxlan_port)
        optout, members = ebpf_plan.ip_set_entries(config.bpf_dsr_optout_cidrs)
        state.ip_sets.use(members)
        uplink = uplinks[0] if uplinks else 0
        gateway = ebpf_tc.gateway(uplink)
        self._config, self._devices = config, (vxlan, uplinks, gateway)
        entry = self._config_entry = maps.config(
            self._node_ip, uplink, vxlan, config.vxlan_vni, config.vxlan_port, ebpf_tc.mtu(uplink) - _VXLAN_BYTES,
            ebpf_plan.config_flags(config), optout, gateway)
        settings = state.loaded.maps["cali_config"]
        # All interfaces begin at one moment: what kube-proxy translates at one must not be a new connection at another.
        settings[bytes(4)] = entry if maps.serves(settings.get(bytes(4)) or b"") else maps.going_away(entry)
        state.ip_sets.release(self._optout)
        self._optout = members
        self._attached = True
        self._attach_interface(vxlan, ingress="from_tunnel")
        self._attach_pods()
        for ifindex in uplinks:
            self._attach_interface(ifindex, ingress="from_uplink", egress="to_uplink")
        ebpf_tc.accept_local()
        self._attach_interface(_ifindex("lo"), egress="to_loopback")
        settings[bytes(4)] = entry
        self._attach_connect(_AT_CONNECT[config.bpf_connect_time_load_balancing])
        self._log.info("BPF programs attached to %d uplink(s), %d workload(s) and the node's cgroup",
                       len(uplinks), len(self._interfaces))

    def detach(self, *, keep_tunnel: bool = False) -> None:
        """Give new connections back to the host's stack, at once.

        Connections from outside that are translated here go on: while there are any, the programs stay
        attached for them alone, and `tick` removes them after the last one.

        Args:
            keep_tunnel: pods of an overlay go on using the VXLAN device.
        """
        self._attached, self._keep_tunnel = False, keep_tunnel
        if self._state or (self._bpffs / "maps").exists():
            loaded = self._load().loaded
            if config := loaded.maps["cali_config"].get(bytes(4)):
                loaded.maps["cali_config"][bytes(4)] = maps.going_away(config)
        self._finish_detach()

    def tick(self) -> None:
        """Housekeeping, for every ten seconds or so: idle connections, late interfaces, the end of a detach."""
        if self._state is None:
            return
        if not self._attached:
            self._finish_detach()
            return
        ebpf_connections.collect_garbage(self._state.loaded.maps["cali_v4_ct"], _now())
        self._follow_interfaces()

    def _follow_interfaces(self) -> None:
        """Serve pods' interfaces that came late, or anew: the kubelet makes one again that somebody deleted."""
        if any(_ifindex(name) != self._interfaces.get(name, 0) for name in self._routes[1].values()):
            self.apply_policy(self._endpoints)
            self.apply_routes(*self._routes, self._own)

    def close(self) -> None:
        """Let go of the descriptors; the data plane goes on without this agent."""
        if self._state:
            self._state.loaded.close()
        self._state, self._policy_sets, self._optout = None, frozenset(), frozenset()
        self._interfaces.clear()
        self._hooks.clear()

    def repair(self) -> list[str]:
        """Put back what somebody removed or changed by hand in the kernel, and say what that was, in words.

        Maps come first, then the programs that read them. What others attached beside ours stays. After `detach`
        nothing is put back.
        """
        if self._state is None or self._config is None or not self._attached:
            return []
        loaded = self._state.loaded
        repaired = [f"pin of {name} was missing" for name in loaded.repin()]
        policy_names.write(self._bpffs, self._names)
        for name, mirror in self._state.mirrors().items():
            lost, foreign = mirror.repair()
            if lost or foreign:
                parts = [f"{count(number, 'entry')} {what}" for number, what in (
                    (lost, "missing or changed"), (foreign, "not ours")) if number]
                repaired.append(f"map {name}: {', '.join(parts)}")
        if loaded.maps["cali_config"].get(bytes(4)) != self._config_entry:
            loaded.maps["cali_config"][bytes(4)] = self._config_entry
            repaired.append("map cali_config was changed")
        if _ifindex(VXLAN) == self._devices[0] and not ebpf_tc.is_up(VXLAN):
            ebpf_tc.set_up(VXLAN)
            repaired.append(f"link {VXLAN} was down")
        uplinks = _uplinks(self._config)
        if (_ifindex(VXLAN), uplinks, ebpf_tc.gateway(uplinks[0] if uplinks else 0)) != self._devices:
            if not _ifindex(VXLAN):
                repaired.append(f"link {VXLAN} was missing")
            self.attach(self._config)
        self._follow_interfaces()
        return repaired + self._repair_hooks(loaded) + self._repair_connect(self._config, loaded)

    def _repair_hooks(self, loaded: Loaded) -> list[str]:
        repaired, ids = [], {name: bpfsys.program_id(fd) for name, fd in loaded.programs.items()}
        for (ifindex, hook), name in list(self._hooks.items()):
            try:
                interface = socket.if_indextoname(ifindex)
            except OSError:                              # gone, with its pod
                del self._hooks[ifindex, hook]
                continue
            self._ensure_counters(ifindex)               # these may be reset by hand: no harm was done
            if ebpf_tc.attached(ifindex, hook) == ids[name]:
                continue
            try:
                ebpf_tc.attach(ifindex, hook, loaded.programs[name], name)
            except OSError as error:
                self._log.warning("Cannot attach BPF program %s to %s: %s", name, interface, error)
                continue
            repaired.append(f"program {name} was not attached to {interface}")
        return repaired

    def _repair_connect(self, config: FelixConfig, loaded: Loaded) -> list[str]:
        missing = [name for name in sorted(_AT_CONNECT[config.bpf_connect_time_load_balancing])
                   if bpfsys.program_id(loaded.programs[name])
                   not in bpfsys.attached_to_cgroup(self._cgroup, _CONNECT[name])]
        for name in missing:
            bpfsys.attach_cgroup(self._cgroup, loaded.programs[name], _CONNECT[name])
        return [f"program {name} was not attached to the node's cgroup" for name in missing]

    def _finish_detach(self) -> None:
        if self._state:
            held = ebpf_connections.drain(self._state.loaded.maps["cali_v4_ct"], _now())
            # Only now, when the stack has seen packets of what was balanced at connect time: kube-proxy might give a
            # new connection from the same port the same backend.
            self._attach_connect(set())
            if held:
                self._log.info("BPF programs stay for the packets of translated connections (%d), until they end",
                               held)
                return
        for index, _ in socket.if_nameindex():
            ebpf_tc.detach(index)
        if not self._keep_tunnel:
            ebpf_tc.remove_link(VXLAN)
        self.close()
        unload(self._bpffs)

    def _load(self) -> _State:
        if self._state is None:
            self._state = _State.adopt(load(self._objects, self._bpffs), self._node_name)
        return self._state

    def _attach_connect(self, wanted: set[str]) -> None:
        programs = self._load().loaded.programs
        for name, kind in _CONNECT.items():
            change = bpfsys.attach_cgroup if name in wanted else bpfsys.detach_cgroup
            change(self._cgroup, programs[name], kind)

    def _attach_interface(self, ifindex: int, *, ingress: str = "", egress: str = "") -> None:
        loaded = self._load().loaded
        self._ensure_counters(ifindex)
        for hook, name in ((ebpf_tc.INGRESS, ingress), (ebpf_tc.EGRESS, egress)):
            if name:
                ebpf_tc.attach(ifindex, hook, loaded.programs[name], name)
                self._hooks[ifindex, hook] = name

    def _ensure_counters(self, ifindex: int) -> None:
        counters = self._load().loaded.maps["cali_counters"]
        for direction in (0, 1):
            key = ifindex.to_bytes(4, "little") + direction.to_bytes(4, "little")
            if counters.get(key) is None:
                counters[key] = bytes(counters.value_size)

    def apply_services(self, changed: Iterable[tuple[tuple[str, str], tuple[ServicePort, ...]]]) -> None:
        """Program the services that changed; one without ports is gone. The others cost nothing."""
        state = self._load()
        if stale := state.services.apply(changed):
            ebpf_connections.forget(state.loaded.maps["cali_v4_ct"], stale)

    def apply_policy(self, endpoints: Mapping[str, EndpointPolicy]) -> None:
        """Program the rules of this node's endpoints, by interface. Each switches to its new list in one step."""
        state = self._load()
        self._endpoints = dict(endpoints)
        plan = ebpf_plan.policy_entries(endpoints)
        for interface in plan.too_long:
            self._log.warning("The policy of %s has more than %d rules: what comes after them is denied",
                              interface, maps.MAX_RULES)
        state.ip_sets.use(plan.ip_sets)
        for key, value in plan.rules.items():
            state.policy.set(key, value)
        state.ifaces.replace({
            ifindex.to_bytes(4, "little"): ingress.to_bytes(4, "little") + egress.to_bytes(4, "little")
            for name, (ingress, egress) in plan.interfaces.items() if (ifindex := _ifindex(name))})
        state.policy.replace(plan.rules)
        counted, ids = state.loaded.maps["cali_rule_ctrs"], {maps.rule_id(rule) for rule in plan.rules.values()}
        for key in set(counted.keys()) - ids:
            counted.discard(key)
        self._names = plan.names
        policy_names.write(self._bpffs, self._names)
        state.ip_sets.release(self._policy_sets)
        self._policy_sets = plan.ip_sets

    def apply_routes(self, nodes: Mapping[str, str], local_pods: Mapping[str, str],
                     remote_pods: Mapping[str, str], own: tuple[str, ...] = ()) -> None:
        """Program who has which address, and attach to this node's pods.

        Args:
            nodes: name -> address of every node.
            local_pods: address -> interface of this node's pods.
            remote_pods: address -> node's address of the other nodes' pods.
            own: further addresses of this node, such as its end of the overlay.
        """
        state = self._load()
        hosts = set(nodes.values()) | {self._node_ip}
        # Pods on their node's network have its address, and need no route of their own.
        local_pods = {ip: interface for ip, interface in local_pods.items() if ip not in hosts}
        self._routes, self._own = (nodes, local_pods, remote_pods), own
        routes = {maps.route_key(ip): maps.route(maps.RT_HOST, node=ip) for ip in hosts}
        for ip in (self._node_ip, _GATEWAY, *own):
            routes[maps.route_key(ip)] = maps.route(maps.RT_HOST | maps.RT_LOCAL)
        for ip, node in remote_pods.items():
            if ip not in hosts:
                routes[maps.route_key(ip)] = maps.route(maps.RT_WORKLOAD, node=node)
        for ip, interface in local_pods.items():
            if ifindex := _ifindex(interface):
                routes[maps.route_key(ip)] = maps.route(maps.RT_WORKLOAD | maps.RT_LOCAL, ifindex=ifindex)
        moved = {socket.inet_ntoa(key[4:]) for key, value in state.routes.known.items() if routes.get(key) != value}
        state.routes.replace(routes)
        if moved:
            ebpf_connections.forget(state.loaded.maps["cali_v4_ct"], ebpf_connections.Stale(moved))
        self._attach_pods()

    def _attach_pods(self) -> None:
        if not self._attached:
            return
        there = {name: ifindex for name in self._routes[1].values() if (ifindex := _ifindex(name))}
        for name, ifindex in there.items():
            if self._interfaces.get(name) == ifindex:
                continue
            try:
                self._attach_interface(ifindex, ingress="from_workload", egress="to_workload")
            except OSError as error:                    # gone again meanwhile
                self._log.warning("Cannot attach BPF programs to %s: %s", name, error)
                continue
            self._interfaces[name] = ifindex
        for name in self._interfaces.keys() - there.keys():
            del self._interfaces[name]


def _uplinks(config: FelixConfig) -> list[int]:
    return [index for index, name in socket.if_nameindex() if re.search(config.bpf_data_iface_pattern, name)]


def _ifindex(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
