"""Our kube-proxy beside the real one, on the same node, API and services: the same rules, and how much kinder.

The real one comes from BENCH_KUBE_PROXY, the path of a kube-proxy 1.20 binary; without it there is nothing to compare
with, and no rows. Each runs alone on the one node of a cluster without Calico. A client on that node connects to one
service every few milliseconds, and an endpoint slice sends it from one server to another.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from labkit.bench import services, stats
from labkit.bench.workload import NAMESPACE
from labkit.kube import kubeconfig
from labkit.lab import Lab
from labkit.local.paths import LabPaths

COUNTS, CHANGES = (10, 1000, 5000), {10: 7, 1000: 7, 5000: 5}
_PORTS = (18080, 18081)
_CHURN = 10                                             # seconds of one change a second

_SERVERS = """
import selectors, socket, sys
poll = selectors.DefaultSelector()
for port in map(int, sys.argv[2:]):
    poll.register(socket.create_server((sys.argv[1], port), backlog=128), selectors.EVENT_READ, port)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        with key.fileobj.accept()[0] as connection:
            connection.send(str(key.data).encode())
"""
_CLIENT = """
import socket, sys, time
seen = ""
while True:
    try:
        with socket.create_connection((sys.argv[1], 80), 1) as sock:
            now = sock.recv(16).decode()
    except OSError:
        now = "error"
    if now != seen:
        print(now, time.time(), flush=True)
        seen = now
    time.sleep(0.005)
