"""All controllers of one cluster, as one thing that starts and stops."""

from __future__ import annotations

from collections.abc import Iterable

from labkit.local.client import Client, Obj

from .addons import Addons
from .base import Context, Controller
from .daemonsets import DaemonSets
from .deployments import Deployments
from .disruption import Disruption
from .endpoints import Endpoints
from .garbage import Garbage
from .housekeeping import Housekeeping
from .jobs import Jobs
from .loadbalancers import LoadBalancers
from .namespaces import Namespaces, ServiceAccounts
from .nodes import Nodes
from .replicasets import ReplicaSets, ReplicationControllers
from .scheduler import Scheduler
from .settings import Cloud, ClusterSettings
from .statefulsets import StatefulSets

KINDS: tuple[type[Controller], ...] = (
    ServiceAccounts,
    Namespaces,
    Nodes,
    Deployments,
    ReplicaSets,
    ReplicationControllers,
    DaemonSets,
    StatefulSets,
    Jobs,
    Scheduler,
    Endpoints,
    LoadBalancers,
    Disruption,
    Garbage,
    Housekeeping,
)


class Controllers:
    """The controllers of one cluster, on one event loop, over one client.

    Args:
        client: the cluster's API.
        cloud: who has public addresses and load balancers.
        settings: the cluster's settings.
    """

    def __init__(self, client: Client, *, cloud: Cloud, settings: ClusterSettings | None = None) -> None:
        self._context = Context(client, cloud, settings or ClusterSettings())
        self._addons = Addons(self._context)
        self._all = [kind(self._context) for kind in KINDS] + [self._addons]
        self._running = False

    def start(self) -> None:
        """Begin, from the running event loop; what is there already is taken over."""
        self._context.stores.start()
        self._context.queue.start()
        self._running = True
        for controller in self._all:
            controller.start()

    def stop(self) -> None:
        """End; the cluster stays as it is. A second call does nothing."""
        if self._running:
            self._running = False
            self._context.stores.stop()
            self._context.queue.stop()
            for controller in self._all:
                controller.stop()

    def register_addons(self, manifests: Iterable[Obj]) -> None:
        """The manifests that the add-on manager takes objects back to, where settings turn it on."""
        self._addons.register(manifests)
