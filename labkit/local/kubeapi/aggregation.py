"""metrics.k8s.io: an API that is not the API server's own. What its APIService names answers, in a pod.

Which resources it has is known here, as far as discovery goes; every request for one goes on to the service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.local.client import ApiError, EventType, Obj, find, timestamp

from . import proxy
from .kinds import Kind, Served
from .request import Reply, Request

if TYPE_CHECKING:
    from .api import Api

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
_NAME = f"{VERSION}.{GROUP}"
_SERVICES = "apiservices.apiregistration.k8s.io"
_KINDS = (Kind(GROUP, VERSION, "NodeMetrics", "nodes", namespaced=False), Kind(GROUP, VERSION, "PodMetrics", "pods"))


class Aggregation:
    """Serves the group while it has an APIService, and says there whether somebody answers."""

    def __init__(self, api: Api) -> None:
        self._api = api
        api.watch(_SERVICES, self._on_api_service, field_selector=f"metadata.name={_NAME}")
        api.watch("endpoints", self._on_endpoints, namespace="kube-system")

    async def forward(self, request: Request, body: bytes) -> object:
        """The service's answer."""
        service = self._service()
        try:
            if service is None:
                raise ApiError(503, "ServiceUnavailable", "no APIService")
            return await proxy.to_service(self._api, request, service["namespace"], service["name"],
                                          str(service.get("port", 443)), body)
        except ApiError:
            return Reply(503, b"service unavailable\n", b"text/plain; charset=utf-8")

    def _service(self) -> Obj | None:
        found = find(self._api, _SERVICES, _NAME)
        service: Obj | None = found["spec"].get("service") if found else None
        return service

    def _on_api_service(self, event: EventType, obj: Obj) -> None:
        served = self._api.machinery.registry.served
        if event == "DELETED":
            served.pop((GROUP, VERSION), None)
            return
        served[GROUP, VERSION] = {kind.plural: Served(kind, GROUP, VERSION) for kind in _KINDS}
        self._tell()

    def _on_endpoints(self, event: EventType, obj: Obj) -> None:
        service = self._service()
        if service and (service["namespace"], service["name"]) == (
                obj["metadata"]["namespace"], obj["metadata"]["name"]):
            self._tell()

    def _tell(self) -> None:
        """Write whether the service has an endpoint, where that has changed."""
        found, service = find(self._api, _SERVICES, _NAME), self._service()
        if found is None or service is None:
            return
        full = f'service/{service["name"]} in "{service["namespace"]}"'
        endpoints = find(self._api, "endpoints", service["name"], service["namespace"])
        if find(self._api, "services", service["name"], service["namespace"]) is None:
            told = ("False", "ServiceNotFound", f"{full} is not present")
        elif endpoints and any(subset.get("addresses") for subset in endpoints.get("subsets") or ()):
            told = ("True", "Passed", "all checks passed")
        else:
            told = ("False", "MissingEndpoints", f"endpoints for {full} have no addresses")
        old: Obj = next(iter((found.get("status") or {}).get("conditions") or ()), {})
        if (old.get("status"), old.get("reason")) != told[:2]:
            condition = {"type": "Available", "status": told[0], "reason": told[1], "message": told[2],
                         "lastTransitionTime": timestamp()}
            self._api.patch(_SERVICES, _NAME, {"status": {"conditions": [condition]}}, subresource="status")
