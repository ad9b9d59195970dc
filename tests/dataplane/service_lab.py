"""One cluster, programmed from API objects by kube-proxy's rules or by Calico's eBPF, and those who ask it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from labkit.local.dataplane.felix import FelixConfig
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.kubeproxy import ProxyConfig
from labkit.local.dataplane.services import ServiceTable
from labkit.local.fabric import netns
from labkit.local.programs.kube_proxy import Proxier
from tests.dataplane.ebpf_lab import POOL, EbpfLab, Server, leaving_nothing

Obj = dict[str, Any]
CLUSTER_CIDR = "10.224.0.0/16"
NODE_SERVER = 8081              # where servers on the nodes' own network listen

# Reads requests, a JSON document a line, and says what became of each: who answered, or the error's name.
ASKER = """
import json, socket, sys
def ask(kind, ip, port, timeout):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as s:
        s.settimeout(timeout)
        try:
            if kind == "unconnected":
                s.sendto(b"hello", (ip, port))
                data, peer = s.recvfrom(4096)
            else:
                s.connect((ip, port))
                s.send(b"hello")
                data, peer = s.recv(4096), s.getpeername()
        except OSError as error:
            return {"error": type(error).__name__}
        return {**json.loads(data), "peer": list(peer)} if data else {"error": "closed"}
for line in sys.stdin:
    request = json.loads(line)
    count = request.pop("count")
    print(json.dumps([ask(**request) for _ in range(count)]), flush=True)
"""


class Asker:
    """A process in somebody's network namespace and cgroup."""

    def __init__(self, space: str, cgroup: Path) -> None:
        join = f"echo $$ > {cgroup}/cgroup.procs; exec nsenter --net=/run/netns/{space} \"$@\""
        self._process = subprocess.Popen(["sh", "-c", join, "sh", sys.executable, "-c", ASKER], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, kind: str, ip: str, port: int, *, count: int = 1, timeout: float = 20.0) -> list[Obj]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(
            {"kind": kind, "ip": ip, "port": port, "count": count, "timeout": timeout}) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class ServiceLab(EbpfLab):
    """The same two nodes, with the API's objects in `tables`. `plane` is "iptables" or "ebpf"."""

    def __init__(self, home: Path, plane: str, *, overlay: bool = False) -> None:
        super().__init__(home, overlay=overlay)
        self.kind = plane
        self.askers: dict[str, Asker] = {}
        self.table = ServiceTable()
        self.proxiers: dict[str, Proxier] = {}
        self.serve("a1", "a2", "b1")
        self.serve("a1", "b1", port=9090)
        for name, node in self.nodes.items():
            self._servers.append(Server(node.netns, NODE_SERVER, name))
            if plane == "iptables":
                netns.set_sysctls(node.netns, [("ipv4/conf/all/route_localnet", "1")])
                config = ProxyConfig(name, node.ip, POOL if overlay else CLUSTER_CIDR)
                self.proxiers[name] = Proxier(config, Iptables(), partial=True)

    def tables(self) -> list[ServiceTable]:
        return [proxier.table for proxier in self.proxiers.values()] or [self.table]

    def take(self, *objects: Obj, event: str = "MODIFIED") -> None:
        """Hear of API objects, and program what follows."""
        for table in self.tables():
            for obj in objects:
                (table.on_service if "spec" in obj else table.on_slice)(event, obj)
        for name in self.nodes:
            if self.kind == "iptables":
                netns.run_inside(self.nodes[name].netns, self.proxiers[name].sync)
        if self.kind == "ebpf":
            changed = [(key, self.table.get(key)) for key in self.table.changed()]
            for name in self.nodes:
                self.on(name, "apply_services", changed)

    def start(self, *objects: Obj) -> None:
        self.take(*objects)
        if self.kind == "ebpf":
            for node in self.nodes:
                self.on(node, "apply_policy", {})
                self.on(node, "apply_routes", *self.routes(node))
                self.attach(node, FelixConfig())

    def who(self, name: str) -> Asker:
        """A pod, a node, "node1/pod" for a pod on its network, an outside client, or the router."""
        if name not in self.askers:
            node, _, pod = name.partition("/")
            if name in self.pods:
                home = self.home_of[name].name
                self.askers[name] = Asker(self.pods[name].netns, self._folder(f"{home}/pod-{name}"))
            elif node in self.nodes:
                self.askers[name] = Asker(self.nodes[node].netns, self._folder(f"{node}/{pod}" if pod else node))
            else:
                spaces = {"alice": self.alice.netns, "bob": self.bob.netns, "router": self.vnet.netns}
                self.askers[name] = Asker(spaces[name], self._folder("outside"))
        return self.askers[name]

    def _folder(self, name: str) -> Path:
        path = self.paths.cgroup / "c1" / name if name != "outside" else self.paths.cgroup / "outside"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def count(self, who: str, kind: str, ip: str, port: int, count: int) -> Counter[str]:
        """How many connections each back end got."""
        return Counter(a.get("server", a.get("error", "")) for a in self.who(who).ask(kind, ip, port, count=count))

    def close(self) -> None:
        for asker in self.askers.values():
            asker.close()
        super().close()
        for folder in (*self.paths.cgroup.glob("*/*/*"), *self.paths.cgroup.glob("*/*"),
                       *self.paths.cgroup.glob("*"), self.paths.cgroup):
            with contextlib.suppress(OSError):
                folder.rmdir()


def service_lab(home: Path, plane: str, *, overlay: bool = False) -> contextlib.AbstractContextManager[ServiceLab]:
    return leaving_nothing(home, lambda: ServiceLab(home, plane, overlay=overlay))


def service(name: str, cluster_ip: str, *ports: Obj, lb: tuple[str, ...] = (), **spec: Any) -> Obj:
    ingress = [{"ip": ip} for ip in lb]
    return {"metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIP": cluster_ip, "type": "LoadBalancer" if lb else "NodePort", "ports": list(ports),
                     **spec},
            "status": {"loadBalancer": {"ingress": ingress}}}


def port(name: str, number: int, protocol: str = "TCP", node_port: int = 0) -> Obj:
    return {"name": name, "port": number, "protocol": protocol, "nodePort": node_port}


def slice_of(name: str, ports: dict[str, tuple[str, int]], *endpoints: Obj, piece: int = 1) -> Obj:
    """`ports`: name -> protocol and number, what a named target port is on these endpoints."""
    return {"metadata": {"namespace": "shop", "name": f"{name}-{piece}",
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": list(endpoints),
            "ports": [{"name": key, "protocol": protocol, "port": number}
                      for key, (protocol, number) in ports.items()]}


def endpoint(ip: str, node: str, *, ready: bool = True, serving: bool | None = None, terminating: bool = False) -> Obj:
    return {"addresses": [ip], "nodeName": node, "conditions": {
        "ready": ready, "serving": ready if serving is None else serving, "terminating": terminating}}
