"""Real packets: every flow of the course on each of the three data planes."""

from __future__ import annotations

import contextlib

import pytest
import yaml

from labkit import targets
from labkit.kube import Kube
from labkit.sourceip import trace
from tests.e2e import support
from tests.e2e.planes import switch
from tests.e2e.support import TestCluster, pod, service, wait_for

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def vanilla(daemon, lab_paths, tmp_path_factory):
    made = support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("vanilla"), policy="none")
    yield made
    support.delete_cluster(made)


@pytest.fixture(scope="module", params=["vanilla", "iptables", "ebpf"])
def plane(request, cluster, vanilla):
    """(name of the data plane, cluster that has it, namespace with a server on each node and a client pod)."""
    chosen = vanilla if request.param == "vanilla" else cluster
    if request.param == "ebpf":
        switch(chosen, ebpf=True)
    with contextlib.ExitStack() as stack:
        if request.param == "ebpf":
            stack.callback(switch, chosen, ebpf=False)
        namespace = stack.enter_context(chosen.namespace())
        first, second = chosen.nodes()
        netexec = ["netexec", "--http-port=8080", "--udp-port=8081"]
        both = (("TCP", 80, 8080), ("UDP", 81, 8081))
        chosen.apply(
            pod("server-1", namespace, node=first, args=netexec, ready_port=8080),
            pod("server-2", namespace, node=second, args=netexec, ready_port=8080),
            pod("caller", namespace, node=first, args=["pause"]),
            service("near", namespace, app="server-1", ports=both),
            service("far", namespace, app="server-2", ports=both),
            service("front", namespace, app="server-2", kind="LoadBalancer", ports=both),
            service(
                "front-local", namespace, app="server-2", kind="LoadBalancer", policy="Local", ports=both
            ),
        )
        wait_for(lambda: ready(chosen, namespace), "the workload is ready")
        yield request.param, chosen, namespace


def ready(cluster: TestCluster, namespace: str) -> bool:
    pods = cluster.core.list_namespaced_pod(namespace).items
    services = cluster.core.list_namespaced_service(namespace).items
    return all(
        any(c.type == "Ready" and c.status == "True" for c in p.status.conditions or []) for p in pods
    ) and all(s.status.load_balancer.ingress for s in services if s.spec.type == "LoadBalancer")


def ask(cluster: TestCluster, namespace: str, address: str, path: str = "clientip") -> str:
    """An HTTP request from the calling pod."""
    return cluster.kubectl(
        "exec", "-n", namespace, "caller", "--", "curl", "-s", "-m", "5", f"http://{address}/{path}"
    )


def ask_udp(cluster: TestCluster, namespace: str, host: str, port: int) -> str:
    script = (
        f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); "
        f"s.sendto(b'hostname', ('{host}', {port})); print(s.recv(200).decode())"
    )
    return cluster.kubectl("exec", "-n", namespace, "caller", "--", "python3", "-c", script)


def test_pod_to_pod(plane):
    _, cluster, namespace = plane
    caller = cluster.core.read_namespaced_pod("caller", namespace).status.pod_ip
    for server in ("server-1", "server-2"):
        address = cluster.core.read_namespaced_pod(server, namespace).status.pod_ip
        assert ask(cluster, namespace, f"{address}:8080").startswith(caller + ":")


@pytest.mark.parametrize(("name", "server"), [("near", "server-1"), ("far", "server-2")])
def test_pod_to_service(plane, name, server):
    _, cluster, namespace = plane
    address = cluster.core.read_namespaced_service(name, namespace).spec.cluster_ip
    wait_for(lambda: ask(cluster, namespace, address, "hostname").strip() == server, "TCP to the service")
    wait_for(lambda: ask_udp(cluster, namespace, address, 81).strip() == server, "UDP to the service")


