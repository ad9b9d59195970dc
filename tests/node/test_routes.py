"""What a learner takes from a node's network by hand comes back, and an event says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from labkit.local.fabric import netns, survey, topology
from labkit.local.node import kubelet

if TYPE_CHECKING:
    from .conftest import Lab

POD, LINK = "10.224.0.5", "azvpod"
WANTED = topology.towards_leaf(LINK, POD) + topology.node_uplink(0)
WHOLE = survey.Links(
    frozenset({"lo", "eth0", LINK}), frozenset(),
    frozenset({(f"{POD}/32", LINK, ""), ("10.224.0.1/32", "eth0", ""), ("10.224.0.0/16", "eth0", "10.224.0.1"),
               ("0.0.0.0/0", "eth0", "10.224.0.1")}),
    frozenset({(POD, LINK, topology.mac_of(POD)), ("10.224.0.1", "eth0", topology.FABRIC_MAC)}))


def without(links: survey.Links, **gone: object) -> survey.Links:
    fields = survey.Links.__dataclass_fields__
    return survey.Links(**{name: getattr(links, name) - {gone.get(name)} for name in fields})


@pytest.mark.parametrize(("gone", "said"), [
    ({}, []),
    ({"routes": (f"{POD}/32", LINK, "")}, [f"route {POD}/32 by {LINK} was missing"]),
    ({"routes": ("0.0.0.0/0", "eth0", "10.224.0.1")}, ["route default by eth0 was missing"]),
    ({"neighbours": (POD, LINK, topology.mac_of(POD))}, [f"neighbour {POD} on {LINK} was missing"]),
    ({"up": LINK}, []),     # an interface that is gone went with its pod
])
def test_what_is_missing_is_told_from_what_there_is(gone: dict[str, object], said: list[str]) -> None:
    assert survey.missing(without(WHOLE, **gone), WANTED) == said


def test_a_link_that_is_down_is_missed() -> None:
    down = survey.Links(WHOLE.up - {LINK}, frozenset({LINK}), WHOLE.routes, WHOLE.neighbours)
    assert survey.missing(down, WANTED) == [f"link {LINK} was down"]


@pytest.mark.kernel
def test_routes_neighbours_and_links_come_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelet, "_LOOK", 0.05)

    def events() -> list[str]:
        return [e["message"] for e in lab.api.list("events", "default") if e["reason"] == "DataPlaneRepaired"]

    async def scenario() -> None:
        await lab.kubelet.start()
        lab.pod("web")
        await lab.until(lambda: lab.ready("web"))
        ip, link = lab.status("web")["podIP"], topology.host_interface("default", "web")
        wanted = topology.node_uplink(0) + topology.towards_leaf(link, ip)

        def whole() -> bool:
            return survey.missing(survey.look(lab.net.netns), wanted) == []
        assert whole()
        await asyncio.sleep(0.2)
        assert events() == [], "nothing was taken"
        took: list[tuple[str, str]] = [
            (f"route del {ip}/32", f"route {ip}/32 by {link} was missing"),
            (f"neigh del {ip} dev {link}", f"neighbour {ip} on {link} was missing"),
            (f"link set {link} down", f"link {link} was down"),
            ("route del default", "route default by eth0 was missing"),
            ("link set eth0 down", "link eth0 was down"),
            (f"link del {link}", f"link {link} was missing"),
        ]
        space = lab.kubelet.worker("default", "web").sandbox.netns
        for command, said in took:
            netns.ip(lab.net.netns, [command])
            told: Callable[[], bool] = lambda said=said: any(said in text for text in events())  # noqa: E731
            await lab.until(lambda told=told: whole() and told())
        netns.ip(space, ["route del default"])
        await lab.until(lambda: any(f"default route of pod {ip} was missing" in text for text in events()))
        netns.ip(space, [f"neigh del {topology.GATEWAY} dev eth0"])
        await lab.until(lambda: not survey.is_cut_off(survey.look(space)))
        code, _ = await lab.run("web", ["sh", "-c", f"ip route get {lab.net.ip}"])
        assert code == 0
        event = next(e for e in lab.api.list("events", "default") if e["reason"] == "DataPlaneRepaired")
        assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Node", lab.net.name)
        assert (event["type"], event["source"]["component"]) == ("Warning", "kubelet")

    asyncio.run(scenario())
