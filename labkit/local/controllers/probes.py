"""Which nodes a load balancer sends new connections to, found out as Azure's load balancer does: by asking them.

What Azure's cloud provider sets for a service: with externalTrafficPolicy Local one GET of healthCheckNodePort for all
ports, with Cluster for each TCP port a TCP connection to its node port, and for UDP nothing; every 5 s, and two
failures take a node out (https://github.com/kubernetes-sigs/cloud-provider-azure, azure_loadbalancer.go,
getExpectedLBRules; AKS has a probe of kube-proxy's port 10256 that all services share, for who asks for it:
https://learn.microsoft.com/azure/aks/shared-health-probes). A probe that nobody answers until the next one is due has
failed, also because a policy dropped it. By HTTP a status other than 200 and a reset take a node out at once:
https://learn.microsoft.com/azure/load-balancer/load-balancer-custom-probe-overview

Where the lab is kinder: a node that is out is asked more often in the seconds after the service's endpoints changed,
and is in again after one good answer; with policy Cluster a new service's nodes are in until they have failed; and
appProtocol http is asked by TCP, as everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from labkit.local.client import Obj

from .queue import Key

FAILURES = 2
HURRY, HURRIED = 0.5, 10.0  # seconds between probes of nodes that are out, and how long, once something has changed

Ask = Callable[[str, int, str | None], Awaitable[bool | None]]
"""From a node's address, port and path to whether it is well; None: nobody answers."""
Port = tuple[str, int]
"""A service's: protocol and number, such as ("TCP", 80)."""


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


def targets_of(service: Obj) -> dict[Port, Target | None]:
    """What Azure's cloud provider has the nodes asked for each port of a service; None: nothing."""
    spec = service["spec"]
    shared = None
    if spec.get("externalTrafficPolicy") == "Local" and (number := spec.get("healthCheckNodePort")):
        shared = Target(number, "/healthz")
    targets: dict[Port, Target | None] = {}
    for port in spec.get("ports") or ():
        protocol, node_port = port.get("protocol", "TCP"), port.get("nodePort")
        own = Target(node_port) if protocol == "TCP" and node_port else None
        targets[protocol, port["port"]] = shared or own
    return targets


def unasked(target: Target, *, joining: bool = False) -> Health:
    """Of a node that was not asked yet; one that joins others may not have its rules for the service yet."""
    return Health(False if joining else None if target.path else True)


def judged(was: Health, target: Target, answer: bool | None) -> Health:
    """What an answer changes."""
    if answer:
        return Health(True)
    failures = was.failures + 1
    at_once = was.up is None or (answer is False and target.path is not None)
    return Health(bool(was.up) and not at_once and failures < FAILURES, failures)


@dataclass
class _Node:
    health: Health
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Probes:
    """Asks the nodes of all services.

    Args:
        ask: one probe; it is given up when the next one is due.
        changed: told when a service's nodes are others.
        interval: seconds between probes.
    """

    def __init__(self, ask: Ask, changed: Callable[[Key], None], interval: float) -> None:
        self._ask, self._changed, self._interval = ask, changed, interval
        self._nodes: dict[Key, dict[tuple[Target, str], _Node]] = {}
        self._hurried: dict[Key, float] = {}

    def watch(self, key: Key, targets: Mapping[Port, Target | None], addresses: Collection[str],
              ) -> dict[Port, tuple[str, ...]] | None:
        """Ask these nodes from now on, and no others.

        Returns:
            Those that are up, for each port; None while some have not answered at all.
        """
        nodes = self._nodes.setdefault(key, {})
        asked = dict.fromkeys(target for target in targets.values() if target)
        for (target, address), node in list(nodes.items()):
            if address not in addresses or target not in asked:
                _end(node)
                del nodes[target, address]
        known = {target for target, _ in nodes}
        for target in asked:
            for address in addresses:
                if (target, address) not in nodes:
                    nodes[target, address] = node = _Node(unasked(target, joining=target in known))
                    node.task = asyncio.get_running_loop().create_task(self._follow(key, target, address, node))
                    self.hurry(key)
        up = {which: node.health.up for which, node in nodes.items()}
        if None in up.values():
            return None
        return {port: tuple(address for address in addresses if target is None or up[target, address])
                for port, target in targets.items()}

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

    async def _follow(self, key: Key, target: Target, address: str, node: _Node) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval
            answer = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    answer = await self._ask(address, target.port, target.path)
            before, node.health = node.health, judged(node.health, target, answer)
            if before.up != node.health.up:
                self._changed(key)
            if not node.health.up and loop.time() < self._hurried.get(key, 0):
                due = min(due, loop.time() + HURRY)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await node.wake.wait()
            node.wake.clear()


def _end(node: _Node) -> None:
    if node.task:
        node.task.cancel()
