"""Keys and values of the eBPF maps: the Python side of bpf/maps.h. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from socket import inet_aton, inet_ntoa

PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}

FE_EXTERNAL_LOCAL, FE_INTERNAL_LOCAL, FE_SOURCE_RANGES = 1, 2, 4
RT_WORKLOAD, RT_LOCAL, RT_HOST = 0x04, 0x08, 0x10
RULE_ALLOW, RULE_DENY, RULE_LOG = 1, 2, 3
MAX_RULES, MAX_PORTS = 256, 8
_CONFIG_FLAGS = 20      # bytes of cali_config's value before its flags
CONFIG_DSR, CONFIG_DRAIN, CONFIG_CONNECT_UDP, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG, CONFIG_OVERLAY = 1, 2, 4, 8, 16, 32
PATH_STACK, PATH_LOCAL, PATH_OUT, PATH_TUNNEL, PATH_HOST = range(5)
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16
COUNTERS = (("Accepted", "by policy"), ("Other", "connections to services"), ("Other", "connections by the tunnel"),
            ("Other", "packets left to the host"), ("Dropped", "by policy"),
            ("Dropped", "service without a back end"), ("Dropped", "packets with unknown source"),
            ("Dropped", "TTL exceeded"), ("Dropped", "too big for the tunnel"), ("Dropped", "error"))
"""Calico's categories and, where it counts the same, its captions; in the order of maps.h."""

MAPS = ("cali_v4_nat_fe", "cali_v4_nat_be", "cali_v4_nat_aff", "cali_v4_ct", "cali_v4_frags",
        "cali_v4_ct_nats", "cali_v4_routes", "cali_v4_ip_sets", "cali_policy", "cali_iface", "cali_config",
        "cali_counters", "cali_rule_ctrs", "cali_state")


NODE_PORT = "255.255.255.255"


def port(number: int) -> bytes:
    """A port in network order."""
    return struct.pack(">H", number)


def frontend_key(ip: str, number: int, protocol: int) -> bytes:
    """Key of cali_v4_nat_fe; a node port's address is NODE_PORT."""
    return inet_aton(ip) + port(number) + bytes((protocol, 0))


def frontend(service: int, count: int, local: int, affinity: int, flags: int, ranges: int) -> bytes:
    """Value of cali_v4_nat_fe."""
    return struct.pack("=IHHIII", service, count, local, affinity, flags, ranges)


def backend_key(service: int, index: int) -> bytes:
    """Key of cali_v4_nat_be."""
    return struct.pack("=II", service, index)


def backend(ip: str, number: int) -> bytes:
    """Value of cali_v4_nat_be."""
    return inet_aton(ip) + port(number) + b"\0\0"


def route_key(ip: str, length: int = 32) -> bytes:
    """Key of cali_v4_routes."""
    return struct.pack("=I", length) + inet_aton(ip)


def route(flags: int, *, node: str = "0.0.0.0", ifindex: int = 0) -> bytes:
    """Value of cali_v4_routes: with a node's address, or a local workload's interface."""
    return struct.pack("=I", flags) + (struct.pack("=I", ifindex) if ifindex else inet_aton(node))


def ip_set_key(ip_set: int, net: str) -> bytes:
    """Key of cali_v4_ip_sets for a CIDR or an address."""
    address, _, length = net.partition("/")
    return struct.pack("=II", 32 + int(length or 32), ip_set) + inet_aton(address)


def rule(action: int, protocol: int, nets: int, not_nets: int, ports: Iterable[tuple[int, int]],
         rule_id: int = 0) -> bytes:
    """Value of cali_policy; a rule with an id is counted in cali_rule_ctrs."""
    ranges = tuple(ports)
    flat = [number for pair in ranges for number in pair] + [0, 0] * (MAX_PORTS - len(ranges))
    return struct.pack(f"=BBBxIII{2 * MAX_PORTS}H", action, protocol, len(ranges), nets, not_nets, rule_id, *flat)


def rule_id(rule: bytes) -> bytes:
    """Of a value of cali_policy the key in cali_rule_ctrs."""
    return rule[12:16]


def config(node: str, uplink: int, vxlan: int, vni: int, vxlan_port: int, tunnel_mtu: int, flags: int,
           dsr_optout: int, gateway: str = "0.0.0.0") -> bytes:
    """Value of cali_config."""
    return (inet_aton(node) + struct.pack("=III", uplink, vxlan, vni) + port(vxlan_port)
            + struct.pack("=HII", tunnel_mtu, flags, dsr_optout) + inet_aton(gateway))


def serves(config: bytes) -> bool:
    """Whether the programs take new connections by a value of cali_config; it is all zeros before there is one."""
    return any(config) and not struct.unpack_from("=I", config, _CONFIG_FLAGS)[0] & CONFIG_DRAIN


def going_away(config: bytes) -> bytes:
    """A value of cali_config by which the programs serve translated connections only, as before they begin."""
    (flags,) = struct.unpack_from("=I", config, _CONFIG_FLAGS)
    return config[:_CONFIG_FLAGS] + struct.pack("=I", flags | CONFIG_DRAIN) + config[_CONFIG_FLAGS + 4:]


@dataclass(frozen=True, slots=True)
class Flow:
    """A packet's addresses and ports."""

    saddr: str
    daddr: str
    sport: int
    dport: int
    protocol: int

    @classmethod
    def read(cls, raw: bytes) -> Flow:
        """From a key of cali_v4_ct."""
        sport, dport = struct.unpack_from(">HH", raw, 8)
        return cls(inet_ntoa(raw[:4]), inet_ntoa(raw[4:8]), sport, dport, raw[12])

    def pack(self) -> bytes:
        """As a key of cali_v4_ct."""
        return (inet_aton(self.saddr) + inet_aton(self.daddr) + port(self.sport) + port(self.dport)
                + bytes((self.protocol, 0, 0, 0)))

    def reversed(self) -> Flow:
        """The same, seen from the other end."""
        return Flow(self.daddr, self.saddr, self.dport, self.sport, self.protocol)


@dataclass(frozen=True, slots=True)
class Connection:
    """One direction of a connection, as the programs remember it."""

    to: Flow
    path: int
    tcp_flags: int
    target: bytes
    created: int
    seen: int
    packets: int
    size: int

    @classmethod
    def read(cls, raw: bytes) -> Connection:
        """From a value of cali_v4_ct."""
        path, flags, target, created, seen, packets, size = struct.unpack_from("=BBxx4sQQQQ", raw, 16)
        return cls(Flow.read(raw), path, flags, target, created, seen, packets, size)
