"""Events; those that a node's agents record, counted as Kubernetes counts repeated ones."""

from __future__ import annotations

import hashlib
import logging
import time

from labkit.local.client import ApiError, Client, Obj, timestamp

log = logging.getLogger(__name__)


def event_of(about: Obj, name: str, reason: str, message: str, *, component: str, host: str = "", field: str = "",
             normal: bool = True) -> Obj:
    """A new event about an object, which says its kind; a component of the control plane has no host."""
    meta, now = about["metadata"], timestamp()
    involved: Obj = {"kind": about["kind"], "apiVersion": about["apiVersion"], "name": meta["name"],
                     "uid": meta.get("uid", ""), "resourceVersion": meta.get("resourceVersion", "")}
    if "namespace" in meta:
        involved["namespace"] = meta["namespace"]
    if field:
        involved["fieldPath"] = field
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": meta.get("namespace") or "default"},
        "involvedObject": involved, "reason": reason, "message": message, "eventTime": None,
        "type": "Normal" if normal else "Warning", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": component, **({"host": host} if host else {})},
        "reportingComponent": component, "reportingInstance": host,
    }


class Recorder:
    """Writes events of one component.

    Args:
        client: where to.
        component, host: who reports.
        patience: how often an event is tried, with longer and longer pauses; 1 never waits.
    """

    def __init__(self, client: Client, component: str, host: str, *, patience: int = 1) -> None:
        self._client, self._component, self._host, self._patience = client, component, host, patience

    def record(self, about: Obj, kind: str, reason: str, message: str, *, field: str = "", normal: bool = True) -> None:
        """Record what happened to an object; the same again raises the count of the first."""
        meta = about["metadata"]
        namespace = meta.get("namespace", "default")
        facts = f"{meta.get('uid')}/{reason}/{message}/{field}/{self._component}/{self._host}"
        name = f"{meta['name']}.{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
        for attempt in range(1, self._patience + 1):
            event = event_of({"apiVersion": "v1", "kind": kind, "metadata": meta}, name, reason, message, field=field,
                             normal=normal, component=self._component, host=self._host)
            try:
                self._write(event, name, namespace)
                return
            except ApiError as error:  # an event is a courtesy: its namespace may be going away
                log.debug("event %s not recorded: %s", reason, error.message)
            if attempt < self._patience:
                time.sleep(attempt)

    def about_node(self, reason: str, message: str, *, normal: bool = True) -> None:
        """Record what happened to the host. Agents know it by its name alone, and write that as its uid."""
        self.record({"metadata": {"name": self._host, "uid": self._host}}, "Node", reason, message, normal=normal)

    def _write(self, event: Obj, name: str, namespace: str) -> None:
        try:
            seen = self._client.get("events", name, namespace)
            change = {"count": seen.get("count", 1) + 1, "lastTimestamp": event["lastTimestamp"]}
            self._client.patch("events", name, change, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            self._client.create("events", event, namespace)

