"""What a trace is: the places that one connection passed, and what each place was seen to do. Pure data.

A hop is one sighting of a packet: where, on which interface, with which addresses. What happened to it between
two sightings is told by comparing them, so every word of a hop rests on a captured line, on an entry of a table,
or on a packet that is missing where another path would have shown it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DATA_PLANES = {"vanilla": "kube-proxy", "iptables": "Calico iptables with kube-proxy", "ebpf": "Calico eBPF"}

Way = Literal["request", "reply"]
Kind = Literal["client", "node", "pod"]
Step = Literal[
    "sent", "answered", "chosen at connect", "delivered", "left the pod", "forwarded", "DNAT", "SNAT", "DNAT undone",
    "SNAT undone", "into the tunnel", "wrapped", "crossed", "unwrapped", "entered the pod", "redirected",
    "received",
]

MEANINGS: dict[Step, str] = {
    "sent": "the client sent it",
    "answered": "the pod answered",
    "chosen at connect": "the back end was chosen in connect(): no packet ever carried the service's address",
    "delivered": "the load balancer delivered it with its own address still the destination",
    "left the pod": "it left the pod",
    "forwarded": "the node forwarded it",
    "DNAT": "the destination was rewritten to the back end",
    "SNAT": "the source was rewritten: from here on the client is not in the packet",
    "DNAT undone": "the source was rewritten to the address that the client had asked",
    "SNAT undone": "the destination was rewritten to the client",
    "into the tunnel": "it was sent into the VXLAN device",
    "wrapped": "it was wrapped in a VXLAN packet between the nodes; inside, its addresses are as before",
    "crossed": "it crossed the network to another node",
    "unwrapped": "it was taken out of the VXLAN packet",
    "entered the pod": "it went through the pod's interface on the node into the pod",
    "redirected": "it was put into the pod past the node's stack: the pod's interface on the node shows no packet",
    "received": "the client received it",
}


@dataclass(frozen=True)
class Place:
    """Where packets are seen: the client, a node, or a pod.

    Args:
        kind: "client" (outside the cluster), "node" or "pod".
        name: of the client, of the node, or "namespace/name".
        node: the node that it is or runs on; "" for a client outside.
        address: its own address, "" where that is not known.
    """

    kind: Kind
    name: str
    node: str = ""
    address: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Ends:
    """The addresses that a packet carries, each as "address:port"."""

    source: str
    destination: str

    def __str__(self) -> str:
        return f"{self.source} → {self.destination}"


@dataclass(frozen=True)
class Record:
    """Something that proves a hop.

    Args:
        source: who says it, such as "tcpdump in node aks-…" or "conntrack -L on node aks-…".
        text: what it says: a captured line, an entry, or that there is none.
        absent: whether the proof is that something is missing.
    """

    source: str
    text: str
    absent: bool = False


@dataclass(frozen=True)
class Hop:
    """One sighting of the connection's packet, and what had become of it since the sighting before.

    Args:
        way: of the request (client to pod) or of the reply.
        place: where.
        interface: on which interface; "" at a client outside, where nothing is captured.
        direction: "In", "Out" or "", as the interface saw it.
        before: the addresses at the sighting before.
        after: the addresses here.
        steps: what happened in between, in the order in which it is told.
        outer: the addresses of the VXLAN packet around it, or None.
        evidence: what proves it.
    """

    way: Way
    place: Place
    interface: str
    direction: str
    before: Ends
    after: Ends
    steps: tuple[Step, ...]
    outer: Ends | None = None
    evidence: tuple[Record, ...] = ()

    @property
    def rewritten(self) -> bool:
        """Whether an address changed on the way here."""
        return self.before != self.after

    @property
    def where(self) -> str:
        """The interface and its direction, such as "eth0 In"."""
        return f"{self.interface} {self.direction}".strip()


@dataclass(frozen=True)
class Trace:
    """The way of one connection.

    Args:
        client: who asked.
        client_address: the client's own address, or "" where nobody in the cluster knows it.
        service: "namespace/name".
        asked: what the client connected to, "address:port".
        dataplane: "vanilla", "iptables" or "ebpf".
        pod: the pod that answered, "namespace/name".
        pod_node: the node that it runs on.
        hops: of the request, then of the reply.
        seen: the client's address as the pod saw it, "address:port".
        seen_is: whose it is: "client", the name of a node, or "other".
        peer: whom the client's socket says it is connected to (getpeername), or "" where it is not known.
        later_same: whether the first packet with data took the same way as the first of all; None: not seen.
        notes: what was not seen, and why.
    """

    client: str
    client_address: str
    service: str
    asked: str
    dataplane: str
    pod: str
    pod_node: str
    hops: tuple[Hop, ...]
    seen: str
    seen_is: str
    peer: str = ""
    later_same: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def request(self) -> tuple[Hop, ...]:
        """The way from the client to the pod."""
        return tuple(hop for hop in self.hops if hop.way == "request")

    @property
    def reply(self) -> tuple[Hop, ...]:
        """The way back."""
        return tuple(hop for hop in self.hops if hop.way == "reply")

    @property
    def detour(self) -> bool:
        """Whether the request came in by another node than the pod's."""
        return any("crossed" in hop.steps for hop in self.request)

    @property
    def preserved(self) -> bool:
        """Whether the pod saw the client itself."""
        return self.seen_is == "client"

    @property
    def dataplane_name(self) -> str:
        """The data plane in words."""
        return DATA_PLANES.get(self.dataplane, self.dataplane)

    @property
    def verdict(self) -> str:
        """Which client address the pod saw, in one sentence."""
        if not self.seen:
            return "Which address the pod saw is not known: no packet of the connection was seen in it."
        address = self.seen.rpartition(":")[0]
        if self.preserved:
            return f"The pod saw {address}: the client itself."
        whose = "somebody else's" if self.seen_is == "other" else f"that of node {self.seen_is}"
        return f"The pod saw {address}: {whose}. Who asked is lost on the way."

    @property
    def title(self) -> str:
        """What was traced, in one line."""
        return f"{self.client} → {self.service} ({self.asked}), {self.dataplane_name}"

    def __str__(self) -> str:
        from labkit.sourceip.trace_text import text

        return text(self)
