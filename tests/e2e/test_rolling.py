"""Traffic goes on while what serves it is replaced, and while the node under it leaves."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import planes, support
from tests.e2e.support import TestCluster, pod, service, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CALLER = """
import json, os, socket, sys, time
host, port, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3]
answered, failed, begin = 0, [], time.time()
sys.stdin.close()
while not os.path.exists(stop) and time.time() - begin < 150:
    try:
        with socket.create_connection((host, port), 4) as caller:
            caller.settimeout(4)
            caller.sendall(b"GET /hostname HTTP/1.0\\r\\n\\r\\n")
            answer = b""
            while part := caller.recv(4096):
                answer += part
        answered += b" 200 OK" in answer
        if b" 200 OK" not in answer:
            failed.append([round(time.time() - begin, 1), "cut short"])
    except OSError as error:
        failed.append([round(time.time() - begin, 1), repr(error)])
    time.sleep(0.01)
print(json.dumps([answered, failed]))
"""


@pytest.fixture(scope="module")
def three(daemon, lab_paths, tmp_path_factory):
    made = support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("three"), count=3)
    yield made
    support.delete_cluster(made)


def deployment(namespace: str, revision: int) -> dict:
    container = {
        "name": "main",
        "image": support.AGNHOST,
        "args": ["netexec", "--http-port=8080"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        # Endpoints take a moment to leave the nodes' tables (kube-proxy writes once a second, and longer where others
        # want the processor): until then the server must serve.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 6,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"revision": str(revision)}},
                "spec": {"containers": [container]},
            },
        },
    }


def rolled(cluster: TestCluster, namespace: str, revision: int) -> set[str]:
    """The nodes of the pods, once all of them are this revision's and ready."""
    pods = cluster.core.list_namespaced_pod(namespace, label_selector="app=web").items
    there = [p for p in pods if not p.metadata.deletion_timestamp]
    done = len(there) == 6 and all(
        p.metadata.annotations["revision"] == str(revision) and planes.is_ready(p) for p in there
    )
    return {p.spec.node_name for p in there} if done else set()


def scale(cluster: TestCluster, count: int) -> None:
    pools = cluster.aks.agent_pools
    profile = pools.get(cluster.group, cluster.name, "nodepool1")
    profile.count = count
    pools.begin_create_or_update(cluster.group, cluster.name, "nodepool1", profile).result(60)


@contextlib.contextmanager
def called(cluster: TestCluster, namespace: str, node: str, tmp_path: Path) -> Iterator[None]:
    """A pod and an outside client connect anew all the while, and every connection is answered."""
    cluster.apply(
        deployment(namespace, 1),
        service("web", namespace, app="web", kind="LoadBalancer"),
        pod("caller", namespace, node=node, image="python:3-alpine", args=["sleep", "infinity"]),
    )
    wait_for(lambda: rolled(cluster, namespace, 1), "the pods are ready")
    wait_for(lambda: cluster.core.read_namespaced_service("web", namespace).status.load_balancer.ingress, "a frontend")
    found = cluster.core.read_namespaced_service("web", namespace)
    inside, outside = found.spec.cluster_ip, found.status.load_balancer.ingress[0].ip
    wait_for(lambda: planes.curl(cluster, namespace, "caller", f"http://{inside}/hostname").startswith("web-"),
             "the service answers")
    wait_for(lambda: planes.curl_from(cluster, "alice", f"http://{outside}/hostname").startswith("web-"),
             "the load balancer answers")

    def call(*words: str, address: str, stop: str) -> list:
        done = subprocess.run([*words, "-c", CALLER, address, "80", stop], text=True, capture_output=True,
                              timeout=180, check=False)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    kubectl = ("kubectl", "--kubeconfig", str(cluster.kubeconfig), "exec", "-n", namespace, "caller", "--", "python3")
    alice = ("nsenter", f"--net=/run/netns/{cluster.paths.netns('client', 'alice')}", "--", sys.executable)
    with ThreadPoolExecutor() as pool:
        calls: list[Future] = [pool.submit(call, *kubectl, address=inside, stop="/tmp/stop"),
                               pool.submit(call, *alice, address=outside, stop=str(tmp_path / "stop"))]
        try:
            yield
            assert not any(each.done() for each in calls), "they called through all of it"
        finally:
            (tmp_path / "stop").touch()
            cluster.kubectl("exec", "-n", namespace, "caller", "--", "touch", "/tmp/stop")
    for answered, failed in (each.result() for each in calls):
        assert failed == []
        assert answered > 100


