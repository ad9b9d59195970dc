"""The pods that measure: one client, one server on another node, and a service in front of it."""

from __future__ import annotations

import contextlib
import importlib.resources
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from labkit.bench import iperf, meter
from labkit.errors import LabError, MeasurementError
from labkit.kube import Kube, wait_for
from labkit.kube.wait import is_ready, waiting_reason
from labkit.plan import Evidence

Obj = dict[str, Any]
NAMESPACE = "labkit-bench"
TOOLS_IMAGE = "nicolaka/netshoot"
BACKEND_PORT = 8080
PATIENCE_SECONDS = 60.0
"""A registry may be slow to answer; a pod that still fails after that goes on failing."""
_FAILED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff", "CreateContainerError",
           "RunContainerError")
READINGS_PORT = 7078
"""Where the server's pod tells what its node and its container have spent."""


@dataclass(frozen=True)
class Workload:
    """Where the measuring pods are.

    Args:
        client_node: the node of the client.
        server_node: the node of the server.
        client_ip: the client pod's address.
        server_ip: the server pod's address.
        service_ip: the address of the service in front of it.
        boot_ids: which machine each node is: nodes of a local lab share one, and its CPU counts once.
        kernel: the client node's kernel.
        cpu: its CPU model.
        mtu: of the client's interface.
    """

    client_node: str
    server_node: str
    client_ip: str
    server_ip: str
    service_ip: str
    boot_ids: dict[str, str]
    kernel: str
    cpu: str
    mtu: int

    @property
    def one_machine(self) -> bool:
        """Whether both nodes are the same machine."""
        return self.boot_ids["client"] == self.boot_ids["server"]


def place(kube: Kube, client_node: str | None = None, server_node: str | None = None) -> tuple[str, str]:
    """The nodes to measure between; nothing is created.

    Args:
        kube: the cluster.
        client_node: None means the first that is ready.
        server_node: None means the last other one.

    Raises:
        MeasurementError: there is no such node, or only one.
    """
    nodes = sorted(n["metadata"]["name"] for n in kube.list("nodes") if is_ready(n) and _takes_pods(n))
    if not nodes:
        raise MeasurementError("No node is ready, so nothing can be measured.", "", "`lab.diagnose()` says why.")
    for name in filter(None, (client_node, server_node)):
        if name not in nodes:
            raise MeasurementError(f"There is no node {name} that is ready and takes pods.", "",
                                   f"the nodes that do are {', '.join(nodes)}.")
    if len(nodes) < 2 or (client_node and client_node == server_node):
        raise MeasurementError(
            "Client and server must be on two nodes, and "
            + (f"both are to be on {client_node}." if len(nodes) > 1 else "there is only one."),
            "between pods of one node no packet takes the way that is to be measured",
            "name another node." if len(nodes) > 1 else "give the cluster a second node: "
            "`az aks scale --node-count 2 …`, or create it with `node_count=2`.")
    client = client_node or next(n for n in nodes if n != server_node)
    return client, server_node or next(n for n in reversed(nodes) if n != client)


def ensure(kube: Kube, client_node: str | None = None, server_node: str | None = None) -> Workload:
    """Run the measuring pods, unless they run, and find out where they are.

    Args:
        kube: the cluster.
        client_node: as for `place`.
        server_node: likewise.

    Raises:
        MeasurementError: the nodes are not there.
        WaitError: the pods do not start.
    """
    client_node, server_node = place(kube, client_node, server_node)
    wait_for("the former namespace to go", lambda: _not_leaving(kube), 120)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for obj in _manifests(client_node, server_node):
        ensure_object(kube, obj)
    wait_ready(kube, ("client", "server"))
    pods = {name: kube.get("pods", name, NAMESPACE)["status"]["podIP"] for name in ("client", "server")}
    service = kube.get("services", "server", NAMESPACE)
    boots = {pod: shell(kube, pod, "cat /proc/sys/kernel/random/boot_id").strip() for pod in pods}
    about = shell(kube, "client", "uname -r; cat /sys/class/net/eth0/mtu; grep -m1 'model name' /proc/cpuinfo || true"
                  ).splitlines()
    return Workload(
        client_node, server_node, pods["client"], pods["server"], service["spec"]["clusterIP"], boots,
        kernel=about[0], mtu=int(about[1]), cpu=about[2].partition(":")[2].strip() if len(about) > 2 else "")


def ensure_object(kube: Kube, obj: Obj) -> bool:
    """Create an object, or bring it to what is wanted; a pod that differs is made anew, for it cannot be changed.

    Returns:
        Whether there is a pod now that was not there before.
    """
    name = obj["metadata"]["name"]
    if obj["kind"] == "Pod" and (found := kube.find("pods", name, NAMESPACE)):
        if _same(found, obj):
            return False
        kube.delete("pods", name, NAMESPACE, grace_seconds=0)
        wait_for(f"the former pod {name} to go",
                 lambda: Evidence(kube.find("pods", name, NAMESPACE) is None, f"pod {name} is still there"), 60)
    kube.apply(obj)
    return bool(obj["kind"] == "Pod")


