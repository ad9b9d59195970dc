"""Budgets and evictions; the answers are those of kube-apiserver and kube-controller-manager 1.20.2."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.local.client import ApiError, Obj, timestamp
from labkit.local.controllers import disruption

from .world import TEMPLATE, World

BUDGETS = "poddisruptionbudgets.policy"


def budget(world: World, name: str = "web", **spec: object) -> None:
    body = {"metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}}
    world.api.create(BUDGETS, body)


def status(world: World, name: str = "web") -> Obj:
    return world.api.get(BUDGETS, name, "default")["status"]


def counts(world: World, name: str = "web") -> list[int]:
    """Allowed, healthy, desired, expected."""
    found = status(world, name)
    if found.get("observedGeneration") != world.api.get(BUDGETS, name, "default")["metadata"]["generation"]:
        return []
    return [found[f] for f in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")]


def evict(world: World, pod: Obj, **options: object) -> Obj:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}, **options}
    return world.api.create("pods/eviction", body, "default")


def refused(world: World, pod: Obj) -> ApiError:
    with pytest.raises(ApiError) as caught:
        evict(world, pod)
    return caught.value


def cause(error: ApiError) -> str:
    assert error.details is not None
    assert error.details["causes"][0]["reason"] == "DisruptionBudget"
    return str(error.details["causes"][0]["message"])


def test_an_eviction_takes_one_and_the_next_is_refused_until_another_pod_is_healthy(world: World) -> None:
    world.kubelets.linger = True

    async def body(world: World) -> None:
        world.workload("deployments.apps", "Deployment", replicas=2)
        await world.until(lambda: len(world.ready()) == 2)
        budget(world, minAvailable=1)
        assert status(world) == {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}
        first, second = world.ready()
        early = refused(world, first)
        assert cause(early) == "The disruption budget web is still being processed by the server."
        await world.until(lambda: counts(world) == [1, 2, 1, 2])
        assert "conditions" not in status(world), "they came with 1.21"
        world.kubelets.hold.add("web")                   # the pod in its place never gets ready
        evict(world, first, deleteOptions={"dryRun": ["All"]})
        assert counts(world) == [1, 2, 1, 2]
        assert evict(world, first) == {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        assert first["metadata"]["name"] in status(world)["disruptedPods"], "before its controller knows"
        late = refused(world, second)
        await world.until(lambda: counts(world) == [0, 1, 1, 3])
        assert "disruptedPods" not in status(world), "the pod is being deleted: it counts no more"
        assert (late.code, late.reason) == (429, "TooManyRequests")
        assert late.message == "Cannot evict pod as it would violate the pod's disruption budget."
        assert cause(refused(world, second)) == "The disruption budget web needs 1 healthy pods and has 1 currently"
        evict(world, first)                              # it is going already, and disrupts nothing more
        world.kubelets.hold.clear()
        fresh = next(pod for pod in world.pods() if pod["metadata"]["uid"] not in
                     {p["metadata"]["uid"] for p in (first, second)})
        world.kubelets.set_ready("default", fresh["metadata"]["name"], True)
        await world.until(lambda: counts(world) == [1, 2, 1, 3])
        evict(world, second)

    world.run(body)


@pytest.mark.parametrize(("spec", "expected"), [
    ({"maxUnavailable": "50%"}, [2, 3, 1, 3]),           # half of three is rounded up
    ({"maxUnavailable": 0}, [0, 3, 3, 3]),
    ({"maxUnavailable": 5}, [3, 3, 0, 3]),
    ({"minAvailable": "50%"}, [1, 3, 2, 3]),
    ({"minAvailable": 3}, [0, 3, 3, 3]),
    ({}, [0, 3, 0, 0]),
    ({"selector": {}, "minAvailable": 1}, [0, 0, 1, 0]),  # until 1.21 an empty selector selects nothing
])
def test_what_a_budget_allows(world: World, spec: dict[str, object], expected: list[int]) -> None:
    async def body(world: World) -> None:
        world.workload("deployments.apps", "Deployment", replicas=3)
        await world.until(lambda: len(world.ready()) == 3)
        budget(world, **spec)
        await world.until(lambda: counts(world) == expected)

    world.run(body)


def test_pods_that_nobody_scales(world: World) -> None:
    async def body(world: World) -> None:
        world.api.create("pods", {**TEMPLATE, "metadata": {"name": "alone", "namespace": "default",
                                                           "labels": {"app": "web"}}})
        await world.until(lambda: len(world.ready()) == 1)
        budget(world, "part", maxUnavailable=1)
        budget(world, "two", minAvailable=1)
        await world.until(lambda: counts(world, "two") == [0, 1, 1, 1])
        await world.until(lambda: world.events("CalculateExpectedPodCountFailed"))
        said = world.events("CalculateExpectedPodCountFailed")[0]["message"]
        assert said == ('Failed to calculate the number of expected pods: found no controller ref for pod "alone"')
        assert world.events("NoControllerRef")
        error = refused(world, world.ready()[0])
        assert (error.code, error.message) == (
            500, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
        world.api.delete(BUDGETS, "two", "default")
        assert cause(refused(world, world.ready()[0])).endswith("still being processed by the server.")

    world.run(body)


def test_today_a_budget_has_a_condition_and_pods_without_an_owner_are_left_out(world: World) -> None:
    world.settings = replace(world.settings, version="v1.34.0")

    async def body(world: World) -> None:
        world.workload("deployments.apps", "Deployment", replicas=1)
        world.api.create("pods", {**TEMPLATE, "metadata": {"name": "alone", "namespace": "default",
                                                           "labels": {"app": "web"}}})
        await world.until(lambda: len(world.ready()) == 2)
        budget(world, maxUnavailable=1, selector={})
        await world.until(lambda: counts(world) == [2, 2, 0, 1])
        assert world.events("UnmanagedPods")

        def said() -> tuple[str, str, str]:
            found = status(world)["conditions"][0]
            return found["type"], found["status"], found["reason"]
        assert said() == ("DisruptionAllowed", "True", "SufficientPods")
        world.api.patch(BUDGETS, "web", {"spec": {"maxUnavailable": None, "minAvailable": 2}}, "default")
        await world.until(lambda: said() == ("DisruptionAllowed", "False", "InsufficientPods"))

    world.run(body)


def test_a_pod_that_was_evicted_and_stays_counts_again() -> None:
    pods: list[Obj] = [{"metadata": {"name": name}} for name in ("a", "b")]
    pods[1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    now = timestamp()
    assert disruption.still_disrupted({"a": now, "b": now, "gone": now}, pods) == {"a": now}
    assert disruption.still_disrupted({"a": "2026-01-01T00:00:00Z"}, pods) == {}


def test_what_a_budget_may_say(world: World) -> None:
    with pytest.raises(ApiError) as caught:
        budget(world, minAvailable=-1, maxUnavailable="150%")
    assert "minAvailable and maxUnavailable cannot be both set" in caught.value.message
    assert "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0" in caught.value.message
    assert "must not be greater than 100%" in caught.value.message
    with pytest.raises(ApiError, match="a valid percent string must be a numeric string followed by an ending '%'"):
        budget(world, minAvailable="x")