"""


@dataclass(frozen=True)
class _Result:
    """What one proxy took at one number of services.

    Args:
        effective: seconds from an endpoint's change until connections go there, each time.
        cpu: CPU seconds of one change.
        churn: cores that one change a second takes.
        rules: its own in the node's nat table.
    """

    effective: tuple[float, ...]
    cpu: float
    churn: float
    rules: frozenset[str]


def rows(paths: LabPaths) -> list[Row]:
    """Measure ours and the real one at each number of services, the real one also by the nft back end."""
    binary = os.environ.get("BENCH_KUBE_PROXY")
    if not binary:
        return []
    with contextlib.closing(Lab.open("local", cluster="Proxy", resource_group="Proxy", node_count=1)) as lab:
        vanilla = lab.vanilla.ensure("cluster")
        bench = _Bench(paths, vanilla, binary)
        with bench.traffic():
            measured = {count: bench.all_at(count) for count in COUNTS}
        lab.run(lab.clean_up())
    found = []
    for count, by_name in measured.items():
        ours, real, nft = by_name["ours"], by_name["legacy"], by_name["nft"]
        beside = (f"the real kube-proxy 1.20.2, same run and back end; by iptables-nft "
                  f"{stats.median(nft.effective):.2f} s, {nft.cpu:.2f} CPU s, {nft.churn * 100:.0f} % of a core")
        found += [
            Row(f"kube-proxy: one endpoint of {count:,} services changes, effective",
                stats.median(ours.effective), "s", stats.median(real.effective), beside),
            Row("the same, CPU", ours.cpu, "s", real.cpu, "the real one"),
            Row("one change a second, of one core", ours.churn * 100, "%", real.churn * 100, "the real one"),
            Row(f"rules in the nat table that only one of both has, of {len(ours.rules):,}",
                len(ours.rules ^ real.rules), "", 0, "the same text"),
        ]
    return found


class _Bench:
    def __init__(self, paths: LabPaths, lab: Lab, binary: str) -> None:
        self._kube, self._binary = lab.kube, binary
        admin = kubeconfig.parse(lab.azure.credentials(lab.settings.resource_group, lab.settings.name))
        self._token = next(user["user"]["token"] for user in admin["users"])
        kube = self._kube
        node = kube.list("nodes")[0]
        self._node = node["metadata"]["name"]
        self._ip = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        cluster = next(p.parent.name for p in paths.cgroup.glob(f"*/{self._node}"))
        self._cgroup = paths.cgroup / cluster / self._node
        self._enter = ["nsenter", f"--net=/run/netns/{paths.netns(cluster, self._node)}", "--"]
        self._port = _PORTS[0]

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """One service whose endpoint moves between two servers, and who asks it all the time."""
        self._kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        services.ensure_backend(self._kube, self._node)
        self._kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "moves", "namespace": NAMESPACE},
                          "spec": {"ports": [{"port": 80, "targetPort": _PORTS[0]}]}})
        address = self._kube.get("services", "moves", NAMESPACE)["spec"]["clusterIP"]
        self._kube.apply(self._slice())
        argv = [*self._enter, sys.executable, "-c"]
        with (subprocess.Popen([*argv, _SERVERS, self._ip, *map(str, _PORTS)], stdout=subprocess.PIPE) as servers,
              subprocess.Popen([*argv, _CLIENT, address], stdout=subprocess.PIPE) as self._client):
            assert servers.stdout
            assert servers.stdout.readline() == b"ready\n"
            try:
                yield
            finally:
                servers.kill()
                self._client.kill()

    def all_at(self, count: int) -> dict[str, _Result]:
        services.scale(self._kube, count)
        found = {}
        with self._ours() as cgroup:
            found["ours"] = self._measure(count, cgroup, "legacy")
        for variant in ("legacy", "nft"):
            with self._real(variant) as cgroup:
                found[variant] = self._measure(count, cgroup, variant)
        return found

    def _measure(self, count: int, cgroup: Path, variant: str) -> _Result:
        self._move()                                    # and wait until it has all the services
        time.sleep(2.5)                                 # its burst of syncs is whole again
        before, took = _cpu(cgroup), []
        for _ in range(CHANGES[count]):
            took.append(self._move())
            time.sleep(2.5)
        cpu = (_cpu(cgroup) - before) / CHANGES[count]
        before, began = _cpu(cgroup), time.monotonic()
        for number in range(_CHURN):
            self._patch()
            time.sleep(max(0.0, began + number + 1 - time.monotonic()))
        churn = (_cpu(cgroup) - before) / (time.monotonic() - began)
        if self._port != _PORTS[0]:                     # the same endpoints for all
            self._move()
        saved = subprocess.run([*self._enter, f"iptables-{variant}-save", "-t", "nat"], capture_output=True, text=True,
                               check=True).stdout
        # KUBE-MARK-DROP is the kubelet's on a real node, and ours writes it, too.
        rules = (line for line in saved.splitlines() if line.startswith("-A KUBE-") and "KUBE-MARK-DROP -j" not in line)
        return _Result(tuple(took), cpu, churn, frozenset(rules))

    def _move(self) -> float:
        """Seconds until connections go where the endpoint went."""
        began = time.time()
        wanted = self._patch()
        assert self._client.stdout
        while True:
            ready, _, _ = select.select([self._client.stdout], [], [], 120)
            assert ready, "the change never came"
            seen, at = self._client.stdout.readline().split()
            if seen.decode() == str(wanted) and float(at) >= began:
                return float(at) - began

    def _patch(self) -> int:
        self._port = _PORTS[self._port == _PORTS[0]]
        self._kube.patch("endpointslices.discovery.k8s.io", "moves",
                         {"ports": [{"name": "", "port": self._port, "protocol": "TCP"}]}, NAMESPACE)
        return self._port

    def _slice(self) -> dict[str, Any]:
        return {
            "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
            "metadata": {"name": "moves", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "moves"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": self._port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [self._ip], "conditions": {"ready": True}}],
        }

    # --- the two of them

    @contextlib.contextmanager
    def _ours(self) -> Iterator[Path]:
        self._clean()
        self._run_ours(True)
        (pod,) = self._pods()
        try:
            yield next(self._cgroup.glob(f"*{pod['metadata']['uid']}*"))
        finally:
            self._run_ours(False)

    def _run_ours(self, wanted: bool) -> None:
        """By the node selector of its DaemonSet, as the article turns it off."""
        selector = None if wanted else "true"
        self._kube.patch("daemonsets.apps", "kube-proxy",
                         {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": selector}}}}}, "kube-system")
        deadline = time.monotonic() + 60
        while len([pod for pod in self._pods() if _ready(pod)]) != wanted or len(self._pods()) != wanted:
            assert time.monotonic() < deadline, "kube-proxy's pod does not come, or does not go"
            time.sleep(0.1)

    def _pods(self) -> list[dict[str, Any]]:
        pods = self._kube.list("pods", "kube-system")
        return [pod for pod in pods if pod["metadata"]["name"].startswith("kube-proxy-")]

    @contextlib.contextmanager
    def _real(self, variant: str) -> Iterator[Path]:
        self._run_ours(False)
        self._clean()
        cgroup = self._cgroup / "bench-kube-proxy"
        cgroup.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for six in ("", "6"):
                for verb in ("", "-save", "-restore"):
                    target = shutil.which(f"ip{six}tables-{variant}{verb}")
                    assert target
                    (Path(folder) / f"ip{six}tables{verb}").symlink_to(target)
            config = Path(folder) / "kubeconfig"
            config.write_text(json.dumps(self._kubeconfig()))
            with (Path(folder) / "log").open("w") as log:
                process = subprocess.Popen(
                    [*self._enter, self._binary, f"--kubeconfig={config}", f"--hostname-override={self._node}",
                     "--cluster-cidr=10.224.0.0/16", "--proxy-mode=iptables", "--conntrack-max-per-core=0"],
                    stdout=log, stderr=log, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
                    preexec_fn=lambda: (cgroup / "cgroup.procs").write_text(str(os.getpid())) and None)
                try:
                    yield cgroup
                finally:
                    process.kill()
                    process.wait()
        deadline = time.monotonic() + 5
        while (cgroup / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        cgroup.rmdir()
        self._clean()

    def _kubeconfig(self) -> dict[str, Any]:
        endpoints = self._kube.get("endpoints", "kubernetes", "default")
        ip = endpoints["subsets"][0]["addresses"][0]["ip"]
        server = {"server": f"https://{ip}:443", "insecure-skip-tls-verify": True}
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": server}],
            "users": [{"name": "bench", "user": {"token": self._token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        }

    def _clean(self) -> None:
        """No rule of either is left, in either back end."""
        for variant in ("legacy", "nft"):
            for table in ("nat", "filter", "mangle"):
                for flag in ("-F", "-X"):
                    subprocess.run([*self._enter, f"iptables-{variant}", "-t", table, flag], capture_output=True,
                                   check=False)


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def _cpu(cgroup: Path) -> float:
    """CPU seconds of a cgroup so far, of ended processes, too."""
    line = next(line for line in (cgroup / "cpu.stat").read_text().splitlines() if line.startswith("usage_usec"))
    return int(line.split()[1]) / 1e6
