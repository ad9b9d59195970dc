"""Effects: the lab's namespaces, links and routes, made to be as `topology` says.

Every function is idempotent and keeps what it finds: names are derived from what they name, so a
daemon that was killed comes back and adopts its networks, pods' connections included. All calls block
for milliseconds: call them from a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from labkit.local.fabric import netns, topology
from labkit.local.fabric.probe import probe
from labkit.local.paths import LabPaths

_maps_lock = threading.Lock()  # nodes come side by side, and a router's maps are read before they are written


@dataclass(frozen=True)
class OutsideClient:
    """A machine outside the VNet."""

    name: str
    address: str
    netns: str


@dataclass(frozen=True)
class NodeNet:
    """A node's place in the VNet."""

    name: str
    index: int
    netns: str
    ip: str
    pod_ips: tuple[str, ...]


@dataclass(frozen=True)
class PodNet:
    """A pod's place in the VNet; `host_interface` is the node's end of its link."""

    netns: str
    ip: str
    host_interface: str


class Fabric:
    """All networks of one lab.

    Args:
        paths: whose they are; every name starts with its prefix.
    """

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths

    @property
    def internet(self) -> str:
        """The namespace that stands for the internet; the API's public addresses are in it."""
        return self._paths.netns("internet")

    def ensure_internet(self) -> None:
        """Make the namespace that everything outside a VNet is connected to."""
        netns.create(self.internet)
        netns.set_sysctls(self.internet, topology.FORWARDING)
        netns.ip(self.internet, ["link set lo up"])

    def add_api_address(self, ip: str) -> None:
        """Give the internet's namespace the public address of a cluster's API."""
        netns.ip(self.internet, [f"addr replace {ip}/32 dev lo"])

    def remove_api_address(self, ip: str) -> None:
        """Take back the address of an API that is gone.

        A connection that somebody still holds there would swallow the first packets of the next cluster's: the kernel
        of its nodes begins with the same ports, and for seconds none of them would reach their API.
        """
        with contextlib.suppress(netns.NetworkError):
            netns.ip(self.internet, [f"addr del {ip}/32 dev lo"])
        netns.hang_up(self.internet, ip)

    def ensure_client(self, name: str, address: str | None = None) -> OutsideClient:
        """Make an outside client, or find it; without `address` it gets its usual or the next free one."""
        existing = {client.name: client for client in self.clients()}
        if known := existing.get(name):
            address = known.address
        elif address is None:
            address = topology.next_client_address(name, [client.address for client in existing.values()])
        client = OutsideClient(name, address, self._paths.netns("client", name))
        link = topology.short_link("cl-", name)
        _ensure_leaf(self.internet, link, client.netns, address, topology.HARMLESS)
        return client

    def clients(self) -> list[OutsideClient]:
        """The outside clients that there are."""
        prefix = self._paths.netns("client", "")
        found = ((name.removeprefix(prefix), name, _address_of(name)) for name in netns.names(prefix))
        return [OutsideClient(name, address, space) for name, space, address in found if address]

    def client_netns(self, name: str) -> str | None:
        """The namespace of an outside client, None where there is no such client; this does not block."""
        space = self._paths.netns("client", name)
        return space if "/" not in name and netns.exists(space) else None

    def ensure_vnet(self, cluster: str, outbound_ip: str) -> Vnet:
        """Make a cluster's VNet: a router with Azure's resolver, and a way out by `outbound_ip`."""
        router = self._paths.netns(cluster, "vnet")
        uplink = topology.short_link("vnet-", cluster)
        netns.create(router)
        netns.set_sysctls(router, topology.ROUTER)
        if not netns.has_link(self.internet, uplink):
            netns.ip(self.internet, [topology.add_link(
                uplink, topology.GATEWAY_MAC, "eth0", topology.mac_of(outbound_ip), router, topology.POD_MTU)])
        netns.ip(self.internet, topology.towards_leaf(uplink, outbound_ip))
        netns.ip(router, topology.router_uplink(outbound_ip))
        for rule in topology.around_itself(outbound_ip):
            with contextlib.suppress(netns.NetworkError):    # it is so already
                netns.ip(router, [rule])
        netns.nft(router, topology.router_rules(outbound_ip) + topology.FLOWS)
        return Vnet(self._paths, cluster, outbound_ip)

    def socket_in(self, name: str, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket that belongs to a namespace, for use from anywhere in this process."""
        return netns.socket_in(name, family, type)

    def tear_down(self) -> None:
        """Remove every network of this lab. Needs no state; what holds its prefix is found by name."""
        for name in netns.names(self._paths.prefix + "-"):
            _remove_leaf(name)


class Vnet:
    """One cluster's virtual network. Also what the load-balancer controller asks for frontends."""

    def __init__(self, paths: LabPaths, cluster: str, outbound_ip: str) -> None:
        self._paths, self._cluster, self.outbound_ip = paths, cluster, outbound_ip
        self.netns = paths.netns(cluster, "vnet")
        self._internet = paths.netns("internet")
        self.frontends: dict[str, Callable[[], None]] = {}       # what sets each once more

    def add_node(self, name: str, index: int) -> NodeNet:
        """Connect node `index` to the router, or find it connected."""
        space = self._paths.netns(self._cluster, name)
        link, ip = topology.node_link(index), topology.node_address(index)
        netns.create(space)
        netns.set_sysctls(space, topology.FORWARDING)
        if not netns.has_link(space, "eth0"):
            netns.ip(self.netns, [topology.add_link(
                link, topology.FABRIC_MAC, "eth0", topology.mac_of(ip), space, topology.NODE_MTU)])
        netns.ip(self.netns, topology.towards_node(index))
        former, memory, marks = topology.remembered_route(index)
        with contextlib.suppress(netns.NetworkError):
            netns.ip(self.netns, former)
        netns.ip(self.netns, memory)
        netns.nft(self.netns, marks)
        netns.ip(space, topology.node_uplink(index))
        return NodeNet(name, index, space, ip, topology.pod_addresses(index))

    def remove_node(self, name: str) -> None:
        """Disconnect a node."""
        _remove_leaf(self._paths.netns(self._cluster, name))

    def pod_netns(self, uid: str) -> str:
        """The name of a pod's network namespace."""
        return self._paths.netns(self._cluster, "pod", uid[:8])

    def add_pod(self, node: NodeNet, uid: str, namespace: str, name: str, ip: str, *,
                own_network: bool = False) -> PodNet:
        """Connect a pod to its node, or find it connected.

        Args:
            node: its node.
            uid: the pod's.
            namespace: the pod's.
            name: the pod's.
            ip: its address.
            own_network: as Calico's CNI plugin does it, with room for VXLAN, and not as Azure's.
        """
        space, link = self.pod_netns(uid), topology.host_interface(namespace, name, "cali" if own_network else "azv")
        _ensure_leaf(node.netns, link, space, ip, topology.POD,
                     topology.OVERLAY_MTU if own_network else topology.POD_MTU)
        return PodNet(space, ip, link)

    def remove_pod(self, uid: str) -> None:
        """Disconnect a pod."""
        _remove_leaf(self.pod_netns(uid))

    def set_frontend(self, ip: str, node_ips: Sequence[str], *, by_client: bool = False,
                     ports: Mapping[tuple[str, int], Sequence[str]] | None = None) -> None:
        """Send what arrives for a public address to nodes.

        Packets keep both their addresses: the node sees the client's, and the frontend as destination.

        Args:
            ip: the frontend.
            node_ips: its nodes; without one what is new is dropped.
            by_client: spread by the client's address, not by connection.
            ports: protocol and number of the ports whose nodes are others, to those.
        """
        ports = ports or {}
        self.frontends[ip] = partial(self.set_frontend, ip, node_ips, by_client=by_client, ports=ports)
        indexes = {topology.node_address(i): i for i in self._node_indexes()}
        links = {node: topology.node_link(i) for node, i in indexes.items()}

        def known(nodes: Sequence[str]) -> list[str]:
            return [node for node in nodes if node in links]

        def numbers(nodes: Sequence[str]) -> list[int]:
            return [indexes[node] for node in known(nodes)]

        netns.nft(self.netns, topology.choice(ip, numbers(node_ips), {p: numbers(own) for p, own in ports.items()},
                                              by_client=by_client))
        netns.ip(self._internet, [self._from_internet(ip)])
        netns.ip(self.netns, [topology.frontend_route(ip, known(node_ips), [links[node] for node in known(node_ips)])])
        with contextlib.suppress(netns.NetworkError):    # a kernel without nft_dup_ipv4 leaves reports to the hash
            netns.nft(self.netns, topology.reports_to(links))

    def remove_frontend(self, ip: str) -> None:
        """Take a public address back."""
        self.frontends.pop(ip, None)
        for space in (self._internet, self.netns):
            with contextlib.suppress(netns.NetworkError):
                netns.ip(space, [f"route del {ip}/32"])
        with contextlib.suppress(netns.NetworkError):
            netns.nft(self.netns, topology.no_choice(ip))

    async def probe(self, node_ip: str, port: int, path: str | None) -> bool | None:
        """Ask a node as Azure's load balancer does, by the address that its probes come from; see `probe.probe`."""
        try:
            sock = await asyncio.to_thread(netns.socket_in, self.netns, socket.AF_INET, socket.SOCK_STREAM)
        except OSError:     # the network is being taken down
            return None
        return await probe(sock, topology.AZURE_RESOLVER, node_ip, port, path)

    def set_node_public(self, ip: str, node_ip: str) -> None:
        """Give a node a public address of its own; packets from outside keep the client's address."""
        self._translate(lambda known: {k: v for k, v in known.items() if v != node_ip} | {ip: node_ip})
        netns.ip(self._internet, [self._from_internet(ip)])

    def remove_node_public(self, ip: str) -> None:
        """Take a node's public address back."""
        with contextlib.suppress(netns.NetworkError):
            netns.ip(self._internet, [f"route del {ip}/32"])
        self._translate(lambda known: {k: v for k, v in known.items() if k != ip})

    def _translate(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Change which public address is which node's; connections by an address that was another's are forgotten."""
        with _maps_lock:
            before = netns.nft_map(self.netns, topology.NODE_PUBLICS)
            after = change(before)
            netns.nft(self.netns, topology.node_publics(after))
        for public, _ in before.items() - after.items():
            netns.forget(self.netns, public)

    def _from_internet(self, ip: str) -> str:
        """In the internet's namespace: a public address is behind this cluster's router."""
        uplink = topology.short_link("vnet-", self._cluster)
        return f"route replace {ip}/32 via {self.outbound_ip} dev {uplink} onlink"

    def delete(self) -> None:
        """Remove the cluster's networks: pods, nodes and the router."""
        names = netns.names(self._paths.netns(self._cluster, ""))
        for name in sorted(names, key=lambda name: name == self.netns):  # the router last
            _remove_leaf(name)

    def _node_indexes(self) -> list[int]:
        links = json.loads(netns.ip_output(self.netns, "-j", "link", "show", "type", "veth") or "[]")
        return [int(link["ifname"][4:]) for link in links if link["ifname"].startswith("node")]


def _ensure_leaf(parent: str, link: str, space: str, address: str, sysctls: tuple[tuple[str, str], ...],
                 mtu: int = topology.POD_MTU) -> None:
    """A namespace with one link, to `parent`."""
    netns.create(space)
    netns.set_sysctls(space, sysctls)
    if not netns.has_link(space, "eth0"):
        netns.ip(parent, [topology.add_link(
            link, topology.GATEWAY_MAC, "eth0", topology.mac_of(address), space, mtu)])
    netns.ip(parent, topology.towards_leaf(link, address))
    netns.ip(space, topology.leaf(address))


def _remove_leaf(space: str) -> None:
    """Remove a namespace, its link first.

    The kernel frees namespaces later, at its leisure, and until then the link's other end would stand in
    the way of a successor of the same name.
    """
    with contextlib.suppress(netns.NetworkError, OSError):
        if netns.exists(space) and netns.has_link(space, "eth0"):
            netns.ip(space, ["link del eth0"])
    netns.remove(space)


def _address_of(space: str) -> str | None:
    with contextlib.suppress(netns.NetworkError, ValueError):
        for link in json.loads(netns.ip_output(space, "-j", "-4", "addr", "show", "dev", "eth0") or "[]"):
            for address in link.get("addr_info", []):
                return str(address["local"])
    return None
