"""Kinds of older days that 1.20 still has: replication controllers, and tokens in secrets."""

from __future__ import annotations

import base64

import pytest

from labkit.local.client import ApiError

from .world import TEMPLATE, World


def test_a_replication_controller_keeps_its_number_and_selects_by_its_templates_labels(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create("replicationcontrollers", {
            "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 3, "template": TEMPLATE}})
        await world.until(lambda: len(world.pods()) == 3)
        made = world.api.get("replicationcontrollers", "web", "default")
        assert made["spec"]["selector"] == TEMPLATE["metadata"]["labels"] == made["metadata"]["labels"]
        world.api.patch("replicationcontrollers", "web", {"spec": {"replicas": 1}}, "default", subresource="scale")
        await world.until(lambda: len(world.pods()) == 1)
        world.api.delete("pods", world.pods()[0]["metadata"]["name"], "default")
        await world.until(lambda: len(world.pods()) == 1)
        await world.until(
            lambda: world.api.get("replicationcontrollers", "web", "default")["status"].get("readyReplicas") == 1)
        world.api.delete("replicationcontrollers", "web", "default", propagation="Background")
        await world.until(lambda: not world.pods())

    world.run(body)


def test_a_replication_controller_refuses_a_selector_that_is_not_its_templates(world: World) -> None:
    with pytest.raises(ApiError, match="`selector` does not match template `labels`"):
        world.api.create("replicationcontrollers", {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "other"}, "template": TEMPLATE}})


def _secrets(world: World) -> list[str]:
    return [s["metadata"]["name"] for s in world.api.list("secrets", "default")]


def test_before_1_24_an_account_has_a_secret_whose_token_is_good_until_the_account_goes(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create("serviceaccounts", {"metadata": {"name": "robot", "namespace": "default"}})
        await world.until(lambda: bool(world.api.get("serviceaccounts", "robot", "default").get("secrets")))
        (reference,) = world.api.get("serviceaccounts", "robot", "default")["secrets"]
        secret = world.api.get("secrets", reference["name"], "default")
        assert secret["type"] == "kubernetes.io/service-account-token"
        token = base64.b64decode(secret["data"]["token"]).decode()
        user = world.api.user_of(token)
        assert user is not None
        assert user.name == "system:serviceaccount:default:robot"
        world.api.delete("secrets", reference["name"], "default")      # which revokes it
        assert world.api.user_of(token) is None
        await world.until(lambda: world.api.get("serviceaccounts", "robot", "default")["secrets"] != [reference])
        (reference,) = world.api.get("serviceaccounts", "robot", "default")["secrets"]
        token = base64.b64decode(world.api.get("secrets", reference["name"], "default")["data"]["token"]).decode()
        assert world.api.user_of(token) == user
        world.api.delete("serviceaccounts", "robot", "default")
        await world.until(lambda: reference["name"] not in _secrets(world))
        assert world.api.user_of(token) is None

    world.run(body)
