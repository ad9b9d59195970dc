"""From captures and tables to the way of one connection. Pure.

Nodes need not share a clock, so hops are put in order by the path: the client, the node that took the packet, the
node that has the pod, the pod. Only within one place, which has one clock, does time decide. The connection is
known by its first sequence number, which no rewrite changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from labkit.errors import LabError
from labkit.sourceip.trace_model import Ends, Hop, Place, Record, Step, Trace, Way
from labkit.sourceip.trace_packets import Packet

_MODULO = 1 << 32


class SentAgainError(LabError):
    """The connection's first packet was sent again, and took another way: what was captured is of two ways."""


@dataclass(frozen=True)
class Question:
    """What was asked, and what the cluster said about itself before.

    Args:
        client: who asked: a client outside or a pod.
        service: "namespace/name".
        asked: "address:port".
        dataplane: "vanilla", "iptables" or "ebpf".
        backends: the service's pods, each with its address.
        backend_port: the pods' port.
        nodes: the cluster's nodes.
    """

    client: Place
    service: str
    asked: str
    dataplane: str
    backends: tuple[Place, ...]
    backend_port: int
    nodes: tuple[Place, ...]


@dataclass(frozen=True)
class Capture:
    """What was captured at one place."""

    place: Place
    packets: tuple[Packet, ...]


@dataclass(frozen=True)
class Table:
    """What a table of a node held after the connection.

    Args:
        node: the node.
        command: what printed it.
        lines: its lines.
    """

    node: str
    command: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """What the client knows of its connection.

    Args:
        local: its own end, "address:port", or "" where it is not known.
        peer: the other end as the socket names it (getpeername), or "".
        said: whom the pod said it saw, "address:port", or "" where it said nothing of the kind.
        error: why there was no answer, or "".
    """

    local: str = ""
    peer: str = ""
    said: str = ""
    error: str = ""


def assemble(question: Question, captures: Sequence[Capture], tables: Sequence[Table], answered: Answered,
             notes: tuple[str, ...] = ()) -> Trace:
    """The trace of the one connection that was sent.

    Args:
        question: what was asked.
        captures: what was captured, at each place.
        tables: what the tables of the nodes held afterwards.
        answered: what the client knows.
        notes: what could not be captured.

    Raises:
        LabError: the connection is not in the captures, or cannot be told from others.
        SentAgainError: it came in by one node, got no answer, and came in by another.
    """
    start = _first_seq(question, captures, answered)
    entered = {c.place for c in captures if c.place.kind == "node" for p in c.packets
               if (p.flags, p.seq, p.direction, p.ends.destination, p.outer) == ("S", start, "In", question.asked, None)
               and not p.interface.startswith("vxlan")}
    if len(entered) > 1 and not answered.error:
        raise SentAgainError(
            f"The connection to {question.asked} came in by {len(entered)} nodes.",
            "its first packet got no answer from one of them and was sent again: a node that has just heard of a"
            " service has no rule for it yet.", "trace again in a few seconds.")
    syns = _sightings(captures, lambda p: p.flags == "S" and p.seq == start)
    backend = _backend(question, syns)
    if backend is None:
        if not answered.error and {pod.address for pod in question.backends} & {n.address for n in question.nodes}:
            raise LabError(
                f"The connection to {question.asked} was answered, but no capture shows by which pod.",
                f"pods of {question.service} use their node's network, and a node rewrites the address of what is for"
                " itself behind the place where packets are captured.",
                "trace from a pod on another node, or to a service whose pods have a network of their own.")
        raise LabError(
            f"The connection to {question.asked} reached no pod of {question.service}.",
            answered.error or "no capture shows it with a pod's address.",
            "a policy may keep the client out, or the service has no ready pod: `lab.diagnose()`.")
    order = _order(question.client, backend, syns)
    loops = backend == question.client
    sent = _along(order, syns, loops=loops)
    replies = _sightings(captures, lambda p: p.flags == "S." and p.ack == (start + 1) % _MODULO)
    back = _along(order[::-1], replies, loops=loops)
    view = _View(question, tables, answered, backend, captures, sent[0][1].ends.source)
    hops = (*view.hops("request", sent), *view.hops("reply", back))
    data = _sightings(captures, lambda p: p.length > 0 and p.seq == (start + 1) % _MODULO)
    later = [(place, packet.sight[:3]) for place, packet in _along(order, data, loops=loops)]
    seen = next((p.ends.source for p in syns.get(backend, ()) if p.direction == "In"), "") or answered.said
    return Trace(
        client=question.client.name, client_address=question.client.address, service=question.service,
        asked=question.asked, dataplane=question.dataplane, pod=backend.name, pod_node=backend.node, hops=hops,
        seen=seen, seen_is=_whose(seen, question), peer=answered.peer,
        later_same=later == [(place, packet.sight[:3]) for place, packet in sent] if later else None,
        notes=(*notes, *_doubts(question, answered, replies)))


