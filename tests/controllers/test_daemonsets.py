from __future__ import annotations

from labkit.local.client import Obj
from labkit.local.controllers.daemonsets import wish_for

from .world import TEMPLATE, World

DAEMONS = "daemonsets.apps"


def status(world: World) -> Obj:
    return world.api.get(DAEMONS, "web", "default").get("status", {})


def done(world: World) -> bool:
    """What `kubectl rollout status` waits for."""
    daemon = world.api.get(DAEMONS, "web", "default")
    now = daemon.get("status", {})
    wanted = now.get("desiredNumberScheduled", -1)
    return bool(
        now.get("observedGeneration", 0) >= daemon["metadata"]["generation"]
        and now.get("updatedNumberScheduled", 0) >= wanted
        and now.get("numberAvailable", 0) >= wanted
    )


def where(world: World) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in world.ready())


def test_each_node_gets_one_pod_also_a_new_node(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DAEMONS, "DaemonSet")
        await world.until(lambda: done(world) and where(world) == ["node0", "node1"])
        world.node("node2")
        await world.until(lambda: where(world) == ["node0", "node1", "node2"])
        await world.until(lambda: status(world)["numberReady"] == 3)

    world.run(body)


def test_a_node_selector_that_no_node_has_removes_the_pods_and_back(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DAEMONS, "DaemonSet")
        await world.until(lambda: done(world) and len(world.ready()) == 2)
        selector = {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": "true"}}}}}
        world.api.patch(DAEMONS, "web", selector, "default", type="strategic")
        await world.until(lambda: not world.pods())
        await world.until(lambda: status(world)["desiredNumberScheduled"] == 0)
        assert status(world)["currentNumberScheduled"] == 0
        selector["spec"]["template"]["spec"]["nodeSelector"] = {"non-calico": None}  # type: ignore[dict-item]
        world.api.patch(DAEMONS, "web", selector, "default", type="strategic")
        await world.until(lambda: done(world) and where(world) == ["node0", "node1"])

    world.run(body)


def test_a_rolling_update_takes_one_node_at_a_time(world: World) -> None:
    async def body(world: World) -> None:
        world.node("node2")
        world.workload(DAEMONS, "DaemonSet")
        await world.until(lambda: done(world) and len(world.ready()) == 3)
        seen: list[int] = []
        world.api.watch("pods", lambda event, pod: seen.append(len(world.ready())))
        del seen[:]
        world.api.patch(
            DAEMONS,
            "web",
            {"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}},
            "default",
        )
        await world.until(
            lambda: (
                done(world) and all(pod["metadata"].get("annotations") == {"restarted": "now"} for pod in world.pods())
            )
        )
        assert min(seen) == 2
        revisions = world.api.list("controllerrevisions.apps", "default")
        assert sorted(revision["revision"] for revision in revisions) == [1, 2]
        newest = max(revisions, key=lambda revision: int(revision["revision"]))
        assert {pod["metadata"]["labels"]["controller-revision-hash"] for pod in world.pods()} == {
            newest["metadata"]["labels"]["controller-revision-hash"]
        }

    world.run(body)


def test_on_delete_waits_for_someone_to_delete(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DAEMONS, "DaemonSet", updateStrategy={"type": "OnDelete"})
        await world.until(lambda: len(world.ready()) == 2)
        world.api.patch(DAEMONS, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}}, "default")
        await world.settle()
        assert not any(pod["metadata"].get("annotations") for pod in world.pods())
        assert status(world).get("updatedNumberScheduled", 0) == 0
        world.api.delete("pods", world.pods()[0]["metadata"]["name"], "default")
        await world.until(lambda: status(world).get("updatedNumberScheduled") == 1)

    world.run(body)


def test_what_nodes_mean_to_a_daemon_set() -> None:
    node: Obj = {"metadata": {"name": "n", "labels": {"os": "linux"}}, "spec": {}}
    spec = TEMPLATE["spec"]
    assert wish_for(spec, node).start
    assert not wish_for({**spec, "nodeSelector": {"os": "windows"}}, node).stay
    full = {**node, "spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}}
    assert wish_for(spec, full).start, "daemon pods tolerate pressure"
    other = {**node, "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]}}
    assert (wish_for(spec, other).start, wish_for(spec, other).stay) == (False, True)
    assert wish_for({**spec, "tolerations": [{"operator": "Exists"}]}, other).start
