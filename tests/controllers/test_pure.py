"""Planners and the queue on their own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.local.client import ApiError, Obj
from labkit.local.controllers import rollout
from labkit.local.controllers.addons import plan
from labkit.local.controllers.objects import hash_of, quantity, scaled, with_condition
from labkit.local.controllers.queue import WorkQueue
from labkit.local.kubeapi.selectors import selects


def deployment(replicas: int, surge: int, unavailable: int) -> Obj:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}}


def replica_set(name: str, replicas: int, available: int) -> Obj:
    return {
        "metadata": {"name": name, "creationTimestamp": name},
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas, "availableReplicas": available},
    }


counts = st.tuples(st.integers(0, 10), st.integers(0, 10)).map(lambda pair: (max(pair), min(pair)))


@given(st.integers(1, 10), st.integers(0, 4), st.integers(0, 4), counts, st.lists(counts, min_size=1, max_size=3))
def test_a_step_of_a_rollout_stays_within_its_limits(
    wanted: int, surge: int, unavailable: int, new_counts: tuple[int, int], old_counts: list[tuple[int, int]]
) -> None:
    target = deployment(wanted, surge, unavailable)
    new = replica_set("9", *new_counts)
    old = [replica_set(str(i), *pair) for i, pair in enumerate(old_counts)]
    real_surge, real_unavailable = rollout.limits(target)
    total = sum(map(rollout.replicas_of, (*old, new)))
    for step in rollout.plan_new(target, new, old):
        if step.replicas > rollout.replicas_of(step.replica_set):
            assert total - rollout.replicas_of(new) + step.replicas <= wanted + real_surge
    available = sum(map(rollout.available_of, (*old, new)))
    lost = 0
    for step in rollout.plan_old(target, new, old):
        assert 0 <= step.replicas < rollout.replicas_of(step.replica_set)
        lost += max(0, rollout.available_of(step.replica_set) - step.replicas)
    assert available - lost >= min(available, wanted - real_unavailable)


def test_an_old_set_that_says_more_than_it_was_left_is_not_scaled_down_twice() -> None:
    """Six wanted, one more or less: five old ones were asked for, then four, and the set still says five."""
    old = replica_set("0", 4, 5)
    (step,) = rollout.plan_old(deployment(6, 1, 1), replica_set("9", 3, 2), [old])
    assert step.replicas == 3


@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, 3))
def test_a_rollout_whose_pods_come_up_ends(wanted: int, surge: int, unavailable: int) -> None:
    target = deployment(wanted, surge, unavailable)
    new, old = replica_set("9", 0, 0), [replica_set("0", wanted, wanted)]
    for _ in range(5 * wanted):
        for step in (*rollout.plan_new(target, new, old), *rollout.plan_old(target, new, old)):
            fresh = replica_set(step.replica_set["metadata"]["name"], step.replicas, step.replicas)
            if fresh["metadata"]["name"] == "9":
                new = fresh
            else:
                old = [fresh]
    assert (rollout.replicas_of(new), rollout.replicas_of(old[0])) == (wanted, 0)


def test_scaling_in_the_middle_of_a_rollout_keeps_proportions() -> None:
    target = deployment(10, 0, 1)
    new, old = replica_set("9", 4, 4), replica_set("0", 1, 1)
    for replicas in (new, old):
        replicas["metadata"]["annotations"] = {rollout.MAXIMUM: "5"}
    scales = {s.replica_set["metadata"]["name"]: s.replicas for s in rollout.plan_scale(target, new, [old])}
    assert scales == {"9": 8, "0": 2}


def test_a_key_named_often_is_worked_on_once_and_a_conflict_comes_back() -> None:
    done: list[Any] = []

    def work(key: Any) -> None:
        done.append(key)
        if done.count("c") == 1 and key == "c":
            raise ApiError(409, "Conflict", "the object has been modified")

    async def main() -> None:
        queue = WorkQueue()
        for key in "abacbc":
            queue.add(work, key)
        queue.start()
        queue.add_after(work, "later", 0.04)
        queue.add_after(work, "later", 0.01)
        async with asyncio.timeout(60):
            while len(done) < 5:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)       # and not once more
        queue.stop()
        queue.add(work, "after the end")
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert done[:3] == ["a", "b", "c"]
    assert sorted(done[3:]) == ["c", "later"]


def test_a_bug_in_one_controller_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    def broken(key: Any) -> None:
        raise KeyError("spec")

    async def main() -> None:
        queue = WorkQueue()
        queue.start()
        queue.add(broken, "x")
        queue.add(done.append, "y")
        async with asyncio.timeout(60):
            while not done:
                await asyncio.sleep(0.01)
        queue.stop()

    asyncio.run(main())
    assert done == ["y"]
    assert "KeyError" in caplog.text


def test_small_questions() -> None:
    assert (quantity("100m"), quantity("1Gi"), quantity(2), quantity("1.5k")) == (0.1, 2**30, 2.0, 1500.0)
    assert (scaled("25%", 3, up=True), scaled("25%", 3, up=False), scaled(2, 9, up=True)) == (1, 0, 2)
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1}) != hash_of({"a": 1})
    assert selects({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x"]}]}, {})
    assert not selects({"matchLabels": {"a": "1"}}, {"a": "2"})
    assert not selects(None, {})


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = with_condition(None, {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"})
    assert with_condition(first, {"type": "Ready", "status": "False"}) == first
    (reworded,) = with_condition(first, {"type": "Ready", "status": "False", "reason": "Why"})
    assert (reworded["reason"], reworded["lastTransitionTime"]) == ("Why", "2020-01-01T00:00:00Z")
    (turned,) = with_condition(first, {"type": "Ready", "status": "True"})
    assert turned["lastTransitionTime"] > "2020-01-01T00:00:00Z"


def test_an_add_on_as_it_should_be_needs_no_patch_and_ports_are_replaced_whole() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    manifest: Obj = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"ports": ports, "selector": {"k8s-app": "kube-dns"}},
    }
    defaulted = [{**port, "targetPort": 53} for port in ports]
    current = {**manifest, "spec": {**manifest["spec"], "ports": defaulted, "type": "ClusterIP"}}
    assert plan(manifest, current) == {}
    current["spec"]["ports"] = defaulted[:1]
    assert plan(manifest, current) == {"spec": {"ports": [{"$patch": "replace"}, *ports]}}
