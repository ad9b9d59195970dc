"""`calico-node -bpf …`: what is in the eBPF maps, line by line as felix/cmd/calico-bpf/commands of Calico prints it.

The forms are those of the Calico that the lab says it is, by CALICO_VERSION: before v3.32 a policy is a list of
remarks, and frontends do not show whom they are for. v3.17 showed no affinity, counters, interfaces or policies, and of
connections only raw entries; there the lab shows what v3.31 does.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from socket import inet_ntoa

from labkit.local.dataplane import ebpf_cli_conntrack as conntrack
from labkit.local.dataplane import ebpf_cli_policy as rules_form
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


def nat_dump(pins: Pins, *, release: str = "") -> _Lines:
    """Frontends, each with its backends. One with source ranges is there for each of them, and for nobody else."""
    sets = _ip_sets(pins)
    backends = {struct.unpack("=II", key): value for key, value in pins.entries("cali_v4_nat_be")}
    for key, value in sorted(pins.entries("cali_v4_nat_fe")):
        service, count, local, _, flags, ranges = struct.unpack("=IHHIII", value)
        # A cluster's address has one policy, whoever asks: Calico calls it the internal one.
        suffix = (" flags internal-local" if flags & maps.FE_INTERNAL_LOCAL else
                  " flags external-local" if flags & maps.FE_EXTERNAL_LOCAL else "")
        front = f"{_address(key)} port {_port(key[4:6])} proto {key[6]} id {service}"
        for net in sets.get(ranges) or [""]:
            source = f" src {net}" if net and _is_at_least(release, _TREE) else ""
            yield f"{front} count {count} local {local}{suffix}{source}"
            for index in range(count):
                backend = backends.get((service, index))
                yield f"\t{service}:{index}\t {_end(backend) if backend else 'is missing'}"
        if flags & maps.FE_SOURCE_RANGES:
            yield f"{front} count -1 local 0"


def nat_aff(pins: Pins, *, release: str = "") -> _Lines:
    """Which client stays with which backend. Since when is in the time since boot."""
    frontends = {value[:4]: key for key, value in pins.entries("cali_v4_nat_fe")}
    for key, value in pins.entries("cali_v4_nat_aff"):
        client = struct.unpack_from("=Q", key)[0]
        name = (f"netns {client & ~(1 << 63)}" if client >> 63 else
                f"socket {client & ~(1 << 62)}" if client >> 62 else inet_ntoa(key[:4]))
        front = frontends.get(key[8:12], bytes(8))
        since, backend = struct.unpack_from("=Q", value)[0], value[12:]
        if _is_at_least(release, _TREE):
            yield (f"client {name} svc proto {front[6]} {_end(front)} -> {_end(backend)} "
                   f"ts {conntrack.duration(since)}")
        else:
            affinity = f"FrontEndAffinityKey{{Proto:{front[6]} Addr:{_address(front)} Port:{_port(front[4:6])}}}"
            kept = f"NATBackendValue{{Addr:{_address(backend)} Port:{_port(backend[4:6])}}}"
            yield (f"{f'AffinityKey{{ClientIP:{name} {affinity}}}':<40} "
                   f"AffinityValue{{Timestamp:{since},Backend:{kept}}}")
    yield ""


def conntrack_dump(pins: Pins, *, raw: bool = False) -> _Lines:
    """Connections; `raw`, the entries that they are."""
    entries = {maps.Flow.read(key): maps.Connection.read(value) for key, value in pins.entries("cali_v4_ct")}
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for tracked in conntrack.connections(entries):
        yield from conntrack.raw_lines(tracked, now) if raw else conntrack.lines(tracked, now)


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
    """The interfaces and the ids of their policies; 0 allows everything, and -1 is of a kind not used here.

    The policy at an interface's ingress hook is about what comes in there: the pod's egress.
    """
    _, uplink, vxlan = struct.unpack_from("=4sII", dict(pins.entries("cali_config"))[bytes(4)])
    states = {uplink: ("host", -1, -1), vxlan: ("vxlan", -1, -1)}
    for key, value in pins.entries("cali_iface"):
        states[int.from_bytes(key, "little")] = ("workload", *struct.unpack("=II", value))
    for ifindex, name in socket.if_nameindex():
        if ifindex in states:
            kind, ingress, egress = states[ifindex]
            yield (f"{ifindex:>5} : {{flags: {kind},v4Ready, XDPPolicyV4: -1, IngressPolicyV4: {egress}, "
                   f"EgressPolicyV4: {ingress}, XDPPolicyV6: -1, IngressPolicyV6: -1, EgressPolicyV6: -1, "
                   f"IngressFilter: -1, EgressFilter: -1, name: {name}}}")


def counters_dump(pins: Pins, interface: str = "") -> _Lines:
    """What became of packets, by interface: all but those of established connections, which are not counted.

    Raises:
        LookupError: there is no such interface.
    """
    counts = {struct.unpack("=II", key): _sum(value, len(maps.COUNTERS))
              for key, value in pins.entries("cali_counters")}
    line = f"+----------+-{'-' * _CAPTION}-+---------+--------+-----+"
    found = [(ifindex, name) for ifindex, name in socket.if_nameindex() if interface in ("", name)]
    if not found:
        raise LookupError(f"No such interface: {interface}")
    for ifindex, name in found:
        yield line
        yield f"| CATEGORY | {'TYPE':^{_CAPTION}} | INGRESS | EGRESS | XDP |"
        yield line
        above = ""
        for (category, caption), number in sorted(zip(maps.COUNTERS, range(len(maps.COUNTERS)), strict=True)):
            there, back = (counts[ifindex, hook][number] if (ifindex, hook) in counts else "N/A" for hook in (0, 1))
            first, above = "" if category == above else category, category
            yield f"| {first:<8} | {caption:<{_CAPTION}} | {_cell(there, 7)} | {_cell(back, 6)} | N/A |"
        yield line
        yield f"dumped {name} counters."


def policy_dump(pins: Pins, interface: str, direction: str, *, asm: bool = False, release: str = "") -> _Lines:
    """The rules of an interface, by tier and policy.

    A pod's ingress policy stands at the egress hook of its interface on the node, where packets leave for it.

    Raises:
        LookupError: the interface has no policy.
    """
    ifaces = {int.from_bytes(key, "little"): struct.unpack("=II", value)
              for key, value in pins.entries("cali_iface")}
    try:
        lists = ifaces[socket.if_nametoindex(interface)]
    except (OSError, KeyError):
        known = [name for index, name in socket.if_nameindex() if index in ifaces]
        raise LookupError(f"no policy of {interface!r}; interfaces: {', '.join(known) or 'none'}") from None
    sets = _ip_sets(pins)
    raw = {struct.unpack("=II", key): value for key, value in pins.entries("cali_policy")}
    hits = {int.from_bytes(key, "little"): _sum(value, 1)[0] for key, value in pins.entries("cali_rule_ctrs")}
    for own, hook, policy in zip(("ingress", "egress"), ("egress", "ingress"), lists, strict=True):
        if direction not in (own, "all"):
            continue
        yield f"IfaceName: {interface}"
        yield f"Hook: tc {hook}"
        end, rules = "src" if own == "ingress" else "dst", []
        if policy:
            count = next(index for index in range(maps.MAX_RULES + 1) if (policy, index) not in raw)
            names = policy_names.read(pins.bpffs, interface, own)
            rules = [rules_form.Rule.read(raw[policy, index], name, hits)
                     for index, name in zip(range(count), names, strict=False)]
        if _is_at_least(release, _TREE):
            yield from rules_form.as_tree(rules, end, sets, everything=asm)
        else:
            yield from rules_form.as_remarks(rules, end, everything=asm)


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


def _sum(value: bytes, fields: int) -> list[int]:
    """A per-CPU map's value over all CPUs, field by field."""
    per_cpu = struct.unpack(f"={possible_cpus() * fields}Q", value)
    return [sum(per_cpu[i::fields]) for i in range(fields)]


