"""Both surfaces of the running lab as users reach them: Azure's SDKs, the Kubernetes client, pasted commands."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from azure.core.exceptions import ResourceNotFoundError
from kubernetes import client, config, stream, watch

from labkit import plan as plans
from labkit.calico import observe, plan_disable_ebpf, plan_enable_ebpf
from labkit.kube import Kube, kubeconfig
from labkit.local.fabric import netns
from tests.e2e.support import create_cluster, delete_cluster, pod, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.kernel


# Azure


@pytest.fixture
def own(daemon, lab_paths, tmp_path):
    """A small cluster that a test may change as it likes."""
    made = create_cluster(daemon, lab_paths, tmp_path, policy="none", count=1)
    yield made
    delete_cluster(made)


def ready_nodes(cluster):
    return {
        n.metadata.name
        for n in cluster.core.list_node().items
        if any(c.type == "Ready" and c.status == "True" for c in n.status.conditions or ())
    }


def scale(cluster, pool, count):
    pools = cluster.aks.agent_pools
    profile = pools.get(cluster.group, cluster.name, pool)
    profile.count = count
    return pools.begin_create_or_update(cluster.group, cluster.name, pool, profile).result(180)


def traces(cluster, node):
    """What there is of a node on this machine: its namespace, its cgroup, its pins, its files."""
    paths = cluster.paths
    spaces = [name for name in netns.names(paths.prefix) if name.endswith(f"-{node}")]
    roots = (paths.cgroup, paths.bpffs, paths.run / "nodes")
    return spaces + [str(path) for root in roots for path in root.glob(f"*/{node}")]


def test_agent_pools_bring_nodes_and_take_them_away(own):
    (first,) = ready_nodes(own)
    managed = own.aks.managed_clusters.get(own.group, own.name)
    where = f"azure:///subscriptions/{managed.id.split('/')[2]}/resourceGroups/{managed.node_resource_group.lower()}/"
    assert own.core.read_node(first).spec.provider_id.startswith(where)
    assert scale(own, "nodepool1", 3).count == 3
    wait_for(lambda: len(ready_nodes(own)) == 3, "three nodes are ready")
    assert all(traces(own, name) for name in own.nodes())
    leaving = set(own.nodes()) - {first}
    assert scale(own, "nodepool1", 1).provisioning_state == "Succeeded"
    wait_for(lambda: own.nodes() == [first], "only the first node is left")
    wait_for(lambda: not any(traces(own, name) for name in leaving), "nothing is left of those that went")

    pools = own.aks.agent_pools
    more = {"count": 1, "vmSize": "Standard_D2s_v3", "mode": "User", "osType": "Linux"}
    pools.begin_create_or_update(own.group, own.name, "extra", more).result(180)
    wait_for(lambda: len(ready_nodes(own)) == 2, "the second pool's node is ready")
    assert sorted(p.name for p in pools.list(own.group, own.name)) == ["extra", "nodepool1"]
    assert any(n.startswith("aks-extra-") for n in own.nodes())
    own.apply(pod("there", "default", node=next(n for n in own.nodes() if "extra" in n)))
    wait_for(lambda: own.core.read_namespaced_pod("there", "default").status.phase == "Running", "the pod runs")
    pools.begin_delete(own.group, own.name, "extra").result(180)
    wait_for(lambda: own.nodes() == [first], "the pool's node is gone")
    wait_for(lambda: not own.core.list_namespaced_pod("default").items, "its pod is gone with it")


def test_tags_versions_and_lists(own):
    clusters = own.aks.managed_clusters
    tagged = clusters.begin_update_tags(own.group, own.name, {"tags": {"owner": "me"}}).result(180)
    assert tagged.tags == {"owner": "me"}
    assert clusters.get(own.group, own.name).tags == {"owner": "me"}
    assert own.name in {c.name for c in clusters.list()}
    assert [c.name for c in clusters.list_by_resource_group(own.group)] == [own.name]
    assert own.group in {g.name for g in own.groups.resource_groups.list()}
    offered = {v.version for v in clusters.list_kubernetes_versions("canadaeast").values_property}
    assert "1.20" in offered
    assert len(offered) >= 3


def test_admin_and_user_credentials_reach_the_cluster(own, tmp_path):
    clusters = own.aks.managed_clusters
    answers = {
        "admin": clusters.list_cluster_admin_credentials(own.group, own.name),
        "user": clusters.list_cluster_user_credentials(own.group, own.name),
    }
    for who, answer in answers.items():
        (entry,) = answer.kubeconfigs
        assert entry.name == f"cluster{who.capitalize()}"
        file = tmp_path / who
        file.write_bytes(bytes(entry.value))
        with config.new_client_from_config(str(file)) as api:
            assert [n.metadata.name for n in client.CoreV1Api(api).list_node().items] == own.nodes()


def test_a_deleted_cluster_leaves_nothing(daemon, lab_paths, tmp_path):
    def namespaces():
        return {n.name for n in Path("/run/netns").iterdir() if n.name.startswith(lab_paths.prefix)}

    def cgroups():
        return {c.name for c in lab_paths.cgroup.iterdir() if c.is_dir()}

    def pins():
        return {p.name for p in lab_paths.bpffs.iterdir()}

    before = namespaces(), cgroups(), pins()
    made = create_cluster(daemon, lab_paths, tmp_path, count=1)
    assert namespaces() > before[0]
    made.aks.managed_clusters.begin_delete(made.group, made.name).result(180)
    with pytest.raises(ResourceNotFoundError):
        made.aks.managed_clusters.get(made.group, made.name)
    wait_for(lambda: (namespaces(), cgroups(), pins()) == before, "what it had in the kernel is gone")
    with made:
        made.groups.resource_groups.begin_delete(made.group).result(180)
        assert made.group not in {g.name for g in made.groups.resource_groups.list()}


def test_a_shell_with_labkit_env_has_credentials_for_the_sdks(daemon, cluster):
    program = """
