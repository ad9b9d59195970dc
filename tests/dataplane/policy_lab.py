"""Policies as objects, on both data planes, and many connections tried side by side.

`World` holds the objects and tells a `PolicyTable` of each node of every change, as Felix's watches do.
`PolicyLab` programs what the tables say, on iptables (with kube-proxy's rules) or on eBPF, and opens sockets in
the namespaces of pods, nodes and outside clients. All sockets live in this process: trying a hundred connections
costs hardly more than one.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

from labkit.local.dataplane import kubeproxy
from labkit.local.dataplane.calico_iptables import SET_PREFIX, CalicoIptables, build, build_bpf_mode
from labkit.local.dataplane.ebpf_maps import rule_id
from labkit.local.dataplane.ebpf_plan import policy_entries
from labkit.local.dataplane.felix import FelixConfig
from labkit.local.dataplane.iptables import Iptables, remove_chains
from labkit.local.dataplane.policy_table import PolicyTable
from labkit.local.dataplane.services import ServicePort
from labkit.local.fabric import netns
from labkit.local.fabric.fabric import NodeNet, PodNet
from tests.dataplane.ebpf_lab import FRONTEND, EbpfLab, Server, leaving_nothing
from tests.dataplane.policy_model import Connection

Obj = dict[str, Any]
Plane = Literal["iptables", "ebpf"]
PLANES: tuple[Plane, ...] = ("iptables", "ebpf")
PORTS = (8080, 8081)
LABELS = {"a1": {"app": "web"}, "a2": {"app": "cart"}, "b1": {"app": "web"}, "b2": {"app": "cart"}}
NAMESPACES = {"a1": "shop", "a2": "shop", "b1": "shop", "b2": "other"}
NAMED = {"http": ("TCP", 8080), "admin": ("TCP", 8081), "dns": ("UDP", 8081)}
SILENCE = 0.05          # seconds without an answer, after the last one that was hoped for, that mean "denied"


def network_policy(name: str = "p", namespace: str = "shop", **spec: Any) -> Obj:
    """A NetworkPolicy of Kubernetes."""
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def calico_policy(name: str = "p", namespace: str = "", **spec: Any) -> Obj:
    """Calico's NetworkPolicy, or without a namespace a GlobalNetworkPolicy."""
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "crd.projectcalico.org/v1",
            "kind": "NetworkPolicy" if namespace else "GlobalNetworkPolicy", "metadata": meta, "spec": spec}


@dataclass(frozen=True)
class Attempt:
    """A connection to try: who, to which address and port, over what."""

    client: str
    server: str
    port: int
    protocol: str

    @classmethod
    def read(cls, text: str) -> Attempt:
        """From "a2>a1", "a2>a1:8081", "alice>lb-b1" or "a2>a1:8081/udp"."""
        client, _, rest = text.partition(">")
        rest, _, protocol = rest.partition("/")
        server, _, port = rest.partition(":")
        return cls(client, server, int(port or 8080), protocol.upper() or "TCP")


class World:
    """The cluster's objects; every change goes to each node's table at once."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self.tables = {node: PolicyTable(node) for node in nodes}
        self.objects: dict[tuple[str, str, str, str], Obj] = {}

    def put(self, obj: Obj) -> None:
        """Add an object, or take its new state."""
        key = _key(obj)
        event = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = deepcopy(obj)
        self._tell(event, obj)

    def remove(self, obj: Obj) -> None:
        """Delete an object."""
        self._tell("DELETED", self.objects.pop(_key(obj)))

    def of(self, *kinds: str) -> list[Obj]:
        """The objects of some kinds."""
        return [obj for obj in self.objects.values() if obj["kind"] in kinds]

    def warnings(self) -> list[str]:
        """What one node's agent had to say."""
        return next(iter(self.tables.values())).warnings

    def _tell(self, event: str, obj: Obj) -> None:
        for table in self.tables.values():
            take = {"Pod": table.on_pod, "Namespace": table.on_namespace, "NetworkSet": table.on_network_set,
                    "GlobalNetworkSet": table.on_network_set}.get(obj["kind"], table.on_policy)
            take(event, deepcopy(obj))


def _key(obj: Obj) -> tuple[str, str, str, str]:
    meta = obj["metadata"]
    return obj.get("apiVersion", ""), obj["kind"], meta.get("namespace", ""), meta["name"]