@pytest.mark.parametrize("label", ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"])
def test_a_service_that_somebody_else_serves_is_left_alone(plane, label):
    """Kubernetes' own network tests ask for it: kube-proxy does not see what carries one of these labels."""
    _, cluster, namespace = plane
    cluster.apply(service("elsewhere", namespace, app="server-1", ports=(("TCP", 80, 8080),)))
    address = cluster.core.read_namespaced_service("elsewhere", namespace).spec.cluster_ip

    def served() -> bool:
        script = f"curl -s -m 1 http://{address}/hostname || true"
        return "server-1" in cluster.kubectl("exec", "-n", namespace, "caller", "--", "sh", "-c", script)

    try:
        wait_for(served, "it is served")
        cluster.kubectl("label", "service", "-n", namespace, "elsewhere", f"{label}=another")
        wait_for(lambda: not served(), "it is served no more")
        cluster.kubectl("label", "service", "-n", namespace, "elsewhere", f"{label}-")
        wait_for(served, "it is served again")
    finally:
        cluster.kubectl("delete", "service", "-n", namespace, "elsewhere", "--wait=false")


def test_names_resolve(plane):
    _, cluster, namespace = plane
    wait_for(
        lambda: (
            ask(cluster, namespace, f"far.{namespace}.svc.cluster.local", "hostname").strip() == "server-2"
        ),
        "the name resolves",
    )


def test_node_to_service(plane):
    _, cluster, namespace = plane
    address = cluster.core.read_namespaced_service("far", namespace).spec.cluster_ip
    node_pod = pod("on-node", namespace, node=cluster.nodes()[0], args=["pause"])
    node_pod["spec"]["hostNetwork"] = True
    cluster.apply(node_pod)
    wait_for(lambda: ready(cluster, namespace), "the host-network pod runs")
    said = cluster.kubectl(
        "exec", "-n", namespace, "on-node", "--", "curl", "-s", "-m", "5", f"http://{address}/hostname"
    )
    cluster.kubectl("delete", "pod", "-n", namespace, "on-node", "--wait=false")
    assert said.strip() == "server-2"


CLIENTS = {"alice": "203.0.113.10", "bob": "198.51.100.20"}


def seen_from_outside(cluster: TestCluster, who: str, address: str) -> str:
    done = cluster.run_as(who, "curl", "-s", "-m", "5", f"http://{address}/clientip")
    return done.stdout.rpartition(":")[0]


@pytest.mark.parametrize("who", sorted(CLIENTS))
def test_load_balancer_and_who_the_pod_sees(plane, who):
    name, cluster, namespace = plane
    address = cluster.core.read_namespaced_service("front", namespace).status.load_balancer.ingress[0].ip
    seen = {wait_for(lambda: seen_from_outside(cluster, who, address), "an answer") for _ in range(8)}
    if name == "ebpf":
        assert seen == {CLIENTS[who]}
    else:  # kube-proxy masquerades: a node's address stands in for the client's
        assert CLIENTS[who] not in seen
        assert all(s.startswith("10.224.") for s in seen)


def test_local_policy_keeps_the_address_everywhere(plane):
    _, cluster, namespace = plane
    address = (
        cluster.core.read_namespaced_service("front-local", namespace).status.load_balancer.ingress[0].ip
    )
    wait_for(lambda: seen_from_outside(cluster, "alice", address) == CLIENTS["alice"], "alice's address")
    assert {seen_from_outside(cluster, "alice", address) for _ in range(5)} == {CLIENTS["alice"]}


def test_node_port_on_either_node(plane):
    name, cluster, namespace = plane
    port = cluster.core.read_namespaced_service("front", namespace).spec.ports[0].node_port
    for node in cluster.core.list_node().items:
        address = next(a.address for a in node.status.addresses if a.type == "ExternalIP")
        seen = wait_for(
            lambda address=address: seen_from_outside(cluster, "bob", f"{address}:{port}"), "an answer"
        )
        assert (seen == CLIENTS["bob"]) is (name == "ebpf")


@pytest.mark.parametrize("plane", ["vanilla"], indirect=True)
def test_a_trace_shows_kube_proxys_rewrites_where_there_is_no_calico(plane):
    _, cluster, namespace = plane
    address = cluster.core.read_namespaced_service("front", namespace).status.load_balancer.ingress[0].ip
    wait_for(lambda: seen_from_outside(cluster, "alice", address), "the load balancer serves")
    kube = Kube(yaml.safe_load(cluster.kubeconfig.read_text()))
    found = trace("alice", f"{namespace}/front", detour=True, kube=kube, target=targets.local())
    kube.close()
    assert (found.dataplane, found.notes) == ("vanilla", ())
    rewriting = next(hop for hop in found.request if hop.rewritten)
    assert rewriting.steps == ("DNAT", "SNAT")
    assert rewriting.before.source.startswith(f"{CLIENTS['alice']}:")
    assert found.seen == rewriting.after.source != found.client_address
    assert [hop.steps for hop in found.reply if hop.rewritten] == [("SNAT undone", "DNAT undone")]


def test_large_transfers_by_the_load_balancer(plane):
    """Full-size segments, also through the detour over the other node."""
    _, cluster, namespace = plane
    address = cluster.core.read_namespaced_service("front", namespace).status.load_balancer.ingress[0].ip
    for _ in range(6):
        done = cluster.run_as(
            "alice",
            "curl",
            "-s",
            "-m",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download}",
            f"http://{address}/echo?msg={'x' * 60000}",
        )
        assert done.stdout == "60000", done.stderr


@pytest.mark.parametrize("plane", ["iptables", "ebpf"], indirect=True)
def test_endpoints_leave_a_drained_node_and_traffic_goes_on(plane):
    """The last of a plane's tests: it takes a server with it, and whatever else had a place on the node."""
    _, cluster, namespace = plane
    first, second = cluster.nodes()
    labels = {"app": "moving"}
    container = {
        "name": "main",
        "image": support.AGNHOST,
        "args": ["netexec", "--http-port=8080"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "moving", "namespace": namespace},
            "spec": {
                "replicas": 4,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
        service("moving", namespace, app="moving", ports=(("TCP", 80, 8080),)),
    )

    def places() -> list[str]:
        found = cluster.core.list_namespaced_pod(namespace, label_selector="app=moving").items
        return sorted(p.spec.node_name for p in found if any(
            c.type == "Ready" and c.status == "True" for c in p.status.conditions or ()))

    wait_for(lambda: len(places()) == 4 and set(places()) == {first, second}, "both nodes have endpoints")
    address = cluster.core.read_namespaced_service("moving", namespace).spec.cluster_ip
    try:
        said = cluster.kubectl(
            "drain", second, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--grace-period=1"
        )
        assert "drained" in said
        wait_for(lambda: places() == [first] * 4, "all endpoints are on the first node")
        here = {p.metadata.name for p in cluster.core.list_namespaced_pod(namespace).items}
        wait_for(lambda: ask(cluster, namespace, address, "hostname").strip() in here, "the service answers")
        for _ in range(5):
            assert ask(cluster, namespace, address, "hostname").strip() in here
    finally:
        cluster.kubectl("uncordon", second)
    wait_for(cluster.system_ready, "what was evicted runs again")
