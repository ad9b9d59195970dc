"""`calico-node -bpf conntrack dump`: connections as their client and their server know them, or entry by entry.

Calico has one entry for a connection and, where it is translated, a second one that leads to the first. Here there is
one for each direction, so two of them are shown as one of Calico's. Of what an entry of Calico's says, sequence numbers
are not kept here, and are 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import inet_aton, inet_ntoa

from labkit.local.client import Obj
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.ebpf_maps import Connection, Flow

_NP_FORWARD, _B_TO_A, _OTHER_PORT = 0x4, 0x100, 0x200           # Calico's flags of an entry
_NAMES = {_NP_FORWARD: "np-fwd", _B_TO_A: "B-A", _OTHER_PORT: "host-psnat"}
_NORMAL, _NAT_FORWARD, _NAT_REVERSE = range(3)  # Calico's types of entries
NOTHING = "0.0.0.0"
"""No node, and no address."""


@dataclass(frozen=True)
class Tracked:
    """A connection, by the entry of its client's packets and the one of the replies."""

    flow: Flow
    entry: Connection
    replies: Connection | None

    @property
    def tunnel(self) -> str:
        """The node that it comes from, or goes to, by VXLAN; "0.0.0.0" for none."""
        return next((inet_ntoa(side.target) for side in (self.entry, self.replies)
                     if side and side.path == maps.PATH_TUNNEL), NOTHING)

    @property
    def seen(self) -> int:
        """When there was a packet of it, in nanoseconds since boot."""
        return max(self.entry.seen, self.replies.seen if self.replies else 0)

    @property
    def state(self) -> str:
        """Of a TCP connection, in Calico's words; "" of any other."""
        if self.flow.protocol != 6:
            return ""
        there, back = self.entry.tcp_flags, self.replies.tcp_flags if self.replies else 0
        # With DSR the replies leave by another node.
        if (there if self.entry.path == maps.PATH_TUNNEL and not back else there & back) & maps.TCP_FIN:
            return "CLOSED"
        if (there | back) & maps.TCP_RST:
            return "RESET"
        both = maps.TCP_SYN | maps.TCP_ACK
        return "ESTABLISHED" if there & back & both == both else "SYN-SENT"


def connections(entries: Mapping[Flow, Connection]) -> list[Tracked]:
    """What cali_v4_ct says, the oldest first. Pure."""
    found = [Tracked(flow, entry, entries.get(entry.to.reversed())) for flow, entry in entries.items()]
    return sorted((each for each in found if _is_clients(each)), key=lambda each: each.entry.created)


def lines(tracked: Tracked, now: int) -> Iterator[str]:
    """A connection as `conntrack dump` prints it. Pure."""
    flow, to = tracked.flow, tracked.entry.to
    text = f"{_protocol(flow.protocol)} {flow.saddr}:{to.sport} -> {flow.daddr}:{flow.dport} "
    if (to.daddr, to.dport) != (flow.daddr, flow.dport):
        text += f"-> {to.daddr}:{to.dport} "
    if to.sport != flow.sport:
        text += f"source port changed from {flow.sport} "
    if tracked.tunnel != NOTHING:
        text += f"external client, service forwarded to/from {tracked.tunnel} "
    yield f"{text} Active ago {duration(now - tracked.seen)}{' ' * bool(tracked.state)}{tracked.state}"