@pytest.mark.parametrize("ebpf", [False, True], ids=["iptables", "ebpf"])
def test_no_connection_is_lost_while_pods_are_replaced_and_a_node_leaves(three, tmp_path, ebpf):
    cluster = three
    scale(cluster, 3)
    planes.switch(cluster, ebpf=ebpf)
    first, last = cluster.nodes()[0], cluster.nodes()[-1]
    with cluster.namespace() as namespace, called(cluster, namespace, first, tmp_path):
        assert last in rolled(cluster, namespace, 1), "pods on the node that will leave"
        cluster.apply(deployment(namespace, 2))
        wait_for(lambda: rolled(cluster, namespace, 2), "every pod is new")
        scale(cluster, 2)
        assert last not in cluster.nodes()
        assert last not in wait_for(lambda: rolled(cluster, namespace, 2), "six pods on two nodes")


def test_no_connection_is_lost_while_ebpf_is_switched_on_and_off(three, tmp_path):
    cluster = three
    planes.switch(cluster, ebpf=False)
    with cluster.namespace() as namespace, called(cluster, namespace, cluster.nodes()[0], tmp_path):
        planes.switch(cluster, ebpf=True)
        planes.patch_felix(cluster, bpfEnabled=False)
        planes.patch_kube_proxy(cluster, away=False)
        # Old connections of alice's keep the programs on the uplinks for a while; new ones go by kube-proxy then.
        wait_for(lambda: not planes.at_connect(cluster), "no node chooses at connect() any more", 60)
        wait_for(cluster.system_ready, "kube-proxy is back", 30)
        time.sleep(2)


def test_a_node_is_drained_debugged_deleted_and_comes_back(three):
    cluster = three
    planes.switch(cluster, ebpf=False)  # whatever the tests before left: it looks for kube-proxy afterwards
    scale(cluster, 3)
    node = cluster.nodes()[1]
    with cluster.namespace() as namespace:
        budget = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget",
                  "metadata": {"name": "web", "namespace": namespace},
                  "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}}}
        cluster.apply(deployment(namespace, 1), budget)
        wait_for(lambda: node in rolled(cluster, namespace, 1), "pods on the node that will be drained")
        wait_for(lambda: cluster.kubectl("get", "pdb", "-n", namespace, "web", "-o",
                                         "jsonpath={.status.expectedPods}") == "6", "the budget is counted")
        drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data")
        refused = cluster.kubectl(*drain, "--timeout=3s", check=False)
        assert "Cannot evict pod as it would violate the pod's disruption budget." in refused
        cluster.kubectl("patch", "pdb", "-n", namespace, "web", "--type=merge", "-p", '{"spec":{"maxUnavailable":2}}')
        assert f"node/{node} drained" in cluster.kubectl(*drain, "--timeout=50s")
        assert node not in wait_for(lambda: rolled(cluster, namespace, 1), "six pods elsewhere")
    cluster.kubectl("debug", f"node/{node}", "--profile=general", "--image=busybox", "--", "ip", "addr")
    words = ("get", "pods", "-o", f"jsonpath={{.items[?(@.spec.nodeName=='{node}')].metadata.name}}")
    debugger = next(name for name in cluster.kubectl(*words).split() if name.startswith("node-debugger"))
    wait_for(lambda: "10.224." in cluster.kubectl("logs", debugger), "it saw the node's own network")
    cluster.kubectl("delete", "pod", debugger, "--wait=false")

    cluster.kubectl("delete", "node", node)
    wait_for(lambda: not any(p.spec.node_name == node for p in cluster.core.list_pod_for_all_namespaces().items),
             "its pods are forgotten")
    assert node not in cluster.nodes()
    profile = cluster.aks.managed_clusters.get(cluster.group, cluster.name)
    cluster.aks.managed_clusters.begin_create_or_update(cluster.group, cluster.name, profile).result(60)
    assert node in cluster.nodes()
    wait_for(lambda: any(p.spec.node_name == node and planes.is_ready(p) for p in
                         cluster.core.list_namespaced_pod("kube-system", label_selector="component=kube-proxy").items),
             "kube-proxy runs there again", 60)
