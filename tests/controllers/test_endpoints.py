from __future__ import annotations

from typing import Any

from labkit.local.client import Obj

from .world import TEMPLATE, World

SLICES = "endpointslices.discovery.k8s.io"


def service(world: World, name: str = "web", **spec: Any) -> Obj:
    spec = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}], **spec}
    return world.api.create("services", {"metadata": {"name": name, "namespace": "default"}, "spec": spec})


def slices(world: World, name: str = "web") -> list[Obj]:
    return world.api.list(SLICES, "default", label_selector=f"kubernetes.io/service-name={name}")


def entries(world: World, name: str = "web") -> dict[str, Obj]:
    return {
        endpoint["targetRef"]["name"]: endpoint
        for item in slices(world, name)
        for endpoint in item.get("endpoints") or ()
    }


def usable(world: World, name: str = "web") -> int:
    return sum(endpoint["conditions"]["ready"] for endpoint in entries(world, name).values())


def pod(world: World, name: str, port: int, **more: Any) -> None:
    spec = {
        **TEMPLATE["spec"],
        "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": port}]}],
        **more,
    }
    world.api.create(
        "pods", {"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}}, "spec": spec}
    )


def test_ready_pods_are_addresses_of_both_kinds(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        world.workload("replicasets.apps", "ReplicaSet", replicas=2)
        await world.until(lambda: usable(world) == 2)
        (item,) = slices(world)
        assert item["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        assert item["addressType"] == "IPv4"
        assert item["metadata"]["ownerReferences"][0]["kind"] == "Service"
        assert {e["nodeName"] for e in item["endpoints"]} == {"node0", "node1"}
        await world.settle()
        (subset,) = world.api.get("endpoints", "web", "default")["subsets"]
        assert {a["ip"] for a in subset["addresses"]} == {e["addresses"][0] for e in item["endpoints"]}
        assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]

    world.run(body)


def test_a_service_without_pods_has_an_empty_slice_which_pods_then_fill(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        await world.until(lambda: slices(world))
        (empty,) = slices(world)
        assert not empty["endpoints"]
        pod(world, "late", 8080)
        await world.until(lambda: usable(world) == 1)
        await world.settle()
        assert [item["metadata"]["name"] for item in slices(world)] == [empty["metadata"]["name"]]

    world.run(body)


def test_unready_and_terminating_pods_say_so(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        service(world, "eager", publishNotReadyAddresses=True)
        pod(world, "one", 8080)
        pod(world, "two", 8080)
        await world.until(lambda: usable(world) == 2)
        world.kubelets.set_ready("default", "one", False)
        world.kubelets.linger = True
        world.api.delete("pods", "two", "default")
        await world.until(lambda: usable(world) == 0)
        assert entries(world)["one"]["conditions"] == {"ready": False, "serving": False, "terminating": False}
        assert entries(world)["two"]["conditions"] == {"ready": False, "serving": True, "terminating": True}
        await world.settle()
        assert usable(world, "eager") == 2
        (subset,) = world.api.get("endpoints", "web", "default")["subsets"]
        assert [a["targetRef"]["name"] for a in subset["notReadyAddresses"]] == ["one"]

    world.run(body)


def test_a_named_port_may_have_another_number_in_each_pod(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        for name, port in (("old", 8080), ("older", 8080), ("new", 9090)):
            pod(world, name, port)
        await world.until(lambda: usable(world) == 3)
        await world.settle()
        by_port = {item["ports"][0]["port"]: len(item["endpoints"]) for item in slices(world)}
        assert by_port == {8080: 2, 9090: 1}
        world.api.delete("pods", "new", "default")
        await world.until(lambda: len(slices(world)) == 1)

    world.run(body)


def test_a_slice_holds_a_hundred(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        world.node("node2", allocatable={"pods": "500"})
        world.workload("replicasets.apps", "ReplicaSet", replicas=250)
        await world.until(lambda: usable(world) == 250)
        assert len(slices(world)) == 3
        assert max(len(item["endpoints"]) for item in slices(world)) == 100

    world.run(body)


def test_without_a_selector_endpoints_are_someone_elses_and_slices_say_the_same(world: World) -> None:
    """Proxies read slices: what somebody wrote into Endpoints would else reach nobody."""

    def said() -> list[tuple[int, str, bool]]:
        return sorted(
            (item["ports"][0]["port"], end["addresses"][0], end["conditions"]["ready"])
            for item in slices(world, "bare")
            for end in item["endpoints"]
        )

    async def body(world: World) -> None:
        service(world, "bare", selector=None)
        mine = world.api.create(
            "endpoints",
            {
                "metadata": {"name": "bare", "namespace": "default", "labels": {"of": "mine"}},
                "subsets": [
                    {
                        "addresses": [{"ip": "1.2.3.4"}],
                        "notReadyAddresses": [{"ip": "1.2.3.5"}],
                        "ports": [{"port": 80}],
                    },
                    {"addresses": [{"ip": "1.2.3.6"}], "ports": [{"port": 81}]},
                ],
            },
        )
        await world.until(lambda: said() == [(80, "1.2.3.4", True), (80, "1.2.3.5", False), (81, "1.2.3.6", True)])
        labels = slices(world, "bare")[0]["metadata"]["labels"]
        assert labels["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
        assert labels["of"] == "mine"
        assert world.api.get("endpoints", "bare", "default")["subsets"] == mine["subsets"]

        names = {item["metadata"]["name"] for item in slices(world, "bare")}
        subsets = [{"addresses": [{"ip": "1.2.3.7"}], "ports": [{"port": 80}]}]
        world.api.update("endpoints", {**mine, "subsets": subsets})
        await world.until(lambda: said() == [(80, "1.2.3.7", True)])
        assert {item["metadata"]["name"] for item in slices(world, "bare")} < names

        skip = {"endpointslice.kubernetes.io/skip-mirror": "true"}
        current = world.api.get("endpoints", "bare", "default")
        world.api.update("endpoints", {**current, "metadata": {**current["metadata"], "labels": skip}})
        await world.until(lambda: not slices(world, "bare"))

    world.run(body)


def test_who_gets_a_selector_has_slices_of_its_pods_alone(world: World) -> None:
    async def body(world: World) -> None:
        bare = service(world, selector=None)
        world.api.create(
            "endpoints",
            {
                "metadata": {"name": "web", "namespace": "default"},
                "subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 80}]}],
            },
        )
        await world.until(lambda: slices(world))
        pod(world, "one", 8080)
        world.api.update("services", {**bare, "spec": {**bare["spec"], "selector": {"app": "web"}}})
        await world.until(
            lambda: [e.get("targetRef", {}).get("name") for item in slices(world) for e in item["endpoints"]] == ["one"]
        )

    world.run(body)


def test_endpoints_go_with_their_service(world: World) -> None:
    async def body(world: World) -> None:
        service(world)
        pod(world, "one", 8080)
        await world.until(lambda: usable(world) == 1)
        world.api.delete("services", "web", "default")
        await world.until(lambda: not slices(world) and not world.api.list("endpoints", "default"))

    world.run(body)


def test_a_headless_services_pods_keep_their_hostnames(world: World) -> None:
    async def body(world: World) -> None:
        service(world, clusterIP="None")
        pod(world, "one", 8080, hostname="first", subdomain="web")
        await world.until(lambda: usable(world) == 1)
        assert entries(world)["one"]["hostname"] == "first"
        assert slices(world)[0]["metadata"]["labels"]["service.kubernetes.io/headless"] == ""

    world.run(body)
