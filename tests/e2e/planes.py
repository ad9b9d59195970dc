"""Which data plane a cluster has, how it is switched, and how to ask from a pod."""

from __future__ import annotations

import json
import subprocess

from labkit.local.server import report
from tests.e2e.support import TestCluster, wait_for

FELIX = "felixconfigurations.crd.projectcalico.org"
PLANES = {True: "Calico eBPF", False: "Calico iptables"}


def fqdn(cluster: TestCluster) -> str:
    return str(cluster.aks.managed_clusters.get(cluster.group, cluster.name).fqdn)


def endpoint(cluster: TestCluster) -> dict[str, object]:
    """The ConfigMap of the article's second step."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kubernetes-services-endpoint", "namespace": "tigera-operator"},
        "data": {"KUBERNETES_SERVICE_HOST": fqdn(cluster), "KUBERNETES_SERVICE_PORT": "443"},
    }


def restart_operator(cluster: TestCluster) -> None:
    cluster.kubectl("delete", "pod", "-n", "tigera-operator", "-l", "k8s-app=tigera-operator")


def patch_kube_proxy(cluster: TestCluster, *, away: bool) -> None:
    selector = {"non-calico": "true" if away else None}
    patch = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
    cluster.kubectl("patch", "ds", "-n", "kube-system", "kube-proxy", "-p", json.dumps(patch))


def patch_felix(cluster: TestCluster, **spec: object) -> None:
    cluster.kubectl("patch", FELIX, "default", "--type=merge", "-p", json.dumps({"spec": spec}))


def data_planes(cluster: TestCluster) -> set[str]:
    """What the nodes' kernels hold."""
    state = report.fetch(cluster.paths, cluster.info)
    mine = next(c for c in state["clusters"] if c["name"] == cluster.name)
    return {n["data_plane"] for n in mine["nodes"]}


def at_connect(cluster: TestCluster) -> set[str]:
    """The nodes on which an eBPF program chooses back ends at connect()."""
    folders = [folder for node in cluster.nodes() for folder in cluster.paths.cgroup.glob(f"*/{node}")]
    assert folders, "nodes have control groups"
    return {folder.name for folder in folders if "cali_connect4" in subprocess.run(
        ["bpftool", "cgroup", "show", str(folder)], text=True, capture_output=True, check=True).stdout}


def node_pods(cluster: TestCluster) -> list:
    return cluster.core.list_namespaced_pod("calico-system", label_selector="k8s-app=calico-node").items


def is_ready(pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])


def rolled(cluster: TestCluster, host: str | None) -> bool:
    """Whether every calico-node is ready and has this host for the API; None: it finds it by the service."""
    pods = node_pods(cluster)
    hosts = {e.value for p in pods for e in p.spec.containers[0].env if e.name == "KUBERNETES_SERVICE_HOST"}
    return (
        len(pods) == len(cluster.nodes())
        and hosts == ({host} if host else set())
        and not any(p.metadata.deletion_timestamp for p in pods)
        and all(map(is_ready, pods))
    )


def switch(cluster: TestCluster, *, ebpf: bool) -> None:
    """The article's switch; on a 1.20 cluster kube-proxy is patched away with it."""
    cluster.apply(endpoint(cluster))
    restart_operator(cluster)
    wait_for(lambda: rolled(cluster, fqdn(cluster)) and cluster.system_ready(), "calico-node has the API's name")
    if not ebpf:
        patch_felix(cluster, bpfEnabled=False)
    patch_kube_proxy(cluster, away=ebpf)
    if ebpf:
        patch_felix(cluster, bpfEnabled=True)
    wait_for(lambda: data_planes(cluster) == {PLANES[ebpf]}, "all nodes have switched")
    if ebpf:  # maps are pinned before programs are attached
        wait_for(lambda: at_connect(cluster) == set(cluster.nodes()), "all nodes choose at connect()")
    else:
        wait_for(cluster.system_ready, "kube-proxy is back")


def curl(cluster: TestCluster, namespace: str, caller: str, url: str, *, seconds: float = 5) -> str:
    """What a pod gets for an HTTP request; "" where nobody answers."""
    words = ("exec", "-n", namespace, caller, "--", "curl", "-s", "-m", str(seconds), url)
    return cluster.kubectl(*words, check=False).strip()


def curl_from(cluster: TestCluster, who: str, url: str, *, seconds: float = 5) -> str:
    """What an outside client gets."""
    return cluster.run_as(who, "curl", "-s", "-m", str(seconds), url).stdout.strip()
