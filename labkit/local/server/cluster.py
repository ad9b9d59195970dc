"""One cluster: its network, its API server, its controllers and its nodes, brought together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sqlite3
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.local.arm.clusters import ClusterSpec, PoolSpec
from labkit.local.bootstrap import manifests
from labkit.local.client import Obj, tolerating
from labkit.local.controllers import ClusterSettings, Controllers
from labkit.local.fabric import Fabric, Vnet
from labkit.local.fabric.dns import AzureDns
from labkit.local.kubeapi import Api, User
from labkit.local.node import Kubelet, Nodes, NodeSettings
from labkit.local.node.kubeletapi import cpu_seconds
from labkit.local.node.marks import changes
from labkit.local.paths import LabPaths
from labkit.local.server.addresses import PublicAddresses
from labkit.local.server.drain import drain
from labkit.local.server.listener import FrontDoor, HttpService, Listener
from labkit.local.server.nodepool import NodePlace
from labkit.local.server.secrets import Secrets

log = logging.getLogger(__name__)

_ADMIN = User("masterclient", ("system:masters", "system:authenticated"))
_USER = User("clusterUser", ("system:masters", "system:authenticated"))
_AGED_OUT_MINOR = 34  # from here on an add-on manager takes back what a user changes in AKS's objects


@dataclass(frozen=True)
class Surroundings:
    """What all clusters of a lab share."""

    paths: LabPaths
    fabric: Fabric
    database: sqlite3.Connection
    addresses: PublicAddresses
    secrets: Secrets
    context: ssl.SSLContext
    ca_pem: bytes
    front_door: FrontDoor
    objects: Path
    subscription: str


class CloudNetwork:
    """What the load-balancer controller asks of the fabric: addresses from one table, routes in one VNet."""

    def __init__(self, cluster: str, addresses: PublicAddresses, vnet: Vnet) -> None:
        self._cluster, self._addresses, self._vnet = cluster, addresses, vnet

    def allocate_public_ip(self, name: str, wish: str | None = None) -> str:
        """A public address for a service; the same one for the same name, or the one that it wishes for."""
        owner = f"{self._cluster}/service/{name}"
        return self._addresses.claim(owner, wish) if wish else self._addresses.allocate(owner)

    def release_public_ip(self, ip: str) -> None:
        """Give an address back."""
        self._addresses.release(ip)

    def set_frontend(self, ip: str, node_ips: Sequence[str], *, by_client: bool = False,
                     ports: Mapping[tuple[str, int], Sequence[str]] | None = None) -> None:
        """Route a frontend to nodes, connection by connection, or client by client."""
        self._vnet.set_frontend(ip, node_ips, by_client=by_client, ports=ports)

    def remove_frontend(self, ip: str) -> None:
        """Route a frontend nowhere."""
        self._vnet.remove_frontend(ip)

    async def probe(self, node_ip: str, port: int, path: str | None) -> bool | None:
        """Ask a node as Azure's load balancer does."""
        return await self._vnet.probe(node_ip, port, path)


