"""Events that a kubelet records, counted as Kubernetes counts repeated ones."""

from __future__ import annotations

import contextlib
import hashlib

from labkit.local.client import ApiError, Client, Obj
from labkit.local.node.status import timestamp


class Recorder:
    """Writes events of one component.

    Args:
        client: where to.
        component, host: who reports.
    """

    def __init__(self, client: Client, component: str, host: str) -> None:
        self._client, self._component, self._host = client, component, host

    def record(self, about: Obj, kind: str, reason: str, message: str, *, field: str = "", normal: bool = True) -> None:
        """Record what happened to an object; the same again raises the count of the first."""
        meta = about["metadata"]
        namespace = meta.get("namespace", "default")
        facts = f"{meta.get('uid')}/{reason}/{message}/{field}/{self._component}/{self._host}"
        name = f"{meta['name']}.{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
        now = timestamp()
        with contextlib.suppress(ApiError):  # an event is a courtesy: its namespace may be going away
            try:
                seen = self._client.get("events", name, namespace)
                self._client.patch("events", name, {"count": seen.get("count", 1) + 1, "lastTimestamp": now}, namespace)
            except ApiError as error:
                if error.code != 404:
                    raise
                self._client.create("events", self._event(about, kind, name, namespace, reason, message, field,
                                                          now, normal=normal), namespace)

    def _event(self, about: Obj, kind: str, name: str, namespace: str, reason: str, message: str, field: str,
               now: str, *, normal: bool) -> Obj:
        meta = about["metadata"]
        involved: Obj = {"kind": kind, "apiVersion": "v1", "name": meta["name"], "uid": meta.get("uid", ""),
                         "resourceVersion": meta.get("resourceVersion", "")}
        if "namespace" in meta:
            involved["namespace"] = namespace
        if field:
            involved["fieldPath"] = field
        return {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved, "reason": reason, "message": message,
            "type": "Normal" if normal else "Warning", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": self._component, "host": self._host},
            "reportingComponent": self._component, "reportingInstance": self._host,
        }
