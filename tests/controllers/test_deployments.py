from __future__ import annotations

import pytest

from labkit.local.client import Obj

from .world import TEMPLATE, World

DEPLOYMENTS = "deployments.apps"


def status(world: World, name: str = "web") -> Obj:
    return world.api.get(DEPLOYMENTS, name, "default")["status"]


def done(world: World) -> bool:
    """What `kubectl rollout status` waits for."""
    deployment = world.api.get(DEPLOYMENTS, "web", "default")
    now, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    return (
        now.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and now.get("updatedReplicas", 0) == wanted == now.get("replicas", 0)
        and now.get("availableReplicas", 0) == wanted
    )


def set_image(world: World, image: str) -> None:
    world.api.patch(
        DEPLOYMENTS,
        "web",
        {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}},
        "default",
        type="strategic",
    )


def images(world: World) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in world.pods()}


def test_a_deployment_gets_its_pods_conditions_and_revision(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DEPLOYMENTS, "Deployment", replicas=3)
        await world.until(lambda: done(world))
        await world.settle()
        deployment = world.api.get(DEPLOYMENTS, "web", "default")
        conditions = {c["type"]: (c["status"], c["reason"]) for c in deployment["status"]["conditions"]}
        assert conditions == {
            "Available": ("True", "MinimumReplicasAvailable"),
            "Progressing": ("True", "NewReplicaSetAvailable"),
        }
        assert deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
        (replica_set,) = world.api.list("replicasets.apps", "default")
        suffix = replica_set["metadata"]["labels"]["pod-template-hash"]
        assert replica_set["metadata"]["name"] == f"web-{suffix}"
        assert {pod["metadata"]["labels"]["pod-template-hash"] for pod in world.pods()} == {suffix}
        (event,) = world.events("ScalingReplicaSet")
        assert event["message"] == f"Scaled up replica set web-{suffix} to 3"
        assert len(world.events("SuccessfulCreate")) == 3

    world.run(body)


def test_a_rolling_update_keeps_within_surge_and_availability(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(
            DEPLOYMENTS,
            "Deployment",
            replicas=6,
            strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
        )
        await world.until(lambda: done(world))
        asked: list[int] = []
        ready: list[int] = []

        def sum_up(event: str, obj: Obj) -> None:
            sets = world.api.list("replicasets.apps", "default")
            asked.append(sum(replica_set["spec"]["replicas"] for replica_set in sets))

        world.api.watch("replicasets.apps", sum_up)
        world.api.watch("pods", lambda event, pod: ready.append(len(world.ready())))
        set_image(world, "nginx:2")
        await world.until(lambda: done(world))
        assert images(world) == {"nginx:2"}
        assert max(asked) == 7
        assert min(ready) >= 5

    world.run(body)


def test_a_rollout_stops_where_new_pods_do_not_get_ready_and_undo_returns(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DEPLOYMENTS, "Deployment", replicas=4)
        await world.until(lambda: done(world))
        world.api.patch(DEPLOYMENTS, "web", {"spec": {"progressDeadlineSeconds": 1}}, "default")
        world.kubelets.hold = {"web"}
        set_image(world, "nginx:broken")
        await world.until(
            lambda: any(c["reason"] == "ProgressDeadlineExceeded" for c in status(world)["conditions"]), 6
        )
        assert len(world.ready()) >= 3
        world.kubelets.hold = set()
        set_image(world, "nginx:1")
        await world.until(lambda: done(world))
        assert images(world) == {"nginx:1"}
        revisions = {
            rs["spec"]["template"]["spec"]["containers"][0]["image"]: rs["metadata"]["annotations"][
                "deployment.kubernetes.io/revision"
            ]
            for rs in world.api.list("replicasets.apps", "default")
        }
        assert revisions == {"nginx:1": "3", "nginx:broken": "2"}

    world.run(body)


def test_recreate_waits_for_every_old_pod(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DEPLOYMENTS, "Deployment", replicas=2, strategy={"type": "Recreate"})
        await world.until(lambda: done(world))
        world.kubelets.linger = True
        set_image(world, "nginx:2")
        await world.settle()
        assert images(world) == set()
        world.kubelets.linger = False
        for pod in world.api.list("pods", "default"):
            world.api.delete("pods", pod["metadata"]["name"], "default", grace_period=0)
        await world.until(lambda: done(world) and images(world) == {"nginx:2"})

    world.run(body)


@pytest.mark.parametrize("replicas", [0, 1, 5])
def test_scaling(world: World, replicas: int) -> None:
    async def body(world: World) -> None:
        world.workload(DEPLOYMENTS, "Deployment", replicas=3)
        await world.until(lambda: done(world))
        world.api.patch(DEPLOYMENTS, "web", {"spec": {"replicas": replicas}}, "default")
        await world.until(lambda: done(world))
        assert len(world.pods()) == replicas
        assert len(world.api.list("replicasets.apps", "default")) == 1

    world.run(body)


def test_a_paused_deployment_scales_but_does_not_roll(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DEPLOYMENTS, "Deployment", replicas=2)
        await world.until(lambda: done(world))
        world.api.patch(DEPLOYMENTS, "web", {"spec": {"paused": True, "replicas": 3}}, "default")
        set_image(world, "nginx:2")
        await world.until(lambda: len(world.ready()) == 3)
        await world.settle()
        assert images(world) == {"nginx:1"}
        world.api.patch(DEPLOYMENTS, "web", {"spec": {"paused": False}}, "default")
        await world.until(lambda: done(world) and images(world) == {"nginx:2"})

    world.run(body)


def test_an_orphan_is_adopted_and_a_stranger_left_alone(world: World) -> None:
    async def body(world: World) -> None:
        labels = {"app": "web"}
        for name, own in (("orphan", labels), ("stranger", {"app": "other"})):
            world.api.create(
                "pods",
                {"metadata": {"name": name, "namespace": "default", "labels": own}, "spec": TEMPLATE["spec"]},
            )
        world.workload("replicasets.apps", "ReplicaSet", replicas=2)
        await world.until(lambda: len(world.ready()) == 2)
        await world.settle()
        owners = {
            pod["metadata"]["name"]: bool(pod["metadata"].get("ownerReferences"))
            for pod in world.api.list("pods", "default")
        }
        assert owners.pop("orphan")
        assert not owners.pop("stranger")
        assert list(owners.values()) == [True]

    world.run(body)


def test_old_replica_sets_beyond_the_history_limit_go(world: World) -> None:
    async def body(world: World) -> None:
        world.workload(DEPLOYMENTS, "Deployment", replicas=1, revisionHistoryLimit=1)
        for version in range(2, 6):
            await world.until(lambda: done(world))
            set_image(world, f"nginx:{version}")
        await world.until(lambda: done(world) and images(world) == {"nginx:5"})
        await world.until(lambda: len(world.api.list("replicasets.apps", "default")) == 2)

    world.run(body)
