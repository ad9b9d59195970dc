"""One connection, traced with real captures, on both of Calico's data planes; nothing of it stays."""

from __future__ import annotations

import pytest
import yaml

from labkit import targets
from labkit.errors import LabError, TargetError
from labkit.kube import Kube
from labkit.sourceip import Trace, outside, trace
from tests.e2e.planes import switch
from tests.e2e.support import TestCluster, pod, service, wait_for

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def traced(cluster):
    """(the cluster's API, the target, a namespace with a server behind a load balancer, and a few odd services)."""
    kube = Kube(yaml.safe_load(cluster.kubeconfig.read_text()))
    with cluster.namespace() as namespace:
        first, second = cluster.nodes()
        headless = service("headless", namespace, app="server")
        headless["spec"]["clusterIP"] = "None"
        elsewhere = service("elsewhere", namespace, app="server", kind="ExternalName")
        elsewhere["spec"]["externalName"] = "example.com"
        cluster.apply(
            pod("server", namespace, node=second, args=["netexec", "--http-port=8080"], ready_port=8080),
            pod("caller", namespace, node=first, args=["pause"]),
            service("front", namespace, app="server", kind="LoadBalancer"),
            service("inner", namespace, app="server"),
            service("nobody", namespace, app="nobody"),
            service("udp", namespace, app="server", ports=(("UDP", 53, 53),)),
            headless, elsewhere,
        )
        target = targets.local()
        wait_for(lambda: answers(kube, target, namespace), "the load balancer serves")
        yield kube, target, namespace
    kube.close()


def answers(kube: Kube, target: targets.Target, namespace: str) -> str:
    """Whom the server says it sees when bob asks; alice's connections are left to the traces."""
    ingress = kube.get("services", "front", namespace)["status"]["loadBalancer"].get("ingress") or []
    if not ingress:
        return ""
    reply = outside.get(target.client("bob"), ingress[0]["ip"], 80, "/clientip", timeout=2)
    return reply.texts[0] if reply.ok else ""


def sent(traced, client: str, name: str, *, detour: bool = False, timeout: float = 20) -> Trace:
    kube, target, namespace = traced
    return trace(client, f"{namespace}/{name}", detour=detour, timeout=timeout, kube=kube, target=target)


def told(traced) -> str:
    """The trace of alice's connection, or why there is none, in words."""
    try:
        return str(sent(traced, "alice", "front", timeout=0.5))
    except LabError as error:
        return str(error)


def steps(hops) -> list[str]:
    return [", ".join(hop.steps) for hop in hops]


def nothing_stays(traced) -> None:
    """No namespace of a trace, and no tcpdump in the pod that stays."""
    kube, _, namespace = traced
    wait_for(
        lambda: not [n for n in kube.list("namespaces") if n["metadata"]["name"].startswith("labkit-trace-")],
        "the traces' namespaces are gone")
    left = kube.exec("server", namespace, ["sh", "-c", "ps -e -o args; ls /tmp"], timeout=60).stdout
    assert "tcpdump" not in left
    assert "labkit-trace" not in left


def test_kube_proxy_hides_an_outside_client_and_tables_and_captures_agree(traced) -> None:
    found = sent(traced, "alice", "front", detour=True)
    assert found.dataplane == "iptables"
    assert steps(found.request) == ["sent", "delivered", "DNAT, SNAT", "crossed", "forwarded", "entered the pod"]
    assert steps(found.reply) == [
        "answered", "left the pod", "forwarded", "crossed", "SNAT undone, DNAT undone", "received"]
    rewriting = found.request[2]
    assert found.seen_is == rewriting.place.name != found.pod_node
    entry = next(r.text.split() for r in rewriting.evidence if r.source.startswith("conntrack -L"))
    source, _, port = found.seen.rpartition(":")
    assert {f"src={found.client_address}", f"dst={source}", f"dport={port}"} <= set(entry)
    assert (found.notes, found.later_same) == ((), True)
    nothing_stays(traced)


def test_a_pod_asks_its_own_way(traced) -> None:
    namespace = traced[2]
    found = sent(traced, f"{namespace}/caller", "inner")
    assert found.seen_is == "client"
    assert found.peer == found.asked == found.request[0].after.destination
    assert [hop.steps for hop in found.hops if hop.rewritten] == [("DNAT",), ("DNAT undone",)]
    nothing_stays(traced)


@pytest.mark.parametrize(
    ("client", "name", "words"),
    [
        ("carol", "front", "no outside client 'carol'"),
        ("alice", "none", "There is no service .*/none"),
        ("a node", "inner", "is a node"),
        ("alice", "inner", "no address for clients outside"),
        ("alice", "nobody", "has no ready pod"),
        ("alice", "udp", "has no TCP port"),
        ("pod", "headless", "has no cluster IP"),
        ("pod", "elsewhere", "stands for example.com"),
        ("", "front", "no outside client ''"),
        ("kube-system/none", "inner", "There is no pod kube-system/none"),
    ],
)
def test_what_cannot_be_traced_is_said_before_anything_is_made(traced, client, name, words) -> None:
    if client == "a node":
        client = traced[0].list("nodes")[0]["metadata"]["name"]
    with pytest.raises((LabError, TargetError), match=words) as caught:
        sent(traced, client, name)
    assert caught.value.fix
    assert not [n for n in traced[0].list("namespaces") if n["metadata"]["name"].startswith("labkit-trace-")]


def test_a_connection_that_a_policy_stops_leaves_nothing_either(traced) -> None:
    kube, _, namespace = traced
    kube.apply({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "shut", "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"ipBlock": {"cidr": "168.63.129.16/32"}}]}]}})     # or the load balancer leaves all nodes out
    try:
        wait_for(lambda: not answers(kube, traced[1], namespace), "the policy holds")
        said = told(traced)
        assert "no answer within" in said
        # By the pod's own node it was stopped before it went anywhere; by the other one its way is shown that far.
        assert ("reached no pod" in said) != ("no packet of the connection was seen in it" in said)
    finally:
        kube.delete("networkpolicies.networking.k8s.io", "shut", namespace)
    nothing_stays(traced)


@pytest.fixture(scope="module")
def ebpf(cluster: TestCluster, traced):
    switch(cluster, ebpf=True)
    kube, target, namespace = traced
    bob = target.client("bob").address

    def follows() -> bool:
        """The nodes serve by the maps a moment after their programs are there; each connection may meet another."""
        return all(answers(kube, target, namespace).startswith(bob) for _ in range(6))

    wait_for(follows, "the service is served by the maps")
    yield traced
    switch(cluster, ebpf=False)


def test_ebpf_keeps_the_client_and_goes_past_the_nodes_stack(ebpf) -> None:
    found = sent(ebpf, "alice", "front", detour=True)
    assert found.dataplane == "ebpf"
    assert steps(found.request) == [
        "sent", "delivered", "into the tunnel", "wrapped", "crossed", "unwrapped", "DNAT, redirected"]
    assert found.preserved
    last = found.request[-1]
    assert any(r.absent and r.text.startswith("0 packets of the connection went Out") for r in last.evidence)
    assert any("-bpf conntrack dump" in r.source for r in last.evidence)

    inside = sent(ebpf, "pod", "front")
    assert inside.request[0].steps == ("chosen at connect",)
    assert inside.peer == inside.asked
    assert not any(hop.rewritten for hop in inside.hops[1:])
    assert [r.text.split()[0] for r in inside.request[0].evidence if r.absent] == ["none"]
    nothing_stays(ebpf)