def _first_seq(question: Question, captures: Sequence[Capture], answered: Answered) -> int:
    """The sequence number that the connection began with: that of the end which the client or the pod named."""
    named: list[tuple[str, Place | None]] = [(answered.local, None)] if answered.local else []
    if answered.said:
        named += [(answered.said, place) for place in question.backends]
    opening = [(c.place, p) for c in captures for p in c.packets if p.flags == "S" and p.seq is not None]
    for end, at in named:
        found = {p.seq for place, p in opening if p.ends.source == end and at in (None, place)}
        if len(found) == 1:
            return int(found.pop() or 0)
    asked = {p.seq for _, p in opening if p.ends.destination == question.asked
             and question.client.address in ("", p.ends.source.rpartition(":")[0])}
    if len(asked) == 1:
        return int(asked.pop() or 0)
    if asked:
        raise LabError(f"{len(asked)} connections to {question.asked} were made at once.",
                       "which of them is ours cannot be told; a client without an answer tries again for a while.",
                       "trace again when nobody else asks.")
    raise LabError(f"No node saw a connection to {question.asked}.", answered.error,
                   "is the address reachable from the client? `lab.diagnose()` looks at the cluster.")


def _sightings(captures: Sequence[Capture], ours: Callable[[Packet], bool]) -> dict[Place, tuple[Packet, ...]]:
    """The first sighting of each kind at each place; a packet that was sent again is seen again."""
    found: dict[Place, tuple[Packet, ...]] = {}
    for capture in captures:
        first: dict[object, Packet] = {}
        for packet in capture.packets:
            if ours(packet):
                first.setdefault(packet.sight, packet)
        if first:
            found[capture.place] = tuple(sorted(first.values(), key=lambda p: p.time))
    return found


def _backend(question: Question, syns: dict[Place, tuple[Packet, ...]]) -> Place | None:
    """The pod that got it: the one whose address the last destination is."""
    to = {p.ends.destination for packets in syns.values() for p in packets}
    return next((place for place in question.backends
                 if f"{place.address}:{question.backend_port}" in to), None)


def _order(client: Place, backend: Place, syns: dict[Place, tuple[Packet, ...]]) -> list[Place]:
    """The places in the order of the request; nodes between the client's and the pod's by time."""
    def rank(place: Place) -> tuple[int, float]:
        if place == client:
            return 0, 0.0
        if place == backend:
            return 4, 0.0
        # A pod that reaches itself or a neighbour has its own node in the middle, once.
        at = 3 if place.node == backend.node else 1 if place.node == client.node else 2
        return at, syns[place][0].time

    return sorted(syns, key=rank)


def _along(order: Sequence[Place], found: dict[Place, tuple[Packet, ...]], *,
           loops: bool) -> list[tuple[Place, Packet]]:
    """The sightings along the way; a pod that reaches itself is at both ends of it."""
    seen = [(place, packet) for place in order for packet in found.get(place, ())]
    if not loops:
        return seen
    ends = {direction: [(place, packet) for place, packet in seen
                        if place.kind == "pod" and packet.direction == direction] for direction in ("Out", "In")}
    return [*ends["Out"], *(one for one in seen if one[0].kind == "node"), *ends["In"]]


def _whose(seen: str, question: Question) -> str:
    address = seen.rpartition(":")[0]
    for node in question.nodes:
        if address and address == node.address:
            return node.name
    if address and address == question.client.address:
        return "client"
    # A client whose address nobody knew before: it is not the cluster's where no node or pod has it.
    known = {place.address for place in question.backends}
    return "client" if address and not question.client.address and address not in known else "other"


def _doubts(question: Question, answered: Answered, replies: dict[Place, tuple[Packet, ...]]) -> Iterator[str]:
    if not replies:
        yield "No reply was captured."
    if answered.error:
        yield f"The client got no answer: {answered.error}."


