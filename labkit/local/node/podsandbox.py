"""A pod's sandbox: its network, its pause process, its volumes. Made, or found as a former daemon left it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from labkit.local.client import ApiError, Obj, find
from labkit.local.fabric import PodNet
from labkit.local.fabric import netns as network
from labkit.local.launcher.kernel import end_cgroup, kill_cgroup, start_time
from labkit.local.node import nodeobject, volumes
from labkit.local.node.environment import ConfigError, Place, hostname
from labkit.local.node.runtime import PodFiles, same_process

if TYPE_CHECKING:
    from labkit.local.node.kubelet import Kubelet

_RENEW_AT = 0.8  # of a token's life, as kubelets do


class PodSandbox:
    """What a pod's containers share.

    Args:
        host: its node.
        pod: its object.
    """

    def __init__(self, host: Kubelet, pod: Obj) -> None:
        self._host, self._pod = host, pod
        meta = pod["metadata"]
        self._uid, self._name, self._namespace = meta["uid"], meta["name"], meta["namespace"]
        self.files = PodFiles(host.folder(self._uid))
        self.on_host = bool(pod["spec"].get("hostNetwork"))
        self.cgroup = host.cgroup(self._uid)
        self.ip = ""
        self.netns = ""
        self.host_interface = ""                  # the node's end of its link; "" on the node's network, or without one
        self.pause = 0
        self.volumes: dict[str, str] = {}
        self._renew_after = 0.0
        self._making: asyncio.Future[None] | None = None

    @property
    def place(self) -> Place:
        """Where the pod runs."""
        return Place(self.ip, self._host.node.ip, self._host.node.name, nodeobject.capacity(self._host.settings))

    async def adopt(self) -> bool:
        """Find it as a former daemon left it; False where nothing of it runs."""
        facts = self.files.sandbox()
        if not facts or not same_process(facts["pause"], facts["pause_start"]):
            return False
        self.pause, self.netns, self.volumes = facts["pause"], facts["netns"], facts["volumes"]
        self._renew_after = facts.get("renew_after", 0.0)
        self.ip = facts["ip"] if self.on_host else self._host.take_ip(self._uid, facts["ip"])
        if not self.on_host:
            net = await self._host.blocking(self._connect)
            self.host_interface = net.host_interface
        return True

    async def create(self) -> None:
        """Make it. Who is cancelled meanwhile leaves it to `remove`, which waits until there is all to be removed.

        Raises:
            ConfigError: an object that a volume is made from is not there.
            SandboxError, OSError: the kernel or the node refused.
        """
        self._making = asyncio.ensure_future(self._make())
        await asyncio.shield(self._making)

    async def _make(self) -> None:
        host = self._host
        around = self._surroundings(self._tokens())
        if self.on_host:
            self.ip, self.netns = host.node.ip, host.node.netns
        else:
            self.ip = host.take_ip(self._uid)

        def prepare() -> dict[str, str]:
            kill_cgroup(self.cgroup)
            self.files.prepare()
            if not self.on_host:
                net = self._connect()
                self.netns, self.host_interface = net.netns, net.host_interface
            return volumes.materialise(self._pod, self.place, around)

        self.volumes = await host.blocking(prepare)
        answer = await host.launcher.request("sandbox", {
            "cgroup": str(self.cgroup), "netns": str(network.path_of(self.netns)),
            "hostname": host.node.name if self.on_host else hostname(self._pod)})
        self.pause = answer["pid"]
        self._record()

    def _connect(self) -> PodNet:
        host = self._host
        return host.vnet.add_pod(host.node, self._uid, self._namespace, self._name, self.ip,
                                 own_network=host.settings.own_network)

    async def refresh(self) -> None:
        """Bring ConfigMaps and Secrets that changed, and tokens that grow old, into the running pod's files."""
        if self._renew_after and time.time() > self._renew_after:
            around = self._surroundings(self._tokens())
            self._record()
        elif any(map(volumes.changes, self._pod["spec"].get("volumes") or ())):
            around = self._surroundings({})
        else:
            return
        await self._host.blocking(volumes.refresh, self._pod, self.place, around)

    async def remove(self) -> None:
        """End what runs in it; free its network and its address, keep its files."""
        if self._making:
            await asyncio.gather(self._making, return_exceptions=True)
        self.host_interface = ""
        await self._host.blocking(self._remove)
        self._host.give_ip(self._uid)

    def lookup(self, resource: str, name: str) -> Obj | None:
        """A ConfigMap or Secret of the pod's namespace."""
        return find(self._host.client, resource, name, self._namespace)

    def _record(self) -> None:
        self.files.record({
            "pause": self.pause, "pause_start": start_time(self.pause), "ip": self.ip, "netns": self.netns,
            "volumes": self.volumes, "namespace": self._namespace, "name": self._name,
            "renew_after": self._renew_after})

    def _remove(self) -> None:
        kill_cgroup(self.cgroup)
        if not self.on_host:
            self._host.vnet.remove_pod(self._uid)
        end_cgroup(self.cgroup)

    def _surroundings(self, tokens: dict[str, str]) -> volumes.Surroundings:
        found = self._snapshot()
        view, _ = self._host.privileged_view()
        return volumes.Surroundings(
            self.files.folder / "volumes", self._host.host_disk(), lambda kind, name: found.get((kind, name)), tokens,
            self._host.settings.ca_pem, tuple(mount.source for mount in view))

    def _snapshot(self) -> dict[tuple[str, str], Obj]:
        """The ConfigMaps and Secrets that the pod's volumes name, read here because the API has one thread."""
        found: dict[tuple[str, str], Obj] = {}
        for volume in self._pod["spec"].get("volumes") or ():
            for part in (volume, *((volume.get("projected") or {}).get("sources") or ())):
                for key, resource in (("configMap", "configmaps"), ("secret", "secrets")):
                    if source := part.get(key):
                        name = source.get("name") or source.get("secretName", "")
                        if obj := self.lookup(resource, name):
                            found[resource, name] = obj
        return found

    def _tokens(self) -> dict[str, str]:
        """A token for each audience that the pod's volumes ask for; the API is asked in its own thread."""
        result: dict[str, str] = {}
        lives = []
        for volume in self._pod["spec"].get("volumes") or ():
            for source in (volume.get("projected") or {}).get("sources") or ():
                if request := source.get("serviceAccountToken"):
                    audience = request.get("audience", "")
                    # A longer life than was asked for: nobody renews a token while the daemon is down.
                    lives.append(max(request.get("expirationSeconds", 3600), self._host.settings.token_seconds))
                    result[audience] = self._token(audience, lives[-1])
        self._renew_after = time.time() + _RENEW_AT * min(lives) if lives else 0.0
        return result

    def _token(self, audience: str, seconds: int) -> str:
        spec: Obj = {"expirationSeconds": seconds,
                     "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": self._name, "uid": self._uid}}
        if audience:
            spec["audiences"] = [audience]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        try:
            answer = self._host.client.create(
                "serviceaccounts/token", {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
                                          "metadata": {"name": account}, "spec": spec}, self._namespace)
        except ApiError as error:
            raise ConfigError(f"failed to fetch token: {error.message}") from error
        return str(answer["status"]["token"])
