"""`calico-node -bpf …`: what is in the eBPF maps, line by line as felix/cmd/calico-bpf/commands of Calico prints it.

The forms are those of the Calico that the lab says it is, by CALICO_VERSION: before v3.32 a policy is a list of
remarks, and frontends do not show whom they are for; JSON, and services by themselves, are since v3.31.5. v3.17 showed
no affinity, counters, interfaces or policies, and of connections only raw entries; there the lab shows what v3.31 does.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from socket import inet_ntoa

from labkit.local.client import Obj
from labkit.local.dataplane import ebpf_cli_conntrack as conntrack
from labkit.local.dataplane import ebpf_cli_nat as nat
from labkit.local.dataplane import ebpf_cli_policy as rules_form
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane import policy_names
from labkit.local.dataplane.bpfsys import Map, possible_cpus

_Lines = Iterator[str]


class Pins:
    """A node's pinned maps."""

    def __init__(self, bpffs: Path) -> None:
        self.bpffs, self._folder = bpffs, bpffs / "maps"

    def size(self, name: str) -> int:
        """How many entries a map can have."""
        kernel = Map(self._folder / name)
        try:
            return int(kernel.max_entries)
        finally:
            kernel.close()

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """All of a map."""
        kernel = Map(self._folder / name)
        try:
            return list(kernel.items())
        finally:
            kernel.close()


def nat_dump(pins: Pins, *, release: str = "", grouped: bool = False, where: Sequence[str] = (),
             as_json: bool = False) -> _Lines:
    """Frontends, each with its backends; `where`, those of one service.

    Raises:
        LookupError: nothing is served there.
    """
    found = list(nat.frontends(pins.entries("cali_v4_nat_fe"), pins.entries("cali_v4_nat_be"), _ip_sets(pins)))
    if where:
        found = nat.of_service(found, *where)
    if as_json:
        return _json(nat.objects(found, grouped=grouped))
    return nat.lines(found, grouped=grouped, with_source=_is_at_least(release, _TREE))


def nat_aff(pins: Pins, *, release: str = "", as_json: bool = False) -> _Lines:
    """Which client stays with which backend. Since when is in the time since boot."""
    found = nat.affinities(pins.entries("cali_v4_nat_aff"), pins.entries("cali_v4_nat_fe"))
    if as_json:
        yield from _json([each.obj() for each in found])
        return
    yield from (each.line() if _is_at_least(release, _TREE) else each.old_line() for each in found)
    yield ""


def conntrack_dump(pins: Pins, *, raw: bool = False, as_json: bool = False) -> _Lines:
    """Connections; `raw`, the entries that they are."""
    found, now = _connections(pins), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    if as_json:
        yield from _json([obj for tracked in found for obj in conntrack.raw_objects(tracked, now)] if raw else
                         sorted((conntrack.obj(tracked, now) for tracked in found), key=lambda o: o["type"] == "nat"))
        return
    for tracked in found:
        yield from conntrack.raw_lines(tracked, now) if raw else conntrack.lines(tracked, now)


def conntrack_stats(pins: Pins, *, as_json: bool = False) -> _Lines:
    """How many connections there are, by protocol and state."""
    counts = conntrack.stats(_connections(pins), pins.size("cali_v4_ct"))
    return _json(counts) if as_json else conntrack.stats_lines(counts)


def _connections(pins: Pins) -> list[conntrack.Tracked]:
    return conntrack.connections({maps.Flow.read(key): maps.Connection.read(value)
                                  for key, value in pins.entries("cali_v4_ct")})


