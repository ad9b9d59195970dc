"""A pod's containers as processes: how they start, what else runs in them, and how they are stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from labkit.local.client import Obj
from labkit.local.fabric import netns as network
from labkit.local.launcher.kernel import kill_cgroup
from labkit.local.node import attach, catalogue, hooks, probes, sandbox, status, volumes
from labkit.local.node.environment import environment, etc_files, expand, hostname, kubernetes_service
from labkit.local.node.podsandbox import PodSandbox
from labkit.local.node.runtime import Running, SandboxError, process_end, signal_process
from labkit.local.node.status import Ended
from labkit.local.node.streams import Exec, collect

if TYPE_CHECKING:
    from labkit.local.node.kubelet import Kubelet

_SHUTDOWN = 2.0  # seconds that a container has after a hook, however long that took


class Containers:
    """What runs in a pod's sandbox.

    Args:
        host: its node.
        box: its sandbox.
        pod: its object; whoever learns of a newer one sets it.

    Attributes:
        running: by name, what runs now.
    """

    def __init__(self, host: Kubelet, box: PodSandbox, pod: Obj) -> None:
        self._host, self._box, self.pod = host, box, pod
        self.running: dict[str, Running] = {}
        self._stdins: dict[str, int] = {}  # of containers whose stdin ends with the client that attaches

    def spec(self, name: str) -> Obj:
        """A container of the manifest.

        Raises:
            SandboxError: there is none of that name.
        """
        found = next((entry for entry in status.containers(self.pod) if entry["name"] == name), None)
        if found is None:
            raise SandboxError(f"container {name} is not running")
        return found

    # Starting -----------------------------------------------------------------------------------

    def prepare(self, container: Obj, image: catalogue.Image) -> dict[str, Any]:
        """The launcher's words for what a container runs, its files and its rights.

        Raises:
            ConfigError: an object that it is made from is not there.
            SandboxError: it has no command.
        """
        host = self._host
        process, who = self._process(container, image)
        if attach.ends_with_its_client(container):
            process["argv"] = attach.reading_only(process["argv"])
        mounts = volumes.mounts(container, self._box.volumes, process["env"])
        if who.privileged and self._box.on_host:
            taken = {mount.target for mount in mounts}
            mounts += [mount for mount in host.privileged_view()[0] if mount.target not in taken]
        again: list[tuple[str, str]] = []
        disk = str(host.host_disk().resolve())
        for target in [mount.target for mount in mounts if mount.source == disk]:
            more, seen_again = sandbox.node_view(target)
            mounts, again = mounts + more, again + seen_again
        return {**process, **sandbox.root(image, who, mounts, etc_files(self.pod, self._box.place, host.settings),
                                          host.mountpoint(), again)}

    async def start(self, container: Obj, prepared: dict[str, Any], attempt: int) -> Running:
        """Start it.

        Raises:
            SandboxError, OSError: it cannot be started.
        """
        name = container["name"]
        folder = self._box.files.container(name)
        self._box.files.forget(name, attempt - 2)  # `kubectl logs --previous` shows one former attempt
        log_file = folder / f"{attempt}.log"
        log_file.touch()
        answer = await self._host.launcher.request("container", {
            **prepared, "pause": self._box.pause, "cgroup": str(self._box.cgroup / name),
            "stdin": self._stdin(container), "tty": bool(container.get("tty")), "log": str(log_file),
            "state": str(folder / f"{attempt}.state"), "exit": str(folder / f"{attempt}.exit")})
        self.running[name] = Running(answer["pid"], answer["shim"], answer["started"])
        return self.running[name]

    def _process(self, container: Obj, image: catalogue.Image) -> tuple[dict[str, Any], sandbox.Identity]:
        """What a container runs: the launcher's words, and as whom."""
        host = self._host
        who = sandbox.identity(self.pod, container)
        env = {"PATH": image.path, "HOME": "/root" if who.uid == 0 else "/", "HOSTNAME": hostname(self.pod),
               **kubernetes_service(host.settings.api_service_ip), **sandbox.package_environment(), **image.env}
        if container.get("tty"):
            env["TERM"] = "xterm"
        if who.privileged and self._box.on_host:
            env |= host.privileged_view()[1]
        env |= environment(self.pod, container, self._box.place, self._box.lookup)
        words = image.command(container.get("command") or (), container.get("args") or ())
        argv = [expand(word, env) for word in words]
        if not argv:
            raise SandboxError("no command specified")
        return sandbox.process([_own(image, argv[0]), *argv[1:]], env, container.get("workingDir") or "/", who), who

    # Standard input -----------------------------------------------------------------------------

    def _stdin(self, container: Obj) -> str | None:
        """A container that asks for stdin gets a pipe that never ends; attached clients write to it.

        With stdinOnce its only writing end is ours, so that it ends when we close it.
        """
        name = container["name"]
        if not container.get("stdin"):
            return None
        path = self._box.files.container(name) / "stdin"
        if not path.exists():
            os.mkfifo(path)
            path.chmod(0o666)  # a command that is not root opens it again; nobody else comes into this folder
        if attach.ends_with_its_client(container):
            self.close_stdin(name)
            self._stdins[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        return str(path)

    def open_stdin(self, name: str) -> int:
        """A descriptor for an attached client to write to.

        Raises:
            OSError: when nobody reads: the container ended, or its stdin did.
        """
        if self.spec(name).get("tty"):
            return attach.terminal_of(self.running[name].shim)
        return os.open(self._box.files.container(name) / "stdin", os.O_WRONLY | os.O_NONBLOCK)

    def close_stdin(self, name: str) -> None:
        """An attached client ended stdin: that ends it for the container, where it wants it so."""
        if (end := self._stdins.pop(name, None)) is not None:
            os.close(end)

    # What else runs in them ---------------------------------------------------------------------

    def target(self, container: Obj) -> probes.Target:
        """How probes and hooks reach a container."""
        name = container["name"]
        ports = {p["name"]: p["containerPort"] for p in container.get("ports") or () if "name" in p}
        return probes.Target(self._box.ip, ports, lambda argv, timeout: self._command(name, argv, timeout),
                             self._node_socket)

    async def _node_socket(self) -> Any:
        return await self._host.blocking(network.socket_in, self._host.node.netns, socket.AF_INET, socket.SOCK_STREAM)

    async def _command(self, name: str, argv: list[str], timeout: float) -> tuple[int, str]:
        try:
            process = await self.exec(name, argv, stdin=False, tty=False)
        except SandboxError as error:
            return 126, str(error)
        try:
            async with asyncio.timeout(timeout):
                return await collect(process)
        except TimeoutError:
            process.kill()
            await process.wait()
            return 124, f"command {' '.join(argv)!r} timed out"

    async def exec(self, name: str, argv: list[str], *, stdin: bool, tty: bool) -> Exec:
        """Run one more command in a container that runs.

        Raises:
            SandboxError: when the container does not run, or the command is not there.
        """
        container, running = self.spec(name), self.running.get(name)
        if running is None:
            raise SandboxError(f"container {name} is not running")
        image = catalogue.find(container["image"])
        assert image is not None
        process, _ = self._process(container, image)
        spec = {**process, "argv": [_own(image, argv[0]), *argv[1:]], "pid": running.pid,
                "env": process["env"] | ({"TERM": "xterm"} if tty else {}), "cgroup": str(self._box.cgroup / name)}
        return await Exec.start(self._host.launcher, spec, stdin=stdin, tty=tty)

    async def hook(self, container: Obj, which: str, seconds: float | None = None) -> str:
        """Run a hook of the container, if it has one: what went wrong, or ""."""
        handler = (container.get("lifecycle") or {}).get(which)
        if not handler:
            return ""
        meta = self.pod["metadata"]
        pod = f"{meta['name']}_{meta['namespace']}({meta['uid']})"
        limit = {} if seconds is None else {"seconds": seconds}
        return await hooks.run(handler, container["name"], pod, self.target(container), **limit)

    # The end ------------------------------------------------------------------------------------

    async def stop(self, container: Obj, grace: float, hook_failed: Callable[[str], None]) -> None:
        """PreStop, SIGTERM, and after the grace period SIGKILL for all that is left."""
        name = container["name"]
        running = self.running.get(name)
        if running is None:
            return
        deadline = time.monotonic() + grace
        if (container.get("lifecycle") or {}).get("preStop") and grace > 0:
            if failed := await self.hook(container, "preStop", grace):
                hook_failed(failed)
            deadline = max(deadline, time.monotonic() + _SHUTDOWN)
        signal_process(running.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process_end(running.shim), max(deadline - time.monotonic(), 0.01))
            return
        kill_cgroup(self._box.cgroup / name)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process_end(running.shim), 5)

    async def until_end(self, name: str, running: Running, attempt: int) -> Ended:
        """Wait for a container's end and read how it ended."""
        if running.shim:
            await process_end(running.shim)
        self.running.pop(name, None)
        self.close_stdin(name)
        return self._box.files.exit(name, attempt) or Ended(
            137, 9, running.started, time.time(), "ContainerStatusUnknown",
            "The container could not be located when the pod was terminated")


def _own(image: catalogue.Image, command: str) -> str:
    """The image's own tool, wherever the real image has it."""
    own = command.rpartition("/")[2]
    return f"{catalogue.TOOLS}/{own}" if own in image.tools and command.startswith("/") else command
