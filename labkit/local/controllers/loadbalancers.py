"""Services of type LoadBalancer: a public address, and the nodes behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from labkit.local.client import Obj

from .base import Context, Controller
from .objects import annotations_of, deleting, is_true, labels_of
from .probes import Port, Probes, targets_of
from .queue import Key
from .slices import SERVICE_NAME
from .store import key_of

log = logging.getLogger(__name__)

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
INTERNAL = "service.beta.kubernetes.io/azure-load-balancer-internal"
ADDRESS = "service.beta.kubernetes.io/azure-load-balancer-ipv4"
SLICES = "endpointslices.discovery.k8s.io"
RETRY = 5.0


def wants_balancer(service: Obj) -> bool:
    """Whether the service should have a load balancer now."""
    return (
        service["spec"].get("type") == "LoadBalancer"
        and not deleting(service)
        and not service["spec"].get("loadBalancerClass")
    )


def healthy(node: Obj) -> bool:
    """Whether a load balancer may send connections to the node."""
    return (
        is_true(node, "Ready")
        and EXCLUDED not in labels_of(node)
        and not any(taint["key"] == "ToBeDeletedByClusterAutoscaler" for taint in node["spec"].get("taints") or ())
    )


def address_of(node: Obj) -> str | None:
    """The node's internal address."""
    for item in (node.get("status") or {}).get("addresses") or ():
        if item["type"] == "InternalIP":
            return str(item["address"])
    return None


def pool_of(nodes: Iterable[Obj]) -> tuple[str, ...]:
    """The addresses of the nodes that a load balancer may use, as far as Kubernetes knows; it asks them itself."""
    found = (address_of(node) for node in nodes if healthy(node))
    return tuple(sorted((ip for ip in found if ip), key=lambda ip: tuple(map(int, ip.split(".")))))


