from __future__ import annotations

import asyncio
from dataclasses import replace

from labkit.local.client import Obj
from labkit.local.controllers.nodes import stays, taints_for

from .world import World


def ready(world: World, name: str) -> str:
    conditions = world.api.get("nodes", name)["status"]["conditions"]
    return str(next(c["status"] for c in conditions if c["type"] == "Ready"))


def keys(world: World, name: str) -> set[tuple[str, str]]:
    return {(t["key"], t["effect"]) for t in world.api.get("nodes", name)["spec"].get("taints") or ()}


def test_a_silent_node_becomes_unknown_and_its_pods_not_ready(world: World) -> None:
    world.settings = replace(world.settings, node_grace=0.5)

    async def heartbeat(world: World) -> None:
        lease = {
            "metadata": {"name": "node1", "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": "node1"},
        }
        world.api.create("leases.coordination.k8s.io", lease)
        for count in range(1000):
            await asyncio.sleep(0.1)
            world.api.patch(
                "leases.coordination.k8s.io",
                "node1",
                {"spec": {"leaseTransitions": count}},
                "kube-node-lease",
            )

    async def body(world: World) -> None:
        beats = asyncio.create_task(heartbeat(world))
        world.workload("replicasets.apps", "ReplicaSet", replicas=2)
        await world.until(lambda: len(world.ready()) == 2)
        await world.until(lambda: ready(world, "node0") == "Unknown")
        unreachable = "node.kubernetes.io/unreachable"
        await world.until(lambda: keys(world, "node0") == {(unreachable, "NoSchedule"), (unreachable, "NoExecute")})
        await world.until(lambda: [pod["spec"]["nodeName"] for pod in world.ready()] == ["node1"])
        assert ready(world, "node1") == "True"
        world.node_ready("node0")
        await world.until(lambda: not keys(world, "node0"))
        beats.cancel()

    world.run(body)


def test_cordon_taints(world: World) -> None:
    async def body(world: World) -> None:
        world.api.patch("nodes", "node0", {"spec": {"unschedulable": True}})
        await world.until(lambda: keys(world, "node0") == {("node.kubernetes.io/unschedulable", "NoSchedule")})
        world.api.patch("nodes", "node0", {"spec": {"unschedulable": None}})
        await world.until(lambda: not keys(world, "node0"))

    world.run(body)


def test_pods_move_off_a_node_that_is_gone(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("replicasets.apps", "ReplicaSet", replicas=4)
        await world.until(lambda: len(world.ready()) == 4)
        world.kubelets.linger = True
        world.api.delete("nodes", "node0")
        await world.until(
            lambda: len(world.ready()) == 4 and {pod["spec"]["nodeName"] for pod in world.ready()} == {"node1"}
        )

    world.run(body)


def test_a_no_execute_taint_evicts_what_does_not_tolerate_it(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("replicasets.apps", "ReplicaSet", replicas=2)
        await world.until(lambda: len(world.ready()) == 2)
        world.api.patch("nodes", "node0", {"spec": {"taints": [{"key": "away", "effect": "NoExecute"}]}})
        await world.until(lambda: [pod["spec"]["nodeName"] for pod in world.ready()] == ["node1", "node1"])
        assert world.events("TaintManagerEviction")

    world.run(body)


def test_a_pod_deleted_before_it_has_a_node_goes(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create(
            "pods",
            {
                "metadata": {"name": "waits", "namespace": "default"},
                "spec": {"nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": "i"}]},
            },
        )
        await world.settle()
        world.api.delete("pods", "waits", "default")
        await world.until(lambda: not world.api.list("pods", "default"))

    world.run(body)


def test_how_long_pods_stay() -> None:
    def pod(*tolerations: Obj) -> Obj:
        return {"spec": {"tolerations": list(tolerations)}}

    unreachable = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    assert stays(pod(), unreachable) == 300
    assert stays(pod({"operator": "Exists"}), unreachable) is None
    assert stays(pod({**unreachable, "operator": "Exists", "tolerationSeconds": 7}), unreachable) == 7
    assert stays(pod(), {"key": "away", "effect": "NoExecute"}) == 0


def test_taints_of_others_stay() -> None:
    mine = {"key": "mine", "effect": "NoSchedule"}
    node: Obj = {"spec": {"taints": [mine]}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    found = taints_for(node)
    assert found[0] == mine
    assert {(t["key"], t["effect"]) for t in found[1:]} == {
        ("node.kubernetes.io/not-ready", "NoSchedule"),
        ("node.kubernetes.io/not-ready", "NoExecute"),
    }
