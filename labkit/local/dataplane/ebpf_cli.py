"""`calico-node -bpf …`: what is in the eBPF maps, line by line as felix/cmd/calico-bpf/commands of Calico prints it.

nat dump, nat aff, conntrack dump, routes dump, ifstate dump, counters dump, ipsets dump, policy dump IFACE HOOK.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from socket import inet_ntoa

from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane import policy_names
from labkit.local.dataplane.bpfsys import Map, possible_cpus

_Lines = Iterator[str]


class Pins:
    """A node's pinned maps."""

    def __init__(self, bpffs: Path) -> None:
        self.bpffs, self._folder = bpffs, bpffs / "maps"

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """All of a map."""
        kernel = Map(self._folder / name)
        try:
            return list(kernel.items())
        finally:
            kernel.close()


def nat_dump(pins: Pins) -> _Lines:
    """Frontends, each with its backends. One with source ranges is there for each of them, and for nobody else."""
    sets = _ip_sets(pins)
    backends = {struct.unpack("=II", key): value for key, value in pins.entries("cali_v4_nat_be")}
    for key, value in sorted(pins.entries("cali_v4_nat_fe")):
        service, count, local, _, flags, ranges = struct.unpack("=IHHIII", value)
        names = [name for bit, name in ((maps.FE_EXTERNAL_LOCAL, "external-local"),
                                        (maps.FE_INTERNAL_LOCAL, "internal-local")) if flags & bit]
        suffix = f" flags {', '.join(names)}" if names else ""
        front = f"{inet_ntoa(key[:4])} port {_port(key[4:6])} proto {key[6]} id {service}"
        for source in [f" src {net}" for net in sets.get(ranges, ())] or [""]:
            yield f"{front} count {count} local {local}{suffix}{source}"
            for index in range(count):
                backend = backends.get((service, index))
                yield f"\t{service}:{index}\t {_end(backend) if backend else 'is missing'}"
        if flags & maps.FE_SOURCE_RANGES:
            yield f"{front} count -1 local 0"


def nat_aff(pins: Pins) -> _Lines:
    """Which client stays with which backend."""
    frontends = {value[:4]: key for key, value in pins.entries("cali_v4_nat_fe")}
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for key, value in pins.entries("cali_v4_nat_aff"):
        client = struct.unpack_from("=Q", key)[0]
        name = (f"netns {client & ~(1 << 63)}" if client >> 63 else
                f"socket {client & ~(1 << 62)}" if client >> 62 else inet_ntoa(key[:4]))
        frontend = frontends.get(key[8:12])
        service = f"proto {frontend[6]} {_end(frontend)}" if frontend else "deleted"
        age = now - struct.unpack_from("=Q", value)[0]
        yield f"client {name} svc {service} -> {_end(value[12:])} ts {_duration(age)}"
    yield ""


def conntrack_dump(pins: Pins) -> _Lines:
    """Connections, as their client and their server know them."""
    entries = {maps.Flow.read(key): maps.Connection.read(value) for key, value in pins.entries("cali_v4_ct")}
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for flow, entry in sorted(entries.items(), key=lambda item: item[1].created):
        back = entry.to.reversed()
        replies = entries.get(back)
        if not _forward(flow, entry, replies):
            continue
        text = f"{_protocol(flow.protocol)} {flow.saddr}:{flow.sport} -> "
        text += f"{flow.daddr}:{flow.dport} "
        if entry.to != flow:
            text += f"-> {entry.to.daddr}:{entry.to.dport} "
        for side in (entry, replies):
            if side and side.path == maps.PATH_TUNNEL:
                text += f"external client, service forwarded to/from {inet_ntoa(side.target)} "
        seen = max(entry.seen, replies.seen if replies else 0)
        text += f" Active ago {_duration(now - seen)}"
        if flow.protocol == 6:
            text += " " + _tcp_state(entry.tcp_flags, replies.tcp_flags if replies else 0)
        yield text


def conntrack_raw(pins: Pins) -> _Lines:
    """Every entry as the programs use it: a packet's key, what becomes of it, and how many there were."""
    ways = ("to the host's stack", "to interface {ifindex}", "out of the uplink", "by VXLAN to {node}",
            "back into the host")
    for key, value in sorted(pins.entries("cali_v4_ct")):
        flow, entry = maps.Flow.read(key), maps.Connection.read(value)
        way = ways[entry.path].format(ifindex=int.from_bytes(entry.target, "little"),
                                      node=inet_ntoa(entry.target))
        yield f"{_flow(flow)} => {_flow(entry.to)} {way}, {entry.packets} packets {entry.size} bytes"


def routes_dump(pins: Pins) -> _Lines:
    """Who has which address."""
    for key, value in sorted(pins.entries("cali_v4_routes"), key=lambda entry: entry[0][4:]):
        flags = int.from_bytes(value[:4], "little")
        words = ["local" if flags & maps.RT_LOCAL else "remote",
                 "host" if flags & maps.RT_HOST else "workload"]
        if flags & maps.RT_WORKLOAD:
            words += (["idx", str(int.from_bytes(value[4:], "little"))] if flags & maps.RT_LOCAL
                      else ["nh", inet_ntoa(value[4:])])
        yield f"{inet_ntoa(key[4:]) + '/' + str(key[0]):>15}: {' '.join(words)}"


