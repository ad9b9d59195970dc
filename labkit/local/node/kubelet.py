"""A small kubelet: it registers its node, and runs the pods that are bound to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from labkit.local.client import ApiError, Client, EventType, Obj, Subscription
from labkit.local.dataplane import repaired
from labkit.local.fabric import NodeNet, PodNet, Vnet, repair
from labkit.local.launcher.kernel import end_cgroup, kill_cgroup, mount
from labkit.local.node import ipam, nodeobject, sandbox, volumes
from labkit.local.node.podworker import PodWorker
from labkit.local.node.runtime import Launcher
from labkit.local.node.settings import NodeSettings
from labkit.local.paths import LabPaths
from labkit.local.recorder import Recorder

log = logging.getLogger(__name__)

_HEARTBEAT = 10.0
_CNI_LOOK = 0.2  # seconds between two looks for a CNI plugin, while there is none
_LOOK = 5.0  # seconds between two looks at the node's routes
_STATUS_EVERY = 30  # heartbeats: the status is written every five minutes, as a real kubelet does
_pool = ThreadPoolExecutor(4, thread_name_prefix="node")  # bounds how many pods are set up at once


class PodFeed:
    """One watch of all pods, for all kubelets of a cluster."""

    _feeds: ClassVar[WeakKeyDictionary[Any, PodFeed]] = WeakKeyDictionary()

    def __init__(self, client: Client) -> None:
        self._client = client
        self._handlers: dict[str, Callable[[EventType, Obj], None]] = {}
        self._subscription: Subscription | None = None

    @classmethod
    def of(cls, client: Client) -> PodFeed:
        """The feed that the kubelets of this API share."""
        if client not in cls._feeds:
            cls._feeds[client] = cls(client)
        return cls._feeds[client]

    def add(self, node: str, handler: Callable[[EventType, Obj], None]) -> None:
        """Give a node its pods: those that are there now, then every change."""
        self._handlers[node] = handler
        if self._subscription is None:
            self._subscription = self._client.watch("pods", self._dispatch)
        else:
            for pod in self._client.list("pods", field_selector=f"spec.nodeName={node}"):
                handler("ADDED", pod)

    def remove(self, node: str) -> None:
        """No more for this node."""
        self._handlers.pop(node, None)
        if not self._handlers and self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _dispatch(self, event: EventType, pod: Obj) -> None:
        handler = self._handlers.get(pod["spec"].get("nodeName", ""))
        if handler:
            handler(event, pod)


class Kubelet:
    """One node's agent. Its pods outlive it: another kubelet of the same node adopts them.

    Args:
        client: its cluster's API.
        node: its place in the network.
        vnet: where its pods are connected.
        paths: the lab's.
        cluster: the cluster's key.
        settings: what kind of node it is.
    """

    def __init__(self, client: Client, node: NodeNet, vnet: Vnet, paths: LabPaths, cluster: str,
                 settings: NodeSettings) -> None:
        self.client, self.node, self.vnet, self.settings = client, node, vnet, settings
        self.launcher = Launcher()
        self.recorder = Recorder(client, "kubelet", node.name)
        self._paths = paths
        self._folder = paths.run / "nodes" / cluster / node.name
        self._cgroup = paths.cgroup / cluster / node.name
        self._bpffs = paths.bpffs / cluster / node.name
        self._workers: dict[str, PodWorker] = {}
        self._ips: dict[str, str] = {}
        self._next_ip = 0
        self._heart: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._cni: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    async def start(self) -> None:
        """Register the node, or find it registered, and look after its pods."""
        await self.blocking(self._prepare)
        self.register()
        PodFeed.of(self.client).add(self.name, self._on_pod)
        await self._clear_strangers()
        self._heart = asyncio.get_running_loop().create_task(self._beat())
        self._look = asyncio.get_running_loop().create_task(self._look_after())
        if self.settings.own_network:
            self._cni = asyncio.get_running_loop().create_task(self._await_cni())

    async def stop(self, *, kill_pods: bool) -> None:
        """Stop; the pods go on unless `kill_pods`."""
        PodFeed.of(self.client).remove(self.name)
        for task in (self._heart, self._look, self._cni):
            if task:
                task.cancel()
        workers = list(self._workers.values())
        self._workers.clear()
        if kill_pods:
            await asyncio.gather(*(worker.kill() for worker in workers), *self._background, return_exceptions=True)
            self.launcher.close()   # it does first what it was asked for: that would come back after it was removed
            await self.blocking(self._remove_all)
        else:
            for worker in workers:
                worker.abandon()
        for task in self._background:
            task.cancel()
        await asyncio.sleep(0)  # lets what was cancelled end
        self.launcher.close()

    # Pods ---------------------------------------------------------------------------------------

    def _on_pod(self, event: EventType, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if event == "DELETED":
            if worker:
                del self._workers[uid]
                if not worker.ended:  # one that ended by itself is torn down already
                    self._in_background(worker.kill())
        elif worker:
            worker.update(pod)
        else:
            worker = self._workers[uid] = PodWorker(self, pod)
            worker.start()

    def _in_background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _clear_strangers(self) -> None:
        """Remove what a former daemon left of pods that were deleted while nobody looked."""
        pods = self._folder / "pods"
        for uid in set(os.listdir(pods)) - set(self._workers):
            def remove(uid: str = uid) -> None:
                kill_cgroup(self.cgroup(uid))
                self.vnet.remove_pod(uid)
                end_cgroup(self.cgroup(uid))
                shutil.rmtree(pods / uid, ignore_errors=True)

            await self.blocking(remove)

    def workers(self) -> list[PodWorker]:
        """The workers of this node's pods."""
        return list(self._workers.values())

    def worker(self, namespace: str, pod: str) -> PodWorker | None:
        """The worker of a pod of this node."""
        return next((worker for worker in self._workers.values()
                     if worker.name == pod and worker.namespace == namespace), None)

    # What pods ask of their node ------------------------------------------------------------------

    def folder(self, uid: str) -> Path:
        """A pod's files."""
        return self._folder / "pods" / uid

    def cgroup(self, uid: str) -> Path:
        """A pod's cgroup."""
        return self._cgroup / uid

    def mountpoint(self) -> Path:
        """An empty folder; what is mounted on it is seen by the container alone."""
        return self._folder / "root"

    def host_disk(self) -> Path:
        """The folder that stands for the node's own disk, for hostPath volumes."""
        return self._folder / "disk"

    def take_ip(self, uid: str, wanted: str | None = None) -> str:
        """An address for a pod; addresses are used in turn, so that a former pod's is not met again soon.

        Raises:
            NetworkNotReadyError: nobody has installed a CNI plugin on this node.
            OSError: when all are taken.
        """
        if uid in self._ips:
            return self._ips[uid]
        taken, pool = set(self._ips.values()), self._pod_ips()
        if wanted and wanted not in taken:
            self._ips[uid] = wanted
            return wanted
        for _ in pool:
            ip = pool[self._next_ip % len(pool)]
            self._next_ip += 1
            if ip not in taken:
                self._ips[uid] = ip
                return ip
        raise OSError(f"no free address on node {self.name}: all {len(pool)} are taken")

    def _pod_ips(self) -> tuple[str, ...]:
        """The addresses that pods here may have: Azure's, or of the block that Calico gives the node."""
        if not self.settings.own_network:
            return self.node.pod_ips
        if self._not_ready():
            raise ipam.NetworkNotReadyError(f"network is not ready: {ipam.NOT_READY}")
        return ipam.addresses(self.client, self.name, self.settings.max_pods)

    def _not_ready(self) -> str:
        """Why the node is not ready for pods; "" where it is. A CNI plugin is there when its configuration is."""
        folder = self.host_disk() / "etc" / "cni" / "net.d"
        there = not self.settings.own_network or (folder.is_dir() and any(folder.glob("*.conflist")))
        return "" if there else ipam.NOT_READY

    def give_ip(self, uid: str) -> None:
        """A pod's address is free again."""
        self._ips.pop(uid, None)

    def privileged_view(self) -> tuple[list[sandbox.Mount], dict[str, str]]:
        """What a privileged pod in the node's network sees besides: mounts and environment."""
        mounts = [sandbox.Mount(str(self._cgroup), str(self._cgroup)),
                  sandbox.Mount(str(self._bpffs), str(self._bpffs))]
        env = {"LABKIT_BPFFS": str(self._bpffs), "LABKIT_CGROUP": str(self._cgroup)}
        objects = self.settings.bpf_objects
        if objects is not None and objects.exists():
            mounts.append(sandbox.Mount(str(objects), str(objects), True))
            env["LABKIT_BPF_OBJECTS"] = str(objects)
        return mounts, env

    async def blocking(self, function: Any, *arguments: Any) -> Any:
        """Call what blocks for milliseconds in a thread; at most a few at once."""
        return await asyncio.get_running_loop().run_in_executor(_pool, function, *arguments)

    # The node itself ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        new = not self.host_disk().exists()  # later on it is the pods', links and all
        for folder in (self._folder / "pods", self._folder / "root", self._folder / "disk", self._cgroup):
            folder.mkdir(parents=True, exist_ok=True)
        if new:
            volumes.lay_out_disk(self.host_disk(), {
                "hostname": f"{self.name}\n", "hosts": f"127.0.0.1\tlocalhost\n{self.node.ip}\t{self.name}\n",
                "resolv.conf": f"nameserver {self.settings.resolver}\n"})
        mount_bpffs(self._paths)
        self._bpffs.mkdir(parents=True, exist_ok=True)

    def _remove_all(self) -> None:
        end_cgroup(self._cgroup)
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._bpffs, ignore_errors=True)

    def register(self) -> None:
        """Make the node's object, or find it: a kubelet does so when it starts, and not again."""
        wanted = nodeobject.node_object(self.node, self.settings)
        try:
            found = self.client.create("nodes", wanted)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = self.client.patch("nodes", self.name, {"metadata": {"labels": wanted["metadata"]["labels"]}})
        self._write_status(found)
        self._renew(found)

    def _write_status(self, found: Obj) -> None:
        status = nodeobject.node_status(self.node, self.settings, found.get("status") or {}, self._not_ready())
        self.client.patch("nodes", self.name, {"status": status}, subresource="status", type="merge")

    def _renew(self, found: Obj) -> None:
        leases, wanted = "leases.coordination.k8s.io", nodeobject.lease(self.name, found["metadata"]["uid"])
        try:
            spec = {field: wanted["spec"][field] for field in ("renewTime", "holderIdentity")}
            self.client.patch(leases, self.name, {"spec": spec}, nodeobject.LEASES)
        except ApiError as error:
            if error.code != 404:
                raise
            self.client.create(leases, wanted, nodeobject.LEASES)

    async def _beat(self) -> None:
        beats, registered = 0, True
        while True:
            await asyncio.sleep(_HEARTBEAT)
            beats += 1
            try:
                found = self.client.get("nodes", self.name)
                registered = True
                self._renew(found)
                conditions = (found.get("status") or {}).get("conditions") or ()
                ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
                if beats % _STATUS_EVERY == 0 or not ready or self._not_ready():
                    self._write_status(found)
                await self._refresh_volumes()
            except ApiError as error:
                # Somebody may have deleted its object. A kubelet registers its node when it starts, and not again.
                if registered:
                    log.warning("Error updating node status, will retry: %s", error)
                registered = error.code != 404

    async def _await_cni(self) -> None:
        """Wait for a CNI plugin, and say at once when it is there."""
        while self._not_ready():
            await asyncio.sleep(_CNI_LOOK)
        with contextlib.suppress(ApiError):  # else the next heartbeat says it
            self._write_status(self.client.get("nodes", self.name))

    async def _look_after(self) -> None:
        """Put back what somebody took from the links, addresses, routes and neighbours of the node or its pods.

        Azure's network plugin makes them once, as a pod starts, and so did we: a pod that lost its route by hand was
        lost. This is kinder than AKS is.
        """
        while True:
            await asyncio.sleep(_LOOK)
            pods = [PodNet(box.netns, box.ip, box.host_interface)
                    for box in (worker.sandbox for worker in self._workers.values()) if box.host_interface]
            try:
                gone = await self.blocking(repair.look_after, self.vnet, self.node, pods)
            except OSError as error:      # the node is being removed, or the kernel refuses
                log.warning("network of node %s: %s", self.name, error)
                continue
            if gone:
                log.warning("node %s: %s", self.name, repaired.message(gone))
                self.recorder.about_node(repaired.REASON, repaired.message(gone), normal=False)

    async def _refresh_volumes(self) -> None:
        for worker in list(self._workers.values()):
            await worker.refresh_volumes()


def mount_bpffs(paths: LabPaths) -> None:
    """Mount the lab's own bpffs, once."""
    paths.bpffs.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(paths.bpffs):
        mount("bpf", str(paths.bpffs), "bpf", 0)
