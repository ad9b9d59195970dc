"""Puts back what somebody took from the links, addresses, routes and neighbours of a node or of its pods by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from labkit.local.fabric import netns, survey, topology
from labkit.local.fabric.fabric import NodeNet, PodNet, Vnet


def look_after(vnet: Vnet, node: NodeNet, pods: Sequence[PodNet]) -> list[str]:
    """Mend a node's network, and say what was wrong with it, in words.

    Args:
        vnet: where it is.
        node: which.
        pods: its pods.

    Raises:
        OSError: the node is gone, or the kernel refuses.
    """
    seen = survey.look(node.netns)
    ours = frozenset({"lo", "eth0", *(pod.host_interface for pod in pods)})
    said = _settings(node.netns) + _tables(node.netns, seen)
    if "eth0" not in seen.names:
        said += _rename(survey.look(vnet.netns), topology.node_link(node.index), seen, node.netns, "eth0", ours)
        if "eth0" not in survey.look(node.netns).names:
            _connect(vnet, node)
            said.append("link eth0 was missing")
        seen = survey.look(node.netns)
    said += _put_back(node.netns, seen, [*topology.node_uplink(node.index), f"link set eth0 mtu {topology.NODE_MTU}"])
    for pod in pods:
        with contextlib.suppress(netns.NetworkError, OSError):         # the pod has gone, and all of it
            said += _pod(node, pod, seen, ours)
    return said


def _connect(vnet: Vnet, node: NodeNet) -> None:
    # Not by `add_node`: it would make the namespace of a node that is being removed anew.
    index = node.index
    netns.ip(vnet.netns, [
        topology.add_link(topology.node_link(index), topology.FABRIC_MAC, "eth0", topology.mac_of(node.ip), node.netns,
                          topology.NODE_MTU),
        *topology.towards_node(index), *topology.remembered_route(index)[1][1:]])
    netns.ip(node.netns, topology.node_uplink(index))
    for set_again in tuple(vnet.frontends.values()):                        # their routes went with the link
        set_again()


def _pod(node: NodeNet, pod: PodNet, seen: survey.Links, ours: frozenset[str]) -> list[str]:
    link, inside = pod.host_interface, survey.look(pod.netns)
    mtu = topology.OVERLAY_MTU if link.startswith("cali") else topology.POD_MTU
    said: list[str] = []
    if link not in seen.names or "eth0" not in inside.names:
        said += _rename(inside, "eth0", seen, node.netns, link, ours)
        said += _of(pod, _rename(seen, link, inside, pod.netns, "eth0", ours))
        if not said:
            for space, end in ((pod.netns, "eth0"), (node.netns, link)):
                with contextlib.suppress(netns.NetworkError):          # else one whose other end is somewhere else
                    netns.ip(space, [f"link del {end}"])
            netns.ip(node.netns, [topology.add_link(
                link, topology.GATEWAY_MAC, "eth0", topology.mac_of(pod.ip), pod.netns, mtu)])
            netns.ip(node.netns, topology.towards_leaf(link, pod.ip))
            netns.ip(pod.netns, topology.leaf(pod.ip))
            return [f"link {link} was missing"]
        seen, inside = survey.look(node.netns), survey.look(pod.netns)
    said += _put_back(node.netns, seen, [*topology.towards_leaf(link, pod.ip), f"link set {link} mtu {mtu}"])
    commands = [*topology.leaf(pod.ip), f"link set eth0 mtu {mtu}"]
    if survey.has_other_way(inside):
        commands = [command for command in commands if not command.startswith("route ")]
    return said + _of(pod, _put_back(pod.netns, inside, commands))


def _of(pod: PodNet, said: list[str]) -> list[str]:
    return [f"in pod {pod.ip}: {what}" for what in said]


def _put_back(space: str, seen: survey.Links, commands: list[str]) -> list[str]:
    missing = survey.missing(seen, commands)
    if missing:
        netns.ip(space, commands)
    return missing


def _rename(far: survey.Links, link: str, here: survey.Links, space: str, name: str, ours: frozenset[str]) -> list[str]:
    """Give the other end of a link its name back, if somebody gave it another that is none of ours.

    An index means another interface in another namespace: the end of a link may be in one that we do not look at.
    """
    renamed = survey.other_end(far, link, here)
    if not renamed or renamed in ours or name in here.names:
        return []
    netns.ip(space, [f"link set {renamed} down", f"link set {renamed} name {name}"])
    return [f"link {name} was renamed to {renamed}"]


def _tables(space: str, seen: survey.Links) -> list[str]:
    missing = [(pref, table) for pref, table in ((0, "local"), (32766, "main")) if pref not in seen.rules]
    for pref, table in missing:
        netns.ip(space, [f"rule add pref {pref} lookup {table}"])
    return [f"rule {pref}, that the table {table} is looked up, was missing" for pref, table in missing]


def _settings(space: str) -> list[str]:
    """Kernel settings without which a node does not forward its pods' packets."""
    there = netns.sysctls(space, [key for key, _ in topology.FORWARDING])
    changed = [(key, value, there[key]) for key, value in topology.FORWARDING if there[key] != value]
    netns.set_sysctls(space, [(key, value) for key, value, _ in changed])
    return [f"net.{key.replace('/', '.')} was {found}" for key, _, found in changed]