class LoadBalancers(Controller):
    """Asks the cloud for addresses and frontends, and nodes whether they are well.

    The kernel is changed by a worker thread, one change after the other; a service's status names its
    address when the frontend is there.
    """

    component = "service-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.services, self.nodes = self.stores["services"], self.stores["nodes"]
        self.services.index("balanced", lambda service: ("yes",) if _concerns_us(service) else ())
        self.services.subscribe(self._on_service)
        self.nodes.subscribe(self._on_node)
        self.stores[SLICES].subscribe(self._on_slice)
        self._probes = Probes(context.cloud.probe, self.enqueue, self.settings.probe_interval)
        self._programmed: dict[str, tuple[dict[Port, tuple[str, ...]], bool, tuple[str, ...]]] = {}
        self._holders: dict[str, Key] = {}
        self._busy: set[Key] = set()
        self._worker: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start the worker."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="load-balancers")

    def stop(self) -> None:
        """Let the worker finish what it does now."""
        self._probes.stop()
        if self._worker:
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._worker = None

    def _on_service(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            self._probes.forget(key_of(old))
            for ip in [ip for ip, holder in self._holders.items() if holder == key_of(old)]:
                self._abandon(ip)
        elif new is not None and _concerns_us(new):
            for ip in addresses_of(new):
                self._holders.setdefault(ip, key_of(new))
            self.enqueue(key_of(new))

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or (healthy(old), address_of(old)) != (healthy(new), address_of(new)):
            for service in self.services.by("balanced", "yes"):
                self.enqueue(key_of(service))

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        obj = new or old
        assert obj is not None
        for key in _service_of(obj):
            self._probes.hurry(key)

    def reconcile(self, key: Key) -> None:
        """Make the frontend of this service, change it, or give it back."""
        service = self.services.get(key)
        if service is None or key in self._busy or not self._worker:
            return
        if not wants_balancer(service):
            if FINALIZER in (service["metadata"].get("finalizers") or ()):
                self._release(service)
            return
        if FINALIZER not in (service["metadata"].get("finalizers") or ()):
            service = self.stores.patch(
                "services",
                key,
                {
                    "metadata": {
                        "finalizers": [*(service["metadata"].get("finalizers") or ()), FINALIZER],
                        "resourceVersion": service["metadata"]["resourceVersion"],
                    }
                },
            )
        known = addresses_of(service)
        if not known:
            self.events.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer")
        try:
            ip = self._address(service)
        except Exception as error:
            log.warning("no address for %s/%s: %s", *key, error)
            self._say_failed(service, error)
            return
        pool = pool_of(self.nodes)
        up = self._probes.watch(key, targets_of(service), pool)
        if up is None:    # not all of them have answered: soon
            return
        by_client = service["spec"].get("sessionAffinity") == "ClientIP"
        before = self._programmed.get(ip)
        gone = [old for old in known if old != ip]
        if before == (up, by_client, pool) and known == [ip]:
            return
        nodes = [node for node in pool if any(node in those for those in up.values())]
        ports = {port: those for port, those in up.items() if list(those) != nodes}

        def change() -> None:
            for old in gone:
                self.context.cloud.remove_frontend(old)
            self.context.cloud.set_frontend(ip, nodes, by_client=by_client, ports=ports)

        def done() -> None:
            for old in gone:
                self._forget(old)
            self._programmed[ip] = up, by_client, pool
            now = self.services.get(key)
            if now is None or not wants_balancer(now) or addresses_of(now) == [ip]:
                if now is not None and before is not None and before[2] != pool:
                    self.events.normal(now, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
                return
            self.stores.update_status(
                "services",
                now,
                {**(now.get("status") or {}), "loadBalancer": {"ingress": [self._ingress(ip)]}},
            )
            self.events.normal(now, "EnsuredLoadBalancer", "Ensured load balancer")

        self._in_worker(key, service, change, done)

    def _address(self, service: Obj) -> str:
        """The address that the service wishes for, else the cloud's; nobody else's."""
        annotations, key = annotations_of(service), key_of(service)
        if annotations.get(INTERNAL) == "true":
            raise ValueError("internal load balancers are not part of this lab")
        wish = annotations.get(ADDRESS) or service["spec"].get("loadBalancerIP")
        ip = self.context.cloud.allocate_public_ip(frontend_name(service), wish or None)
        holder = self._holders.setdefault(ip, key)
        if holder != key:
            raise ValueError(f"the public address {ip} is in use by service {'/'.join(holder)}")
        return ip

    def _say_failed(self, service: Obj, error: BaseException) -> None:
        self.events.warning(service, "SyncLoadBalancerFailed", f"Error syncing load balancer: {error}")
        self.enqueue_after(key_of(service), RETRY)

    def _ingress(self, ip: str) -> Obj:
        return {"ip": ip, "ipMode": "VIP"} if self.settings.minor >= 30 else {"ip": ip}

    def _release(self, service: Obj) -> None:
        """The service is going, or no longer wants a load balancer."""
        key = key_of(service)
        self._probes.forget(key)
        mine = {ip for ip, holder in self._holders.items() if holder == key}
        self.events.normal(service, "DeletingLoadBalancer", "Deleting load balancer")

        def change() -> None:
            for ip in mine:
                self.context.cloud.remove_frontend(ip)

        def done() -> None:
            for ip in mine:
                self._forget(ip)
            now = self.services.get(key)
            if now is None:
                return
            if not deleting(now):
                now = self.stores.update_status("services", now, {**(now.get("status") or {}), "loadBalancer": {}})
            self.events.normal(now, "DeletedLoadBalancer", "Deleted load balancer")
            left = [f for f in now["metadata"].get("finalizers") or () if f != FINALIZER]
            self.stores.patch("services", key, {"metadata": {"finalizers": left or None}})

        self._in_worker(key, service, change, done)

    def _forget(self, ip: str) -> None:
        self._programmed.pop(ip, None)
        self._holders.pop(ip, None)
        self.context.cloud.release_public_ip(ip)

    def _abandon(self, ip: str) -> None:
        """A service went without its finalizer having been honoured: someone took it off by hand."""
        self._forget(ip)
        if self._worker:
            self._worker.submit(self.context.cloud.remove_frontend, ip)

    def _in_worker(self, key: Key, service: Obj, change: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `change` in the worker, then `done` here, then look at the service again."""
        if not self._worker:
            return
        self._busy.add(key)
        future = asyncio.get_running_loop().run_in_executor(self._worker, change)

        def finish(result: asyncio.Future[None]) -> None:
            self._busy.discard(key)
            if result.cancelled() or not self._worker:
                return
            error = result.exception()
            if error is None:
                self.queue.add(lambda _: done(), key)
                self.enqueue(key)
            else:
                log.error("frontend of %s/%s", *key, exc_info=error)
                self._say_failed(service, error)

        future.add_done_callback(finish)


def addresses_of(service: Obj) -> list[str]:
    """The addresses in the service's status."""
    balancer = (service.get("status") or {}).get("loadBalancer") or {}
    return [item["ip"] for item in balancer.get("ingress") or () if item.get("ip")]


def frontend_name(service: Obj) -> str:
    """What the address is called at the cloud: Azure's provider uses "a" and the uid, too."""
    return "a" + str(service["metadata"]["uid"]).replace("-", "")[:31]


def _concerns_us(service: Obj) -> bool:
    return service["spec"].get("type") == "LoadBalancer" or FINALIZER in (service["metadata"].get("finalizers") or ())


def _service_of(item: Obj) -> list[Key]:
    name = labels_of(item).get(SERVICE_NAME)
    return [(item["metadata"]["namespace"], name)] if name else []
