"""Stateful sets, add-ons, events, and what a controller costs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from labkit.local.client import Obj, copy_of
from labkit.local.controllers.addons import MODE
from tests.counting import lines_of

from .world import World


def test_a_stateful_set_starts_in_order_and_updates_from_the_end(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("statefulsets.apps", "StatefulSet", replicas=3, serviceName="web")
        await world.until(lambda: len(world.ready()) == 3)
        created = [name for event, name in world.kubelets.history if event == "ADDED"]
        assert created == ["web-0", "web-1", "web-2"]
        assert world.pods()[0]["spec"]["subdomain"] == "web"
        world.api.patch(
            "statefulsets.apps",
            "web",
            {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}},
            "default",
        )
        await world.until(
            lambda: len(world.ready()) == 3 and all(pod["metadata"].get("annotations") for pod in world.pods())
        )
        gone = [name for event, name in world.kubelets.history if event == "DELETED"]
        assert gone == ["web-2", "web-1", "web-0"]
        world.api.patch("statefulsets.apps", "web", {"spec": {"replicas": 1}}, "default")
        await world.until(lambda: [pod["metadata"]["name"] for pod in world.pods()] == ["web-0"])

    world.run(body)


def daemon(mode: str = "Reconcile") -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": {MODE: mode}},
        "spec": {
            "selector": {"matchLabels": {"app": "proxy"}},
            "template": {
                "metadata": {"labels": {"app": "proxy"}},
                "spec": {"containers": [{"name": "kube-proxy", "image": "kube-proxy:v1"}]},
            },
        },
    }


def test_the_add_on_manager_takes_back_what_it_owns_and_no_more(world: World) -> None:
    world.settings = replace(world.settings, addon_manager=True, addon_interval=0.1)

    async def body(world: World) -> None:
        world.controllers.register_addons([daemon()])

        def now() -> Obj:
            return world.api.get("daemonsets.apps", "kube-proxy", "kube-system")

        await world.until(lambda: world.api.list("daemonsets.apps"))
        world.api.patch(
            "daemonsets.apps",
            "kube-proxy",
            {
                "metadata": {"annotations": {"note": "mine"}},
                "spec": {"template": {"spec": {"nodeSelector": {"non-calico": "true"}}}},
            },
            "kube-system",
        )
        await world.until(lambda: not now()["spec"]["template"]["spec"].get("nodeSelector"))
        assert now()["metadata"]["annotations"]["note"] == "mine"
        world.api.delete("daemonsets.apps", "kube-proxy", "kube-system")
        await world.until(lambda: world.api.list("daemonsets.apps"))
        await world.settle()
        generation = now()["metadata"]["generation"]
        await asyncio.sleep(0.4)
        assert now()["metadata"]["generation"] == generation, "taking back what is as it should be changes nothing"

    world.run(body)


def test_without_an_add_on_manager_a_patch_stays(world: World) -> None:
    world.settings = replace(world.settings, addon_interval=0.05)

    async def body(world: World) -> None:
        world.controllers.register_addons([daemon()])
        patched = copy_of(daemon())
        patched["spec"]["template"]["spec"]["nodeSelector"] = {"non-calico": "true"}
        world.api.create("daemonsets.apps", patched)
        await asyncio.sleep(0.3)
        (found,) = world.api.list("daemonsets.apps")
        assert found["spec"]["template"]["spec"]["nodeSelector"] == {"non-calico": "true"}

    world.run(body)


def test_events_that_repeat_are_counted_and_many_alike_are_combined(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("replicasets.apps", "ReplicaSet", replicas=30)
        await world.until(lambda: len(world.ready()) == 30)
        found = world.events("SuccessfulCreate")
        assert len(found) == 11
        assert sum(event["count"] for event in found) == 30
        assert any(
            event["message"].startswith("(combined from similar events): Created pod: web-") and event["count"] == 20
            for event in found
        )

    world.run(body)


def test_old_events_go(world: World) -> None:
    world.settings = replace(world.settings, event_ttl=0.2)

    async def body(world: World) -> None:
        for name, when in (("old", "2020-01-01T00:00:00Z"), ("new", "2100-01-01T00:00:00Z")):
            world.api.create(
                "events",
                {
                    "metadata": {"name": name, "namespace": "default"},
                    "reason": "Test",
                    "lastTimestamp": when,
                    "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
                },
            )
        await world.until(lambda: [e["metadata"]["name"] for e in world.events("Test")] == ["new"])

    world.run(body)


def test_a_second_start_changes_nothing(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("deployments.apps", "Deployment", replicas=2)
        world.workload(
            "daemonsets.apps",
            "DaemonSet",
            "agent",
            selector={"matchLabels": {"app": "agent"}},
            template={
                "metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "a", "image": "a"}]},
            },
        )
        world.api.create(
            "services",
            {
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]},
            },
        )
        await world.until(lambda: len(world.ready()) == 2 and len(world.ready("agent")) == 2)
        await world.settle()
        before = {
            kind: world.api.list(kind)
            for kind in (
                "pods",
                "deployments.apps",
                "daemonsets.apps",
                "services",
                "endpointslices.discovery.k8s.io",
                "endpoints",
                "nodes",
            )
        }
        world.controllers.stop()
        from labkit.local.controllers import Controllers

        world.controllers = Controllers(world.api, cloud=world.cloud, settings=world.settings)
        world.controllers.start()
        await asyncio.sleep(0.3)
        world.controllers.stop()
        for kind, objects in before.items():
            assert world.api.list(kind) == objects, kind

    world.run(body)


def test_each_further_service_is_as_much_work_as_the_first(world: World) -> None:
    async def body(world: World) -> None:
        world.workload("replicasets.apps", "ReplicaSet", replicas=2)
        await world.until(lambda: len(world.ready()) == 2)
        await world.settle()
        work = []
        for turn in range(3):
            with lines_of("labkit.local.controllers") as count:
                for number in range(turn * 100, turn * 100 + 100):
                    world.api.create(
                        "services",
                        {
                            "metadata": {"name": f"s{number}", "namespace": "default"},
                            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
                        },
                    )
                wanted = turn * 100 + 100
                await world.until(lambda n=wanted: len(world.api.list("endpointslices.discovery.k8s.io")) == n)  # type: ignore[misc]
                await world.settle()
            work.append(count[0])
        assert max(work) < min(1.2 * work[0], 100 * 1000), work

    world.run(body)
