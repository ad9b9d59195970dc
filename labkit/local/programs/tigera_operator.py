"""The Tigera operator: makes Calico of an Installation, and reports in a TigeraStatus.

It runs in a pod and knows of the cluster what the API tells it. Which operator it is says
TIGERA_OPERATOR_INIT_IMAGE_VERSION, as in upstream's manifest.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from typing import Any

from labkit.local.client import ApiError, Obj
from labkit.local.programs import logs
from labkit.local.programs.events import Events
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.tigera.reconcile import (
    DAEMONSETS,
    DEPLOYMENTS,
    FELIX,
    INSTALLATIONS,
    OPERATOR_NAMESPACE,
    Reconciler,
)
from labkit.local.programs.tigera.release import Release
from labkit.local.programs.tigera.render import NAMESPACE, Endpoint

log = logging.getLogger("setup")

SETTLE = 0.02       # events come in bursts: one reconciliation for all of them
RETRY = 1.0
RESYNC = 300.0


class Zap(logging.Formatter):
    """One JSON object a line, as operators log."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        level = {"WARNING": "warn", "CRITICAL": "error"}.get(record.levelname, record.levelname.lower())
        line: dict[str, Any] = {"level": level, "ts": round(record.created, 3), "logger": record.name,
                                "msg": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def main(argv: list[str] | None = None) -> int:
    """Run until stopped."""
    logs.set_up(Zap())
    release = Release(os.environ.get("TIGERA_OPERATOR_INIT_IMAGE_VERSION", "v1.40.2"))
    if "--version" in (sys.argv[1:] if argv is None else argv):
        print(f"Operator: {release.version}\nCalico: {release.calico}")
        return 0
    log.info("Version: %s", release.version)
    log.info("Calico: %s", release.calico)
    endpoint = Endpoint(os.environ.get("KUBERNETES_SERVICE_HOST", ""),
                        os.environ.get("KUBERNETES_SERVICE_PORT", ""))
    log.info("Active operator: proceeding", extra={"fields": {"api": f"{endpoint.host}:{endpoint.port}"}})
    client = HttpClient.in_cluster(user_agent="tigera-operator")
    events = Events(client)
    stop = events.stop_on_signals()
    _watch(events)
    log.info("starting manager")
    _run(Reconciler(client, release, endpoint), events, stop)
    return 0


def _watch(events: Events) -> None:
    def changed(event: str, obj: Obj) -> None:
        """The reconciler reads what it needs; that something changed is enough."""

    for resource in (INSTALLATIONS, FELIX):
        events.watch(resource, changed)
    for resource in (DAEMONSETS, DEPLOYMENTS, "pods"):
        events.watch(resource, changed, namespace=NAMESPACE)
    events.watch("configmaps", changed, namespace=OPERATOR_NAMESPACE)


def _run(reconciler: Reconciler, events: Events, stop: threading.Event) -> None:
    timeout, due = 0.0, True
    while not stop.is_set():
        due = events.handle(timeout) or due or timeout > 0
        if not due or stop.is_set():
            continue
        time.sleep(SETTLE)
        events.handle(0)
        try:
            reconciler.reconcile()
            timeout, due = RESYNC, False
        except ApiError as error:
            log.error("Reconciler error", extra={"fields": {"controller": "tigera-installation-controller",
                                                            "error": error.message}})
            timeout, due = (0.05 if error.code == 409 else RETRY), True


if __name__ == "__main__":
    sys.exit(main())