def ifstate_dump(pins: Pins) -> _Lines:
    """The workloads' interfaces and the ids of their policies; 0 allows everything, and -1 is of a kind not used here.

    The policy at an interface's ingress hook is about what comes in there: the pod's egress.
    """
    names = dict(socket.if_nameindex())
    for key, value in sorted(pins.entries("cali_iface")):
        ifindex = int.from_bytes(key, "little")
        ingress, egress = struct.unpack("=II", value)
        yield (f"{ifindex:>5} : {{flags: workload,ready, XDPPolicyV4: -1, IngressPolicyV4: {egress}, "
               f"EgressPolicyV4: {ingress}, XDPPolicyV6: -1, IngressPolicyV6: -1, EgressPolicyV6: -1, "
               f"IngressFilter: -1, EgressFilter: -1, name: {names.get(ifindex, '?')}}}")


def counters_dump(pins: Pins, interface: str = "") -> _Lines:
    """What became of packets, by interface: all but those of established connections, which are not counted."""
    names = dict(socket.if_nameindex())
    sums: dict[int, list[list[int]]] = {}
    for key, value in pins.entries("cali_counters"):
        ifindex, hook = struct.unpack("=II", key)
        per_cpu = struct.unpack(f"={possible_cpus() * len(maps.COUNTERS)}Q", value)
        totals = [sum(per_cpu[i::len(maps.COUNTERS)]) for i in range(len(maps.COUNTERS))]
        sums.setdefault(ifindex, [[0] * len(maps.COUNTERS)] * 2)[hook] = totals
    width = max(len(caption) for _, caption in maps.COUNTERS)
    line = f"+----------+-{'-' * width}-+---------+--------+-----+"
    for ifindex, (ingress, egress) in sorted(sums.items()):
        if ifindex not in names or interface not in ("", names[ifindex]):
            continue
        yield line
        yield f"| CATEGORY | {'TYPE':<{width}} | INGRESS | EGRESS | XDP |"
        yield line
        above = ""
        for (category, caption), there, back in sorted(zip(maps.COUNTERS, ingress, egress, strict=True)):
            name, above = "" if category == above else category, category
            yield f"| {name:<8} | {caption:<{width}} | {there:>7} | {back:>6} | N/A |"
        yield line
        yield f"dumped {names[ifindex]} counters."


def policy_dump(pins: Pins, interface: str, direction: str) -> _Lines:
    """The rules of an interface, in the order in which the programs ask them, by tier and policy.

    A pod's ingress policy stands at the egress hook of its interface on the node, where packets leave for it. The form
    is v3.32's; what a rule matches is said as later versions say it. Rules are not counted here.
    """
    ifaces = {int.from_bytes(key, "little"): struct.unpack("=II", value)
              for key, value in pins.entries("cali_iface")}
    try:
        lists = ifaces[socket.if_nametoindex(interface)]
    except (OSError, KeyError):
        known = [name for index, name in socket.if_nameindex() if index in ifaces]
        raise LookupError(f"no policy of {interface!r}; interfaces: {', '.join(known) or 'none'}") from None
    sets = _ip_sets(pins)
    rules = {struct.unpack("=II", key): value for key, value in pins.entries("cali_policy")}
    for own, hook, policy in zip(("ingress", "egress"), ("egress", "ingress"), lists, strict=True):
        if direction not in (own, "all"):
            continue
        yield f"IfaceName: {interface}"
        yield f"Hook: tc {hook}"
        if policy:
            yield "  Tier: default"
            count = next(index for index in range(maps.MAX_RULES + 1) if (policy, index) not in rules)
            names = policy_names.read(pins.bpffs, interface, own)
            listed = zip(names, (rules[policy, index] for index in range(count)), strict=False)
            for number, (name, group) in enumerate(groupby(listed, key=itemgetter(0))):
                if name:                         # what has none is the verdict at the end
                    yield from _policy_lines(name, number, [raw for _, raw in group], own, sets)
            yield "  End Tier: default  (action: deny)"


def _policy_lines(name: str, number: int, rules: list[bytes], own: str, sets: dict[int, list[str]]) -> _Lines:
    kind, called = policy_names.shown(name)
    yield f"    Policy: {kind} {called} {number}"
    for raw in rules:
        action, match = _rule(raw, "src" if own == "ingress" else "dst", sets)
        yield f"      Rule: {called}  Action: {action}"
        if match:
            yield f"      Match: {match}"
    yield f"    End Policy: {kind} {called} {number}"