class PolicyLab(EbpfLab):
    """node1 with pods a1 and a2, node2 with b1 and, in another namespace, b2; alice and bob outside.

    The load balancer's frontend leads to node1 alone: its port 8080 is a service of a1, 8081 one of b1.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.add_pod("b2", self.nodes["node2"])
        for port in PORTS:
            self.serve(*self.pods, port=port)
        self.world = World(self.nodes)
        for name, labels in (("shop", {"team": "a"}), ("other", {"team": "b"})):
            self.world.put({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        self.node_server = Server(self.nodes["node1"].netns, PORTS[0], "node1")
        self._servers.append(self.node_server)
        for pod in self.pods:
            self.world.put(self.pod_object(pod))
        self.plane_now: Plane | None = None
        self._source_ports: defaultdict[tuple[str, str], Iterator[int]] = defaultdict(lambda: count(10000))
        self._calico = {name: CalicoIptables(Iptables()) for name in self.nodes}
        self.services = [self._service(pod, protocol, port, index) for index, (pod, port, protocol) in enumerate(
            (pod, port, protocol) for pod, port in (("a1", 8080), ("b1", 8081)) for protocol in ("TCP", "UDP"))]

    def add_pod(self, name: str, node: NodeNet) -> PodNet:
        ip = node.pod_ips[sum(home is node for home in self.home_of.values())]
        self.pods[name] = self.vnet.add_pod(node, name + "0" * 8, NAMESPACES[name], name, ip)
        self.home_of[name] = node
        return self.pods[name]

    def pod_object(self, name: str, labels: Mapping[str, str] | None = None) -> Obj:
        """A pod as the API has it."""
        ports = [{"name": port, "protocol": protocol, "containerPort": number}
                 for port, (protocol, number) in NAMED.items()]
        return {"kind": "Pod", "metadata": {"namespace": NAMESPACES[name], "name": name,
                                            "labels": dict(LABELS[name] if labels is None else labels)},
                "spec": {"nodeName": self.home_of[name].name, "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIP": self.pods[name].ip}}

    def _service(self, pod: str, protocol: str, port: int, index: int) -> ServicePort:
        service = self.service(pod, protocol=protocol)
        return replace(service, name=f"{pod}-{protocol.lower()}", cluster_ip=f"10.0.7.{10 + index}", port=port,
                       node_port=30100 + index)

    # --- data planes

    def use(self, plane: Plane) -> None:
        """Switch to a data plane, as a cluster does: the new one is there before the old one goes."""
        for node, space in self.nodes.items():
            iptables = Iptables()
            if plane == "iptables":
                config = kubeproxy.ProxyConfig(node_name=node, node_ip=space.ip, cluster_cidr="10.224.0.0/16")
                rules = kubeproxy.build(self.services, config)
                self._inside(node, iptables.restore, rules.text)
                for table, chain, rule in kubeproxy.JUMPS:
                    self._inside(node, iptables.ensure_rule, table, chain, rule)
            else:
                self.on(node, "apply_services", [(s.key, (s,)) for s in self.services])
        before, self.plane_now = self.plane_now, plane
        self.sync(everything=True)
        for node in self.nodes:
            if plane == "ebpf":
                self.on(node, "attach", FelixConfig())
                self._let_pass(node)
                for table in ("nat", "filter"):
                    self._inside(node, remove_chains, Iptables(), table, ("KUBE-",))
            elif before == "ebpf":
                self.on(node, "detach")

    def restart(self) -> None:
        """New agents take over what the old ones left in the kernels."""
        assert self.plane_now
        for node in self.nodes:
            self._calico[node] = CalicoIptables(Iptables())
            self._inside(node, self.planes[node].close)
            self.planes[node] = self.plane(node)
        self.use(self.plane_now)

    def sync(self, *, everything: bool = False) -> None:
        """Program what the tables say, where they say that something changed: so does Felix."""
        for node, table in self.world.tables.items():
            if not (everything or table.dirty):
                continue
            endpoints = table.endpoints()
            if self.plane_now == "iptables":
                self._inside(node, self._calico[node].apply, build(endpoints.values()))
            else:
                remote = {ip: self.nodes[home].ip for ip, home in table.remote_pods().items()}
                self.on(node, "apply_policy", endpoints)
                self.on(node, "apply_routes", {name: net.ip for name, net in self.nodes.items()},
                        table.local_pods(), remote)
                if self.planes[node].attached:
                    self._let_pass(node)

    def check_what_is_held(self) -> None:
        """The kernels hold what the policies of now need, and nothing of earlier ones. Call `sync` before."""
        for node, table in self.world.tables.items():
            endpoints = table.endpoints()
            if self.plane_now == "iptables":
                rules, iptables = build(endpoints.values()), Iptables()
                chains = {chain for chain in self._inside(node, iptables.chains, "filter") if chain.startswith("cali-")}
                assert chains == set(rules.chains)
                sets = self._inside(node, subprocess.check_output, ["ipset", "list", "-n"]).decode().split()
                assert {name for name in sets if name.startswith(SET_PREFIX)} == set(rules.sets)
            else:
                state, plan = self.planes[node]._state, policy_entries(endpoints)
                assert state
                assert dict(state.loaded.maps["cali_policy"].items()) == plan.rules
                counted = set(state.loaded.maps["cali_rule_ctrs"].keys())
                assert counted <= {rule_id(rule) for rule in plan.rules.values()}
                assert set(state.loaded.maps["cali_v4_ip_sets"].keys()) == plan.ip_sets

    def _let_pass(self, node: str) -> None:
        self._inside(node, self._calico[node].apply, build_bpf_mode(self.planes[node].interfaces))

    def _inside(self, node: str, function: Any, *arguments: Any) -> Any:
        return netns.run_inside(self.nodes[node].netns, partial(function, *arguments))

    # --- connections

    def address(self, server: str) -> str:
        """Where a server is reached; "lb" is the load balancer, whose ports choose the pod; "svc-…" a cluster IP."""
        services = {"lb": FRONTEND, "svc-a1": self.services[0].cluster_ip, "svc-b1": self.services[2].cluster_ip}
        if server in services:
            return services[server]
        return (self.pods.get(server) or self.nodes[server]).ip

    def space(self, client: str) -> str:
        """Whose namespace a client's sockets are made in."""
        outside = {"alice": self.alice.netns, "bob": self.bob.netns}
        return outside.get(client) or (self.pods.get(client) or self.nodes[client]).netns

    def reached(self, attempts: Iterable[Attempt], hoped: Iterable[Attempt] = ()) -> set[Attempt]:
        """The attempts that are answered.

        All are tried at once. Those that are hoped for are given seconds, so a busy machine makes no difference;
        the others a moment of silence after the last answer.
        """
        waiting = set(hoped)
        tries = {}
        for attempt in sorted({*attempts, *waiting}, key=repr):
            tries[attempt] = self.open(attempt, 0)
        found: set[Attempt] = set()
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as poll:
            for attempt, sock in tries.items():
                stack.callback(sock.close)
                poll.register(sock, selectors.EVENT_READ if attempt.protocol == "UDP" else selectors.EVENT_WRITE,
                              attempt)
            started = last = time.monotonic()
            while poll.get_map():
                now = time.monotonic()
                limit = started + 20 if waiting - found else last + SILENCE
                if now >= limit:
                    break
                for key, _ in poll.select(limit - now):
                    poll.unregister(key.fileobj)
                    if _answered(key.fileobj, key.data):  # type: ignore[arg-type]
                        found.add(key.data)
                        last = time.monotonic()
        return found

    def on_its_node(self, attempt: Attempt) -> bool:
        """Whether a node speaks to a pod of its own, which policy has no say in."""
        return attempt.server in self.pods and self.home_of[attempt.server].name == attempt.client

    def connection(self, attempt: Attempt) -> Connection:
        """What the model is asked: the addresses and the port."""
        return Connection(self.address(attempt.client), self.address(attempt.server), attempt.port, attempt.protocol)

    def source_port(self, client: str, protocol: str) -> int:
        """A port that the client has not had before: data planes remember connections, and let their packets pass."""
        return next(self._source_ports[client, protocol])

    def open(self, attempt: Attempt, timeout: float = 20) -> socket.socket:
        """A socket that has connected, and has said something.

        Args:
            attempt: who connects, and to whom.
            timeout: seconds that connecting and receiving may take; 0 to come back at once.
        """
        kind = socket.SOCK_DGRAM if attempt.protocol == "UDP" else socket.SOCK_STREAM
        sock = netns.socket_in(self.space(attempt.client), socket.AF_INET, kind)
        sock.bind(("0.0.0.0", self.source_port(attempt.client, attempt.protocol)))
        sock.settimeout(timeout)
        with contextlib.suppress(BlockingIOError):
            sock.connect((self.address(attempt.server), attempt.port))
        if attempt.protocol == "UDP" or timeout:
            sock.send(b"hello")
        return sock

    def close(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(Exception):
                self.on(node, "detach")
        super().close()


def _answered(sock: socket.socket, attempt: Attempt) -> bool:
    """Whether a socket that can go on was answered; a refusal is no verdict of a policy, and an error here."""
    if attempt.protocol == "UDP":
        return bool(sock.recv(999))
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, f"{attempt}: the connection failed at once")
    return True


def policy_lab(home: Path) -> contextlib.AbstractContextManager[PolicyLab]:
    """A lab that leaves nothing behind."""
    return leaving_nothing(home, lambda: PolicyLab(home))