def wait_ready(kube: Kube, names: tuple[str, ...]) -> None:
    """Wait until measuring pods are ready.

    Raises:
        MeasurementError: one cannot start here, and has had time to.
        WaitError: they do not start.
    """
    hopeless = time.monotonic() + PATIENCE_SECONDS
    wait_for("the measuring pods", lambda: _ready(kube, names, time.monotonic() > hopeless), timeout=300)


def remove(kube: Kube) -> None:
    """Delete all that benchmarks have made."""
    kube.delete("namespaces", NAMESPACE)


def shell(kube: Kube, pod: str, line: str, timeout: float = 60.0) -> str:
    """Run a line of shell in a measuring pod."""
    return kube.exec(pod, NAMESPACE, ["sh", "-c", line], timeout=timeout).stdout


def python(kube: Kube, code: str, *args: str, timeout: float = 120.0) -> str:
    """Run Python in the client's pod."""
    return kube.exec("client", NAMESPACE, ["python3", "-c", code, *args], timeout=timeout).stdout


def script(module: ModuleType) -> str:
    """The text of a module of ours that runs inside a pod."""
    return importlib.resources.files("labkit.bench").joinpath(module.__name__.rpartition(".")[2] + ".py").read_text()


def metered_pod(name: str, node: str, command: list[str]) -> Obj:
    """A pod that runs a server and answers with readings beside it.

    Args:
        name: its name, and its label "app".
        node: where.
        command: the server.
    """
    return _pod(name, node, ["python3", "-c", script(meter), "serve", str(READINGS_PORT), *command])


def service(name: str, ports: list[Obj]) -> Obj:
    """A service in front of the pods whose label "app" is its name."""
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": ports},
    }


def _manifests(client_node: str, server_node: str) -> list[Obj]:
    ports = [{"name": f"iperf-{p.lower()}", "port": iperf.PORT, "protocol": p} for p in ("TCP", "UDP")]
    return [
        _pod("client", client_node, ["sleep", "infinity"]),
        metered_pod("server", server_node, ["iperf3", "-s", "-p", str(iperf.PORT)]),
        service("server", ports),
    ]


def _pod(name: str, node: str, command: list[str]) -> Obj:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": name, "image": TOOLS_IMAGE, "command": command}],
        },
    }


def _same(found: Obj, wanted: Obj) -> bool:
    ours, theirs = (o["spec"]["containers"][0] for o in (wanted, found))
    return (found.get("status", {}).get("phase") not in ("Failed", "Succeeded")
            and not found["metadata"].get("deletionTimestamp")
            and found["spec"].get("nodeSelector") == wanted["spec"]["nodeSelector"]
            and all(theirs.get(key) == ours.get(key) for key in ("image", "command", "args")))


def _last_words(kube: Kube, pod: Obj) -> str:
    """What a pod that does not start wrote last, or what its node says of it."""
    status = pod["status"]["containerStatuses"][0]
    if status.get("restartCount"):
        with contextlib.suppress(LabError):
            return kube.logs(pod["metadata"]["name"], NAMESPACE).strip().rpartition("\n")[2]
    return str(status["state"]["waiting"].get("message", ""))


def _not_leaving(kube: Kube) -> Evidence:
    found = kube.find("namespaces", NAMESPACE)
    return Evidence(not (found and found["metadata"].get("deletionTimestamp")), f"{NAMESPACE} is being deleted")


def _takes_pods(node: Obj) -> bool:
    spec = node.get("spec", {})
    taints = [t for t in spec.get("taints") or () if t.get("effect") in ("NoSchedule", "NoExecute")]
    system = node["metadata"].get("labels", {}).get("kubernetes.io/os", "linux")
    return not spec.get("unschedulable") and not taints and system == "linux"


def _ready(kube: Kube, names: tuple[str, ...], hopeless: bool) -> Evidence:
    pods = {p["metadata"]["name"]: p for p in kube.list("pods", NAMESPACE)}
    missing = [n for n in names if n not in pods or not is_ready(pods[n])]
    reasons = {n: waiting_reason(pods[n]) for n in missing if n in pods}
    said = ", ".join(f"{n} {reasons.get(n, '')}".strip() for n in missing)
    if hopeless and (failed := [n for n, reason in reasons.items() if reason in _FAILED]):
        raise MeasurementError(
            f"The measuring pods cannot run here: {said}.", _last_words(kube, pods[failed[0]]),
            f"nodes must reach the image {TOOLS_IMAGE}, or a mirror of it, and it must have iperf3 and Python 3.")
    return Evidence(not missing, f"not ready: {said}" if missing else "all ready")
