"""The lab's life: kill -9 and back, two clusters side by side, down without a trace."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from labkit import machine
from labkit.local.paths import LabPaths
from labkit.local.server import errors, lifecycle
from tests.conftest import leftovers
from tests.e2e.support import create_cluster, delete_cluster, pod, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.kernel


@pytest.fixture
def paths(tmp_path):
    made = LabPaths(tmp_path / "home")
    yield made
    lifecycle.down(made)
    assert leftovers(made) == []


def labkit(paths: LabPaths, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labkit.cli", *words],
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
        env=os.environ | {"LABKIT_HOME": str(paths.home)} | environment,
    )


def ended(info: lifecycle.DaemonInfo) -> bool:
    """Whether a killed daemon is gone: its last thread keeps the port a moment longer than its first one lives."""
    try:
        lifecycle._check_port(info.port)
    except errors.PortInUseError:
        return False
    return True


def test_pods_and_objects_survive_a_killed_daemon(paths, tmp_path):
    info = lifecycle.up(paths, port=free_port())
    with create_cluster(info, paths, tmp_path) as cluster:
        cluster.apply(pod("steady", "default", args=["netexec", "--http-port=8080"]))
        wait_for(
            lambda: cluster.core.read_namespaced_pod("steady", "default").status.phase == "Running",
            "the pod runs",
        )
        before = cluster.core.read_namespaced_pod("steady", "default")
        version = int(before.metadata.resource_version)

        os.kill(info.pid, signal.SIGKILL)
        wait_for(lambda: ended(info), "it has ended", interval=0.02)
        assert lifecycle.running(paths) is None
        again = lifecycle.up(paths, port=info.port)
        assert again.pid != info.pid

        after = wait_for(lambda: cluster.core.read_namespaced_pod("steady", "default"), "the API answers")
        assert after.metadata.uid == before.metadata.uid
        assert after.status.container_statuses[0].container_id == before.status.container_statuses[0].container_id
        assert after.status.container_statuses[0].restart_count == 0
        cluster.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later", "namespace": "default"}}
        )
        assert (
            int(cluster.core.read_namespaced_config_map("later", "default").metadata.resource_version) > version
        )
        said = cluster.kubectl("exec", "steady", "--", "curl", "-s", "-m", "5", "http://127.0.0.1:8080/hostname")
        assert said.strip() == "steady"
        wait_for(cluster.system_ready, "the system is well")


def test_two_clusters_side_by_side_and_down_twice(paths, tmp_path):
    info = lifecycle.up(paths, port=0)
    with (
        create_cluster(info, paths, tmp_path, policy="none", count=1) as one,
        create_cluster(info, paths, tmp_path, policy="none", count=1) as other,
    ):
        for cluster in (one, other):
            cluster.apply(pod("hello", "default", args=["netexec", "--http-port=8080"]))
        addresses = [
            wait_for(lambda c=c: c.core.read_namespaced_pod("hello", "default").status.pod_ip, "an address")
            for c in (one, other)
        ]
    assert addresses[0] == addresses[1], "each VNet has the same address space, apart from the other"
    assert lifecycle.down(paths)
    assert lifecycle.down(paths) == []
    assert leftovers(paths) == []


def test_up_twice_finds_the_running_lab(paths):
    first = lifecycle.up(paths, port=0)
    assert lifecycle.up(paths, port=0) == first


def test_up_without_root_names_the_cure(paths, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.NotRootError, match="sudo"):
        lifecycle.up(paths)
    monkeypatch.undo()


def test_a_port_in_use_is_named(paths):
    other = LabPaths(paths.home.with_name("other"))
    try:
        info = lifecycle.up(other, port=0)
        done = labkit(paths, "up", "--port", str(info.port))
    finally:
        lifecycle.down(other)
    assert done.returncode == 1
    assert f"Port {info.port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_tool_is_named_with_its_package(paths, monkeypatch):
    monkeypatch.setattr(machine.Need, "here", property(lambda need: need.name != "conntrack"))
    with pytest.raises(errors.MissingToolError, match="are missing: conntrack") as caught:
        lifecycle.up(paths)
    assert "apt-get install --no-install-recommends conntrack" in caught.value.fix
    assert "dnf install conntrack-tools" in caught.value.fix


@pytest.mark.parametrize("words", [["status"], ["env"], ["client", "alice", "true"]])
def test_commands_say_that_the_lab_is_not_running(paths, words):
    done = labkit(paths, *words)
    assert done.returncode == 1
    assert "not running" in done.stderr
    assert "labkit up" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_env_and_client(paths):
    info = lifecycle.up(paths, port=0)
    assert "alice 203.0.113.10" in labkit(paths, "status").stdout
    assert f"IDENTITY_ENDPOINT={info.url}" in labkit(paths, "env").stdout
    assert "203.0.113.10" in labkit(paths, "client", "alice", "ip", "-4", "addr").stdout
    assert "cannot be a client's name" in labkit(paths, "client", "a/b", "true").stderr


def test_a_new_cluster_takes_over_the_addresses_of_deleted_ones(paths, tmp_path):
    """The API of a deleted cluster leaves nothing on its address, which the next cluster's node may get."""
    info = lifecycle.up(paths, port=0)
    for gone in [create_cluster(info, paths, tmp_path, policy="none", count=1) for _ in range(2)]:
        delete_cluster(gone)
    with create_cluster(info, paths, tmp_path, policy="none", count=2) as made:
        assert len(made.nodes()) == 2
    internet = ["ip", "-n", paths.netns("internet"), "-o", "-4", "addr", "show", "dev", "lo"]
    listed = subprocess.run(internet, text=True, capture_output=True, check=True).stdout
    assert listed.count("192.0.2.") == 1, "only the living cluster's API"
    rows = sqlite3.connect(f"file:{paths.database}?mode=ro", uri=True)
    clusters = {key for (key,) in rows.execute("SELECT DISTINCT cluster FROM kube_objects")}
    rows.close()
    assert len(clusters) == 1, "the objects of deleted clusters are gone"


def test_a_daemon_killed_while_a_node_leaves_takes_it_away_when_it_is_back(paths, tmp_path):
    info = lifecycle.up(paths, port=free_port())
    with create_cluster(info, paths, tmp_path, policy="none", count=2) as cluster:
        first, second = cluster.nodes()
        slow = pod("slow", "default", node=second, image="busybox", args=["sleep", "1000"])
        slow["spec"]["terminationGracePeriodSeconds"] = 30
        cluster.apply(slow)
        wait_for(lambda: cluster.core.read_namespaced_pod("slow", "default").status.phase == "Running", "it runs")
        pools = cluster.aks.agent_pools
        profile = pools.get(cluster.group, cluster.name, "nodepool1")
        profile.count = 1
        pools.begin_create_or_update(cluster.group, cluster.name, "nodepool1", profile, polling=False)
        wait_for(lambda: cluster.core.read_node(second).spec.unschedulable, "the node is being emptied")

        os.kill(info.pid, signal.SIGKILL)
        wait_for(lambda: ended(info), "it has ended", interval=0.02)
        lifecycle.up(paths, port=info.port)
        force = ("delete", "pod", "slow", "--grace-period=0", "--force", "--ignore-not-found", "--wait=false")
        wait_for(lambda: cluster.kubectl(*force) is not None, "the pod is told to go at once")
        wait_for(lambda: cluster.nodes() == [first], "the node has left")
        wait_for(
            lambda: not [n for n in os.listdir("/run/netns") if n.startswith(paths.prefix) and n.endswith(second)],
            "its network has gone with it",
        )
