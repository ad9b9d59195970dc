"""Built-in kinds that are served at more than one version, and the way between versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.local.client import Obj

from .kinds import Convert, Registry, Served


def add_builtin_versions(registry: Registry, minor: int) -> None:
    """Serve events at events.k8s.io too and, as 1.20 did, endpoint slices, disruption budgets and cron jobs at v1beta1.

    Ephemeral containers came with 1.23.
    """
    def serve(resource: str, version: str, out: Convert, back: Convert, group: str | None = None) -> None:
        kind = registry.kinds[resource]
        one = Served(kind, kind.group if group is None else group, version, out, back)
        registry.served.setdefault((one.group, version), {})[kind.plural] = one

    serve("events", "v1", _event_out, _event_in, "events.k8s.io")
    if minor < 25:
        serve("endpointslices.discovery.k8s.io", "v1beta1", _slice_out, _slice_in)
        serve("poddisruptionbudgets.policy", "v1beta1", *_versions("policy/v1beta1", "policy/v1"))
        # where kubectl before 1.21 makes them
        serve("cronjobs.batch", "v1beta1", *_versions("batch/v1beta1", "batch/v1"))
    if minor < 21:
        del registry.served["policy", "v1"]
    if minor < 23:
        pods = registry.kinds["pods"]
        registry.add(replace(pods, subresources=tuple(s for s in pods.subresources if s != "ephemeralcontainers")))
    serve("horizontalpodautoscalers.autoscaling", "v1", _hpa_out, _hpa_in)


_EVENT_NAMES = (("involvedObject", "regarding"), ("message", "note"), ("source", "deprecatedSource"),
                ("firstTimestamp", "deprecatedFirstTimestamp"), ("lastTimestamp", "deprecatedLastTimestamp"),
                ("count", "deprecatedCount"), ("reportingComponent", "reportingController"))


def _event_out(obj: Obj) -> Obj:
    names = dict(_EVENT_NAMES)
    return {names.get(key, key): value for key, value in obj.items()} | {"apiVersion": "events.k8s.io/v1"}


def _event_in(obj: Obj) -> Obj:
    names = {new: core for core, new in _EVENT_NAMES}
    return {names.get(key, key): value for key, value in obj.items()} | {"apiVersion": "v1"}


def _slice_out(obj: Obj) -> Obj:
    endpoints = []
    for one in obj.get("endpoints") or ():
        topology: dict[str, Any] = {}
        one = {k: v for k, v in one.items() if k != "deprecatedTopology"}
        if node := one.get("nodeName"):
            topology["kubernetes.io/hostname"] = node
        if zone := one.pop("zone", None):
            topology["topology.kubernetes.io/zone"] = zone
        endpoints.append({**one, "topology": topology} if topology else one)
    return {**obj, "apiVersion": "discovery.k8s.io/v1beta1", "endpoints": endpoints}


def _slice_in(obj: Obj) -> Obj:
    endpoints = []
    for one in obj.get("endpoints") or ():
        topology = one.get("topology") or {}
        one = {k: v for k, v in one.items() if k != "topology"}
        if node := topology.get("kubernetes.io/hostname"):
            one.setdefault("nodeName", node)
        if zone := topology.get("topology.kubernetes.io/zone"):
            one["zone"] = zone
        endpoints.append(one)
    return {**obj, "apiVersion": "discovery.k8s.io/v1", "endpoints": endpoints}


def _versions(wire: str, storage: str) -> tuple[Convert, Convert]:
    """To and from a version that differs in its name alone."""
    return lambda obj: {**obj, "apiVersion": wire}, lambda obj: {**obj, "apiVersion": storage}


def _hpa_out(obj: Obj) -> Obj:
    spec = {k: v for k, v in (obj.get("spec") or {}).items() if k != "metrics"}
    for metric in (obj.get("spec") or {}).get("metrics") or ():
        if (resource := metric.get("resource") or {}).get("name") == "cpu":
            spec["targetCPUUtilizationPercentage"] = (resource.get("target") or {}).get("averageUtilization")
    return {**obj, "apiVersion": "autoscaling/v1", "spec": spec}


def _hpa_in(obj: Obj) -> Obj:
    spec = dict(obj.get("spec") or {})
    if percent := spec.pop("targetCPUUtilizationPercentage", None):
        spec["metrics"] = [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}]
    return {**obj, "apiVersion": "autoscaling/v2", "spec": spec}
