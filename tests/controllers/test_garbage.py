from __future__ import annotations

import pytest

from labkit.local.client import Obj

from .world import World

MAPS = "configmaps"


def config(world: World, name: str, *owners: Obj, block: bool = False) -> Obj:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for owner in owners
    ]
    meta: Obj = {"name": name, "namespace": "default"}
    if references:
        meta["ownerReferences"] = references
    return world.api.create(MAPS, {"metadata": meta})


def names(world: World) -> set[str]:
    return {obj["metadata"]["name"] for obj in world.api.list(MAPS, "default")}


def test_background_takes_children_and_grandchildren(world: World) -> None:
    async def body(world: World) -> None:
        owner = config(world, "owner")
        child = config(world, "child", owner)
        config(world, "grandchild", child)
        config(world, "other")
        world.api.delete(MAPS, "owner", "default", propagation="Background")
        assert "owner" not in names(world)
        await world.until(lambda: names(world) == {"other"})

    world.run(body)


def test_foreground_keeps_the_owner_until_what_blocks_it_is_gone(world: World) -> None:
    async def body(world: World) -> None:
        owner = config(world, "owner")
        world.api.create(
            MAPS,
            {
                "metadata": {
                    "name": "held",
                    "namespace": "default",
                    "finalizers": ["lab/wait"],
                    "ownerReferences": [
                        {
                            "apiVersion": "v1",
                            "kind": "ConfigMap",
                            "name": "owner",
                            "uid": owner["metadata"]["uid"],
                            "blockOwnerDeletion": True,
                        }
                    ],
                }
            },
        )
        world.api.delete(MAPS, "owner", "default", propagation="Foreground")
        await world.until(lambda: world.api.get(MAPS, "held", "default")["metadata"].get("deletionTimestamp"))
        await world.settle()
        assert names(world) == {"owner", "held"}
        world.api.patch(MAPS, "held", {"metadata": {"finalizers": None}}, "default")
        await world.until(lambda: not names(world))

    world.run(body)


def test_orphan_leaves_children_without_an_owner(world: World) -> None:
    async def body(world: World) -> None:
        owner = config(world, "owner")
        config(world, "child", owner)
        world.api.delete(MAPS, "owner", "default", propagation="Orphan")
        await world.until(lambda: names(world) == {"child"})
        await world.settle()
        assert "ownerReferences" not in world.api.get(MAPS, "child", "default")["metadata"]

    world.run(body)


def test_a_namesake_of_the_owner_keeps_nothing_alive(world: World) -> None:
    async def body(world: World) -> None:
        owner = config(world, "owner")
        world.api.delete(MAPS, "owner", "default")
        config(world, "owner")
        config(world, "child", owner)
        await world.until(lambda: names(world) == {"owner"})

    world.run(body)


def test_one_of_two_owners_is_enough(world: World) -> None:
    async def body(world: World) -> None:
        first, second = config(world, "first"), config(world, "second")
        config(world, "child", first, second)
        world.api.delete(MAPS, "first", "default")
        await world.settle()
        (left,) = world.api.get(MAPS, "child", "default")["metadata"]["ownerReferences"]
        assert left["name"] == "second"
        world.api.delete(MAPS, "second", "default")
        await world.until(lambda: not names(world))

    world.run(body)


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_a_deployment_takes_its_pods_along(world: World, propagation: str) -> None:
    async def body(world: World) -> None:
        world.workload("deployments.apps", "Deployment", replicas=3)
        await world.until(lambda: len(world.ready()) == 3)
        world.api.delete("deployments.apps", "web", "default", propagation=propagation)
        kinds = ("pods", "replicasets.apps", "deployments.apps")
        await world.until(lambda: not any(world.api.list(kind) for kind in kinds))

    world.run(body)


def test_orphaned_pods_stay_when_their_deployment_goes(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("deployments.apps", "Deployment", replicas=2)
        await world.until(lambda: len(world.ready()) == 2)
        world.api.delete("deployments.apps", "web", "default", propagation="Orphan")
        await world.until(lambda: not world.api.list("deployments.apps"))
        await world.settle()
        assert len(world.ready()) == 2
        assert len(world.api.list("replicasets.apps")) == 1

    world.run(body)


def test_custom_objects_own_and_are_owned(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create(
            "customresourcedefinitions.apiextensions.k8s.io",
            {
                "metadata": {"name": "boats.lab.io"},
                "spec": {
                    "group": "lab.io",
                    "scope": "Namespaced",
                    "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
                    "versions": [
                        {
                            "name": "v1",
                            "served": True,
                            "storage": True,
                            "schema": {
                                "openAPIV3Schema": {
                                    "type": "object",
                                    "x-kubernetes-preserve-unknown-fields": True,
                                }
                            },
                        }
                    ],
                },
            },
        )
        boat = world.api.create(
            "boats.lab.io",
            {"apiVersion": "lab.io/v1", "kind": "Boat", "metadata": {"name": "boat", "namespace": "default"}},
        )
        world.api.create(
            MAPS,
            {
                "metadata": {
                    "name": "sail",
                    "namespace": "default",
                    "ownerReferences": [
                        {
                            "apiVersion": "lab.io/v1",
                            "kind": "Boat",
                            "name": "boat",
                            "uid": boat["metadata"]["uid"],
                        }
                    ],
                }
            },
        )
        await world.settle()
        assert names(world) == {"sail"}
        world.api.delete("boats.lab.io", "boat", "default")
        await world.until(lambda: not names(world))

    world.run(body)
