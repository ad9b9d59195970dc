"""A node's object, as AKS's nodes look, and its lease. Pure, but for a look at this machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from labkit.local.client import Obj, timestamp
from labkit.local.fabric import NodeNet
from labkit.local.node.marks import taint
from labkit.local.node.settings import NodeSettings

LEASES = "kube-node-lease"
LEASE_SECONDS = 40
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def node_object(node: NodeNet, settings: NodeSettings) -> Obj:
    """The object that a new node registers."""
    scale_set, instance = re.sub(r"[0-9a-z]{6}$", "", node.name), node.name[-6:]
    machine = int(instance, 36) if instance.isalnum() and "vmss" in node.name else node.index
    provider = (f"azure:///subscriptions/{settings.subscription}/resourceGroups/{settings.node_resource_group.lower()}"
                f"/providers/Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/{machine}")
    region, size, pool = settings.location, settings.vm_size, settings.pool
    labels = {
        "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": _ARCH,
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": _ARCH,
        "beta.kubernetes.io/instance-type": size, "node.kubernetes.io/instance-type": size,
        "topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": "0",
        "failure-domain.beta.kubernetes.io/region": region, "failure-domain.beta.kubernetes.io/zone": "0",
        "agentpool": pool, "kubernetes.azure.com/agentpool": pool, "kubernetes.azure.com/mode": settings.mode.lower(),
        "kubernetes.azure.com/role": "agent", "kubernetes.azure.com/cluster": settings.node_resource_group,
        "kubernetes.azure.com/os-sku": "Ubuntu", "kubernetes.io/role": "agent",
        "node-role.kubernetes.io/agent": "", "storageprofile": "managed", "storagetier": "Premium_LRS",
        **settings.labels,
    }
    taints = [taint(written) for written in settings.taints]
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": labels,
                     "annotations": {"node.alpha.kubernetes.io/ttl": "0",
                                     "volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {"providerID": provider, **({"taints": taints} if taints else {})},
    }


def capacity(settings: NodeSettings) -> dict[str, str]:
    """What a node has, all of which pods may use."""
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{_memory_kib()}Ki", "pods": str(settings.max_pods),
            "ephemeral-storage": "129900528Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0"}


def node_status(node: NodeNet, settings: NodeSettings, previous: Obj, not_ready: str) -> Obj:
    """The node's status: what this machine is, and whether it is well.

    Args:
        node: its place in the network.
        settings: what kind of node it is.
        previous: the status before, for its times.
        not_ready: why it is not ready, or "".
    """
    now = timestamp()
    external = [{"type": "ExternalIP", "address": settings.external_ip}] if settings.external_ip else []
    old = {condition["type"]: condition for condition in previous.get("conditions") or ()}
    conditions = []
    for kind, status, reason, message in (
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "False", "KubeletNotReady", not_ready) if not_ready else
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ):
        before = old.get(kind, {})
        changed = before.get("lastTransitionTime", now) if before.get("status") == status else now
        conditions.append({"type": kind, "status": status, "reason": reason, "message": message,
                           "lastHeartbeatTime": now, "lastTransitionTime": changed})
    return {
        "addresses": [{"type": "InternalIP", "address": node.ip}, *external,
                      {"type": "Hostname", "address": node.name}],
        "capacity": capacity(settings), "allocatable": capacity(settings), "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": _ARCH,
            "bootID": _read("/proc/sys/kernel/random/boot_id"), "containerRuntimeVersion": "labkit://0.1.0",
            "kernelVersion": platform.release(), "kubeProxyVersion": settings.version,
            "kubeletVersion": settings.version, "machineID": _read("/etc/machine-id"), "operatingSystem": "linux",
            "osImage": _os_image(), "systemUUID": "",
        },
        "images": [],
    }


def lease(node: str, uid: str) -> Obj:
    """The lease by which a node says that it lives."""
    return {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": LEASES,
                     "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS,
                 "renewTime": timestamp().replace("Z", ".000000Z")},
    }


def _memory_kib() -> int:
    return int(Path("/proc/meminfo").read_text().split()[1])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_image() -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return match[1] if match else "Linux"
