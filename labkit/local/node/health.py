"""A container's health over its life: startup, readiness and liveness probes, and what follows from them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from labkit.local.client import Obj
from labkit.local.node import probes


@dataclass(frozen=True)
class Consequences:
    """What a verdict leads to.

    Attributes:
        started: it has started.
        ready: whether it takes traffic.
        unhealthy: a probe failed: (which, why).
        restart: a probe failed too often: (which).
    """

    started: Callable[[], None]
    ready: Callable[[bool], None]
    unhealthy: Callable[[str, str], None]
    restart: Callable[[str], Awaitable[None]]


async def look_after(container: Obj, target: probes.Target, then: Consequences, *, started: bool = False,
                     ready: bool = False) -> None:
    """Probe a running container until this is cancelled.

    Args:
        container: its specification.
        target: how to reach it.
        then: what follows.
        started: it had started before, under a former daemon.
        ready: it took traffic before, and does until its probe says otherwise.
    """
    startup, readiness, liveness = (container.get(f"{kind}Probe") for kind in ("startup", "readiness", "liveness"))

    def failed(kind: str) -> Callable[[str], None]:
        return lambda message: then.unhealthy(kind, message)

    if startup and not started and not await probes.until_success(startup, target, failed("Startup")):
        await then.restart("startup")
        return
    then.started()
    if not readiness:
        then.ready(True)
    tasks: list[Coroutine[Any, Any, None]] = []
    if readiness:
        tasks.append(_watch_readiness(readiness, target, then.ready, failed("Readiness"), ready))
    if liveness:
        tasks.append(_watch_liveness(liveness, target, then.restart, failed("Liveness")))
    await asyncio.gather(*tasks)


async def _watch_readiness(probe: Obj, target: probes.Target, ready: Callable[[bool], None],
                           failed: Callable[[str], None], good: bool) -> None:
    if not good:
        await probes.until_success({**probe, "failureThreshold": 1 << 30}, target, failed)
        ready(True)
    await probes.watch({**probe, "initialDelaySeconds": 0}, target, ready, failed, good=True)


async def _watch_liveness(probe: Obj, target: probes.Target, restart: Callable[[str], Awaitable[None]],
                          failed: Callable[[str], None]) -> None:
    dead = asyncio.Event()
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    watching = asyncio.ensure_future(
        probes.watch(probe, target, lambda good: None if good else dead.set(), failed, good=True))
    try:
        await dead.wait()
    finally:
        watching.cancel()
    await restart("liveness")
