"""What must happen when somebody asks a service: one table for kube-proxy's rules and Calico's eBPF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.dataplane.service_lab import NODE_SERVER, Obj, ServiceLab, endpoint, port, service, slice_of

BOTH = ("tcp", "udp")
ALL = (*BOTH, "unconnected")
REFUSED, SILENCE = "ConnectionRefusedError", "TimeoutError"
# Client addresses that a back end sees.
OWN, NODE, EITHER = "own", "node", "own or node"
OUT = "own, or a node's where pods are in an overlay and it is left"


@dataclass(frozen=True)
class Case:
    """`backends` that answer, every one of them, or one `error`.

    `seen` is the client address that they see; where a data plane differs, rightly, `ebpf` says how.
    """

    asker: str
    kinds: tuple[str, ...]
    to: str                             # an address, a node's name, or a name in PUBLIC
    number: int
    backends: tuple[str, ...] = ()
    seen: str = OWN
    error: str = ""
    ebpf: dict[str, object] = field(default_factory=dict)
    why: str = ""

    def expected(self, plane: str) -> tuple[tuple[str, ...], str, str]:
        given = {"backends": self.backends, "seen": self.seen, "error": self.error,
                 **(self.ebpf if plane == "ebpf" else {})}
        return given["backends"], given["seen"], given["error"]  # type: ignore[return-value]

    def __str__(self) -> str:
        return f"{self.asker}-to-{self.to}:{self.number}"


KEEPS = {"seen": OWN}                   # eBPF keeps the client's address where kube-proxy takes its own


def objects(lab: ServiceLab) -> Iterator[Obj]:
    """Services and their endpoint slices."""
    def of(pod: str, **conditions: bool) -> Obj:
        return endpoint(lab.pods[pod].ip, lab.home_of[pod].name, **conditions)  # type: ignore[arg-type]

    def pair(number: int) -> tuple[Obj, Obj]:
        return port("t", 80, "TCP", number), port("u", 80, "UDP", number)

    both = {"t": ("TCP", 8080), "u": ("UDP", 8080)}
    yield service("web", "10.0.1.1", port("http", 80, "TCP", 30080), port("dns", 53, "UDP", 30053),
                  port("dns-tcp", 53, "TCP", 30053), lb=("192.0.2.81",), externalIPs=["192.0.2.91"])
    # named target ports: a number of its own for each pod makes a slice for each
    yield slice_of("web", {"http": ("TCP", 8080), "dns": ("UDP", 8080), "dns-tcp": ("TCP", 8080)}, of("a1"))
    yield slice_of("web", {"http": ("TCP", 9090), "dns": ("UDP", 9090), "dns-tcp": ("TCP", 9090)}, of("b1"), piece=2)
    yield service("local", "10.0.1.2", *pair(30082), lb=("192.0.2.82",), externalTrafficPolicy="Local")
    yield slice_of("local", both, of("a1"), of("b1"))
    yield service("far", "10.0.1.3", *pair(30083), lb=("192.0.2.83",), externalTrafficPolicy="Local")
    yield slice_of("far", both, of("b1"))
    yield service("inner", "10.0.1.4", *pair(30084), internalTrafficPolicy="Local")
    yield slice_of("inner", both, of("b1"))
    yield service("ranged", "10.0.1.5", *pair(30085), lb=("192.0.2.85",),
                  loadBalancerSourceRanges=[f"{lab.alice.address}/32", f"{lab.pods['a2'].ip}/32"])
    yield slice_of("ranged", both, of("b1"))
    yield service("void", "10.0.1.6", *pair(30086), lb=("192.0.2.86",))
    yield service("host", "10.0.1.7", *pair(30087), lb=("192.0.2.87",))
    yield slice_of("host", {"t": ("TCP", NODE_SERVER), "u": ("UDP", NODE_SERVER)},
                   *(endpoint(node.ip, name) for name, node in lab.nodes.items()))
    yield service("self", "10.0.1.8", *pair(30088))
    yield slice_of("self", both, of("a1"))
    yield service("leaving", "10.0.1.9", *pair(30089), lb=("192.0.2.89",), externalTrafficPolicy="Local")
    yield slice_of("leaving", both, of("a1", ready=False, serving=True, terminating=True), of("b1"))
    yield service("dying", "10.0.1.10", *pair(30090))
    yield slice_of("dying", both, of("a1", ready=False, serving=True, terminating=True),
                   of("a2", ready=False), of("b1", ready=False, terminating=True))
    yield service("unready", "10.0.1.11", *pair(30091))
    yield slice_of("unready", both, of("a1", ready=False), of("a2"))
    yield service("headless", "None", port("t", 80))
    yield service("elsewhere", "", port("t", 80), type="ExternalName", externalName="example.com")


FRONTENDS = {"192.0.2.81": ("node1", "node2"), "192.0.2.91": ("node1",), "192.0.2.87": ("node1", "node2"),
             **{f"192.0.2.{i}": ("node1",) for i in (82, 83, 85, 86, 89)}}

PUBLIC = {"public1": ("192.0.2.101", "node1"), "public2": ("192.0.2.102", "node2")}
"""Addresses by which the nodes themselves are reached from outside."""

CASES = (
    # --- a cluster IP: several ports, TCP and UDP on one of them, named target ports
    *(Case(who, kinds, "10.0.1.1", number, ("a1", "b1"), why="from a pod beside a back end, and from one that is none")
      for who in ("a2",) for kinds, number in ((("tcp",), 80), (("tcp", "udp", "unconnected"), 53))),
    Case("node1", BOTH, "10.0.1.1", 53, ("a1", "b1"), NODE),
    Case("node1/pod", ALL, "10.0.1.1", 53, ("a1", "b1"), NODE, why="a pod on the node's network"),
    Case("a1", ("udp",), "10.0.1.1", 80, error=SILENCE, ebpf={"error": SILENCE}, why="no UDP on this port"),
    # --- a pod reaches itself
    Case("a1", ("tcp",), "10.0.1.8", 80, ("a1",), NODE, ebpf=KEEPS),
    Case("a1", ("udp", "unconnected"), "10.0.1.8", 80, ("a1",), NODE,
         why="else it would answer to itself, past the translation"),
    # --- node ports: every node, every caller
    *(Case(who, ALL, node, 30053, ("a1", "b1"), NODE, ebpf=KEEPS)
      for who, nodes in (("a2", ("node1", "node2")), ("bob", ("public1", "public2"))) for node in nodes),
    *(Case("node1", ALL, node, 30053, ("a1", "b1"), NODE) for node in ("node1", "node2")),
    Case("node1", BOTH, "127.0.0.1", 30053, ("a1", "b1"), NODE, ebpf={"backends": (), "error": REFUSED},
         why="kube-proxy routes it by route_localnet; for Calico a loopback address is no address of the node"),
    # --- load balancers and external IPs
    Case("alice", BOTH, "192.0.2.81", 53, ("a1", "b1"), NODE, ebpf=KEEPS),
    Case("a2", BOTH, "192.0.2.81", 53, ("a1", "b1"), NODE, ebpf=KEEPS),
    Case("bob", BOTH, "192.0.2.91", 53, ("a1", "b1"), NODE, ebpf=KEEPS),
    Case("a2", BOTH, "192.0.2.91", 53, ("a1", "b1"), NODE, ebpf=KEEPS),
    Case("alice", BOTH, "192.0.2.85", 80, ("b1",), NODE, ebpf=KEEPS),
    Case("bob", BOTH, "192.0.2.85", 80, error=SILENCE, why="not in loadBalancerSourceRanges"),
    Case("a2", BOTH, "192.0.2.85", 80, ("b1",), NODE, ebpf=KEEPS, why="source ranges hold for pods, too"),
    Case("a1", BOTH, "192.0.2.85", 80, error=SILENCE),
    Case("a1", BOTH, "10.0.1.5", 80, ("b1",), why="and for the load balancer's address only"),
    Case("bob", BOTH, "public1", 30085, ("b1",), NODE, ebpf=KEEPS),
    # --- externalTrafficPolicy Local: the client's address stays, and only the node's own back ends answer
    Case("alice", BOTH, "192.0.2.82", 80, ("a1",)),
    *(Case("bob", BOTH, node, 30082, (pod,)) for node, pod in (("public1", "a1"), ("public2", "b1"))),
    Case("alice", BOTH, "192.0.2.83", 80, error=SILENCE, why="no back end there"),
    Case("bob", BOTH, "public1", 30083, error=SILENCE),
    Case("bob", BOTH, "public2", 30083, ("b1",)),
    Case("node1", BOTH, "node1", 30083, ("b1",), NODE, why="a node that asks itself is inside"),
    Case("node2", BOTH, "node1", 30083, error=SILENCE, ebpf={"backends": ("b1",), "error": "", "seen": NODE},
         why="for kube-proxy this is from outside; Calico chooses where it is asked, among all (nat_lookup.h)"),
    Case("a2", BOTH, "10.0.1.3", 80, ("b1",), why="inside every back end will do"),
    Case("a2", BOTH, "192.0.2.83", 80, ("b1",), why="a pod's way to the outside address is that inside"),
    # --- internalTrafficPolicy Local
    Case("a2", ("tcp",), "10.0.1.4", 80, error=SILENCE, ebpf={"error": REFUSED}, why="connect() can be told at once"),
    Case("a2", ("udp",), "10.0.1.4", 80, error=SILENCE),
    Case("b1", ("tcp",), "10.0.1.4", 80, ("b1",), NODE, ebpf=KEEPS, why="itself"),
    Case("node2", BOTH, "10.0.1.4", 80, ("b1",), NODE),
    Case("bob", BOTH, "public1", 30084, ("b1",), NODE, ebpf=KEEPS, why="from outside: the other policy"),
    # --- without endpoints: refused, at once
    *(Case(who, BOTH, to, number, error=REFUSED)
      for who, to, number in (("a1", "10.0.1.6", 80), ("alice", "192.0.2.86", 80), ("router", "node2", 30086),
                              ("a1", "node1", 30086))),
    Case("node1", ("tcp",), "10.0.1.6", 80, error=REFUSED),
    Case("node1", ("udp",), "10.0.1.6", 80, error="PermissionError", ebpf={"error": REFUSED},
         why="netfilter's REJECT of what a process on the machine itself sends"),
    # --- back ends on the nodes' own network
    Case("a1", BOTH, "10.0.1.7", 80, ("node1", "node2"), OUT),
    Case("node1", ("tcp",), "10.0.1.7", 80, ("node1", "node2"), NODE),
    *(Case(who, ("udp", "unconnected"), to, 80, ("node1", "node2"), NODE)
      for who, to in (("node1", "10.0.1.7"), ("node1/pod", "10.0.1.7"), ("node1", "192.0.2.87"))),
    Case("alice", BOTH, "192.0.2.87", 80, ("node1", "node2"), EITHER, ebpf=KEEPS,
         why="what ends on the node itself passes no POSTROUTING, where kube-proxy would take the address away"),
    # --- who takes new connections
    Case("a2", BOTH, "10.0.1.9", 80, ("b1",), why="a1 is shutting down, and others are ready"),
    Case("alice", BOTH, "192.0.2.89", 80, ("a1",), why="under Local a1 is all that the node has, and still serves"),
    Case("b1", BOTH, "10.0.1.10", 80, ("a1",), why="nobody is ready: who shuts down and serves, takes over"),
    Case("b1", BOTH, "10.0.1.11", 80, ("a2",), why="a1 is not ready"),
)