def arp_dump(pins: Pins, *, as_json: bool = False) -> _Lines:
    """By which link addresses nodes are answered that pass packets on: Calico notes them, here the kernel does."""
    _, uplink = struct.unpack_from("=4sI", _config(pins))
    name, net = socket.if_indextoname(uplink), Path("/proc/thread-self/net")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        own = fcntl.ioctl(sock, _SIOCGIFHWADDR, name.encode().ljust(40, b"\0"))[18:24].hex(":")
    routes = [row for row in map(str.split, (net / "route").read_text().splitlines()[1:]) if row[0] == name]
    macs = {row[0]: row[3] for row in map(str.split, (net / "arp").read_text().splitlines()[1:]) if row[5] == name}
    found = []
    for peer in sorted({tracked.tunnel for tracked in _connections(pins)} - {conntrack.NOTHING}, key=socket.inet_aton):
        number = int.from_bytes(socket.inet_aton(peer), "little")
        ways = [row for row in routes if number & int(row[7], 16) == int(row[1], 16)]
        best = max(ways, key=lambda row: int(row[7], 16).bit_count(), default=None)
        hop = inet_ntoa(int(best[2], 16).to_bytes(4, "little")) if best else conntrack.NOTHING
        if mac := macs.get(peer if hop == conntrack.NOTHING else hop):
            found.append((peer, mac))
    if as_json:
        return _json([{"ifindex": uplink, "ip": peer, "src_mac": own, "dst_mac": mac} for peer, mac in found])
    return iter([f"dev {uplink:4}: {peer:>15} : {own} -> {mac}" for peer, mac in found])


def routes_dump(pins: Pins, *, as_json: bool = False) -> _Lines:
    """Who has which address."""
    found = []
    for key, value in sorted(pins.entries("cali_v4_routes"), key=lambda entry: entry[0][4:]):
        flags, way = int.from_bytes(value[:4], "little"), Obj()
        words = ["local" if flags & maps.RT_LOCAL else "remote",
                 "host" if flags & maps.RT_HOST else "workload"]
        if flags & maps.RT_WORKLOAD:
            way = ({"ifindex": int.from_bytes(value[4:], "little")} if flags & maps.RT_LOCAL
                   else {"next_hop": inet_ntoa(value[4:])})
        found.append({"dest": f"{inet_ntoa(key[4:])}/{key[0]}", "flags": words, **way})
    if as_json:
        yield from _json(found)
        return
    for route in found:
        ways = [f" {word} {route[name]}" for word, name in (("idx", "ifindex"), ("nh", "next_hop")) if name in route]
        yield f"{route['dest']:>15}: {' '.join(route['flags'])}{''.join(ways)}"


def ifstate_dump(pins: Pins, *, as_json: bool = False) -> _Lines:
    """The interfaces and the ids of their policies; 0 allows everything, and -1 is of a kind not used here.

    The policy at an interface's ingress hook is about what comes in there: the pod's egress.
    """
    _, uplink, vxlan = struct.unpack_from("=4sII", _config(pins))
    states = {uplink: ("host", -1, -1), vxlan: ("vxlan", -1, -1)}
    for key, value in pins.entries("cali_iface"):
        states[int.from_bytes(key, "little")] = ("workload", *struct.unpack("=II", value))
    found = [(ifindex, name, *states[ifindex]) for ifindex, name in socket.if_nameindex() if ifindex in states]
    if as_json:
        yield from _json([{
            "ifindex": ifindex, "name": name, "flags": [kind, "v4Ready"], "ingress_policy_v4": egress,
            "egress_policy_v4": ingress, "xdp_policy_v4": -1, "ingress_policy_v6": -1, "egress_policy_v6": -1,
            "xdp_policy_v6": -1, "tc_ingress_filter": -1, "tc_egress_filter": -1}
            for ifindex, name, kind, ingress, egress in found])
        return
    for ifindex, name, kind, ingress, egress in found:
        yield (f"{ifindex:>5} : {{flags: {kind},v4Ready, XDPPolicyV4: -1, IngressPolicyV4: {egress}, "
               f"EgressPolicyV4: {ingress}, XDPPolicyV6: -1, IngressPolicyV6: -1, EgressPolicyV6: -1, "
               f"IngressFilter: -1, EgressFilter: -1, name: {name}}}")


def counters_dump(pins: Pins, interface: str = "", *, as_json: bool = False) -> _Lines:
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
    numbered = sorted(zip(maps.COUNTERS, range(len(maps.COUNTERS)), strict=True))
    for ifindex, name in found:
        hooks = [counts.get((ifindex, hook)) for hook in (0, 1)]
        if as_json:
            yield from _json({"interface": name, "counters": [{
                "category": category, "type": caption, **dict(zip(("ingress", "egress"), (
                    each and each[number] for each in hooks), strict=True)), "xdp": None}
                for (category, caption), number in numbered]})
            continue
        yield line
        yield f"| CATEGORY | {'TYPE':^{_CAPTION}} | INGRESS | EGRESS | XDP |"
        yield line
        above = ""
        for (category, caption), number in numbered:
            there, back = (each[number] if each else "N/A" for each in hooks)
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


