"""Two nodes with pods on the lab's fabric, Calico's eBPF programs on them, and real sockets at the ends."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from labkit.local.dataplane import compile as bpf
from labkit.local.dataplane.ebpf import EbpfDataplane
from labkit.local.dataplane.felix import FelixConfig
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.overlay import Overlay, OverlayRoutes
from labkit.local.dataplane.policy import EndpointPolicy, Rule
from labkit.local.dataplane.services import Endpoint, ServicePort
from labkit.local.fabric import netns
from labkit.local.fabric.fabric import Fabric, NodeNet, PodNet
from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle

CLUSTER_IP, FRONTEND, NODE_PORT = "10.0.7.7", "192.0.2.77", 30077
POOL, BLOCKS = "192.168.0.0/16", {"192.168.0.0/26": "node1", "192.168.0.64/26": "node2"}
CLIENT = """
import json, socket, sys
kind, ip, port, payload = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[5]))
answer = {}
try:
    if kind == "unconnected":
        s.sendto(payload, (ip, port))
        data, peer = s.recvfrom(65536)
    else:
        s.connect((ip, port))
        s.sendall(payload)
        data, peer = s.recv(65536), s.getpeername()
    answer = {**json.loads(data), "peer": list(peer)}
except OSError as error:
    answer = {"error": type(error).__name__}