def ipsets_dump(pins: Pins) -> _Lines:
    """The sets of addresses that rules and source ranges name."""
    sets = _ip_sets(pins)
    for ip_set, nets in sorted(sets.items()):
        yield f"IP set {ip_set:#x}"
        yield from (f"   {net}" for net in sorted(nets))
        yield ""
    if not sets:
        yield "No IP sets found."


def _ip_sets(pins: Pins) -> dict[int, list[str]]:
    sets: dict[int, list[str]] = {}
    for key, _ in sorted(pins.entries("cali_v4_ip_sets"), key=lambda entry: entry[0][8:]):
        length, ip_set = struct.unpack_from("=II", key)
        sets.setdefault(ip_set, []).append(f"{inet_ntoa(key[8:])}/{length - 32}")
    return sets


def _rule(raw: bytes, end: str, sets: dict[int, list[str]]) -> tuple[str, str]:
    """What a rule does, and what it is about; "" for everything."""
    action, protocol, count, nets, not_nets, *flat = struct.unpack(f"=BBBxII{2 * maps.MAX_PORTS}H", raw)
    words = [f"proto={maps.PROTOCOL_NAMES.get(protocol, str(protocol)).lower()}"] if protocol else []
    for sign, named in (("", nets), ("!", not_nets)):
        if named:
            words.append(f"{sign}{end}={{{','.join(sets.get(named, [hex(named)]))}}}")
    if ranges := [flat[i:i + 2] for i in range(0, 2 * count, 2)]:
        ports = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
        words.append(f"dports={{{ports}}}")
    return {maps.RULE_ALLOW: "allow", maps.RULE_LOG: "log"}.get(action, "deny"), " ".join(words)


def _forward(flow: maps.Flow, entry: maps.Connection, replies: maps.Connection | None) -> bool:
    """Whether an entry is of the direction from client to server; the two were made in one moment."""
    if replies is None:
        return True
    if entry.to != flow:
        return flow.daddr != entry.to.daddr
    if replies.to != entry.to.reversed():
        return False
    if bool(entry.tcp_flags & maps.TCP_SYN) != bool(replies.tcp_flags & maps.TCP_SYN):
        return bool(entry.tcp_flags & maps.TCP_SYN)
    return (flow.dport, flow.sport, int(IPv4Address(flow.daddr))) < (
        flow.sport, flow.dport, int(IPv4Address(flow.saddr)))


def _tcp_state(there: int, back: int) -> str:
    if there & back & maps.TCP_FIN:
        return "CLOSED"
    if (there | back) & maps.TCP_RST:
        return "RESET"
    return "ESTABLISHED" if there & back & maps.TCP_ACK else "SYN-SENT"


def _protocol(number: int) -> str:
    return {1: "ICMP", 6: "TCP", 17: "UDP"}.get(number, f"Proto-{number}")


def _port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _end(raw: bytes) -> str:
    return f"{inet_ntoa(raw[:4])}:{_port(raw[4:6])}"


def _flow(flow: maps.Flow) -> str:
    return (f"{maps.PROTOCOL_NAMES.get(flow.protocol, flow.protocol)} {flow.saddr}:{flow.sport} -> "
            f"{flow.daddr}:{flow.dport}")


def _duration(nanoseconds: int) -> str:
    """As Go prints one."""
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.9g}{unit}"
    return f"{nanoseconds}ns"


_DIRECTIONS = ("ingress", "egress", "xdp", "all")        # what Calico's usage calls <hook>
_COMMANDS: dict[tuple[str, ...], Callable[[Pins], _Lines]] = {
    ("nat", "dump"): nat_dump, ("nat", "aff"): nat_aff, ("conntrack", "dump"): conntrack_dump,
    ("conntrack", "dump", "--raw"): conntrack_raw, ("routes", "dump"): routes_dump,
    ("ifstate", "dump"): ifstate_dump, ("counters", "dump"): counters_dump, ("ipsets", "dump"): ipsets_dump,
}


def main(arguments: Sequence[str], bpffs: Path | None = None) -> int:
    """Run what comes after `calico-node -bpf`. Returns the exit code."""
    words = tuple(arguments)
    pins = Pins(bpffs or Path(os.environ.get("LABKIT_BPFFS", "/sys/fs/bpf/tc/globals")))
    try:
        if words[:2] == ("policy", "dump") and len(words) == 4 and words[3] in _DIRECTIONS:
            lines = policy_dump(pins, words[2], words[3])
        elif words[:2] == ("counters", "dump") and len(words) == 3 and words[2].startswith("--iface="):
            lines = counters_dump(pins, words[2].removeprefix("--iface="))
        elif command := _COMMANDS.get(words):
            lines = command(pins)
        else:
            commands = ["  calico-node -bpf " + " ".join(known) for known in _COMMANDS]
            print("\n".join(["Usage:", *commands, "  calico-node -bpf policy dump <interface> <hook>",
                             "", "hook - can be 'ingress', 'egress', 'xdp' or 'all'."]),
                  file=sys.stderr)
            return 2
        for line in lines:
            print(line)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        print("The eBPF maps do not exist: this node's data plane is not eBPF.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