def raw_lines(tracked: Tracked, now: int) -> Iterator[str]:
    """A connection as `conntrack dump --raw` prints its entries. Pure."""
    flow, entry, replies = tracked.flow, tracked.entry, tracked.replies
    to, translated, asked_from, flags = _reached(tracked)
    if translated:
        yield (f"{_key(flow)} -> Entry{{Type:{_NAT_FORWARD}, LastSeen:{entry.seen}, Flags: <none> REVKey: {_key(to)} "
               f"NATSPort: {to.sport if asked_from else 0}}} Active ago {duration(now - entry.seen)}")
    named = " ".join([f"{flags:#x}", *(name for bit, name in _NAMES.items() if flags & bit)]) if flags else "<none>"
    legs = [_leg(entry, replies, opener=True), _leg(replies, entry, opener=False)]
    there, back = legs if _in_order(to) else legs[::-1]
    asked = (flow.daddr, flow.dport) if translated else (NOTHING, 0)
    yield (f"{_key(to)} -> Entry{{Type:{_NAT_REVERSE if translated else _NORMAL}, LastSeen:{tracked.seen}, "
           f"Flags: {named} Data: {{A2B:{there} B2A:{back} OrigDst:{asked[0]} OrigSrc:{NOTHING} OrigPort:{asked[1]} "
           f"OrigSPort:{asked_from} TunIP:{tracked.tunnel}}}}} Active ago {duration(now - tracked.seen)}"
           f"{' ' * bool(tracked.state)}{tracked.state}")


def _reached(tracked: Tracked) -> tuple[Flow, bool, int, int]:
    """Calico's key of the connection, whether a second entry leads to it, the port that was changed, and flags."""
    flow, entry = tracked.flow, tracked.entry
    to = Flow(flow.saddr, entry.to.daddr, entry.to.sport, entry.to.dport, flow.protocol)
    asked_from = 0 if to.sport == flow.sport else flow.sport
    flags = ((0 if _in_order(to) else _B_TO_A) | (_NP_FORWARD if entry.path == maps.PATH_TUNNEL else 0)
             | (_OTHER_PORT if asked_from else 0))
    return to, to != flow, asked_from, flags


def obj(tracked: Tracked, now: int) -> Obj:
    """A connection as `conntrack dump --json` prints it. Pure."""
    flow, (to, translated, asked_from, flags) = tracked.flow, _reached(tracked)
    return {"type": "nat" if translated else "normal", "proto": _protocol(flow.protocol),
            "src": f"{to.saddr}:{to.sport}", "dst": f"{to.daddr}:{to.dport}",
            **({"orig_dst": f"{flow.daddr}:{flow.dport}"} if translated else {}),
            **({"tunnel_ip": tracked.tunnel} if translated and tracked.tunnel != NOTHING else {}),
            **({"orig_src_port": asked_from} if translated and asked_from else {}),
            **_common(tracked, flags, now - tracked.seen)}


def raw_objects(tracked: Tracked, now: int) -> Iterator[Obj]:
    """A connection as `conntrack dump --raw --json` prints its entries. Pure."""
    to, translated, _, flags = _reached(tracked)
    if translated:
        # What Calico says of this one's state is read from where the other one has its counts.
        yield {**_ends(tracked.flow), "type": "nat-forward", **_common(tracked, 0, now - tracked.entry.seen),
               **({"tcp_state": "SYN-SENT"} if tracked.state else {}),
               **{f"rev_{name}": value for name, value in _ends(to).items()}}
    yield {**_ends(to), "type": "nat-reverse" if translated else "normal",
           **_common(tracked, flags, now - tracked.seen)}


def _common(tracked: Tracked, flags: int, ago: int) -> Obj:
    return {"flags": [name for bit, name in _NAMES.items() if flags & bit] or None, "active_ago": duration(ago),
            **({"tcp_state": tracked.state} if tracked.state else {})}


def _ends(flow: Flow) -> Obj:
    a, b = (flow.saddr, flow.sport), (flow.daddr, flow.dport)
    a, b = (a, b) if _in_order(flow) else (b, a)
    return {"proto": _protocol(flow.protocol), "addr_a": a[0], "port_a": a[1], "addr_b": b[0], "port_b": b[1]}


def stats(found: Sequence[Tracked], size: int) -> Obj:
    """What `conntrack stats` counts: what it calls NAT are the entries that lead to another one. Pure."""
    protocols = Counter(tracked.flow.protocol for tracked in found)
    states = Counter(tracked.state for tracked in found)
    translated = sum(_reached(tracked)[1] for tracked in found)
    return {"map_size": size, "total_connections": len(found), "total_entries": len(found) + translated,
            "nat_connections": translated, "tcp": protocols[6], "udp": protocols[17],
            "others": len(found) - protocols[6] - protocols[17], "tcp_established": states["ESTABLISHED"],
            "tcp_closed": states["CLOSED"], "tcp_reset": states["RESET"], "tcp_syn_sent": states["SYN-SENT"]}