print(json.dumps(answer))
"""


class Server:
    """Answers on TCP and UDP with who asked and where; then echoes."""

    def __init__(self, space: str, port: int, name: str) -> None:
        self.name = name
        self._stream = netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._datagram = netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM)
        self._stream.bind(("0.0.0.0", port))
        self._stream.listen(64)
        self._datagram.bind(("0.0.0.0", port))
        for target in (self._accept, self._datagrams):
            threading.Thread(target=target, daemon=True).start()

    def close(self) -> None:
        for sock in (self._stream, self._datagram):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _answer(self, peer: tuple[str, int], size: int) -> bytes:
        return json.dumps({"server": self.name, "client": peer[0], "size": size}).encode()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._stream.accept()
                threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 20):
                connection.sendall(self._answer(peer, len(data)))

    def _datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self._datagram.recvfrom(65536)
                if not peer:                            # shut down
                    return
                self._datagram.sendto(self._answer(peer, len(data)), peer)


class EbpfLab:
    """node1 with pods a1 and a2, node2 with pod b1, outside clients alice and bob, one service of port 80.

    With `overlay` the pods have addresses that the network does not know, and go from node to node by VXLAN.
    """

    def __init__(self, home: Path, *, overlay: bool = False) -> None:
        self.paths = LabPaths(home)
        self.fabric = Fabric(self.paths)
        self.objects = bpf.ensure_objects()
        self._servers: list[Server] = []
        self.paths.bpffs.mkdir(parents=True)
        subprocess.run(["mount", "-t", "bpf", "bpf", self.paths.bpffs], check=True, timeout=10)
        self.fabric.ensure_internet()
        self.vnet = self.fabric.ensure_vnet("c1", "192.0.2.9")
        self.alice, self.bob = self.fabric.ensure_client("alice"), self.fabric.ensure_client("bob")
        self.nodes = {name: self.vnet.add_node(name, index) for index, name in enumerate(("node1", "node2"))}
        self.overlays = {name: Overlay(POOL, BLOCKS, {name: node.ip for name, node in self.nodes.items()}, name)
                         for name in self.nodes} if overlay else {}
        for name, overlay_of in self.overlays.items():
            netns.run_inside(self.nodes[name].netns, lambda o=overlay_of: OverlayRoutes(Iptables()).apply(
                o, vni=FelixConfig().vxlan_vni, port=FelixConfig().vxlan_port))
        self.pods: dict[str, PodNet] = {}
        self.home_of: dict[str, NodeNet] = {}
        for name, node in (("a1", "node1"), ("a2", "node1"), ("b1", "node2")):
            self.add_pod(name, self.nodes[node])
        self.vnet.set_frontend(FRONTEND, [self.nodes["node1"].ip])
        self.planes = {name: self.plane(name) for name in self.nodes}
        self.policies: dict[str, EndpointPolicy] = {}

    def add_pod(self, name: str, node: NodeNet) -> PodNet:
        number = sum(home is node for home in self.home_of.values())
        overlay = self.overlays.get(node.name)
        ip = str(ip_address(overlay.tunnel) + 1 + number) if overlay else node.pod_ips[number]
        self.pods[name] = self.vnet.add_pod(node, name + "0" * 8, "default", name, ip, own_network=bool(overlay))
        self.home_of[name] = node
        return self.pods[name]

    def cgroup(self, node: str) -> Path:
        path = self.paths.cgroup / "c1" / node
        path.mkdir(parents=True, exist_ok=True)
        return path

    def plane(self, node: str) -> EbpfDataplane:
        return EbpfDataplane(
            bpffs=self.paths.bpffs / "c1" / node, cgroup=self.cgroup(node), objects=self.objects,
            node_ip=self.nodes[node].ip, node_name=node, log=logging.getLogger("felix"))

    def on(self, node: str, method: str, *arguments: object) -> None:
        """Call a method of a node's data plane, in the node's namespace, as calico-node does."""
        netns.run_inside(self.nodes[node].netns, lambda: getattr(self.planes[node], method)(*arguments))

    def routes(self, node: str) -> tuple[dict[str, str], dict[str, str], dict[str, str], tuple[str, ...]]:
        here = {pod.ip: pod.host_interface for name, pod in self.pods.items() if self.home_of[name].name == node}
        there = {pod.ip: self.home_of[name].ip for name, pod in self.pods.items()
                 if self.home_of[name].name != node}
        overlay = self.overlays.get(node)
        return ({name: net.ip for name, net in self.nodes.items()}, here,
                there | (overlay.tunnels() if overlay else {}), (overlay.tunnel,) if overlay else ())

    def attach(self, node: str, config: FelixConfig) -> None:
        self.on(node, "attach", replace(config, vxlan_enabled=bool(self.overlays)))

    def up(self, *services: ServicePort, config: FelixConfig | None = None) -> None:
        def one(node: str) -> None:
            self.on(node, "apply_services", [(service.key, (service,)) for service in services])
            here = self.routes(node)[1].values()
            self.on(node, "apply_policy", {name: p for name, p in self.policies.items() if name in here})
            self.on(node, "apply_routes", *self.routes(node))
            self.attach(node, config or FelixConfig())

        self._on_each(one)

    def down(self) -> None:
        self._on_each(lambda node: self.on(node, "detach"))

    def _on_each(self, do: Callable[[str], None]) -> None:
        """On all nodes at once, as their agents do: loading programs takes the kernel a while."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(do, self.nodes))

    def service(self, *backends: str, protocol: str = "TCP", **fields: object) -> ServicePort:
        endpoints = tuple(Endpoint(self.pods[name].ip, 8080, self.home_of[name].name) for name in backends)
        port = ServicePort("default", f"echo-{protocol.lower()}", "", protocol, CLUSTER_IP, 80, NODE_PORT,
                           lb_ips=(FRONTEND,), endpoints=endpoints)
        return replace(port, **fields)  # type: ignore[arg-type]

    def policy(self, pod: str, *, ingress: tuple[Rule, ...] | None = None,
               egress: tuple[Rule, ...] | None = None) -> None:
        """Rules that select a pod; None for a direction that no policy selects."""
        allow, deny = (Rule("Allow"),), (Rule("Deny"),)
        net = self.pods[pod]
        self.policies[net.host_interface] = EndpointPolicy(
            net.host_interface, "default", pod, net.ip,
            allow if ingress is None else ingress + deny, allow if egress is None else egress + deny)

    def serve(self, *pods: str, port: int = 8080) -> None:
        for pod in pods:
            self._servers.append(Server(self.pods[pod].netns, port, pod))

    def ask(self, space: str, kind: str, ip: str, port: int, *, cgroup: Path | None = None,
            payload: str = "hello", patience: float = 20) -> dict[str, object]:
        """What a client process sees: {server, client, size, peer} or {error}; `patience` in seconds."""
        argv = [sys.executable, "-c", CLIENT, kind, ip, str(port), payload, str(patience)]
        done = self.run(space, argv, cgroup=cgroup)
        return dict(json.loads(done))

    def from_pod(self, pod: str, kind: str, ip: str, port: int, **options: Any) -> dict[str, object]:
        return self.ask(self.pods[pod].netns, kind, ip, port, cgroup=self.cgroup(self.home_of[pod].name), **options)

    def from_node(self, node: str, kind: str, ip: str, port: int, **options: Any) -> dict[str, object]:
        return self.ask(self.nodes[node].netns, kind, ip, port, cgroup=self.cgroup(node), **options)

    def run(self, space: str, argv: list[str], *, cgroup: Path | None = None, timeout: float = 120) -> str:
        def join() -> None:
            if cgroup:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))

        return netns.run_inside(space, lambda: subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=timeout, preexec_fn=join).stdout)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for node in self.nodes:
            with contextlib.suppress(Exception):
                netns.run_inside(self.nodes[node].netns, self.planes[node].close)
        self.fabric.tear_down()
        subprocess.run(["umount", self.paths.bpffs], check=False, timeout=10)
        shutil.rmtree(self.paths.run, ignore_errors=True)
        for folder in (*self.paths.cgroup.glob("*/*"), *self.paths.cgroup.glob("*"), self.paths.cgroup):
            with contextlib.suppress(OSError):
                folder.rmdir()


L = TypeVar("L", bound=EbpfLab)


@contextlib.contextmanager
def leaving_nothing(home: Path, make: Callable[[], L]) -> Iterator[L]:
    """A lab that goes with all that is its own, also where it could be made only in part."""
    try:
        lab = make()
        try:
            yield lab
        finally:
            lab.close()
    finally:
        lifecycle.down(LabPaths(home))


def ebpf_lab(home: Path, *, overlay: bool = False) -> contextlib.AbstractContextManager[EbpfLab]:
    return leaving_nothing(home, lambda: EbpfLab(home, overlay=overlay))
