"""Which nodes a load balancer sends new connections to, found out as Azure's load balancer does: by asking them.

What Azure's cloud provider sets for a service: with externalTrafficPolicy Local a GET of healthCheckNodePort, with
Cluster a TCP connection to the first port's node port; every 5 s, and two failures take a node out. A status other than
200 and a reset take it out at once: https://learn.microsoft.com/azure/load-balancer/load-balancer-custom-probe-overview

Where the lab is kinder: a node that is out is asked more often in the seconds after the service's endpoints changed;
with policy Cluster a new service's nodes are in until they have failed; and silence from a node port is no failure, for
a network policy that names clients drops the probes too. On Azure it has to let in 168.63.129.16, or all nodes are out.
Azure has a probe for each TCP port and none for UDP; here all ports of a service share one verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from labkit.local.client import Obj

from .queue import Key

FAILURES = 2
HURRY, HURRIED = 0.5, 10.0  # seconds between probes of nodes that are out, and how long, once something has changed

Ask = Callable[[str, int, str | None], Awaitable[bool | None]]
"""From a node's address, port and path to whether it is well; None: it is silent."""


@dataclass(frozen=True)
class Target:
    """What is asked of each node.

    Args:
        port: the node's.
        path: for a GET; None: a TCP connection is enough.
    """

    port: int
    path: str | None = None


@dataclass(frozen=True)
class Health:
    """What is known of a node; `up` is None before its first answer."""

    up: bool | None
    failures: int = 0


def target_of(service: Obj) -> Target | None:
    """What Azure's cloud provider has the service's nodes asked; None: nothing, as for one with UDP ports alone."""
    spec = service["spec"]
    if spec.get("externalTrafficPolicy") == "Local":
        port = spec.get("healthCheckNodePort")
        return Target(port, "/") if port else None
    ports = (p.get("nodePort") for p in spec.get("ports") or () if p.get("protocol", "TCP") == "TCP")
    return next((Target(port) for port in ports if port), None)


def unasked(target: Target, *, joining: bool = False) -> Health:
    """Of a node that was not asked yet; one that joins others may not have its rules for the service yet."""
    return Health(None if target.path or joining else True)


def judged(was: Health, target: Target, answer: bool | None) -> Health:
    """What an answer changes."""
    if answer:
        return Health(True)
    if answer is None and target.path is None:
        return Health(True) if was.up is None else was
    failures = was.failures + 1
    at_once = was.up is None or (answer is False and target.path is not None)
    return Health(bool(was.up) and not at_once and failures < FAILURES, failures)


@dataclass
class _Node:
    target: Target
    health: Health
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Probes:
    """Asks the nodes of all services.

    Args:
        ask: one probe.
        changed: told when a service's nodes are others.
        interval: seconds between probes.
    """

    def __init__(self, ask: Ask, changed: Callable[[Key], None], interval: float) -> None:
        self._ask, self._changed, self._interval = ask, changed, interval
        self._nodes: dict[Key, dict[str, _Node]] = {}
        self._hurried: dict[Key, float] = {}

    def watch(self, key: Key, target: Target | None, addresses: Collection[str]) -> Collection[str] | None:
        """Ask these nodes from now on, and no others.

        Returns:
            Those that are up; None while some have not answered at all.
        """
        nodes = self._nodes.setdefault(key, {})
        for address, node in list(nodes.items()):
            if address not in addresses or node.target != target:
                _end(nodes.pop(address))
        if target is None:
            return addresses
        joining = bool(nodes)
        for address in addresses:
            if address not in nodes:
                nodes[address] = node = _Node(target, unasked(target, joining=joining))
                node.task = asyncio.get_running_loop().create_task(self._follow(key, address, node))
                self.hurry(key)
        known = {address: node.health.up for address, node in nodes.items()}
        return None if None in known.values() else [address for address in addresses if known[address]]

    def forget(self, key: Key) -> None:
        """The service has no load balancer any more."""
        for node in self._nodes.pop(key, {}).values():
            _end(node)
        self._hurried.pop(key, None)

    def hurry(self, key: Key) -> None:
        """Something has changed for the service: nodes that are out may be well now."""
        if nodes := self._nodes.get(key):
            self._hurried[key] = asyncio.get_running_loop().time() + HURRIED
            for node in nodes.values():
                if node.health.up is False:
                    node.wake.set()

    def stop(self) -> None:
        """Ask nobody."""
        for key in list(self._nodes):
            self.forget(key)

    async def _follow(self, key: Key, address: str, node: _Node) -> None:
        while True:
            answer = await self._ask(address, node.target.port, node.target.path)
            before, node.health = node.health, judged(node.health, node.target, answer)
            if before.up != node.health.up:
                self._changed(key)
            in_a_hurry = not node.health.up and asyncio.get_running_loop().time() < self._hurried.get(key, 0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(node.wake.wait(), min(HURRY, self._interval) if in_a_hurry else self._interval)
            node.wake.clear()


def _end(node: _Node) -> None:
    if node.task:
        node.task.cancel()
