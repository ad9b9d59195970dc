"""calico-kube-controllers: keeps what Calico knows of the cluster as a whole in step with Kubernetes.

Its node controller removes what Calico stored about nodes that are gone; beside it, the version and the
state of the datastore are kept in ClusterInformation, where Calico's tools look for them.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid

from labkit.local.client import ApiError, Client, Obj, find
from labkit.local.programs import logs
from labkit.local.programs.events import Events
from labkit.local.programs.httphealth import HealthServers
from labkit.local.programs.kubeclient import HttpClient

log = logging.getLogger("kube-controllers")

INFORMATION = "clusterinformations.crd.projectcalico.org"
SETTINGS = "kubecontrollersconfigurations.crd.projectcalico.org"
BLOCKS = "blockaffinities.crd.projectcalico.org"
PER_NODE = ("felixconfigurations.crd.projectcalico.org", "bgpconfigurations.crd.projectcalico.org")
RETRY = 1.0
PATIENCE = 20.0
_GROUP = "crd.projectcalico.org/v1"


class Controllers:
    """The node controller and the cluster's own information.

    Args:
        client: the API.
        version: Calico's version.
    """

    def __init__(self, client: Client, version: str) -> None:
        self._client, self._version = client, version
        self._nodes: set[str] = set()
        self.pending = True
        self.error = "has not reconciled yet"

    def on_node(self, event: str, node: Obj) -> None:
        """Take a node event."""
        name = node["metadata"]["name"]
        if event == "DELETED":
            self._nodes.discard(name)
            log.info("Node %s is gone", name)
        elif name not in self._nodes:
            self._nodes.add(name)
        else:
            return
        self.pending = True

    def reconcile(self) -> None:
        """Do what there is to do; ApiErrors are the caller's to retry."""
        self._ensure(INFORMATION, {
            "apiVersion": _GROUP, "kind": "ClusterInformation", "metadata": {"name": "default"},
            "spec": {"calicoVersion": self._version, "clusterGUID": uuid.uuid4().hex,
                     "clusterType": "k8s,operator,aks", "datastoreReady": True}},
            keep=("clusterGUID",))
        self._ensure(SETTINGS, {
            "apiVersion": _GROUP, "kind": "KubeControllersConfiguration", "metadata": {"name": "default"},
            "spec": {"controllers": {"node": {"leakGracePeriod": "15m0s", "reconcilerPeriod": "5m0s",
                                              "syncLabels": "Enabled", "hostEndpoint": {"autoCreate": "Disabled"}}},
                     "etcdV3CompactionPeriod": "10m0s", "healthChecks": "Enabled",
                     "logSeverityScreen": "Info"}}, keep=("controllers", "logSeverityScreen"))
        for resource in PER_NODE:
            for obj in self._client.list(resource):
                name = obj["metadata"]["name"]
                if name.startswith("node.") and name.removeprefix("node.") not in self._nodes:
                    log.info("Removing %s of a node that is gone: %s", obj["kind"], name)
                    self._client.delete(resource, name)
        for block in self._client.list(BLOCKS):
            if (block.get("spec") or {}).get("node") not in self._nodes:
                log.info("Releasing the block %s of a node that is gone", block["spec"].get("cidr"))
                self._client.delete(BLOCKS, block["metadata"]["name"])
        self.pending = False

    def _ensure(self, resource: str, wanted: Obj, keep: tuple[str, ...]) -> None:
        if (current := find(self._client, resource, "default")) is None:
            self._client.create(resource, wanted)
            return
        spec = current.get("spec") or {}
        merged = {**spec, **wanted["spec"], **{key: spec[key] for key in keep if key in spec}}
        if merged != spec:
            self._client.update(resource, {**current, "spec": merged})


def main() -> int:
    """Run until stopped."""
    logs.set_up(logs.Felix())
    version = os.environ.get("CALICO_VERSION", "v3.17.2")
    log.info("Loaded configuration from environment: %s", os.environ.get("ENABLED_CONTROLLERS", "node"))
    client = HttpClient.in_cluster(user_agent="kube-controllers")
    events = Events(client)
    stop = events.stop_on_signals()
    controllers = Controllers(client, version)
    _serve(events, controllers)
    events.watch("nodes", controllers.on_node)
    log.info("Starting controllers")
    timeout = 0.02
    while not stop.is_set():
        events.handle(timeout)
        timeout = 60.0 if events.synced else 0.05
        if not controllers.pending or not events.synced:
            continue
        try:
            controllers.reconcile()
            if controllers.error:
                log.info("Node controller is now running")
            controllers.error = ""
        except ApiError as error:
            if error.message != controllers.error:
                log.error("%s", error.message)
            controllers.error = error.message
            timeout = RETRY
    return 0


def _serve(events: Events, controllers: Controllers) -> None:
    def answer(path: str) -> tuple[int, str]:
        if path not in ("/readiness", "/liveness"):
            return 404, "404 page not found\n"
        seconds, error = events.failing()
        trouble = controllers.error or (error if seconds > PATIENCE else "")
        if path == "/readiness" and trouble:
            return 503, f"Error verifying datastore: {trouble}\n"
        return 200, "ready\n"

    HealthServers().serve("0.0.0.0", 9094, answer)


if __name__ == "__main__":
    sys.exit(main())