def stats_lines(counts: Obj) -> Iterator[str]:
    """As `conntrack stats` prints them. Pure."""
    for form in ("Conntrack map size: {map_size}", "Total connections: {total_connections}",
                 "Total entries: {total_entries}", "NAT connections: {nat_connections}", "", "TCP : {tcp}",
                 "UDP : {udp}", "Others : {others}", "", "TCP Established: {tcp_established}",
                 "TCP Closed: {tcp_closed}", "TCP Reset: {tcp_reset}", "TCP Syn-sent: {tcp_syn_sent}"):
        yield form.format_map(counts)


def duration(nanoseconds: int) -> str:
    """As Go prints one: 1h2m3.5s, 4.2ms. Pure."""
    for unit, digits in (("ns", 0), ("µs", 3), ("ms", 6)):
        if 0 < nanoseconds < 10 ** (digits + 3):
            return _decimal(nanoseconds, digits) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10 ** 9)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + _decimal(rest, 9) + "s"


def _decimal(number: int, digits: int) -> str:
    whole, rest = divmod(number, 10 ** digits)
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)


def _is_clients(tracked: Tracked) -> bool:
    """Whether an entry is of the direction from client to server; the two were made in one moment."""
    flow, entry, replies = tracked.flow, tracked.entry, tracked.replies
    if replies is None:
        return True
    # A service's address is exchanged on the way there, and a client's port where it would be mistaken for another.
    if (there := flow.daddr != entry.to.daddr) is not (back := flow.saddr != entry.to.saddr):
        return there
    if not back and entry.to != flow:
        return flow.sport != entry.to.sport
    if replies.to != flow.reversed():
        return False
    if bool(entry.tcp_flags & maps.TCP_SYN) != bool(replies.tcp_flags & maps.TCP_SYN):
        return bool(entry.tcp_flags & maps.TCP_SYN)
    back_flow = entry.to.reversed()                  # servers have small ports
    return (flow.dport, flow.sport, int(IPv4Address(flow.daddr))) < (
        back_flow.dport, back_flow.sport, int(IPv4Address(back_flow.daddr)))


def _in_order(flow: Flow) -> bool:
    """Whether the sender is Calico's end A: the smaller one, by its address as the machine reads it."""
    ends = [(int.from_bytes(inet_aton(ip), "little"), port)
            for ip, port in ((flow.saddr, flow.sport), (flow.daddr, flow.dport))]
    return ends[0] < ends[1]


def _key(flow: Flow) -> str:
    ends = f"{flow.saddr}:{flow.sport}", f"{flow.daddr}:{flow.dport}"
    return f"ConntrackKey{{proto={flow.protocol} {' <-> '.join(ends if _in_order(flow) else ends[::-1])}}}"


def _leg(entry: Connection | None, other: Connection | None, *, opener: bool) -> str:
    """What went in one direction; the other one's way says where this one comes from."""
    flags = entry.tcp_flags if entry else 0
    workload = bool(other and other.path == maps.PATH_LOCAL)
    said = {"Bytes": entry.size if entry else 0, "Packets": entry.packets if entry else 0, "Seqno": 0,
            "SynSeen": bool(flags & maps.TCP_SYN), "AckSeen": bool(flags & maps.TCP_ACK),
            "FinSeen": bool(flags & maps.TCP_FIN), "RstSeen": bool(flags & maps.TCP_RST),
            "Approved": entry is not None, "Opener": opener, "Workload": workload,
            "Ifindex": int.from_bytes(other.target, "little") if other and workload else 0}
    return "{" + " ".join(f"{name}:{str(value).lower()}" for name, value in said.items()) + "}"


def _protocol(number: int) -> str:
    return {1: "ICMP", 6: "TCP", 17: "UDP"}.get(number, "UNKNOWN")
