"""kube-proxy and Felix as processes in their nodes, against a real API, judged by packets."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import pytest

from labkit.local.fabric import netns
from labkit.local.programs.kube_proxy import SYSCTLS

from .agents_lab import API, FRONTEND, SERVER, Cluster

pytestmark = pytest.mark.kernel
SERVICE = "10.0.1.1"
ENOUGH = 40             # connections to two back ends miss one of them once in 2^39 runs
DENY_ALICE = {"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy",
              "metadata": {"name": "no-alice"},
              "spec": {"selector": "app == 'web'", "types": ["Ingress"], "ingress": [
                  {"action": "Deny", "source": {"nets": ["203.0.113.10/32"]}}, {"action": "Allow"}]}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("agents") / "home")
    yield cluster
    cluster.close()


@pytest.fixture
def kube_proxy(cluster):
    cluster.start_agent("kube_proxy")
    assert cluster.until(lambda: all(SERVICE in cluster.rules(i, "nat") for i in (0, 1))), (
        cluster.log("kube_proxy"))
    yield cluster
    cluster.stop_agent("kube_proxy")


def pods_and_sources(answers):
    return {tuple(answer.split()) for answer in answers}


def test_kube_proxy_carries_every_kind_of_flow(kube_proxy):
    lab = kube_proxy
    cli = lab.pods["cli"][0].ip
    for kind, port in (("tcp", 80), ("udp", 53)):
        assert pods_and_sources(lab.ask("cli", kind, SERVICE, port, ENOUGH)) == {("web1", cli), ("web2", cli)}
    # From outside a pod sees the node that the connection came in by: that is what Cluster costs.
    nodes = {node.ip for node in lab.nodes}
    # A node port is reached from within the VNet: as on Azure nodes have no public address.
    for who, host, port in (("alice", FRONTEND, 80), ("router", lab.nodes[0].ip, 30080)):
        seen = pods_and_sources(lab.ask(who, "tcp", host, port, ENOUGH))
        assert {pod for pod, _ in seen} == {"web1", "web2"}
        assert {source for _, source in seen} <= nodes
    assert pods_and_sources(lab.ask("alice", "udp", FRONTEND, 53, 8)) <= {
        (pod, ip) for pod in ("web1", "web2") for ip in nodes}
    for node in lab.nodes:
        held = netns.run_inside(node.netns, lambda: [int(Path("/proc/sys", name).read_text()) for name, _ in SYSCTLS])
        assert held == [value for _, value in SYSCTLS]


def test_with_the_policy_local_a_pod_sees_the_client(kube_proxy):
    lab = kube_proxy
    lab.external_policy("Local")
    try:
        assert lab.until(lambda: all("KUBE-XLB-" in lab.rules(i, "nat") for i in (0, 1)))
        seen = pods_and_sources(lab.ask("alice", "tcp", FRONTEND, 80, 8))
        assert {source for _, source in seen} == {lab.alice.address}
    finally:
        lab.external_policy("Cluster")
    assert lab.until(lambda: "KUBE-XLB-" not in lab.rules(0, "nat") + lab.rules(1, "nat"))


def test_rules_outlive_kube_proxy_and_nobody_follows_changes_without_it(cluster):
    cluster.start_agent("kube_proxy")
    assert cluster.until(lambda: SERVICE in cluster.rules(0, "nat"))
    cluster.stop_agent("kube_proxy")
    assert cluster.ask("cli", "tcp", SERVICE, 80)[0].startswith("web")
    cluster.call("create", "services", {"metadata": {"name": "late", "namespace": "default"},
                                        "spec": {"clusterIP": "10.0.1.9", "ports": [{"port": 80}]}})
    assert not cluster.until(lambda: "10.0.1.9" in cluster.rules(0, "filter"), 1.5)
    cluster.start_agent("kube_proxy")
    assert cluster.until(lambda: "10.0.1.9" in cluster.rules(0, "filter"))
    assert cluster.ask("cli", "tcp", "10.0.1.9", 80) == ["error ConnectionRefusedError"]
    cluster.call("delete", "services", "late", "default")
    assert cluster.until(lambda: "10.0.1.9" not in cluster.rules(0, "filter"))
    cluster.stop_agent("kube_proxy")


def http(lab, path):
    """Ask Felix's health port on the first node."""
    answer = subprocess.run(
        ["nsenter", f"--net=/run/netns/{lab.nodes[0].netns}", "curl", "-s", "-m", "20", "-w", " %{http_code}",
         f"http://127.0.0.1:9099{path}"], capture_output=True, text=True, check=False)
    body, _, code = answer.stdout.rpartition(" ")
    return int(code), body.strip()


