"""All nodes of a cluster, as its API sees them: logs, commands and connections go to the right one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from labkit.local.client import ApiError, Client, Obj
from labkit.local.fabric import netns
from labkit.local.node import kubeletapi
from labkit.local.node.attach import Attached, ends_with_its_client
from labkit.local.node.kubelet import Kubelet
from labkit.local.node.podworker import PodWorker
from labkit.local.node.probes import NO_CHECKS
from labkit.local.node.runtime import SandboxError
from labkit.local.node.status import containers
from labkit.local.node.streams import Exec, read_log


class Nodes:
    """`kubeapi.NodeBackend`.

    Args:
        client: the cluster's API; it knows which node a pod is on.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kubelets: dict[str, Kubelet] = {}

    def add(self, kubelet: Kubelet) -> None:
        """A node joins."""
        self._kubelets[kubelet.name] = kubelet

    def remove(self, name: str) -> None:
        """A node leaves."""
        self._kubelets.pop(name, None)

    async def logs(self, namespace: str, pod: str, container: str, *, follow: bool, previous: bool,
                   tail: int | None, since_seconds: int | None, timestamps: bool,
                   limit_bytes: int | None) -> AsyncIterator[bytes]:
        """A container's log.

        Raises:
            ApiError: before the first line, when there is none.
        """
        obj, worker = self._find(namespace, pod)
        name = self._container(obj, container)
        attempts = worker.files.attempts(name) if worker else []
        current = worker.states[name].restarts if worker else 0
        attempt = current - 1 if previous else current
        if not previous and attempt not in attempts and attempts:
            attempt = attempts[-1]  # it waits to be started again
        if worker is None or attempt not in attempts:
            if previous:
                raise ApiError(400, "BadRequest", f'previous terminated container "{name}" in pod "{pod}" not found')
            reason = worker.states[name].reason if worker else "ContainerCreating"
            word = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}
            raise ApiError(400, "BadRequest", f'container "{name}" in pod "{pod}" is waiting to start: '
                                              f"{word.get(reason, reason)}")

        def running() -> bool:
            return name in worker.containers.running and worker.states[name].restarts == attempt

        return read_log(worker.files.log(name, attempt), running=running, follow=follow and not previous, tail=tail,
                        since_seconds=since_seconds, timestamps=timestamps, limit_bytes=limit_bytes)

    async def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str], *,
                   stdin: bool, tty: bool) -> Exec:
        """Start a command in a container.

        Raises:
            ApiError: when there is no such container that runs, or the command is not in it.
        """
        obj, worker = self._find(namespace, pod)
        name = self._container(obj, container)
        if worker is None or name not in worker.containers.running:
            phase = (obj.get("status") or {}).get("phase")
            if phase in ("Succeeded", "Failed"):
                raise ApiError(500, "InternalError", "cannot exec into a container in a completed pod; "
                                                     f"current phase is {phase}")
            raise ApiError(500, "InternalError", f'unable to upgrade connection: container not found ("{name}")')
        try:
            return await worker.containers.exec(name, list(argv), stdin=stdin, tty=tty)
        except SandboxError as error:
            raise ApiError(500, "InternalError", f"OCI runtime exec failed: {error}") from error

    async def attach(self, namespace: str, pod: str, container: str, *, stdin: bool, tty: bool) -> Attached:
        """A container's own process. Who attaches sees what it prints from now on.

        A container whose stdin is for one client is started for that client: it sees everything.

        Raises:
            ApiError: when there is no such container that runs.
        """
        obj, worker = self._find(namespace, pod)
        name = self._container(obj, container)
        if worker is None or name not in worker.containers.running:
            raise ApiError(500, "InternalError", f'unable to upgrade connection: container {name} not found in pod '
                                                 f"{pod}_{namespace}")
        spec: Obj = next((c for c in containers(obj) if c["name"] == name), {})
        log = await self.logs(namespace, pod, name, follow=True, previous=False, since_seconds=None, timestamps=False,
                              tail=None if spec.get("stdinOnce") else 0, limit_bytes=None)
        writable = None
        if stdin and spec.get("stdin"):
            with contextlib.suppress(OSError):  # it reads no more
                writable = worker.containers.open_stdin(name)

        def close() -> None:
            if ends_with_its_client(spec):
                worker.containers.close_stdin(name)

        return Attached(log, writable, tty=bool(spec.get("tty")), close=close)

    async def port_forward(self, namespace: str, pod: str,
                           port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port inside a pod, from the pod's own loopback.

        Raises:
            ApiError: when the pod does not run or nothing listens.
        """
        _, worker = self._find(namespace, pod)
        if worker is None or not worker.sandbox.netns:
            raise ApiError(400, "BadRequest", f'pod "{pod}" is not running')
        try:
            sock = await _connected(worker.sandbox.netns, "127.0.0.1", port)
        except OSError as error:
            raise ApiError(500, "InternalError", f"failed to connect to localhost:{port} inside pod {pod}: "
                                                 f"{error.strerror or error}") from error
        return await asyncio.open_connection(sock=sock)

    async def dial(self, node: str | None, address: str, port: int, *,
                   tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an address from a node, or from any where it is nobody's.

        Raises:
            ApiError: there is no such node.
            OSError: nobody answers.
        """
        kubelet = self._kubelet(node) if node else next(iter(self._kubelets.values()), None)
        if kubelet is None:
            raise ApiError(503, "ServiceUnavailable", "the cluster has no nodes")
        sock = await _connected(kubelet.node.netns, address, port)
        return await asyncio.open_connection(sock=sock, ssl=NO_CHECKS if tls else None,
                                             server_hostname="" if tls else None)

    async def kubelet(self, node: str, path: str) -> tuple[int, bytes, bytes]:
        """What a node's kubelet answers to a GET.

        Raises:
            ApiError: there is no such node.
        """
        return await asyncio.to_thread(kubeletapi.answer, self._kubelet(node), path)

    def _kubelet(self, node: str) -> Kubelet:
        kubelet = self._kubelets.get(node)
        if kubelet is None:
            raise ApiError(503, "ServiceUnavailable", f'node "{node}" does not answer')
        return kubelet

    def _find(self, namespace: str, pod: str) -> tuple[Obj, PodWorker | None]:
        obj = self._client.get("pods", pod, namespace)
        node = obj["spec"].get("nodeName")
        if not node:
            raise ApiError(400, "BadRequest", f"pod {pod} does not have a host assigned")
        return obj, self._kubelet(node).worker(namespace, pod)

    @staticmethod
    def _container(pod: Obj, container: str) -> str:
        names = [c["name"] for c in containers(pod)]
        if container and container not in names:
            raise ApiError(400, "BadRequest", f"container {container} is not valid for pod {pod['metadata']['name']}")
        return container or names[0]


async def _connected(space: str, address: str, port: int) -> socket.socket:
    """A TCP connection from a network namespace."""
    sock = await asyncio.to_thread(netns.socket_in, space, socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