def ipsets_dump(pins: Pins, *, as_json: bool = False) -> _Lines:
    """The sets of addresses that rules and source ranges name."""
    sets = _ip_sets(pins)
    if as_json:
        yield from _json([{"set_id": f"{ip_set:#x}", "members": sorted(nets)} for ip_set, nets in sorted(sets.items())])
        return
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


def _config(pins: Pins) -> bytes:
    return dict(pins.entries("cali_config"))[bytes(4)]


def _json(value: object) -> _Lines:
    """As Go's encoder writes it: what is empty was never made."""
    yield json.dumps(value or None, indent=2)


def _sum(value: bytes, fields: int) -> list[int]:
    """A per-CPU map's value over all CPUs, field by field."""
    per_cpu = struct.unpack(f"={possible_cpus() * fields}Q", value)
    return [sum(per_cpu[i::fields]) for i in range(fields)]


def _cell(value: object, width: int) -> str:
    return f"{value:<{width}}" if isinstance(value, str) else f"{value:>{width}}"


def _is_at_least(release: str, minor: tuple[int, ...]) -> bool:
    """Whether Calico is of this version, or newer; what does not say is the newest."""
    numbers = re.findall(r"\d+", release)
    return not numbers or tuple(map(int, numbers[:3])) >= minor


_JSON = 3, 31, 5        # since when there are --json, --group-by-service and one service by its address
_TREE = 3, 32           # since when policies are shown as a tree, and frontends with their sources
_SIOCGIFHWADDR = 0x8927
_CAPTION = 30           # characters, as wide as Calico's longest captions make it


def _parser(release: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="calico-node -bpf", description="tool for interrogating Calico BPF state")
    has_json = _is_at_least(release, _JSON)
    anywhere = argparse.ArgumentParser(add_help=False)
    if has_json:
        for one in (parser, anywhere):
            one.add_argument("-j", "--json", dest="as_json", action="store_true", default=argparse.SUPPRESS,
                             help="output in JSON format")
    groups = parser.add_subparsers(required=True, metavar="command")

    def add(group: str, commands: dict[str, Callable[..., _Lines]]) -> argparse.ArgumentParser:
        shorts = {word: re.split("[.:;]", function.__doc__ or "")[0] + "." for word, function in commands.items()}
        words = groups.add_parser(group, help=" ".join(shorts.values())).add_subparsers(
            required=True, metavar="command")
        for word, function in commands.items():
            command = words.add_parser(word, help=shorts[word], parents=[anywhere])
            command.set_defaults(function=function)
        return command

    command = add("nat", {"aff": nat_aff, "dump": nat_dump})
    if has_json:
        command.add_argument("where", nargs="*", metavar="ip port proto", help="one service, by an address of it")
        command.add_argument("--group-by-service", dest="grouped", action="store_true",
                             help="group frontends that share the same service ID")
    command = add("conntrack", {"stats": conntrack_stats, "dump": conntrack_dump})
    command.add_argument("--raw", action="store_true", help="entry by entry")
    add("counters", {"dump": counters_dump}).add_argument("--iface", dest="interface", default="", help="only this one")
    for group, function in (("arp", arp_dump), ("ifstate", ifstate_dump), ("ipsets", ipsets_dump),
                            ("routes", routes_dump)):
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
        release = os.environ.get("CALICO_VERSION", "")
        parser = _parser(release)
        options = vars(parser.parse_args(arguments))
        function = options.pop("function")
        if len(options.get("where", ())) not in (0, 3):
            parser.error(f"accepts 0 or 3 args (<ip> <port> <proto>), received {len(options['where'])}")
        if function in (nat_dump, nat_aff, policy_dump):
            options["release"] = release
        if function is policy_dump:
            options.pop("as_json", None)                 # which Calico takes, and does not heed
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