import os
from azure.identity import DefaultAzureCredential
from azure.mgmt.containerservice import ContainerServiceClient
url = os.environ["LABKIT_ARM_URL"]
aks = ContainerServiceClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], base_url=url,
                             credential_scopes=[url + "/.default"])
print([c.name for c in aks.managed_clusters.list()])
"""
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "LABKIT_HOME") if name in os.environ}
    done = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m labkit.cli env)" && {sys.executable} -c "$0"', program],
        text=True, capture_output=True, timeout=180, check=False, env=bare,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert cluster.name in done.stdout


# Kubernetes


def test_the_python_client_watches_patches_reads_logs_and_runs_commands(cluster, namespace):
    core = cluster.core
    seen = []

    def listen():
        watcher = watch.Watch()
        for event in watcher.stream(core.list_namespaced_pod, namespace, timeout_seconds=240):
            found = event["object"]
            seen.append((event["type"], found.status.phase, (found.metadata.labels or {}).get("colour")))
            if event["type"] == "DELETED":
                watcher.stop()

    listener = threading.Thread(target=listen)
    listener.start()
    cluster.apply(pod("hello", namespace, args=["netexec", "--http-port=8080"]))
    wait_for(lambda: core.read_namespaced_pod("hello", namespace).status.phase == "Running", "it runs")
    core.patch_namespaced_pod("hello", namespace, {"metadata": {"labels": {"colour": "blue"}}})
    session = stream.stream(
        core.connect_get_namespaced_pod_exec, "hello", namespace, command=["cat", "/etc/hostname"],
        stdin=False, stdout=True, stderr=True, tty=False, _preload_content=False,
    )  # fmt: skip
    session.run_forever(timeout=60)
    assert session.read_stdout().strip() == "hello"
    session.sock.shutdown()  # the client leaves the sockets of finished streams to the collector
    wait_for(lambda: core.read_namespaced_pod_log("hello", namespace), "it has said something")
    forward = stream.portforward(core.connect_get_namespaced_pod_portforward, "hello", namespace, ports="8080")
    with contextlib.closing(forward.socket(8080)) as connection:
        connection.setblocking(True)
        connection.sendall(b"GET /hostname HTTP/1.0\r\nHost: hello\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.endswith(b"hello")
    forward.websocket.shutdown()
    core.delete_namespaced_pod("hello", namespace)
    listener.join(300)
    assert seen[0][0] == "ADDED"
    assert ("MODIFIED", "Running", "blue") in seen
    assert seen[-1][0] == "DELETED"


def test_kubectl_tops_what_nodes_and_pods_use(cluster):
    here = ["top", "pods", "-n", "kube-system", "-l", "k8s-app=metrics-server", "--containers", "--no-headers"]
    (pod, container, *_), = (line.split() for line in wait_for(
        lambda: cluster.kubectl(*here), "metrics-server has run for a while", interval=1).splitlines())
    assert (pod[:15], container) == ("metrics-server-", "metrics-server")
    nodes = cluster.custom.list_cluster_custom_object("metrics.k8s.io", "v1beta1", "nodes")["items"]
    assert sorted(node["metadata"]["name"] for node in nodes) == cluster.nodes()
    assert all(re.fullmatch(r"\d+[num]?", node["usage"]["cpu"]) and node["usage"]["memory"] != "0" for node in nodes)


def test_kubectl_forwards_a_port(cluster, namespace):
    cluster.apply(pod("hello", namespace, args=["netexec", "--http-port=8080"], ready_port=8080))
    cluster.kubectl("wait", "-n", namespace, "pod/hello", "--for=condition=Ready", "--timeout=120s")
    port = free_port()
    forward = subprocess.Popen(
        ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "-n", namespace, "port-forward", "pod/hello",
         f"{port}:8080"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "Forwarding from" in forward.stdout.readline()
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=60) as answer:
                assert answer.read() == b"hello"
    finally:
        forward.terminate()
        forward.communicate(timeout=60)


# The command-line twins of a plan's steps


def paste(command, cluster):
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", command], text=True, capture_output=True, timeout=300, check=False,
        env=os.environ | {"KUBECONFIG": str(cluster.kubeconfig)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def holds(step):
    return wait_for(lambda: plans.check_step(step), f"{step.id}: {plans.check_step(step).text}", step.timeout, 0.3)


def test_the_twins_of_enabling_and_disabling_ebpf_work_when_pasted(cluster):
    kube = Kube(kubeconfig.load(cluster.kubeconfig))
    plans.run(plan_disable_ebpf(observe(kube), kube)).raise_for_failure()  # whatever another test left
    facts = observe(kube)
    assert facts.dataplane == "iptables"
    enable = plan_enable_ebpf(facts, kube)
    assert [s.id for s in enable.steps] == ["node-address", "endpoint", "operator", "kube-proxy", "bpf"]
    for step in enable.steps:
        assert not plans.check_step(step), f"{step.id} holds before anything was done"
        paste(step.command, cluster)
        holds(step)
    assert observe(kube).dataplane == "ebpf"
    result = plans.run(enable)
    assert result.ok
    assert {r.state for r in result.steps} == {plans.State.ALREADY_DONE}

    disable = plan_disable_ebpf(observe(kube), kube)
    for step in disable.steps:
        paste(step.command, cluster)
    for step in disable.steps:
        holds(step)
    after = observe(kube)
    assert after.dataplane == "iptables"
    assert after.endpoint is None
    wait_for(cluster.system_ready, "all is well again")

    def first_forward_rule():
        rules = cluster.kubectl("exec", "-n", "calico-system", "ds/calico-node", "--", "iptables-save", "-t", "filter")
        return next(line for line in rules.splitlines() if line.startswith("-A FORWARD"))

    # kube-proxy came back after Felix, and must not stand before its policies
    wait_for(lambda: first_forward_rule() == "-A FORWARD -j cali-FORWARD", "Calico's chains come first")
    kube.close()