def _cell(value: object, width: int) -> str:
    return f"{value:<{width}}" if isinstance(value, str) else f"{value:>{width}}"


def _is_at_least(release: str, minor: tuple[int, ...]) -> bool:
    """Whether Calico is of this version, or newer; what does not say is the newest."""
    numbers = re.findall(r"\d+", release)
    return not numbers or tuple(map(int, numbers[:2])) >= minor


def _port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _address(raw: bytes) -> str:
    return inet_ntoa(raw[:4])


def _end(raw: bytes) -> str:
    return f"{_address(raw)}:{_port(raw[4:6])}"


_TREE = 3, 32           # since when policies are shown as a tree, and frontends with their sources
_CAPTION = 30           # characters, as wide as Calico's longest captions make it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="calico-node -bpf", description="tool for interrogating Calico BPF state")
    groups = parser.add_subparsers(required=True, metavar="command")

    def add(group: str, commands: dict[str, Callable[..., _Lines]]) -> argparse.ArgumentParser:
        shorts = {word: re.split("[.:;]", function.__doc__ or "")[0] + "." for word, function in commands.items()}
        words = groups.add_parser(group, help=" ".join(shorts.values())).add_subparsers(
            required=True, metavar="command")
        for word, function in commands.items():
            command = words.add_parser(word, help=shorts[word])
            command.set_defaults(function=function)
        return command

    add("nat", {"aff": nat_aff, "dump": nat_dump})
    add("conntrack", {"dump": conntrack_dump}).add_argument("--raw", action="store_true", help="entry by entry")
    add("counters", {"dump": counters_dump}).add_argument("--iface", dest="interface", default="", help="only this one")
    for group, function in (("ifstate", ifstate_dump), ("ipsets", ipsets_dump), ("routes", routes_dump)):
        add(group, {"dump": function})
    policy = add("policy", {"dump": policy_dump})
    policy.add_argument("interface")
    policy.add_argument("direction", metavar="hook", choices=("ingress", "egress", "xdp", "all"),
                        help="'ingress', 'egress', 'xdp' or 'all'")
    policy.add_argument("-a", "--asm", action="store_true",
                        help="all that a rule asks; there are no instructions: rules are in a map here")
    return parser


def main(arguments: Sequence[str], bpffs: Path | None = None) -> int:
    """Run what comes after `calico-node -bpf`. Returns the exit code."""
    pins = Pins(bpffs or Path(os.environ.get("LABKIT_BPFFS", "/sys/fs/bpf/tc/globals")))
    try:
        options = vars(_parser().parse_args(arguments))
        function = options.pop("function")
        if function in (nat_dump, nat_aff, policy_dump):
            options["release"] = os.environ.get("CALICO_VERSION", "")
        for line in function(pins, **options):
            print(line)
    except SystemExit as error:                          # of argparse, which has said why
        return int(error.code or 0)
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
