"""One pod on its node: from its sandbox through its containers' lives to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from labkit.local.client import ApiError, Obj
from labkit.local.fabric import netns as network
from labkit.local.node import attach, catalogue, health, probes, sandbox, status, volumes
from labkit.local.node.environment import ConfigError, environment, etc_files, expand, hostname
from labkit.local.node.ipam import NetworkNotReadyError
from labkit.local.node.podsandbox import Host, PodSandbox
from labkit.local.node.runtime import Running, SandboxError, kill_cgroup, process_end, signal_process
from labkit.local.node.status import ContainerState, Ended
from labkit.local.node.streams import Exec, collect

log = logging.getLogger(__name__)

_CONFIG_RETRY = 1.0  # seconds until something that was missing is looked for again
_PULL_RETRY = (10.0, 300.0)


class PodWorker:
    """Runs one pod.

    Args:
        host: its node.
        pod: its object, as bound.
    """

    def __init__(self, host: Host, pod: Obj) -> None:
        self._host, self.pod = host, pod
        meta, spec = pod["metadata"], pod["spec"]
        self.uid, self.name, self.namespace = meta["uid"], meta["name"], meta["namespace"]
        self.sandbox = PodSandbox(host, pod)
        self.files = self.sandbox.files
        self._policy = spec.get("restartPolicy", "Always")
        self.states: dict[str, ContainerState] = {}
        for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
            reason = "PodInitializing" if spec.get("initContainers") else "ContainerCreating"
            self.states[container["name"]] = ContainerState(container["name"], container["image"], reason=reason)
        self.running: dict[str, Running] = {}
        self._stdins: dict[str, int] = {}  # of containers whose stdin ends with the client that attaches
        self._initialised = not spec.get("initContainers")
        self._started = pod.get("status", {}).get("startTime") or status.timestamp()
        self._found: dict[str, Running] = {}  # of a former daemon
        self.ended = False
        self._serving = False              # whether its containers were started
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._published: Obj | None = None
        self._publish_soon = False

    # Life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run the pod, or to look after it again."""
        self._main = asyncio.get_running_loop().create_task(self._run(), name=f"pod {self.namespace}/{self.name}")

    def update(self, pod: Obj) -> None:
        """Take notice of a change of its object."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._stopping.set()
        elif self._serving:
            self._start_debuggers()

    def abandon(self) -> None:
        """Stop looking after the pod and leave it running."""
        for task in (self._main, *self._tasks):
            if task:
                task.cancel()

    async def kill(self) -> None:
        """End the pod at once, without a word to the API."""
        self.abandon()
        await self._tear_down()

    async def _run(self) -> None:
        if self.pod["metadata"].get("deletionTimestamp"):
            self._stopping.set()
        life = asyncio.ensure_future(self._live())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({life, stop}, return_when=asyncio.FIRST_COMPLETED)
            if life.done() and not life.cancelled() and (error := life.exception()):
                log.error("pod %s/%s: %s", self.namespace, self.name, error, exc_info=error)
            await stop
            life.cancel()
            await self._terminate()
        finally:
            life.cancel()
            stop.cancel()

    async def _live(self) -> None:
        if self.pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return  # nothing runs; its object and its logs stay until it is deleted
        adopted = await self._ensure_sandbox()
        for container in self.pod["spec"]["containers"]:
            self._recall(container, "containerStatuses")
        if not adopted:
            self._publish()
        for container in self.pod["spec"].get("initContainers") or ():
            self._recall(container, "initContainerStatuses")
            if not await self._run_init(container):
                await self.sandbox.remove()
                return
        self._initialised = True
        containers = [self._spawn(self._run_container(container)) for container in self.pod["spec"]["containers"]]
        self._serving = True
        self._start_debuggers()
        await asyncio.gather(*containers)
        self._serving = False
        await self.sandbox.remove()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Sandbox ------------------------------------------------------------------------------------

    async def _ensure_sandbox(self) -> bool:
        """Find the sandbox or make it; whether it was there."""
        delay = 0.5
        while True:
            try:
                if await self.sandbox.adopt():
                    return True
                await self.sandbox.create()
                return False
            except (ConfigError, SandboxError, OSError) as error:
                if isinstance(error, NetworkNotReadyError):
                    self._event("NetworkNotReady", str(error), normal=False)
                    await asyncio.sleep(0.5)
                    continue
                reason = "FailedMount" if isinstance(error, ConfigError) else "FailedCreatePodSandBox"
                self._event(reason, f"MountVolume.SetUp failed: {error}" if isinstance(error, ConfigError)
                            else f"Failed to create pod sandbox: {error}", normal=False)
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, 10.0)

    async def refresh_volumes(self) -> None:
        """Bring changes of what volumes are made from into the files of the running pod."""
        if self.running:
            await self.sandbox.refresh()

    def _recall(self, container: Obj, key: str) -> None:
        """Take up what a former daemon knew of a container, so that its status goes on without a gap."""
        name = container["name"]
        attempts = self.files.attempts(name)
        if not attempts:
            return
        attempt = attempts[-1]
        running, ended = self.files.running(name, attempt), self.files.exit(name, attempt)
        if not running and not ended:  # its end was not seen: the next attempt; or it never came to run: this one
            started = self.files.has_run(name, attempt)
            self.states[name] = replace(self.states[name], restarts=attempt + started)
            return
        state = replace(self.states[name], restarts=attempt)
        if before := self.files.exit(name, attempt - 1):
            state = replace(state, last=Ended(before.code, before.signal, before.started, before.finished))
        self._found[name] = running or Running(0, 0, ended.started if ended else 0.0)
        state = state.running(self._found[name].started, f"labkit://{self.uid}/{name}/{attempt}")
        previous = self._previous_status(key, name)
        self.states[name] = replace(state, ready=bool(running and previous.get("ready")),
                                    started=bool(running and previous.get("started")))

    # Containers ---------------------------------------------------------------------------------

    async def _run_init(self, container: Obj) -> bool:
        """Run an init container to its end; whether the next may follow."""
        name, wait = container["name"], 0.0
        previous = self._previous_status("initContainerStatuses", name)
        if (previous.get("state") or {}).get("terminated", {}).get("exitCode") == 0:
            attempts = self.files.attempts(name)
            found = self.files.exit(name, attempts[-1]) if attempts else None
            now = time.time()
            done = Ended(0, 0, found.started, found.finished) if found else Ended(0, 0, now, now)
            self._set(replace(self.states[name].terminated(done), ready=True))
            return True
        while True:
            running = await self._start_or_adopt(container)
            ended = await self._until_end(name, running)
            self._set(replace(self.states[name].terminated(ended), ready=ended.code == 0))
            if ended.code == 0:
                return True
            if self._policy == "Never":
                return False
            wait = await self._back_off(container, wait, ended)

    async def _run_container(self, container: Obj) -> None:
        name, wait = container["name"], 0.0
        while True:
            running = await self._start_or_adopt(container)
            watching = self._spawn(self._watch_health(container, running))
            ended = await self._until_end(name, running)
            watching.cancel()
            self._set(self.states[name].terminated(ended))
            if not status.should_restart(self._policy, ended.code):
                return
            wait = await self._back_off(container, wait, ended)

    def _start_debuggers(self) -> None:
        """Ephemeral containers, which `kubectl debug` adds: each runs once, and nothing waits for it."""
        for container in self.pod["spec"].get("ephemeralContainers") or ():
            if container["name"] not in self.states:
                self.states[container["name"]] = ContainerState(container["name"], container["image"])
                self._recall(container, "ephemeralContainerStatuses")
                self._spawn(self._run_debugger(container))

    async def _run_debugger(self, container: Obj) -> None:
        ended = await self._until_end(container["name"], await self._start_or_adopt(container))
        self._set(self.states[container["name"]].terminated(ended))

    async def _back_off(self, container: Obj, wait: float, ended: Ended) -> float:
        """Wait until the container may start again; the first restart comes at once."""
        name = container["name"]
        await asyncio.sleep(0.05)
        ran_for = ended.finished - ended.started
        restarts = self.states[name].restarts
        if restarts > 0 or wait:
            wait = status.backoff(wait, ran_for)
            message = (f"back-off {wait:.0f}s restarting failed container={name} "
                       f"pod={self.name}_{self.namespace}({self.uid})")
            self._set(self.states[name].waiting("CrashLoopBackOff", message))
            self._container_event(container, "BackOff", "Back-off restarting failed container", normal=False)
            await asyncio.sleep(wait)
        self._set(replace(self.states[name], restarts=restarts + 1))
        return wait

    def _previous_status(self, key: str, name: str) -> Obj:
        entries = self.pod.get("status", {}).get(key) or ()
        return next((entry for entry in entries if entry["name"] == name), {})

    async def _start_or_adopt(self, container: Obj) -> Running:
        """A container that a former daemon started, or a new one."""
        name = container["name"]
        if found := self._found.pop(name, None):
            self.running[name] = found
            return found
        wait = 0.0
        while True:
            image = catalogue.find(container["image"])
            if image is None:
                wait = await self._no_image(container, wait)
                continue
            try:
                running = await self._start_container(container, image)
            except ConfigError as error:
                self._set(self.states[name].waiting("CreateContainerConfigError", str(error)))
                self._container_event(container, "Failed", f"Error: {error}", normal=False)
                await asyncio.sleep(_CONFIG_RETRY)
                continue
            except (SandboxError, OSError) as error:
                now = time.time()
                self._container_event(container, "Failed", f"Error: failed to start container: {error}", normal=False)
                message = f"failed to create containerd task: {error}"
                self._set(self.states[name].terminated(Ended(128, 0, now, now, "StartError", message)))
                wait = await self._back_off(container, wait, Ended(128, 0, now, now))
                continue
            self.running[name] = running
            self._set(self.states[name].running(running.started, self._id(name)))
            self._container_event(container, "Started", f"Started container {name}")
            return running

    async def _no_image(self, container: Obj, wait: float) -> float:
        image = container["image"]
        known = ", ".join(catalogue.names())
        self._container_event(
            container, "Failed", f'Failed to pull image "{image}": the lab has no registry, and its catalogue does '
            f"not have this image. It has: {known}", normal=False)
        self._container_event(container, "Failed", "Error: ErrImagePull", normal=False)
        self._set(self.states[container["name"]].waiting(
            "ErrImagePull", f'"{image}" is not in the catalogue of images. It has: {known}'))
        wait = min(max(wait * 2, _PULL_RETRY[0]), _PULL_RETRY[1])
        await asyncio.sleep(1.0)
        self._set(self.states[container["name"]].waiting("ImagePullBackOff", f'Back-off pulling image "{image}"'))
        self._container_event(container, "BackOff", f'Back-off pulling image "{image}"')
        self._container_event(container, "Failed", "Error: ImagePullBackOff", normal=False)
        await asyncio.sleep(wait)
        return wait

    def _id(self, name: str) -> str:
        return f"labkit://{self.uid}/{name}/{self.states[name].restarts}"

    def _process(self, container: Obj, image: catalogue.Image) -> tuple[dict[str, Any], sandbox.Identity]:
        """What a container runs: the launcher's words, and as whom."""
        host = self._host
        who = sandbox.identity(self.pod, container)
        env = {"PATH": image.path, "HOME": "/root" if who.uid == 0 else "/", "HOSTNAME": hostname(self.pod),
               "KUBERNETES_SERVICE_HOST": host.settings.api_service_ip, "KUBERNETES_SERVICE_PORT": "443",
               **sandbox.package_environment(), **image.env}
        if container.get("tty"):
            env["TERM"] = "xterm"
        if who.privileged and self.sandbox.on_host:
            env |= host.privileged_view()[1]
        env |= environment(self.pod, container, self.sandbox.place, self.sandbox.lookup)
        words = image.command(container.get("command") or (), container.get("args") or ())
        argv = [expand(word, env) for word in words]
        if not argv:
            raise SandboxError("no command specified")
        own = argv[0].rpartition("/")[2]
        if own in image.tools and argv[0].startswith("/"):
            argv[0] = f"{catalogue.TOOLS}/{own}"  # wherever the real image has it
        return sandbox.process(argv, env, container.get("workingDir") or "/", who), who

    async def _start_container(self, container: Obj, image: catalogue.Image) -> Running:
        host, name = self._host, container["name"]
        process, who = self._process(container, image)
        if attach.ends_with_its_client(container):
            process["argv"] = attach.reading_only(process["argv"])
        mounts = volumes.mounts(container, self.sandbox.volumes, process["env"])
        if who.privileged and self.sandbox.on_host:
            taken = {mount.target for mount in mounts}
            mounts += [mount for mount in host.privileged_view()[0] if mount.target not in taken]
        attempt = self.states[name].restarts
        folder = self.files.container(name)
        self.files.forget(name, attempt - 2)  # `kubectl logs --previous` shows one former attempt
        self._container_event(container, "Pulled",
                              f'Container image "{container["image"]}" already present on machine')
        self._container_event(container, "Created", f"Created container {name}")
        log_file = folder / f"{attempt}.log"
        log_file.touch()
        answer = await host.launcher.request("container", {
            **process, **sandbox.root(image, who, mounts, etc_files(self.pod, self.sandbox.place, host.settings),
                                      host.mountpoint()),
            "pause": self.sandbox.pause, "cgroup": str(self.sandbox.cgroup / name), "stdin": self._stdin(container),
            "tty": bool(container.get("tty")), "log": str(log_file),
            "state": str(folder / f"{attempt}.state"), "exit": str(folder / f"{attempt}.exit")})
        return Running(answer["pid"], answer["shim"], answer["started"])

    def _stdin(self, container: Obj) -> str | None:
        """A container that asks for stdin gets a pipe that never ends; attached clients write to it.

        With stdinOnce its only writing end is ours, so that it ends when we close it.
        """
        name = container["name"]
        if not container.get("stdin"):
            return None
        path = self.files.container(name) / "stdin"
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
        container = next(c for c in status.containers(self.pod) if c["name"] == name)
        if container.get("tty"):
            terminal = attach.terminal_of(self.running[name].shim)
            os.set_blocking(terminal, False)
            return terminal
        return os.open(self.files.container(name) / "stdin", os.O_WRONLY | os.O_NONBLOCK)

    def close_stdin(self, name: str) -> None:
        """An attached client ended stdin: that ends it for the container, where it wants it so."""
        if (end := self._stdins.pop(name, None)) is not None:
            os.close(end)

    async def _until_end(self, name: str, running: Running) -> Ended:
        """Wait for a container's end and read how it ended."""
        if running.shim:
            await process_end(running.shim)
        self.running.pop(name, None)
        self.close_stdin(name)
        found = self.files.exit(name, self.states[name].restarts)
        if found:
            return Ended(found.code, found.signal, found.started, found.finished)
        return Ended(137, 9, running.started, time.time(), "ContainerStatusUnknown",
                     "The container could not be located when the pod was terminated")

    # Health -------------------------------------------------------------------------------------

    async def _watch_health(self, container: Obj, running: Running) -> None:
        name = container["name"]
        ports = {p["name"]: p["containerPort"] for p in container.get("ports") or () if "name" in p}
        target = probes.Target(self.sandbox.ip, ports, lambda argv, timeout: self._probe_command(name, argv, timeout),
                               self._node_socket)

        async def restart(kind: str) -> None:
            self._container_event(container, "Killing", f"Container {name} failed {kind} probe, will be restarted")
            await self._stop_container(container, running, self._grace())

        then = health.Consequences(
            started=lambda: self._set(replace(self.states[name], started=True)),
            ready=lambda value: self._set(replace(self.states[name], ready=value)),
            unhealthy=lambda kind, message: self._container_event(
                container, "Unhealthy", f"{kind} probe failed: {message}", normal=False),
            restart=restart)
        state = self.states[name]
        await health.look_after(container, target, then, started=state.started, ready=state.ready)

    async def _node_socket(self) -> Any:
        return await self._host.blocking(network.socket_in, self._host.node.netns, socket.AF_INET, socket.SOCK_STREAM)

    async def _probe_command(self, name: str, argv: list[str], timeout: float) -> tuple[int, str]:
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
        container = next((entry for entry in status.containers(self.pod) if entry["name"] == name), None)
        running = self.running.get(name)
        if container is None or running is None:
            raise SandboxError(f"container {name} is not running")
        image = catalogue.find(container["image"])
        assert image is not None
        process, _ = self._process(container, image)
        own = argv[0].rpartition("/")[2]
        first = f"{catalogue.TOOLS}/{own}" if own in image.tools and argv[0].startswith("/") else argv[0]
        env = process["env"] | ({"TERM": "xterm"} if tty else {})
        spec = {**process, "argv": [first, *argv[1:]], "env": env, "pid": running.pid,
                "cgroup": str(self.sandbox.cgroup / name)}
        return await Exec.start(self._host.launcher, spec, stdin=stdin, tty=tty)

    # The end ------------------------------------------------------------------------------------

    def _grace(self) -> float:
        of_deletion = self.pod["metadata"].get("deletionGracePeriodSeconds")
        given = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(given if of_deletion is None else of_deletion)

    async def _stop_container(self, container: Obj, running: Running, grace: float) -> None:
        """PreStop, SIGTERM, and after the grace period SIGKILL for all that is left."""
        deadline = time.monotonic() + grace
        hook = ((container.get("lifecycle") or {}).get("preStop") or {}).get("exec")
        if hook and grace > 0:
            await self._probe_command(container["name"], list(hook["command"]), grace)
        signal_process(running.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process_end(running.shim), max(deadline - time.monotonic(), 0.01))
            return
        kill_cgroup(self.sandbox.cgroup / container["name"])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process_end(running.shim), 5)

    async def _terminate(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        containers = {c["name"]: c for c in status.containers(self.pod)}
        ending = dict(self.running)
        for name in ending:
            self._container_event(containers[name], "Killing", f"Stopping container {name}")
            self._set(replace(self.states[name], ready=False))
        await asyncio.gather(*(self._stop_container(containers[name], running, self._grace())
                               for name, running in ending.items()))
        for name, running in ending.items():
            self.states[name] = self.states[name].terminated(await self._until_end(name, running))
        self._publish()
        await self._tear_down()
        with contextlib.suppress(ApiError):
            self._host.client.delete("pods", self.name, self.namespace, grace_period=0, uid=self.uid)

    async def _tear_down(self) -> None:
        await self.sandbox.remove()
        await self._host.blocking(self.files.remove)
        self.ended = True

    # Status -------------------------------------------------------------------------------------

    def _set(self, state: ContainerState) -> None:
        self.states[state.name] = state
        if not self._publish_soon:  # several changes in one turn of the loop are one write
            self._publish_soon = True
            asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        self._publish_soon = False
        spec = self.pod["spec"]
        new = status.pod_status(
            self.pod, init=[self.states[c["name"]] for c in spec.get("initContainers") or ()],
            main=[self.states[c["name"]] for c in spec["containers"]],
            debuggers=[self.states[c["name"]] for c in spec.get("ephemeralContainers") or ()
                       if c["name"] in self.states], initialised=self._initialised,
            host_ip=self._host.node.ip, pod_ip=self.sandbox.ip, start_time=self._started)
        if new == self._published:
            return
        try:
            self.pod = self._host.client.patch("pods", self.name, {"status": new}, self.namespace,
                                               subresource="status")
            self._published = new
        except ApiError as error:
            if error.code != 404:
                log.warning("status of pod %s/%s: %s", self.namespace, self.name, error)

    def _event(self, reason: str, message: str, *, normal: bool = True, field: str = "") -> None:
        self._host.recorder.record(self.pod, "Pod", reason, message, normal=normal, field=field)

    def _container_event(self, container: Obj, reason: str, message: str, *, normal: bool = True) -> None:
        kind = next(kind for kind in status.KINDS if container["name"] in {
            c["name"] for c in self.pod["spec"].get(kind) or ()})
        self._event(reason, message, normal=normal, field=f"spec.{kind}{{{container['name']}}}")
