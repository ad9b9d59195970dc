"""What a learner takes from a node's network by hand comes back, and an event says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
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
    frozenset({(POD, LINK, topology.mac_of(POD)), ("10.224.0.1", "eth0", topology.FABRIC_MAC)}),
    frozenset({("10.224.0.4/16", "eth0")}), frozenset({(LINK, 1500)}), frozenset({(LINK, 7, 2)}),
    sources=frozenset({(f"{POD}/32", LINK, ""), ("10.224.0.1/32", "eth0", "10.224.0.4"),
                       ("10.224.0.0/16", "eth0", "10.224.0.4"), ("0.0.0.0/0", "eth0", "10.224.0.4")}),
    route_mtus=frozenset({(f"{POD}/32", LINK, 0), ("10.224.0.1/32", "eth0", 0), ("10.224.0.0/16", "eth0", 0),
                          ("0.0.0.0/0", "eth0", 1500)}))


def without(links: survey.Links, **gone: object) -> survey.Links:
    fields = survey.Links.__dataclass_fields__
    return survey.Links(**{name: getattr(links, name) - {gone.get(name)} for name in fields})


@pytest.mark.parametrize(("gone", "said"), [
    ({}, []),
    ({"routes": (f"{POD}/32", LINK, "")}, [f"route {POD}/32 by {LINK} was missing"]),
    ({"routes": ("0.0.0.0/0", "eth0", "10.224.0.1")}, ["route default by eth0 was missing"]),
    ({"neighbours": (POD, LINK, topology.mac_of(POD))}, [f"neighbour {POD} on {LINK} was missing"]),
    ({"addresses": ("10.224.0.4/16", "eth0")}, ["address 10.224.0.4/16 of eth0 was missing"]),
    ({"up": LINK}, []),     # an interface that is gone went with its pod
])
def test_what_is_missing_is_told_from_what_there_is(gone: dict[str, object], said: list[str]) -> None:
    assert survey.missing(without(WHOLE, **gone), WANTED) == said


@pytest.mark.parametrize(("changed", "said"), [
    ({"up": WHOLE.up - {LINK}, "down": frozenset({LINK})}, [f"link {LINK} was down"]),
    ({"mtus": frozenset({(LINK, 1280)})}, [f"the MTU of {LINK} was 1280"]),
    ({"neighbours": frozenset({(POD, LINK, "00:00:00:00:00:01"), ("10.224.0.1", "eth0", topology.FABRIC_MAC)})},
     [f"neighbour {POD} on {LINK} had another hardware address"]),
    ({"sources": WHOLE.sources - {("10.224.0.0/16", "eth0", "10.224.0.4")} | {("10.224.0.0/16", "eth0", "10.224.9.9")}},
     ["route 10.224.0.0/16 by eth0 had another source address"]),
    ({"route_mtus": WHOLE.route_mtus - {("0.0.0.0/0", "eth0", 1500)} | {("0.0.0.0/0", "eth0", 1300)}},
     ["route default by eth0 had another MTU"]),
])
def test_what_is_not_as_it_was_is_said(changed: dict[str, object], said: list[str]) -> None:
    assert survey.missing(replace(WHOLE, **changed), [*WANTED, f"link set {LINK} mtu 1500"]) == said


def test_a_link_is_known_by_its_other_end() -> None:
    inside = replace(WHOLE, ends=frozenset({("lo", 1, 0), ("eth0", 2, 7)}))
    assert survey.other_end(inside, "eth0", WHOLE) == LINK
    assert survey.other_end(WHOLE, LINK, inside) == "eth0"
    assert survey.other_end(inside, "eth0", replace(WHOLE, ends=frozenset({(LINK, 7, 3)}))) == "", "it has another"


def test_a_default_route_of_a_pods_own_is_left_alone() -> None:
    def pod(*hops: str) -> survey.Links:
        return replace(WHOLE, routes=frozenset(("0.0.0.0/0", "eth0", hop) for hop in hops))
    assert [survey.has_other_way(pod(*hops)) for hops in ((), (topology.GATEWAY,), ("10.9.9.9",))] == [
        False, False, True]


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
        space = lab.kubelet.worker("default", "web").sandbox.netns
        gateway, inside = topology.GATEWAY, f"in pod {ip}: "
        took: list[tuple[str, str, str]] = [
            (lab.net.netns, f"route del {ip}/32", f"route {ip}/32 by {link} was missing"),
            (lab.net.netns, f"neigh del {ip} dev {link}", f"neighbour {ip} on {link} was missing"),
            (lab.net.netns, f"link set {link} down", f"link {link} was down"),
            (lab.net.netns, f"link set {link} mtu 1300", f"the MTU of {link} was 1300"),
            (lab.net.netns, f"link set {link} name stray", f"link {link} was renamed to stray"),
            (lab.net.netns, f"link del {link}", f"link {link} was missing"),
            (lab.net.netns, "route del default", "route default by eth0 was missing"),
            (lab.net.netns, f"route change default via {topology.SUBNET_GATEWAY} dev eth0 src {lab.net.ip} mtu 900",
             "route default by eth0 had another MTU"),
            (lab.net.netns, f"route change {topology.SUBNET} via {topology.SUBNET_GATEWAY} dev eth0",
             f"route {topology.SUBNET} by eth0 had another source address"),
            (space, f"route change default via {gateway} dev eth0 mtu 900",
             f"{inside}route default by eth0 had another MTU"),
            (lab.net.netns, f"addr del {lab.net.ip}/16 dev eth0", f"address {lab.net.ip}/16 of eth0 was missing"),
            (lab.net.netns, "link set eth0 mtu 1500", "the MTU of eth0 was 1500"),
            (lab.net.netns, "link set eth0 down", "link eth0 was down"),
            (lab.net.netns, "link set eth0 name stray", "link eth0 was renamed to stray"),
            (lab.net.netns, "link del eth0", "link eth0 was missing"),
            (space, "route del default", f"{inside}route default by eth0 was missing"),
            (space, f"neigh del {gateway} dev eth0", f"{inside}neighbour {gateway} on eth0 was missing"),
            (space, "link set lo down", f"{inside}link lo was down"),
            (space, "link set eth0 mtu 1400", f"{inside}the MTU of eth0 was 1400"),
            (space, "addr flush dev eth0", f"{inside}address {ip}/32 of eth0 was missing"),
            (space, "link set eth0 down", f"{inside}link eth0 was down"),
            (space, "link set eth0 name stray", f"{inside}link eth0 was renamed to stray"),
        ]
        lab.vnet.set_frontend("192.0.2.50", [lab.net.ip])
        for where, command, said in took:
            if " name " in command:
                netns.ip(where, [f"{command.partition(' name ')[0]} down"])
            netns.ip(where, [command])
            told: Callable[[], bool] = lambda said=said: any(said in text for text in events())  # noqa: E731
            await lab.until(lambda told=told: told() and survey.missing(survey.look(space), topology.leaf(ip)) == []
                            and whole())
            code, output = await lab.run("web", ["sh", "-c", f"ping -c 1 -W 10 {lab.net.ip}"])
            assert code == 0, (command, output)
        assert lab.net.ip in netns.ip_output(lab.vnet.netns, "route", "show", "192.0.2.50"), "it went with the link"
        event = next(e for e in lab.api.list("events", "default") if e["reason"] == "DataPlaneRepaired")
        assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Node", lab.net.name)
        assert (event["type"], event["source"]["component"]) == ("Warning", "kubelet")

    asyncio.run(scenario())
