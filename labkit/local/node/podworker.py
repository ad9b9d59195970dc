"""One pod on its node: from its sandbox through its containers' lives to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labkit.local.client import ApiError, Obj, timestamp
from labkit.local.node import catalogue, health, status
from labkit.local.node.containers import Containers
from labkit.local.node.environment import ConfigError
from labkit.local.node.ipam import NetworkNotReadyError
from labkit.local.node.podsandbox import PodSandbox
from labkit.local.node.runtime import Running, SandboxError
from labkit.local.node.status import ContainerState, Ended

if TYPE_CHECKING:
    from labkit.local.node.kubelet import Kubelet

log = logging.getLogger(__name__)

_CONFIG_RETRY = 1.0  # seconds until something that was missing is looked for again
_PULL_RETRY = (10.0, 300.0)


class PodWorker:
    """Runs one pod.

    Args:
        host: its node.
        pod: its object, as bound.
    """

    def __init__(self, host: Kubelet, pod: Obj) -> None:
        self._host = host
        meta, spec = pod["metadata"], pod["spec"]
        self.uid, self.name, self.namespace = meta["uid"], meta["name"], meta["namespace"]
        self.sandbox = PodSandbox(host, pod)
        self.files = self.sandbox.files
        self.containers = Containers(host, self.sandbox, pod)
        self._policy = spec.get("restartPolicy", "Always")
        self.states: dict[str, ContainerState] = {}
        for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
            reason = "PodInitializing" if spec.get("initContainers") else "ContainerCreating"
            self.states[container["name"]] = ContainerState(container["name"], container["image"], reason=reason)
        self._initialised = not spec.get("initContainers")
        self._started = pod.get("status", {}).get("startTime") or timestamp()
        self._found: dict[str, Running] = {}  # of a former daemon
        self.ended = False
        self._serving = False              # whether its containers were started
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._published: Obj | None = None
        self._publish_soon = False

    @property
    def pod(self) -> Obj:
        """Its object, as it was last seen."""
        return self.containers.pod

    # Life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run the pod, or to look after it again."""
        self._main = asyncio.get_running_loop().create_task(self._run(), name=f"pod {self.namespace}/{self.name}")

    def update(self, pod: Obj) -> None:
        """Take notice of a change of its object."""
        self.containers.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._stopping.set()
        elif self._serving:
            self._start_debuggers()
            if pod["spec"].get("readinessGates"):   # whether they are open is for others to say, in its status
                self._publish()

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
        if self.containers.running:
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
            state = replace(state, last=before)
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
            self._set(replace(self.states[name].terminated(found or Ended(0, 0, now, now)), ready=True))
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
            watching = self._spawn(self._watch_health(container))
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
            self.containers.running[name] = found
            return found
        wait = 0.0
        while True:
            image = catalogue.find(container["image"])
            if image is None:
                wait = await self._no_image(container, wait)
                continue
            try:
                prepared = self.containers.prepare(container, image)
                self._container_event(container, "Pulled",
                                      f'Container image "{container["image"]}" already present on machine')
                self._container_event(container, "Created", f"Created container {name}")
                running = await self.containers.start(container, prepared, self.states[name].restarts)
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
            self._container_event(container, "Started", f"Started container {name}")
            if failed := await self.containers.hook(container, "postStart"):
                self._container_event(container, "FailedPostStartHook", failed, normal=False)
                self._container_event(container, "Killing", "FailedPostStartHook")
                await self._stop_container(container)
            self._set(self.states[name].running(running.started, self._id(name)))
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

    # Health -------------------------------------------------------------------------------------

    async def _watch_health(self, container: Obj, *, ending: bool = False) -> None:
        name = container["name"]
        if ending:      # whether it still serves is asked to the end; proxies send clients there where nobody else does
            container = {key: value for key, value in container.items() if key not in ("startupProbe", "livenessProbe")}

        async def restart(kind: str) -> None:
            self._container_event(container, "Killing", f"Container {name} failed {kind} probe, will be restarted")
            await self._stop_container(container)

        then = health.Consequences(
            started=lambda: self._set(replace(self.states[name], started=True)),
            ready=lambda value: self._set(replace(self.states[name], ready=value)),
            unhealthy=lambda kind, message: self._container_event(
                container, "Unhealthy", f"{kind} probe failed: {message}", normal=False),
            restart=restart)
        state = self.states[name]
        await health.look_after(container, self.containers.target(container), then, started=state.started,
                                ready=state.ready)

    # The end ------------------------------------------------------------------------------------

    def _grace(self) -> float:
        of_deletion = self.pod["metadata"].get("deletionGracePeriodSeconds")
        given = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(given if of_deletion is None else of_deletion)

    async def _stop_container(self, container: Obj) -> None:
        await self.containers.stop(container, self._grace(), lambda failed: self._container_event(
            container, "FailedPreStopHook", failed, normal=False))

    async def _until_end(self, name: str, running: Running) -> Ended:
        return await self.containers.until_end(name, running, self.states[name].restarts)

    async def _terminate(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        containers = {c["name"]: c for c in status.containers(self.pod)}
        ending = dict(self.containers.running)
        watching = [self._spawn(self._watch_health(containers[name], ending=True))
                    for name in ending if self.states[name].started]

        async def end(name: str, running: Running) -> None:
            self._container_event(containers[name], "Killing", f"Stopping container {name}")
            await self._stop_container(containers[name])
            self._set(self.states[name].terminated(await self._until_end(name, running)))
        await asyncio.gather(*(end(name, running) for name, running in ending.items()))
        for task in watching:
            task.cancel()
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
            self.containers.pod = self._host.client.patch("pods", self.name, {"status": new}, self.namespace,
                                               subresource="status")
            self._published = new
        except ApiError as error:
            if error.code != 404:
                log.warning("status of pod %s/%s: %s", self.namespace, self.name, error)

    def _event(self, reason: str, message: str, *, normal: bool, field: str = "") -> None:
        self._host.recorder.record(self.pod, "Pod", reason, message, normal=normal, field=field)

    def _container_event(self, container: Obj, reason: str, message: str, *, normal: bool = True) -> None:
        kind = next(kind for kind in status.KINDS if container["name"] in {
            c["name"] for c in self.pod["spec"].get(kind) or ()})
        self._event(reason, message, normal=normal, field=f"spec.{kind}{{{container['name']}}}")
