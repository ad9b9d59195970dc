"""A cluster without a kubelet: the fabric, an API, and the node agents as processes in their nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn

from labkit.local.dataplane import compile as bpf
from labkit.local.fabric import Fabric
from labkit.local.fabric import netns as ns
from labkit.local.kubeapi import Api, User
from labkit.local.paths import LabPaths

API, FRONTEND, OUTBOUND = "192.0.2.1", "192.0.2.50", "192.0.2.2"
CRDS = {"felixconfigurations": ("FelixConfiguration", "Cluster"),
        "globalnetworkpolicies": ("GlobalNetworkPolicy", "Cluster"),
        "networkpolicies": ("NetworkPolicy", "Namespaced")}

# Says to whoever connects or sends: which pod this is, and from which address it was reached.
SERVER = """
import selectors, socket, sys
name = sys.argv[1]
poll = selectors.DefaultSelector()
tcp, udp = socket.create_server(("", 8080)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 8080))
for s in (tcp, udp):
    poll.register(s, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        if key.fileobj is tcp:
            c, (ip, _) = tcp.accept()
            poll.register(c, selectors.EVENT_READ, ip)
            c.sendall(f"{name} {ip}".encode())
        elif key.fileobj is udp:
            _, peer = udp.recvfrom(99)
            udp.sendto(f"{name} {peer[0]}".encode(), peer)
        else:
            try:
                data = key.fileobj.recv(99)
            except OSError:
                data = b""
            if data:
                key.fileobj.sendall(b"again")
            else:
                poll.unregister(key.fileobj)
                key.fileobj.close()
"""
CLIENT = """
import socket, sys
kind, host, port, count, patience = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
for _ in range(count):
    try:
        if kind == "tcp":
            with socket.create_connection((host, port), timeout=patience) as s:
                print(s.recv(99).decode(), flush=True)
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(patience); s.connect((host, port)); s.send(b"hi")
                print(s.recv(99).decode(), flush=True)
    except OSError as error:
        print(f"error {type(error).__name__}", flush=True)
"""
TALKER = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
print(s.recv(99).decode(), flush=True)
for _ in sys.stdin:
    s.sendall(b"hi"); print(s.recv(99).decode(), flush=True)
"""


class Cluster:
    """Two nodes, a web pod on each, a client pod on the first, and alice outside."""

    def __init__(self, home: Path) -> None:
        self.paths = LabPaths(home)
        self.fabric = Fabric(self.paths)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.agents: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self.home = home
        home.mkdir(parents=True)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.fabric.ensure_internet()
        self.fabric.add_api_address(API)
        self.alice = self.fabric.ensure_client("alice")
        self.vnet = self.fabric.ensure_vnet("c1", OUTBOUND)
        self.nodes = [self.vnet.add_node(f"n{i + 1}", i) for i in range(2)]
        subprocess.run(["mkdir", "-p", str(self.paths.bpffs)], check=True)
        subprocess.run(["mount", "-t", "bpf", "bpf", str(self.paths.bpffs)], check=True)
        self.pods = {}
        for pod, node in (("web1", 0), ("web2", 1), ("cli", 0)):
            at = self.nodes[node]
            ip = at.pod_ips[len(self.pods)]
            self.pods[pod] = (self.vnet.add_pod(at, f"{pod}xxxxxxxx", "default", pod, ip), at)
            (self.paths.cgroup / "c1" / at.name / pod).mkdir(parents=True, exist_ok=True)
        self._start_api()
        for web in ("web1", "web2"):
            server = self.popen(web, SERVER, web)
            assert server.stdout.readline() == b"ready\n"
        self._objects()

    # --- the API

    def _start_api(self) -> None:
        listening = self.fabric.socket_in(self.fabric.internet)
        listening.bind((API, 80))
        self.api = Api(self.home / "lab.db", "c1")
        self.api.authenticate = lambda token: User("admin")

        async def open_to_all(scope, receive, send):
            headers = [*scope.get("headers", ()), (b"authorization", b"Bearer x")]
            await self.api({**scope, "headers": headers}, receive, send)
        config = uvicorn.Config(open_to_all, log_level="error", lifespan="off", access_log=False,
                                http="httptools")
        self.server = uvicorn.Server(config)
        self.loop = asyncio.new_event_loop()

        def serve() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                self.loop.run_until_complete(self.server.serve(sockets=[listening]))
        self.thread = threading.Thread(target=serve)
        self.thread.start()

    def call(self, verb: str, *args, **kwargs):
        """Call the API in its own thread."""
        async def run():
            return getattr(self.api, verb)(*args, **kwargs)
        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def _objects(self) -> None:
        for plural, (kind, scope) in CRDS.items():
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            self.call("create", "customresourcedefinitions.apiextensions.k8s.io", {
                "metadata": {"name": f"{plural}.crd.projectcalico.org"},
                "spec": {"group": "crd.projectcalico.org", "scope": scope,
                         "names": {"plural": plural, "kind": kind, "singular": kind.lower()},
                         "versions": [{"name": "v1", "served": True, "storage": True,
                                       "schema": {"openAPIV3Schema": schema}}]}})
        self.call("create", "namespaces", {"metadata": {"name": "default"}})
        for node in self.nodes:
            self.call("create", "nodes", {"metadata": {"name": node.name}})
            self.call("patch", "nodes", node.name, {
                "status": {"addresses": [{"type": "InternalIP", "address": node.ip}]}}, subresource="status")
        for name, (pod, node) in self.pods.items():
            self.call("create", "pods", {
                "metadata": {"name": name, "namespace": "default", "labels": {"app": name.rstrip("12")}},
                "spec": {"nodeName": node.name, "containers": [{"name": "c", "image": "x"}]}})
            self.call("patch", "pods", name, {"status": {"podIP": pod.ip, "phase": "Running"}}, "default",
                      subresource="status")
        self.call("create", "services", {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.0.1.1", "ports": [
                {"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": 30080},
                {"name": "udp", "port": 53, "targetPort": 8080, "protocol": "UDP", "nodePort": 30053}]}})
        self.call("patch", "services", "web", {"status": {"loadBalancer": {"ingress": [{"ip": FRONTEND}]}}},
                  "default", subresource="status")
        self.call("create", "endpointslices.discovery.k8s.io", {
            "metadata": {"name": "web-1", "namespace": "default",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"},
                                             {"name": "udp", "port": 8080, "protocol": "UDP"}],
            "endpoints": [{"addresses": [self.pods[w][0].ip], "nodeName": self.pods[w][1].name,
                           "conditions": {"ready": True}} for w in ("web1", "web2")]})
        self.call("create", "felixconfigurations.crd.projectcalico.org", {
            "apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration",
            "metadata": {"name": "default"}, "spec": {}})
        self.vnet.set_frontend(FRONTEND, [node.ip for node in self.nodes])

    def external_policy(self, policy: str) -> None:
        self.call("patch", "services", "web", {"spec": {"externalTrafficPolicy": policy}}, "default")

    def bpf(self, enabled: bool, **spec) -> None:
        self.call("patch", "felixconfigurations.crd.projectcalico.org", "default",
                  {"spec": {"bpfEnabled": enabled, **spec}})

    # --- agents

    def start_agent(self, program: str) -> None:
        """Start kube_proxy or calico_node on both nodes; one that a test which failed left running is stopped."""
        self.stop_agent(program)
        for node in self.nodes:
            cgroup = self.paths.cgroup / "c1" / node.name
            bpffs = self.paths.bpffs / "c1" / node.name
            bpffs.mkdir(parents=True, exist_ok=True)
            env = {**os.environ, "NODE_NAME": node.name,
                   "K8S_API_ENDPOINT": f"http://{API}", "K8S_API_TOKEN": "x",
                   "LABKIT_BPFFS": str(bpffs), "LABKIT_CGROUP": str(cgroup),
                   "LABKIT_BPF_OBJECTS": str(bpf.ensure_objects())}
            arguments = [f"--master=http://{API}"] if program == "kube_proxy" else []
            log = (self.home / f"{program}-{node.name}.log").open("ab")
            argv = [sys.executable, "-m", f"labkit.local.programs.{program}", *arguments]
            # Not by `ip netns exec`: its mount namespace would hide the lab's bpffs.
            self.agents[program, node.name] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{node.netns}", *argv], env=env, stderr=log, stdout=log)
            log.close()

    def stop_agent(self, program: str) -> None:
        for key in [key for key in self.agents if key[0] == program]:
            agent = self.agents.pop(key)
            agent.terminate()
            agent.wait(60)

    def log(self, program: str, node: str = "n1") -> str:
        return (self.home / f"{program}-{node}.log").read_text()

    def until(self, condition, seconds: float = 60.0) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.1)
        return False

    def rules(self, node: int, table: str) -> str:
        enter = ("nsenter", f"--net=/run/netns/{self.nodes[node].netns}")
        return subprocess.run([*enter, "iptables-legacy-save", "-t", table], capture_output=True, text=True,
                              check=True).stdout

    # --- traffic

    def popen(self, who: str, code: str, *args: str) -> subprocess.Popen[bytes]:
        netns, cgroup = {"alice": self.alice.netns, "router": self.vnet.netns}.get(who, ""), None
        if who in self.pods:
            pod, node = self.pods[who]
            netns, cgroup = pod.netns, self.paths.cgroup / "c1" / node.name / who / "cgroup.procs"
        join = f"echo $$ > {cgroup}; " if cgroup else ""
        process = subprocess.Popen(
            ["sh", "-c", f'{join}exec nsenter --net=/run/netns/{netns} "$@"', "sh", sys.executable, "-c", code,
             *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes.append(process)
        return process

    def ask(self, who: str, kind: str, host: str, port: int, count: int = 1, patience: float = 20) -> list[str]:
        """What a client is told: "pod address-it-was-reached-from" for each connection; `patience` in seconds."""
        process = self.popen(who, CLIENT, kind, host, str(port), str(count), str(patience))
        out, _ = process.communicate(timeout=60 + patience * count)
        return out.decode().splitlines()

    def denied(self, who: str, host: str, port: int) -> bool:
        """Whether nobody answers a client."""
        return set(self.ask(who, "tcp", host, port, 2, patience=1)) == {"error TimeoutError"}

    def talk(self, who: str, host: str, port: int) -> Talk:
        """A connection that stays."""
        return Talk(self.popen(who, TALKER, host, str(port)))

    def close(self) -> None:
        for process in (*self.agents.values(), *self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
        if hasattr(self, "thread"):
            self.loop.call_soon_threadsafe(self.api._http.close)
            self.server.should_exit = True
            self.thread.join(60)
            self.loop.close()
            self.api.close()
        self.fabric.tear_down()
        subprocess.run(["umount", str(self.paths.bpffs)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", str(self.paths.run)], check=True)
        if self.paths.cgroup.exists():
            subprocess.run(["find", str(self.paths.cgroup), "-depth", "-type", "d", "-exec", "rmdir", "{}",
                            ";"], check=True)
        assert ns.names(self.paths.prefix) == []


class Talk:
    """A client that keeps one connection."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.hello = process.stdout.readline().decode().strip()

    def again(self) -> str:
        """Send something, and say what came back."""
        self.process.stdin.write(b"x\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()
