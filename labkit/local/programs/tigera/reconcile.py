"""One reconciliation: read the Installation, make what it asks for, report."""

from __future__ import annotations

import logging
from typing import Any

from labkit.local.client import ApiError, Client, Obj, copy_of, find, timestamp

from .bpf import ModifiedBySomeoneElse, felix_configuration, rolled_out
from .installation import InvalidInstallation, defaults, network_of, validate, wants_bpf
from .release import Release
from .render import BPF_VOLUME, NAMESPACE, Endpoint, render
from .status import Degraded, conditions, health

log = logging.getLogger("controller_installation")

INSTALLATIONS = "installations.operator.tigera.io"
STATUSES = "tigerastatuses.operator.tigera.io"
FELIX = "felixconfigurations.crd.projectcalico.org"
DAEMONSETS, DEPLOYMENTS = "daemonsets.apps", "deployments.apps"
OPERATOR_NAMESPACE, ENDPOINT_CONFIG = "tigera-operator", "kubernetes-services-endpoint"


class Reconciler:
    """Brings a cluster to what its Installation says.

    Args:
        client: the API.
        release: which operator this is.
        own_endpoint: where this process itself finds the API; old operators hand it on.
    """

    def __init__(self, client: Client, release: Release, own_endpoint: Endpoint) -> None:
        self._client, self._release, self._own_endpoint = client, release, own_endpoint
        self._said: Degraded | None = None

    def reconcile(self) -> None:
        """Do what there is to do; ApiErrors other than "not found" are the caller's to retry."""
        installation = find(self._client, INSTALLATIONS, "default")
        if installation is None:
            log.info("Installation config not found")
            if find(self._client, STATUSES, "calico"):
                self._client.delete(STATUSES, "calico")
            return
        degraded = self._apply(self._with_defaults(installation))
        if degraded and degraded != self._said:
            log.error(degraded.doing, extra={"fields": {"reason": degraded.reason, "error": degraded.error}})
        self._said = degraded
        self._report(degraded)

    def _with_defaults(self, installation: Obj) -> Obj:
        """Write the defaults that the operator writes into the Installation itself."""
        spec = defaults(installation) if self._release.owns_bpf else {}
        return self._client.patch(INSTALLATIONS, "default", {"spec": spec}, type="merge") if spec else installation

    def _apply(self, installation: Obj) -> Degraded | None:
        try:
            validate(installation)
        except InvalidInstallation as error:
            return Degraded("InvalidConfigurationError", "Invalid Installation provided", str(error))
        owner = {"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "name": "default",
                 "uid": installation["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}
        for resource, obj in render(installation, self._release, self._endpoint()):
            obj["metadata"]["ownerReferences"] = [owner]   # they go with the Installation
            try:
                self._ensure(resource, obj)
            except ApiError as error:
                if error.code in (409, 503):
                    raise
                return Degraded("ResourceUpdateError", "Error creating / updating resource", error.message)
        if network_of(installation).get("bpfNetworkBootstrap") == "Enabled" and self._configured_endpoint().env():
            return Degraded("ResourceValidationError",
                            "bpfNetworkBootstrap is Enabled but the requirements are not met",
                            "kubernetes service endpoint is defined by the kubernetes-service-endpoints ConfigMap")
        try:
            self._felix(installation)
        except ModifiedBySomeoneElse as error:
            return Degraded("ResourceUpdateError", "Error updating resource", str(error))
        return None

    def _endpoint(self) -> Endpoint:
        return self._configured_endpoint() if self._release.watches_endpoint else self._own_endpoint

    def _configured_endpoint(self) -> Endpoint:
        config = find(self._client, "configmaps", ENDPOINT_CONFIG, OPERATOR_NAMESPACE)
        data = (config or {}).get("data") or {}
        return Endpoint(data.get("KUBERNETES_SERVICE_HOST", ""), data.get("KUBERNETES_SERVICE_PORT", ""))

    def _felix(self, installation: Obj) -> None:
        current = find(self._client, FELIX, "default")
        if current is None:
            spec: dict[str, Any] = {"bpfLogLevel": "", "logSeverityScreen": "Info", "reportingInterval": "0s"}
            if self._release.owns_bpf:
                spec |= {"healthPort": 9099, "vxlanVNI": 4096}
            current = self._client.create(FELIX, {
                "apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration",
                "metadata": {"name": "default"}, "spec": spec})
        if not self._release.owns_bpf:
            return
        node = find(self._client, DAEMONSETS, "calico-node", NAMESPACE)
        ready = node is not None and rolled_out(node, BPF_VOLUME)
        wanted = felix_configuration(current, bpf=wants_bpf(installation), rolled_out=ready)
        if wanted is not None:
            log.info("Patching FelixConfiguration", extra={"fields": {"bpfEnabled": wanted["spec"]["bpfEnabled"]}})
            self._client.update(FELIX, wanted)

    def _report(self, degraded: Degraded | None) -> None:
        node = find(self._client, DAEMONSETS, "calico-node", NAMESPACE)
        controllers = find(self._client, DEPLOYMENTS, "calico-kube-controllers", NAMESPACE)
        state = health(node, controllers, self._client.list("pods", NAMESPACE)) if node or controllers else None
        current = find(self._client, STATUSES, "calico")
        if current is None:
            current = self._client.create(STATUSES, {
                "apiVersion": "operator.tigera.io/v1", "kind": "TigeraStatus", "metadata": {"name": "calico"},
                "spec": {}})
        old = (current.get("status") or {}).get("conditions") or []
        new = conditions(self._release, state, degraded, old, timestamp())
        if new != old:
            self._client.update(STATUSES, {**current, "status": {"conditions": new}}, subresource="status")

    def _ensure(self, resource: str, wanted: Obj) -> None:
        meta = wanted["metadata"]
        current = find(self._client, resource, meta["name"], meta.get("namespace"))
        if current is None:
            log.info("Creating object", extra={"fields": {"Name": meta["name"], "Kind": wanted["kind"]}})
            self._client.create(resource, wanted)
        elif not contains(current, wanted):
            log.info("Updating object", extra={"fields": {"Name": meta["name"], "Kind": wanted["kind"]}})
            self._client.update(resource, merged(current, wanted))


def contains(current: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; what the API or others added beside it is left alone.

    Lists are compared as a whole, so a variable or a volume that somebody added is taken away.
    """
    if isinstance(wanted, dict):
        fields = current if isinstance(current, dict) else {}
        return all(contains(fields.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        items = current or []
        return len(items) == len(wanted) and all(map(contains, items, wanted))
    return bool(current == wanted) or (wanted == "" and current is None)


def merged(current: Obj, wanted: Obj) -> Obj:
    """The wanted object in the place of the current one: its identity and what others label stay."""
    out: Obj = {**current, **{key: copy_of(value) for key, value in wanted.items() if key != "metadata"}}
    meta = dict(current["metadata"])
    for key in ("labels", "annotations"):
        if key in wanted["metadata"]:
            meta[key] = {**(meta.get(key) or {}), **wanted["metadata"][key]}
    if "ownerReferences" in wanted["metadata"]:
        meta["ownerReferences"] = wanted["metadata"]["ownerReferences"]
    return {**out, "metadata": meta}