class Cluster:
    """A running cluster.

    Args:
        spec: what was asked for.
        around: what all clusters share.
    """

    def __init__(self, spec: ClusterSpec, around: Surroundings) -> None:
        self.spec, self._around = spec, around
        self.api_address = around.addresses.allocate(f"{spec.key}/api")
        self.outbound_address = around.addresses.allocate(f"{spec.key}/outbound")
        version = f"v{spec.kubernetes_version}"
        self.api = Api(around.paths.database, spec.key, version=version)
        self.api.authenticate = self._authenticate
        self._service = HttpService(self.api, around.context)
        self._settings = ClusterSettings(
            version=version,
            ca_pem=around.ca_pem.decode(),
            addon_manager=spec.minor >= _AGED_OUT_MINOR,
        )
        self._listener: Listener | None = None
        self._vnet: Vnet | None = None
        self._dns: AzureDns | None = None
        self._controllers: Controllers | None = None
        self._nodes: Nodes | None = None
        self.kubelets: dict[str, Kubelet] = {}

    async def start(self, places: Sequence[NodePlace]) -> None:
        """Bring the cluster up, or adopt what a killed daemon left running; idempotent."""
        around, spec = self._around, self.spec
        fabric = around.fabric
        if self._vnet is None:
            self._vnet = vnet = await asyncio.to_thread(fabric.ensure_vnet, spec.key, self.outbound_address)
            await asyncio.to_thread(fabric.add_api_address, self.api_address)
            listening = await asyncio.to_thread(self._listen)
            self._listener = Listener(listening, self._service.serve)
            around.front_door.add_api(spec.fqdn, self._service)
            self._dns = AzureDns(self._resolve)
            await self._dns.start(lambda family, type_: fabric.socket_in(vnet.netns, family, type_))
            self._bootstrap()
            cloud = CloudNetwork(spec.key, around.addresses, self._vnet)
            self._controllers = Controllers(self.api, cloud=cloud, settings=self._settings)
            self._controllers.register_addons(manifests(spec, self.api_address))
            self._controllers.start()
            self._nodes = Nodes(self.api)
            self.api.node_backend = self._nodes
        await self.set_nodes(places)

    def apply_kube_proxy(self) -> None:
        """Have kube-proxy's DaemonSet, or have none, as the spec says; AKS's add-on manager does the same."""
        if self._controllers:
            self._controllers.register_addons(manifests(self.spec, self.api_address))
        if self.spec.kube_proxy:
            self._bootstrap()
            return
        with tolerating(404):
            self.api.delete("daemonsets.apps", "kube-proxy", "kube-system", propagation="Background")

    async def set_nodes(self, places: Sequence[NodePlace]) -> None:
        """Have exactly these nodes; what runs on those that leave moves to the others, if there are any.

        A machine whose Node object somebody has deleted is still there. Its kubelet is restarted, so it comes back.
        """
        wanted = {p.name: p for p in places}
        leaving = [name for name in self.kubelets if name not in wanted]
        if wanted:
            await asyncio.gather(*(drain(self.api, name) for name in leaving))
        await asyncio.gather(*(self._remove_node(name) for name in leaving))
        there = {node["metadata"]["name"] for node in self.api.list("nodes")}
        for kubelet in self.kubelets.values():
            if kubelet.name not in there:
                kubelet.register()
        await asyncio.gather(*(self._add_node(p) for p in places if p.name not in self.kubelets))

    def mark_nodes(self, pool: PoolSpec, before: PoolSpec) -> None:
        """Give a pool's nodes the labels and taints that it has now; new nodes register with them."""
        for node in self.api.list("nodes", label_selector=f"agentpool={pool.name}"):
            if patch := changes(node, (before.labels, before.taints), (pool.labels, pool.taints)):
                self.api.patch("nodes", node["metadata"]["name"], patch, type="merge")

    async def stop(self) -> None:
        """Stop what runs in this process; pods, network and objects stay for the next daemon."""
        await self._stop_serving(kill_pods=False)
        self.api.close()

    async def _stop_serving(self, *, kill_pods: bool) -> None:
        if self._controllers:
            self._controllers.stop()
        await asyncio.gather(
            *(k.stop(kill_pods=kill_pods) for k in self.kubelets.values()), return_exceptions=True
        )
        self.kubelets.clear()
        self._around.front_door.remove_api(self.spec.fqdn)
        if self._dns:
            self._dns.close()
        if self._listener:
            await self._listener.close()
        self._service.close()

    async def delete(self) -> None:
        """Take the cluster down with its network and its objects."""
        vnet, fabric = self._vnet, self._around.fabric
        await self._stop_serving(kill_pods=True)
        self.api.erase()
        self.api.close()
        if vnet:
            await asyncio.to_thread(vnet.delete)
        # The address will be given to another: it must not stay on the internet's side as ours.
        await asyncio.to_thread(fabric.remove_api_address, self.api_address)
        for parent in (self._around.paths.bpffs, self._around.paths.cgroup):
            with contextlib.suppress(OSError):  # nodes have removed what they had in it
                (parent / self.spec.key).rmdir()
        self._around.addresses.release_cluster(self.spec.key)

    def describe(self) -> dict[str, Any]:
        """The cluster's part of `labkit status`."""
        spec = self.spec
        pods = self.api.list("pods")
        nodes = self.api.list("nodes")
        return {
            "name": spec.name,
            "resource_group": spec.resource_group,
            "version": spec.kubernetes_version,
            "key": spec.key,
            "fqdn": spec.fqdn,
            "objects": self.api.count(),
            "nodes": [self._describe_node(n, pods) for n in nodes],
        }

    def _describe_node(self, node: Obj, pods: list[Obj]) -> dict[str, Any]:
        name = node["metadata"]["name"]
        conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
        addresses = {a["type"]: a["address"] for a in node.get("status", {}).get("addresses", [])}
        return {
            "name": name,
            "ip": addresses.get("InternalIP", ""),
            "status": "Ready" if conditions.get("Ready") == "True" else "NotReady",
            "pods": sum(p["spec"].get("nodeName") == name for p in pods),
            "data_plane": self._data_plane(name, pods),
            "cpu_seconds": cpu_seconds(self._around.paths.cgroup / self.spec.key / name),
        }

    def _data_plane(self, node: str, pods: list[Obj]) -> str:
        """What the node's kernel holds and its pods do, not what an object asks for."""
        pins = self._around.paths.bpffs / self.spec.key / node
        if pins.exists() and any(pins.iterdir()):
            return "Calico eBPF"
        calico = any(p["spec"].get("nodeName") == node and p["metadata"]["name"].startswith("calico-node-")
                     for p in pods)
        return "Calico iptables" if calico else "kube-proxy only"

    async def _add_node(self, node: NodePlace) -> None:
        assert self._vnet
        assert self._nodes
        around, spec = self._around, self.spec
        pool = next(p for p in spec.pools if p.name == node.pool)
        net = await asyncio.to_thread(self._vnet.add_node, node.name, node.slot)
        external = around.addresses.allocate(self._owner(node.name)) if pool.enable_node_public_ip else None
        if external:
            await asyncio.to_thread(self._vnet.set_node_public, external, net.ip)
        settings = NodeSettings(
            version=f"v{spec.kubernetes_version}",
            location=spec.location,
            pool=node.pool,
            mode=pool.mode,
            labels=pool.labels,
            taints=pool.taints,
            max_pods=pool.max_pods,
            vm_size=pool.vm_size,
            dns_service_ip=spec.dns_service_ip,
            ca_pem=around.ca_pem.decode(),
            bpf_objects=around.objects,
            external_ip=external,
            own_network=spec.network_plugin == "none",
            node_resource_group=f"MC_{spec.resource_group}_{spec.name}_{spec.location}",
            subscription=around.subscription,
        )
        kubelet = Kubelet(self.api, net, self._vnet, around.paths, spec.key, settings)
        self.kubelets[node.name] = kubelet
        self._nodes.add(kubelet)
        await kubelet.start()

    async def _remove_node(self, name: str) -> None:
        assert self._vnet
        assert self._nodes
        kubelet = self.kubelets.pop(name)
        await kubelet.stop(kill_pods=True)
        self._nodes.remove(name)
        with tolerating(404):
            self.api.delete("nodes", name)
        if external := kubelet.settings.external_ip:
            await asyncio.to_thread(self._vnet.remove_node_public, external)
            self._around.addresses.release(external)
        await asyncio.to_thread(self._vnet.remove_node, name)

    def _owner(self, node: str) -> str:
        """In whose name a node's public address is kept."""
        return f"{self.spec.key}/node/{node}"

    def _bootstrap(self) -> None:
        """Create the system's objects; those that exist are left as their owner has them."""
        for obj in manifests(self.spec, self.api_address):
            with tolerating(409):
                self.api.create(self.api.resource_of(obj["apiVersion"], obj["kind"]), obj)

    def _resolve(self, name: str) -> list[str] | None:
        """What Azure's resolver knows in this VNet: the API's name."""
        return [self.api_address] if name == self.spec.fqdn.lower() else None

    def _listen(self) -> socket.socket:
        listening = self._around.fabric.socket_in(
            self._around.paths.netns("internet"), socket.AF_INET, socket.SOCK_STREAM
        )
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((self.api_address, 443))
        listening.listen(512)
        return listening

    def token(self, *, admin: bool) -> str:
        """The bearer token of a kubeconfig."""
        return self._around.secrets.token("kube", self.spec.key, "clusterAdmin" if admin else "clusterUser")

    def _authenticate(self, token: str) -> User | None:
        return {self.token(admin=True): _ADMIN, self.token(admin=False): _USER}.get(token)