@pytest.mark.slow
def test_felix_says_when_it_has_lost_the_api(cluster):
    lab = cluster
    lab.start_agent("calico_node")
    route = ["ip", "-n", lab.nodes[0].netns, "route"]
    try:
        assert lab.until(lambda: http(lab, "/readiness") == (200, "felix is ready"))
        subprocess.run([*route, "add", "unreachable", f"{API}/32"], check=True)
        assert lab.until(lambda: http(lab, "/readiness")[0] == 503)
        assert "failed to connect to API server" in http(lab, "/readiness")[1]
        assert "Failed to connect to API server http://192.0.2.1" in lab.log("calico_node")
        assert http(lab, "/liveness")[0] == 200
        subprocess.run([*route, "del", "unreachable", f"{API}/32"], check=True)
        assert lab.until(lambda: http(lab, "/readiness")[0] == 200)
    finally:
        subprocess.run([*route, "del", "unreachable", f"{API}/32"], check=False, capture_output=True)
        lab.stop_agent("calico_node")


def test_felix_enforces_policy_and_switches_to_ebpf_and_back(kube_proxy):
    lab = kube_proxy
    lab.start_agent("calico_node")
    assert lab.until(lambda: all("cali-tw-azv" in lab.rules(i, "filter") for i in (0, 1))), (
        lab.log("calico_node"))
    web1 = lab.pods["web1"][0].ip
    cli = lab.pods["cli"][0].ip
    assert lab.ask("cli", "tcp", web1, 8080) == [f"web1 {cli}"]
    held = lab.talk("cli", SERVICE, 80)
    held_outside = lab.talk("alice", FRONTEND, 80)
    assert held.hello.startswith("web")
    assert held_outside.hello.startswith("web")

    # kube-proxy goes, then eBPF comes: the article's order.
    lab.stop_agent("kube_proxy")
    lab.bpf(True)
    assert lab.until(lambda: "KUBE-SERVICES" not in lab.rules(0, "nat") + lab.rules(1, "nat")), (
        lab.log("calico_node"))
    assert "BPF enabled, starting BPF endpoint manager and map manager." in lab.log("calico_node")
    assert (held.again(), held_outside.again()) == ("again", "again")
    for kind, port in (("tcp", 80), ("udp", 53)):
        assert pods_and_sources(lab.ask("cli", kind, SERVICE, port, ENOUGH)) == {("web1", cli), ("web2", cli)}
        seen = pods_and_sources(lab.ask("alice", kind, FRONTEND, port, ENOUGH))
        assert seen == {("web1", lab.alice.address), ("web2", lab.alice.address)}

    made_by_ebpf = lab.talk("cli", SERVICE, 80)
    made_outside = lab.talk("alice", FRONTEND, 80)

    # The same policy in both data planes; what it denies is the client outside, by its address.
    lab.call("create", "globalnetworkpolicies.crd.projectcalico.org", DENY_ALICE)
    assert lab.until(lambda: lab.denied("alice", FRONTEND, 80))
    assert lab.ask("cli", "tcp", SERVICE, 80)[0].startswith("web")

    # And back: kube-proxy programs services again before the programs go.
    lab.start_agent("kube_proxy")
    assert lab.until(lambda: SERVICE in lab.rules(0, "nat"))
    lab.bpf(False)
    assert lab.until(lambda: all("cali-tw-azv" in lab.rules(i, "filter") for i in (0, 1)))
    assert lab.until(lambda: SERVICE in lab.rules(0, "nat") and SERVICE in lab.rules(1, "nat"))
    assert (made_by_ebpf.again(), made_outside.again(), held.again()) == ("again", "again", "again")
    # Straight to the pod of its own node nothing rewrites alice's address, so it is denied there too.
    lab.external_policy("Local")
    assert lab.until(lambda: lab.denied("alice", FRONTEND, 80))
    assert lab.ask("cli", "tcp", SERVICE, 80)[0].startswith("web")
    lab.call("delete", "globalnetworkpolicies.crd.projectcalico.org", "no-alice")
    assert lab.until(lambda: lab.ask("alice", "tcp", FRONTEND, 80, patience=1)[0].endswith(lab.alice.address))
    lab.external_policy("Cluster")
    lab.stop_agent("calico_node")


