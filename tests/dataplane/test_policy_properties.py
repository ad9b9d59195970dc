"""Random policies, labels and pods: the verdicts of the rules, and of both kernels' data planes, are the model's.

Examples are drawn from a fixed seed, so that a run says the same each time. LABKIT_POLICY_EXAMPLES=500 looks further.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.local.dataplane.policy import verdict
from tests.dataplane.policy_draws import CLUSTERS, STEPS
from tests.dataplane.policy_lab import LABELS, NAMESPACES, PLANES, PORTS, Attempt, Obj, PolicyLab, World, policy_lab
from tests.dataplane.policy_model import Connection, Model

EXAMPLES = int(os.environ.get("LABKIT_POLICY_EXAMPLES", "0"))
NODE_OF = {"a1": "node1", "a2": "node1", "b1": "node2", "b2": "node2"}
ADDRESS = {"a1": "10.224.0.5", "a2": "10.224.0.6", "b1": "10.224.0.36", "b2": "10.224.0.37"}


def fixed(examples: int) -> settings:
    """The same examples in each run, however slow the machine is."""
    return settings(max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, database=None, deadline=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def pod_object(name: str, labels: dict[str, str]) -> Obj:
    ports = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 8081},
             {"name": "dns", "protocol": "UDP", "containerPort": 8081}]
    return {"kind": "Pod", "metadata": {"namespace": NAMESPACES[name], "name": name, "labels": labels},
            "spec": {"nodeName": NODE_OF[name], "containers": [{"ports": ports}]},
            "status": {"phase": "Running", "podIP": ADDRESS[name]}}


def begin(world: World) -> None:
    """The cluster as each example finds it."""
    for obj in list(world.objects.values()):
        world.remove(obj)
    for name, team in (("shop", "a"), ("other", "b")):
        world.put({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}})
    for pod, labels in LABELS.items():
        world.put(pod_object(pod, labels))


def take(world: World, step: tuple[str, Any]) -> None:
    """One change of the cluster."""
    what, about = step
    if what == "put":
        world.put(about)
    elif what == "delete one":
        if there := world.of("NetworkPolicy", "GlobalNetworkPolicy", "NetworkSet", "GlobalNetworkSet"):
            world.remove(there[about % len(there)])
    elif what == "relabel":
        world.put(pod_object(*about))
    elif what == "relabel namespace":
        world.put({"kind": "Namespace", "metadata": {"name": about[0], "labels": about[1]}})
    else:
        for pod in world.of("Pod"):
            if pod["metadata"]["name"] == about:
                world.remove(pod)


def present(world: World) -> set[str]:
    return {pod["metadata"]["name"] for pod in world.of("Pod")}


@fixed(100)
@given(CLUSTERS)
def test_rules_say_what_the_objects_mean(cluster: tuple[list[Obj], list[Obj], dict[str, Any], dict[str, Any]]) -> None:
    policies, sets, pods, namespaces = cluster
    world = World(("node1", "node2"))
    begin(world)
    for step in [*product(["put"], sets + policies), *product(["relabel"], pods.items()),
                 *product(["relabel namespace"], namespaces.items())]:
        take(world, step)
    endpoints = {e.pod: e for table in world.tables.values() for e in table.endpoints().values()}
    assert set(endpoints) == present(world)
    model = Model(world.objects.values())
    strangers = ["203.0.113.10", "198.51.100.20", "10.224.0.4"]
    ips = strangers + [ADDRESS[pod] for pod in endpoints]
    for pod, other, port, protocol in product(endpoints, ips, PORTS, ("TCP", "UDP", "ICMP")):
        if other == ADDRESS[pod]:
            continue
        for rules, connection, direction in (
                (endpoints[pod].ingress, Connection(other, ADDRESS[pod], port, protocol), "Ingress"),
                (endpoints[pod].egress, Connection(ADDRESS[pod], other, port, protocol), "Egress")):
            wanted = "Allow" if model.end_allows(connection, direction) else "Deny"
            assert verdict(rules, protocol, other, port) == wanted, (pod, direction, connection)


# --- the kernel

@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyLab]:
    with policy_lab(tmp_path_factory.mktemp("policy") / "lab") as lab:
        assert {pod: net.ip for pod, net in lab.pods.items()} == ADDRESS
        yield lab


@pytest.fixture(scope="module", params=PLANES)
def lab(world: PolicyLab, request: pytest.FixtureRequest) -> PolicyLab:
    world.use(request.param)
    return world


def attempts(lab: PolicyLab, pods: set[str]) -> dict[Attempt, Connection]:
    """Everybody to everybody, and the connections that policy sees."""
    found = {}
    nodes = set(lab.nodes)
    for client, server, port, protocol in product(pods | nodes, pods, PORTS, ("TCP", "UDP")):
        if client != server:
            attempt = Attempt(client, server, port, protocol)
            found[attempt] = lab.connection(attempt)
    for client in pods:
        attempt = Attempt(client, "node1", 8080, "TCP")
        found[attempt] = lab.connection(attempt)
    for pod, port in (("a1", 8080), ("b1", 8081)):
        if pod in pods:
            # kube-proxy masquerades what goes on to another node; eBPF does not.
            hidden = pod == "b1" and lab.plane_now == "iptables"
            source = lab.nodes["node1"].ip if hidden else lab.alice.address
            for protocol in ("TCP", "UDP"):
                found[Attempt("alice", "lb", port, protocol)] = Connection(source, lab.pods[pod].ip, 8080, protocol)
    return found


def compare(lab: PolicyLab) -> None:
    model, tries = Model(lab.world.objects.values()), attempts(lab, present(lab.world))
    allowed = {attempt for attempt, connection in tries.items()
               if lab.on_its_node(attempt) or model.allows(connection)}
    got = lab.reached(tries, allowed)
    assert got - allowed == set(), "denied, and answered"
    assert allowed - got == set(), "allowed, and not answered"


@pytest.mark.kernel
def test_the_kernel_does_what_the_objects_mean(lab: PolicyLab) -> None:
    @fixed(5)
    @given(st.lists(STEPS, min_size=6, max_size=12))
    def run(steps: list[tuple[str, tuple[str, Any]]]) -> None:
        begin(lab.world)
        for agents, change in steps:
            take(lab.world, change)
            getattr(lab, agents)()
            compare(lab)
        lab.check_what_is_held()

    run()
