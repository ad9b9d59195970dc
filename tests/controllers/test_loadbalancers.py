from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from labkit.local.client import Obj
from labkit.local.controllers.probes import Target, judged, targets_of, unasked

from .world import World


def service(world: World, name: str = "web", **spec: Any) -> Obj:
    spec = {
        "type": "LoadBalancer",
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        **spec,
    }
    return world.api.create("services", {"metadata": {"name": name, "namespace": "default"}, "spec": spec})


def address(world: World, name: str = "web") -> str:
    status = world.api.get("services", name, "default").get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or [{}]
    return str(ingress[0].get("ip", ""))


def test_policy_cluster_sends_to_every_ready_node(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        ip = await world.until(lambda: address(world))
        assert world.cloud.frontends == {ip: ("10.224.0.4", "10.224.0.35")}
        world.cloud.answers["10.224.0.66"] = False
        world.node("node2")
        await world.until(lambda: "10.224.0.66" in world.cloud.asked)
        await world.settle()
        assert "10.224.0.66" not in world.cloud.used, "a node that joins has no rules for the service yet"
        del world.cloud.answers["10.224.0.66"]
        await world.until(lambda: world.cloud.frontends[ip][-1] == "10.224.0.66")
        world.api.patch(
            "nodes",
            "node0",
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            subresource="status",
        )
        await world.until(lambda: world.cloud.frontends[ip] == ("10.224.0.35", "10.224.0.66"))
        assert [event["message"] for event in world.events("EnsuredLoadBalancer")] == ["Ensured load balancer"]

    world.run(body)


def test_policy_local_sends_to_nodes_whose_health_check_says_so(world: World) -> None:
    async def body(world: World) -> None:
        first, second = "10.224.0.4", "10.224.0.35"
        world.cloud.answers |= {first: False, second: False}
        port = service(world, externalTrafficPolicy="Local")["spec"]["healthCheckNodePort"]
        ip = await world.until(lambda: address(world))
        assert world.cloud.frontends == {ip: ()}
        assert world.cloud.probed == {(port, "/healthz")}
        world.cloud.answers[second] = True
        await world.until(lambda: world.cloud.frontends[ip] == (second,))
        world.cloud.answers[second] = None
        await world.until(lambda: world.cloud.frontends[ip] == ())
        world.api.patch("services", "web", {"spec": {"externalTrafficPolicy": "Cluster"}}, "default")
        await world.until(lambda: len(world.cloud.frontends[ip]) == 2)
        assert not world.events("UpdatedLoadBalancer"), "the same nodes belong to it, whatever they answer"

    world.run(body)


def test_policy_cluster_leaves_out_a_node_whose_node_port_refuses(world: World) -> None:
    async def body(world: World) -> None:
        port = service(world)["spec"]["ports"][0]["nodePort"]
        ip = await world.until(lambda: address(world))
        world.cloud.answers["10.224.0.4"] = False
        await world.until(lambda: world.cloud.frontends[ip] == ("10.224.0.35",))
        assert world.cloud.probed == {(port, None)}
        world.cloud.answers["10.224.0.4"] = True
        await world.until(lambda: len(world.cloud.frontends[ip]) == 2)
        world.cloud.answers["10.224.0.4"] = False
        world.cloud.probed.clear()
        world.api.delete("services", "web", "default")
        await world.until(lambda: not world.cloud.frontends)
        world.cloud.probed.clear()
        await world.settle()
        assert not world.cloud.probed, "nobody is asked for a service that is gone"

    world.run(body)


def test_each_tcp_port_has_nodes_of_its_own_and_silence_is_a_failure(world: World) -> None:
    async def body(world: World) -> None:
        http, https = ({"name": name, "port": port} for name, port in (("http", 80), ("https", 443)))
        dns = {"name": "dns", "port": 53, "protocol": "UDP"}
        made = service(world, ports=[http, dns, https])
        first, _, second = (port["nodePort"] for port in made["spec"]["ports"])
        ip = await world.until(lambda: address(world))
        everyone = world.cloud.frontends[ip]
        assert len(everyone) == 2
        assert world.cloud.ports[ip] == {}
        world.cloud.answers[second] = None
        await world.until(lambda: world.cloud.ports[ip] == {("TCP", 443): ()})
        assert world.cloud.frontends[ip] == everyone
        assert world.cloud.probed == {(first, None), (second, None)}
        world.cloud.answers[first] = None
        await world.until(lambda: world.cloud.ports[ip] == {("TCP", 80): (), ("TCP", 443): ()})
        assert world.cloud.frontends[ip] == everyone, "nobody asks after UDP"
        world.cloud.answers.clear()
        await world.until(lambda: world.cloud.ports[ip] == {})

    world.run(body)


def test_a_node_that_is_out_is_asked_when_endpoints_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.local.controllers.probes.HURRIED", 0)
    world.settings = replace(world.settings, probe_interval=3600)

    async def body(world: World) -> None:
        world.cloud.answers |= {"10.224.0.4": False, "10.224.0.35": False}
        service(world, externalTrafficPolicy="Local")
        ip = await world.until(lambda: address(world))
        await world.settle()
        world.cloud.answers["10.224.0.4"] = True
        await world.settle()
        assert world.cloud.frontends == {ip: ()}
        world.api.create("pods", {"metadata": {"name": "one", "namespace": "default", "labels": {"app": "web"}},
                                  "spec": {"nodeName": "node0", "containers": [{"name": "c", "image": "i"}]}})
        await world.until(lambda: world.cloud.frontends == {ip: ("10.224.0.4",)})

    world.run(body)


def test_until_nodes_have_answered_a_frontend_stays_as_it_is(world: World) -> None:
    world.settings = replace(world.settings, probe_interval=3600)
    answered, real = asyncio.Event(), world.cloud.probe

    async def slow(node_ip: str, port: int, path: str | None) -> bool | None:
        if path:
            await answered.wait()
        return await real(node_ip, port, path)

    world.cloud.probe = slow  # type: ignore[method-assign]

    async def body(world: World) -> None:
        service(world)
        ip = await world.until(lambda: address(world))
        world.api.patch("services", "web", {"spec": {"externalTrafficPolicy": "Local"}}, "default")
        await world.settle()
        assert world.cloud.frontends == {ip: ("10.224.0.4", "10.224.0.35")}
        world.cloud.answers["10.224.0.4"] = False
        answered.set()
        await world.until(lambda: world.cloud.frontends == {ip: ("10.224.0.35",)})

    world.run(body)


HTTP, TCP = Target(30001, "/healthz"), Target(30002)


@pytest.mark.parametrize(("target", "answers", "up"), [
    (HTTP, [], None), (HTTP, [True], True), (HTTP, [False], False), (HTTP, [None], False),
    (HTTP, [True, False], False), (HTTP, [True, None], True), (HTTP, [True, None, None], False),
    (HTTP, [True, None, True, None], True), (HTTP, [False, True], True),
    (TCP, [], True), (TCP, [False], True), (TCP, [False, False], False), (TCP, [False, True, False], True),
    (TCP, [None], True), (TCP, [None, False], False), (TCP, [False, False, True], True),
])
def test_a_node_is_out_after_a_no_by_http_or_two_failures(target: Target, answers: list[bool | None], up: bool) -> None:
    health = unasked(target)
    for answer in answers:
        health = judged(health, target, answer)
    assert health.up is up


@pytest.mark.parametrize(("target", "answers", "up"), [
    (TCP, [], False), (TCP, [True], True), (TCP, [False], False), (TCP, [False, True], True), (TCP, [None], False),
    (HTTP, [], False), (HTTP, [True], True),
])
def test_a_node_that_joins_is_in_once_it_has_answered(target: Target, answers: list[bool | None], up: bool) -> None:
    health = unasked(target, joining=True)
    for answer in answers:
        health = judged(health, target, answer)
    assert health.up is up


def test_what_is_asked_of_a_service() -> None:
    tcp, udp = {"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP", "nodePort": 30053}
    assert targets_of({"spec": {"ports": [udp, tcp]}}) == {("UDP", 53): None, ("TCP", 80): Target(30080)}
    assert targets_of({"spec": {"ports": [{"port": 80}]}}) == {("TCP", 80): None}
    shared = Target(30099, "/healthz")
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 30099, "ports": [udp, tcp]}
    assert targets_of({"spec": local}) == {("UDP", 53): shared, ("TCP", 80): shared}


