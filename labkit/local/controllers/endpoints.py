"""Endpoints and endpoint slices: of services that select pods, and of those whose Endpoints somebody else writes."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.local.client import Obj

from .base import Context, Controller
from .objects import deleting, finished, labels_of, ready
from .queue import Key
from .slices import HEADLESS, MANAGED_BY, MANAGER, MIRROR, SERVICE_NAME, Plan, plan_mirror, plan_slices, subsets
from .store import key_of

SLICES = "endpointslices.discovery.k8s.io"


class Endpoints(Controller):
    """Keeps a service's addresses equal to its pods'.

    Services are filed under one pair of their selector and pods under each pair of their labels, so a
    change of a pod finds its services, and a service its pods, without a look at all others.
    """

    component = "endpoint-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.services, self.pods = self.stores["services"], self.stores["pods"]
        self.slices, self.endpoints = self.stores[SLICES], self.stores["endpoints"]
        self.services.index("selector", _selector_pair)
        self.pods.index("labels", _label_pairs)
        self.slices.index("service", _slice_service)
        self.slices.index("mirror", _mirror_service)
        self.services.subscribe(self._on_service)
        self.pods.subscribe(self._on_pod)
        self.slices.subscribe(self._on_slice)
        self.endpoints.subscribe(self._on_endpoints)

    def _on_service(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or old["spec"] != new["spec"] or labels_of(old) != labels_of(new):
            self.on_object(old, new)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and new is not None and _relevant(old) == _relevant(new):
            return
        for obj in (old, new):
            if obj is not None:
                for service in self._services_of(obj):
                    self.enqueue(key_of(service))

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        """Someone else changed or deleted a slice of ours: our own writes leave nothing to do."""
        obj = new or old
        assert obj is not None
        if old is not None:
            for key in (*_slice_service(obj), *_mirror_service(obj)):
                self.enqueue(key)

    def _on_endpoints(self, old: Obj | None, new: Obj | None) -> None:
        obj = new or old
        assert obj is not None
        service = self.services.get(key_of(obj))
        if service and (new is None or not service["spec"].get("selector")):
            self.enqueue(key_of(obj))

    def _services_of(self, pod: Obj) -> Iterator[Obj]:
        labels = labels_of(pod)
        for pair in _label_pairs(pod):
            for service in self.services.by("selector", pair):
                if service["spec"]["selector"].items() <= labels.items():
                    yield service

    def _pods_of(self, service: Obj) -> list[Obj]:
        selector, namespace = service["spec"]["selector"], service["metadata"]["namespace"]
        pairs = [(namespace, *item) for item in selector.items()]
        rarest = min(pairs, key=lambda pair: self.pods.count("labels", pair))
        return [pod for pod in self.pods.by("labels", rarest) if selector.items() <= labels_of(pod).items()]

    def reconcile(self, key: Key) -> None:
        """Make Endpoints and slices of this service say what its pods are."""
        service = self.services.get(key)
        if service is None:
            self._clean_up(key)
            return
        mirrored = self.slices.by("mirror", key)
        if not service["spec"].get("selector"):
            endpoints = self.endpoints.get(key)
            self._carry_out(plan_mirror(endpoints, mirrored) if endpoints else Plan(delete=list(mirrored)))
            return
        if deleting(service) or service["spec"].get("type") == "ExternalName":
            return
        pods = sorted(self._pods_of(service), key=lambda pod: pod["metadata"]["name"])
        self._sync_endpoints(service, pods)
        plan = plan_slices(service, pods, self.slices.by("service", key), self.settings.minor)
        plan.delete += mirrored
        self._carry_out(plan)

    def _carry_out(self, plan: Plan) -> None:
        for item in plan.create:
            self.stores.create(SLICES, item)
        for item in plan.update:
            self.stores.update(SLICES, item)
        for item in plan.delete:
            self.stores.delete(SLICES, item)

    def _sync_endpoints(self, service: Obj, pods: list[Obj]) -> None:
        wanted, current = subsets(service, pods), self.endpoints.get(key_of(service))
        labels = dict(labels_of(service))
        if service["spec"].get("clusterIP") == "None":
            labels[HEADLESS] = ""
        if current is None:
            meta: Obj = {"name": service["metadata"]["name"], "namespace": service["metadata"]["namespace"]}
            if labels:
                meta["labels"] = labels
            body: Obj = {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta}
            if wanted:
                body["subsets"] = wanted
            self.stores.create("endpoints", body)
        elif (current.get("subsets") or []) != wanted or labels_of(current) != labels:
            self.stores.update(
                "endpoints",
                {**current, "metadata": {**current["metadata"], "labels": labels}, "subsets": wanted},
            )

    def _clean_up(self, key: Key) -> None:
        current = self.endpoints.get(key)
        if current is not None:
            self.stores.delete("endpoints", current)
        for item in (*self.slices.by("service", key), *self.slices.by("mirror", key)):
            self.stores.delete(SLICES, item)


def _selector_pair(service: Obj) -> list[tuple[str, str, str]]:
    selector = service["spec"].get("selector")
    if not selector:
        return []
    name = min(selector)
    return [(service["metadata"]["namespace"], name, selector[name])]


def _label_pairs(pod: Obj) -> list[tuple[str, str, str]]:
    namespace = pod["metadata"]["namespace"]
    return [(namespace, name, value) for name, value in labels_of(pod).items()]


def _slice_service(item: Obj, manager: str = MANAGER) -> list[Key]:
    labels = labels_of(item)
    if labels.get(MANAGED_BY) != manager or SERVICE_NAME not in labels:
        return []
    return [(item["metadata"]["namespace"], labels[SERVICE_NAME])]


def _mirror_service(item: Obj) -> list[Key]:
    return _slice_service(item, MIRROR)


def _relevant(pod: Obj) -> tuple[object, ...]:
    status, spec = pod.get("status") or {}, pod["spec"]
    return (
        labels_of(pod),
        status.get("podIP"),
        ready(pod),
        deleting(pod),
        finished(pod),
        spec.get("nodeName"),
    )
