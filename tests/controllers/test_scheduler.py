from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from labkit.local.client import Obj

from .world import TEMPLATE, World


def pod(world: World, name: str, **spec: Any) -> None:
    world.api.create(
        "pods",
        {
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {**TEMPLATE["spec"], **spec},
        },
    )


def node_of(world: World, name: str) -> str | None:
    return world.api.get("pods", name, "default")["spec"].get("nodeName")


def refusal(world: World, name: str) -> str:
    conditions = world.api.get("pods", name, "default")["status"].get("conditions") or ()
    return next((c["message"] for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"), "")


def asks(**requests: str) -> list[Obj]:
    return [{"name": "c", "image": "i", "resources": {"requests": requests}}]


def test_siblings_are_spread(world: World) -> None:
    async def body(world: World) -> None:
        pod(world, "filler", nodeName="node0")
        world.workload("replicasets.apps", "ReplicaSet", replicas=6)
        await world.until(lambda: len(world.ready()) == 6)
        assert Counter(pod["spec"]["nodeName"] for pod in world.ready()) == {"node0": 3, "node1": 3}
        assert any(
            event["message"].startswith("Successfully assigned default/web-") for event in world.events("Scheduled")
        )

    world.run(body)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"nodeSelector": {"disk": "ssd"}}, "0/2 nodes are available: 2 node(s) didn't match node selector."),
        ({"containers": asks(cpu="5")}, "0/2 nodes are available: 2 Insufficient cpu."),
        ({"containers": asks(memory="1Ti")}, "0/2 nodes are available: 2 Insufficient memory."),
    ],
)
def test_why_a_pod_waits(world: World, spec: Obj, message: str) -> None:
    async def body(world: World) -> None:
        pod(world, "waits", **spec)
        await world.until(lambda: refusal(world, "waits"))
        assert refusal(world, "waits") == message
        (event,) = world.events("FailedScheduling")
        assert (event["message"], event["type"]) == (message, "Warning")

    world.run(body)


def test_each_nodes_reason_is_counted_and_a_change_of_a_node_helps(world: World) -> None:
    world.api.patch("nodes", "node0", {"spec": {"taints": [{"key": "team", "value": "red", "effect": "NoSchedule"}]}})
    world.api.patch("nodes", "node1", {"spec": {"unschedulable": True}})

    async def body(world: World) -> None:
        pod(world, "waits")
        await world.until(lambda: refusal(world, "waits"))
        assert "1 node(s) had taint {team: red}, that the pod didn't tolerate" in refusal(world, "waits")
        world.api.patch("nodes", "node1", {"spec": {"unschedulable": None}})
        await world.until(lambda: node_of(world, "waits") == "node1")
        pod(world, "red", tolerations=[{"key": "team", "operator": "Equal", "value": "red"}])
        await world.until(lambda: node_of(world, "red") == "node0")

    world.run(body)


def test_requests_fill_a_node_and_a_deleted_pod_makes_room(world: World) -> None:
    async def body(world: World) -> None:
        for name in ("one", "two"):
            pod(world, name, containers=asks(cpu="3"))
        await world.until(lambda: {node_of(world, "one"), node_of(world, "two")} == {"node0", "node1"})
        pod(world, "three", containers=asks(cpu="3"))
        await world.until(lambda: refusal(world, "three"))
        world.api.delete("pods", "one", "default")
        await world.until(lambda: node_of(world, "three"))

    world.run(body)


def test_affinity_and_host_ports(world: World) -> None:
    world.node("node2", labels={"disk": "ssd"})

    async def body(world: World) -> None:
        pod(
            world,
            "fast",
            affinity={
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
                        ]
                    }
                }
            },
        )
        await world.until(lambda: node_of(world, "fast") == "node2")
        apart = {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "labelSelector": {"matchLabels": {"app": "fast"}},
                        "topologyKey": "kubernetes.io/hostname",
                    }
                ]
            }
        }
        together = {"podAffinity": apart["podAntiAffinity"]}
        pod(world, "shy", affinity=apart, nodeSelector={"disk": "ssd"})
        await world.until(lambda: "anti-affinity" in refusal(world, "shy"))
        pod(world, "fond", affinity=together)
        await world.until(lambda: node_of(world, "fond") == "node2")
        port = [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]
        for name in ("a", "b", "c", "d"):
            pod(world, name, containers=port)
        await world.until(lambda: "free ports" in refusal(world, "d"))
        assert {node_of(world, name) for name in ("a", "b", "c")} == {"node0", "node1", "node2"}

    world.run(body)