def test_a_service_with_affinity_is_spread_by_client(world: World) -> None:
    async def body(world: World) -> None:
        service(world, sessionAffinity="ClientIP")
        ip = await world.until(lambda: address(world))
        assert world.cloud.by_client == {ip}
        world.api.patch("services", "web", {"spec": {"sessionAffinity": "None"}}, "default")
        await world.until(lambda: not world.cloud.by_client)

    world.run(body)


def test_deletion_gives_the_address_back_before_the_service_goes(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        await world.until(lambda: address(world))
        finalizers = world.api.get("services", "web", "default")["metadata"]["finalizers"]
        assert finalizers == ["service.kubernetes.io/load-balancer-cleanup"]
        world.api.delete("services", "web", "default")
        await world.until(lambda: not world.api.list("services", "default"))
        assert not world.cloud.addresses
        assert not world.cloud.frontends

    world.run(body)


def test_a_change_of_type_gives_the_address_back_and_keeps_the_service(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        await world.until(lambda: address(world))
        world.api.patch("services", "web", {"spec": {"type": "ClusterIP"}}, "default")
        await world.until(lambda: not world.cloud.frontends and not address(world))
        world.cloud.probed.clear()
        await world.settle()
        assert not world.cloud.probed
        assert "finalizers" not in world.api.get("services", "web", "default")["metadata"]

    world.run(body)


def test_a_wished_address_is_used_and_not_twice(world: World) -> None:
    async def body(world: World) -> None:
        service(world, loadBalancerIP="192.0.2.99")
        await world.until(lambda: address(world) == "192.0.2.99")
        service(world, "late", loadBalancerIP="192.0.2.99")
        await world.until(lambda: world.events("SyncLoadBalancerFailed"))
        assert "192.0.2.99" in world.events("SyncLoadBalancerFailed")[0]["message"]
        assert not address(world, "late")
        world.api.delete("services", "late", "default")
        await world.until(lambda: len(world.api.list("services", "default")) == 1)
        assert "192.0.2.99" in world.cloud.frontends

    world.run(body)


def test_a_cloud_that_fails_is_asked_again(world: World) -> None:
    async def body(world: World) -> None:
        real, failures = world.cloud.set_frontend, iter([RuntimeError("no route")])

        def flaky(ip: str, nodes: Any, **how: Any) -> None:
            for error in failures:
                raise error
            real(ip, nodes, **how)

        world.cloud.set_frontend = flaky  # type: ignore[method-assign]
        service(world)
        await world.until(lambda: world.events("SyncLoadBalancerFailed"))
        world.node("node2")
        await world.until(lambda: address(world))

    world.run(body)


def test_an_internal_load_balancer_is_refused_in_words(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create(
            "services",
            {
                "metadata": {
                    "name": "inside",
                    "namespace": "default",
                    "annotations": {"service.beta.kubernetes.io/azure-load-balancer-internal": "true"},
                },
                "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
            },
        )
        await world.until(lambda: world.events("SyncLoadBalancerFailed"))
        assert (
            "internal load balancers are not part of this lab" in (world.events("SyncLoadBalancerFailed")[0]["message"])
        )
        assert not world.cloud.frontends

    world.run(body)