@dataclass(frozen=True)
class _View:
    """All that a hop is told from."""

    question: Question
    tables: Sequence[Table]
    answered: Answered
    backend: Place
    captures: Sequence[Capture]
    origin: str
    """The client's end where it was seen first."""

    def hops(self, way: Way, seen: list[tuple[Place, Packet]]) -> Iterator[Hop]:
        """The hops of one way, with the ends that are not captured."""
        if not seen:
            return
        outside = self.question.client.kind == "client"
        before: tuple[Place, Packet | None, Ends] | None = None
        if way == "request":
            start = self._start(seen[0][1].ends)
            if outside or seen[0][1].ends.destination != self.question.asked:
                yield start
                before = start.place, None, start.after
        for place, packet in seen:
            yield self._hop(way, before, place, packet)
            before = place, packet, packet.ends
        if way == "reply" and outside and before:
            said = f"it read an answer from {self.question.asked}" if not self.answered.error else ""
            said += f"; the pod said that it saw {self.answered.said}" if said and self.answered.said else ""
            records = (Record(f"client {self.question.client.name}", said),) if said else ()
            yield Hop("reply", self.question.client, "", "", before[2], before[2], ("received",),
                      evidence=records)

    def _start(self, first: Ends) -> Hop:
        """What the client asked of its socket, before any packet was seen."""
        client = self.question.client
        asked = Ends(first.source, self.question.asked)
        if client.kind == "client":
            record = Record(f"client {client.name}", f"connect to {self.question.asked}")
            return Hop("request", client, "", "", asked, asked, ("sent",), evidence=(record,))
        records = [Record(f"socket in {client}", f"getpeername: {self.answered.peer}")] if self.answered.peer else []
        of_ours = [p for c in self.captures for p in c.packets
                   if self.origin in (p.ends.source, p.ends.destination)]
        # The absence counts only if it is one: every packet of the connection is looked at, not the first alone.
        if not any(self.question.asked in (p.ends.source, p.ends.destination) for p in of_ours):
            records.append(Record("tcpdump everywhere", f"none of {len(of_ours)} sightings of the connection "
                                  f"carries {self.question.asked}", absent=True))
        records += self._entries(client.node, frontends=True)
        return Hop("request", client, "socket", "", asked, first, ("chosen at connect",), evidence=tuple(records))

    def _hop(self, way: Way, before: tuple[Place, Packet | None, Ends] | None, place: Place,
             packet: Packet) -> Hop:
        records = [Record(f"tcpdump in {place}", packet.line)]
        if before is None:
            # The first sighting of its way: a client pod's own, or of a reply that of the pod that answers.
            first: Step = "sent" if way == "request" else "answered"
            return Hop(way, place, packet.interface, packet.direction, packet.ends, packet.ends, (first,),
                       packet.outer, tuple(records))
        came_from, last, ends = before
        steps = list(self._moves(came_from, last, place, packet))
        changes = list(_changes(way, ends, packet.ends))
        if changes and steps == ["forwarded"]:
            steps = []
        if "redirected" in steps:
            records.append(self._missing(place, packet))
        if changes:
            records += self._entries(place.node)
        return Hop(way, place, packet.interface, packet.direction, ends, packet.ends, (*changes, *steps),
                   packet.outer, tuple(records))

    def _moves(self, came_from: Place, last: Packet | None, place: Place, packet: Packet) -> Iterator[Step]:
        """How it came from one sighting to the next, whatever became of its addresses."""
        if last is None:
            yield "delivered" if came_from.kind == "client" else "sent"
        elif place.kind == "pod":
            through = last.direction == "Out" and came_from.node == place.node
            yield "entered the pod" if came_from.kind == "node" and through else "redirected"
        elif came_from.kind == "pod":
            yield "left the pod"
        elif came_from != place:
            yield "crossed"
        elif packet.outer and not last.outer:
            yield "wrapped"
        elif last.outer and not packet.outer:
            yield "unwrapped"
        elif packet.interface.startswith("vxlan"):
            yield "into the tunnel"
        else:
            yield "forwarded"

    def _missing(self, pod: Place, packet: Packet) -> Record:
        """The proof that a packet went past the node's stack: the pod's interface on the node did not show it."""
        node = next((c for c in self.captures if c.place.kind == "node" and c.place.node == pod.node), None)
        if node is None:
            return Record(f"tcpdump in node {pod.node}", "nothing was captured there", absent=True)
        # The pod's own packets of the connection name its interface.
        turned = Ends(packet.ends.destination, packet.ends.source)
        own = [p for p in node.packets if p.direction == "In" and p.ends == turned and p.outer is None]
        out = sum(p.direction == "Out" and p.ends == packet.ends for p in node.packets)
        text = f"{out} packets of the connection went Out to the pod on any interface"
        if own:
            text += f"; its interface {own[0].interface} showed {len(own)} packets In from it"
        return Record(f"tcpdump in {node.place}", text, absent=True)

    def _entries(self, node: str, *, frontends: bool = False) -> list[Record]:
        """The entries of a node's tables that are of this connection, or of its front end."""
        address, _, port = self.origin.rpartition(":")
        asked, _, asked_port = self.question.asked.rpartition(":")
        found = []
        for table in self.tables:
            if table.node != node:
                continue
            for index, line in enumerate(table.lines):
                words = line.replace(",", " ").split()
                ours = (self.origin in words if "-bpf" in table.command
                        else {f"src={address}", f"sport={port}"} <= set(words))
                front = frontends and line.startswith(f"{asked} port {asked_port} ")
                if ours or front:
                    # A front end's back ends are on the lines below it, indented.
                    below = takewhile(lambda text: text[:1].isspace(), table.lines[index + 1:]) if front else ()
                    text = ", ".join(" ".join(part.split()) for part in (line, *below))
                    found.append(Record(f"{table.command} on node {node}", text))
        return found


def _changes(way: Way, before: Ends, after: Ends) -> Iterable[Step]:
    """Which rewrites lie between two sightings."""
    if before.destination != after.destination:
        yield "DNAT" if way == "request" else "SNAT undone"
    if before.source != after.source:
        yield "SNAT" if way == "request" else "DNAT undone"
