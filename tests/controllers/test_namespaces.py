from __future__ import annotations

import pytest

from labkit.local.client import ApiError

from .world import TEMPLATE, World


def exists(world: World, name: str) -> bool:
    return any(ns["metadata"]["name"] == name for ns in world.api.list("namespaces"))


def test_a_namespace_takes_everything_in_it_along(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create("namespaces", {"metadata": {"name": "shop"}})
        world.api.create(
            "deployments.apps",
            {
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE},
            },
        )
        world.api.create("configmaps", {"metadata": {"name": "settings", "namespace": "shop"}})
        world.api.create(
            "services",
            {
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
            },
        )
        await world.until(lambda: len(world.pods(namespace="shop")) == 2)
        world.api.delete("namespaces", "shop")
        await world.until(lambda: not exists(world, "shop"))
        for resource in (
            "pods",
            "deployments.apps",
            "replicasets.apps",
            "services",
            "endpoints",
            "configmaps",
            "endpointslices.discovery.k8s.io",
            "serviceaccounts",
            "events",
        ):
            assert not world.api.list(resource, "shop"), resource

    world.run(body)


def test_a_namespace_that_waits_says_for_what(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create("namespaces", {"metadata": {"name": "shop"}})
        world.api.create("configmaps", {"metadata": {"name": "held", "namespace": "shop", "finalizers": ["lab/wait"]}})
        world.api.delete("namespaces", "shop")

        def says() -> dict[str, str]:
            status = world.api.get("namespaces", "shop")["status"]
            return {c["type"]: c["message"] for c in status.get("conditions") or () if c["status"] == "True"}

        await world.until(says)
        assert says() == {
            "NamespaceContentRemaining": "Some resources are remaining: configmaps. has 1 resource instances",
            "NamespaceFinalizersRemaining": "Some content in the namespace has finalizers remaining: "
            "lab/wait in 1 resource instances",
        }
        with pytest.raises(ApiError, match="being terminated"):
            world.api.create("configmaps", {"metadata": {"name": "late", "namespace": "shop"}})
        world.api.patch("configmaps", "held", {"metadata": {"finalizers": None}}, "shop")
        await world.until(lambda: not exists(world, "shop"))

    world.run(body)


def test_each_namespace_has_its_service_account_again_and_again(world: World) -> None:
    async def body(world: World) -> None:
        def account() -> bool:
            return any(sa["metadata"]["name"] == "default" for sa in world.api.list("serviceaccounts", "shop"))

        world.api.create("namespaces", {"metadata": {"name": "shop"}})
        await world.until(account)
        world.api.delete("serviceaccounts", "default", "shop")
        assert not account()
        await world.until(account)

    world.run(body)
