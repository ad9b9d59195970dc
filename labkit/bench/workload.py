"""The pods that measure: one client, one server on another node, and a service in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.bench import iperf
from labkit.errors import MeasurementError
from labkit.kube import Kube, wait_for
from labkit.kube.wait import is_ready, waiting_reason
from labkit.plan import Evidence

Obj = dict[str, Any]
NAMESPACE = "labkit-bench"
TOOLS_IMAGE = "nicolaka/netshoot"
SERVER_IMAGE = "networkstatic/iperf3"
PYTHON_IMAGE = "python:3-alpine"
BACKEND_PORT = 8080


@dataclass(frozen=True)
class Workload:
    """Where the measuring pods are.

    Args:
        client_node: the node of the client.
        server_node: the node of the server: another one where there are two.
        server_ip: the server pod's address.
        service_ip: the address of the service in front of it.
        boot_ids: which machine each node is: nodes of a local lab share one, and its CPU counts once.
        kernel: the client node's kernel.
        cpu: its CPU model.
    """

    client_node: str
    server_node: str
    server_ip: str
    service_ip: str
    boot_ids: dict[str, str]
    kernel: str
    cpu: str

    @property
    def one_machine(self) -> bool:
        """Whether both nodes are the same machine."""
        return self.boot_ids["client"] == self.boot_ids["server"]


def ensure(kube: Kube) -> Workload:
    """Run the measuring pods, unless they run, and find out where they are.

    Args:
        kube: the cluster.

    Raises:
        WaitError: they do not start.
    """
    nodes = sorted(n["metadata"]["name"] for n in kube.list("nodes") if is_ready(n))
    if not nodes:
        raise MeasurementError("No node is ready, so nothing can be measured.", "", "`lab.diagnose()` says why.")
    client_node, server_node = nodes[0], nodes[-1]
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for obj in _manifests(client_node, server_node):
        if obj["kind"] == "Pod" and kube.find("pods", obj["metadata"]["name"], NAMESPACE):
            continue  # a pod cannot be changed; these never differ
        kube.apply(obj)
    names = ("client", "server", "monitor", "python")
    wait_ready(kube, names)
    server = kube.get("pods", "server", NAMESPACE)
    service = kube.get("services", "server", NAMESPACE)
    boots = {pod: shell(kube, on, "cat /proc/sys/kernel/random/boot_id").strip()
             for pod, on in (("client", "client"), ("server", "monitor"))}
    about = shell(kube, "client", "uname -r; grep -m1 'model name' /proc/cpuinfo || true").splitlines()
    return Workload(
        client_node, server_node, server["status"]["podIP"], service["spec"]["clusterIP"], boots,
        kernel=about[0] if about else "", cpu=about[1].partition(":")[2].strip() if len(about) > 1 else "")


def wait_ready(kube: Kube, names: tuple[str, ...]) -> None:
    """Wait until measuring pods are ready.

    Raises:
        WaitError: they do not start.
    """
    wait_for("the measuring pods", lambda: _ready(kube, names), timeout=300)


def remove(kube: Kube) -> None:
    """Delete all that benchmarks have made."""
    kube.delete("namespaces", NAMESPACE)


def shell(kube: Kube, pod: str, line: str, timeout: float = 60.0) -> str:
    """Run a line of shell in a measuring pod."""
    return kube.exec(pod, NAMESPACE, ["sh", "-c", line], timeout=timeout).stdout


def _manifests(client_node: str, server_node: str) -> list[Obj]:
    sleep = ["sleep", "infinity"]
    ports = [{"name": f"iperf-{p.lower()}", "port": iperf.PORT, "protocol": p} for p in ("TCP", "UDP")]
    return [
        _pod("client", client_node, TOOLS_IMAGE, command=sleep),
        _pod("monitor", server_node, TOOLS_IMAGE, command=sleep),
        _pod("server", server_node, SERVER_IMAGE, args=["-s"]),
        _pod("python", client_node, PYTHON_IMAGE, command=sleep),
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": NAMESPACE},
            "spec": {"selector": {"app": "server"}, "ports": ports},
        },
    ]


def _pod(name: str, node: str, image: str, *, command: list[str] | None = None,
         args: list[str] | None = None) -> Obj:
    container: Obj = {"name": name, "image": image}
    if command:
        container["command"] = command
    if args:
        container["args"] = args
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }


def _ready(kube: Kube, names: tuple[str, ...]) -> Evidence:
    pods = {p["metadata"]["name"]: p for p in kube.list("pods", NAMESPACE)}
    missing = [n for n in names if n not in pods or not is_ready(pods[n])]
    reasons = {n: waiting_reason(pods[n]) for n in missing if n in pods}
    said = ", ".join(f"{n} {reasons.get(n, '')}".strip() for n in missing)
    return Evidence(not missing, f"not ready: {said}" if missing else "all ready")
