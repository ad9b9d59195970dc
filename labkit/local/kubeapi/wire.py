"""Built-in kinds that are served at more than one version, and the way between versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.local.client import Obj

from .kinds import Convert, Registry, Served

EVENTS = "events.k8s.io/v1"


def add_builtin_versions(registry: Registry, minor: int) -> None:
    """Serve events at events.k8s.io too and, as 1.20 did, endpoint slices, disruption budgets and cron jobs at v1beta1.

    Ephemeral containers came with 1.23.
    """
    events = registry.kinds["events"]
    registry.served.setdefault(("events.k8s.io", "v1"), {})["events"] = Served(
        events, "events.k8s.io", "v1", _event_out, _event_in)
    if minor < 25:
        slices = registry.kinds["endpointslices.discovery.k8s.io"]
        registry.served.setdefault((slices.group, "v1beta1"), {})[slices.plural] = Served(
            slices, slices.group, "v1beta1", _slice_out, _slice_in)
        budgets = registry.kinds["poddisruptionbudgets.policy"]
        registry.served.setdefault((budgets.group, "v1beta1"), {})[budgets.plural] = Served(
            budgets, budgets.group, "v1beta1", *_versions("policy/v1beta1", "policy/v1"))
        jobs = registry.kinds["cronjobs.batch"]         # where kubectl before 1.21 makes them
        registry.served.setdefault((jobs.group, "v1beta1"), {})[jobs.plural] = Served(
            jobs, jobs.group, "v1beta1", *_versions("batch/v1beta1", "batch/v1"))
        if minor < 21:
            del registry.served[budgets.group, budgets.version]
    if minor < 23:
        pods = registry.kinds["pods"]
        registry.add(replace(pods, subresources=tuple(s for s in pods.subresources if s != "ephemeralcontainers")))
    hpa = registry.kinds["horizontalpodautoscalers.autoscaling"]
    registry.served.setdefault((hpa.group, "v1"), {})[hpa.plural] = Served(hpa, hpa.group, "v1", _hpa_out, _hpa_in)


_EVENT_NAMES = (("involvedObject", "regarding"), ("message", "note"), ("source", "deprecatedSource"),
                ("firstTimestamp", "deprecatedFirstTimestamp"), ("lastTimestamp", "deprecatedLastTimestamp"),
                ("count", "deprecatedCount"), ("reportingComponent", "reportingController"))


def _event_out(obj: Obj) -> Obj:
    out = {**obj, "apiVersion": EVENTS}
    for core, new in _EVENT_NAMES:
        if core in out:
            out[new] = out.pop(core)
    return out


def _event_in(obj: Obj) -> Obj:
    out = {**obj, "apiVersion": "v1"}
    for core, new in _EVENT_NAMES:
        if new in out:
            out[core] = out.pop(new)
    return out


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