def test_who_gets_an_address_gets_none_of_its_connections(cluster):
    """Policy is asked when a connection begins, so one that is known to the kernel would go on to the new pod."""
    lab, node = cluster, cluster.nodes[0]

    def pod(name, app):
        lab.pods[name] = lab.vnet.add_pod(node, f"{name}xxxxxxxx", "default", name, node.pod_ips[9]), node
        (lab.paths.cgroup / "c1" / node.name / name).mkdir(parents=True, exist_ok=True)
        assert lab.popen(name, SERVER, name).stdout.readline() == b"ready\n"
        lab.call("create", "pods", {"metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
                                    "spec": {"nodeName": node.name, "containers": [{"name": "c", "image": "x"}]}})
        lab.call("patch", "pods", name, {"status": {"podIP": node.pod_ips[9], "phase": "Running"}}, "default",
                 subresource="status")
        interface = lab.pods[name][0].host_interface
        assert lab.until(lambda: f"-A cali-tw-{interface}" in lab.rules(0, "filter")), lab.log("calico_node")

    lab.call("create", "networkpolicies.networking.k8s.io", {
        "metadata": {"name": "closed", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "heir"}}, "policyTypes": ["Ingress"]}})
    lab.start_agent("calico_node")
    pod("old", "old")
    with netns.socket_in(lab.pods["cli"][0].netns, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((node.pod_ips[9], 8080))
        sock.settimeout(60)
        sock.send(b"hi")
        assert sock.recv(99).startswith(b"old ")
        sock.settimeout(0.5)
        lab.vnet.remove_pod("oldxxxxxxxx")
        lab.call("delete", "pods", "old", "default", grace_period=0)
        pod("heir", "heir")
        for _ in range(3):
            with contextlib.suppress(ConnectionRefusedError):      # what was said while nobody had the address
                sock.send(b"hi")
            with pytest.raises(TimeoutError):
                sock.recv(99)
    lab.stop_agent("calico_node")
    lab.vnet.remove_pod("heirxxxxxxxx")
    lab.call("delete", "pods", "heir", "default", grace_period=0)
    lab.call("delete", "networkpolicies.networking.k8s.io", "closed", "default")


def test_services_wait_in_ebpf_until_kube_proxy_is_back(cluster):
    """Switched off before kube-proxy has come back, as the steps are undone: no service may be without both."""
    lab = cluster
    lab.stop_agent("calico_node")
    lab.bpf(True)
    lab.start_agent("calico_node")
    assert lab.until(lambda: "BPF programs attached" in lab.log("calico_node")), lab.log("calico_node")
    assert lab.until(lambda: lab.ask("cli", "tcp", SERVICE, 80)[0].startswith("web"))
    said = lab.log("calico_node").count("BPF disabled")
    lab.bpf(False)
    assert lab.until(lambda: lab.log("calico_node").count("BPF disabled") > said), lab.log("calico_node")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert all(answer.startswith("web") for answer in lab.ask("cli", "tcp", SERVICE, 80, 20, patience=2)), (
            "kube-proxy is away, and services with it")
    lab.start_agent("kube_proxy")
    assert lab.until(lambda: "in sync (iptables" in lab.log("calico_node").rpartition("BPF disabled")[2]), (
        lab.log("calico_node"))
    assert lab.until(lambda: lab.ask("cli", "tcp", SERVICE, 80)[0].startswith("web"))
    for program in ("kube_proxy", "calico_node"):
        lab.stop_agent(program)
