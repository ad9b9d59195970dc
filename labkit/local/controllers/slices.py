"""From a service and its pods to Endpoints and EndpointSlices: pure, as Kubernetes fills them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.local.client import Obj

from .objects import annotations_of, deleting, finished, labels_of, owner_reference, ready

PER_SLICE = 100
PER_ENDPOINTS = 1000
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER, MIRROR = "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
HEADLESS = "service.kubernetes.io/headless"
NOT_READY_TOO = "service.alpha.kubernetes.io/tolerate-unready-endpoints"

Port = tuple[str, str, int, str | None]
"""(name, protocol, number, application protocol)."""


@dataclass
class Plan:
    """What to do to a service's slices."""

    create: list[Obj] = field(default_factory=list)
    update: list[Obj] = field(default_factory=list)
    delete: list[Obj] = field(default_factory=list)


def target_port(pod: Obj, port: Obj) -> int | None:
    """The number that a service port has in a pod; None if the pod has no port of that name."""
    target: Any = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target or int(port["port"])
    if target.isdigit():
        return int(target)
    for container in pod["spec"]["containers"]:
        for candidate in container.get("ports") or ():
            if candidate.get("name") == target and candidate.get("protocol", "TCP") == port.get("protocol", "TCP"):
                return int(candidate["containerPort"])
    return None


def ports_of(service: Obj, pod: Obj) -> tuple[Port, ...]:
    """The service's ports as the pod has them; those that it has not are left out."""
    found: list[Port] = []
    for port in service["spec"].get("ports") or ():
        number = target_port(pod, port)
        if number is not None:
            found.append((port.get("name", ""), port.get("protocol", "TCP"), number, port.get("appProtocol")))
    return tuple(found)


def takes_part(pod: Obj) -> bool:
    """Whether the pod has a place among its services' endpoints, ready or not."""
    return bool((pod.get("status") or {}).get("podIP")) and not finished(pod)


def publishes_not_ready(service: Obj) -> bool:
    """Whether the service wants its endpoints known before they are ready."""
    return bool(service["spec"].get("publishNotReadyAddresses")) or annotations_of(service).get(NOT_READY_TOO) == "true"


def endpoint_of(service: Obj, pod: Obj, minor: int) -> Obj:
    """The pod as an entry of an EndpointSlice."""
    serving = ready(pod)
    usable = publishes_not_ready(service) or (serving and not deleting(pod))
    conditions: Obj = {"ready": usable}
    if minor >= 20:
        conditions |= {"serving": serving, "terminating": deleting(pod)}
    endpoint: Obj = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": conditions,
        "targetRef": _target(pod),
    }
    if pod["spec"].get("nodeName"):
        endpoint["nodeName"] = pod["spec"]["nodeName"]
    if name := _hostname(service, pod):
        endpoint["hostname"] = name
    return endpoint


def _hostname(service: Obj, pod: Obj) -> str:
    spec = pod["spec"]
    return str(spec.get("hostname", "")) if spec.get("subdomain") == service["metadata"]["name"] else ""


def _target(pod: Obj) -> Obj:
    meta = pod["metadata"]
    return {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}


def _slice_ports(ports: Sequence[Port]) -> list[Obj]:
    return [
        {"name": name, "port": number, "protocol": protocol, **({"appProtocol": app} if app else {})}
        for name, protocol, number, app in ports
    ]


def _ports_key(ports: Iterable[Any] | None) -> tuple[Port, ...]:
    return tuple(
        (p.get("name") or "", p.get("protocol", "TCP"), p.get("port"), p.get("appProtocol")) for p in ports or ()
    )


def labels_for(service: Obj) -> dict[str, str]:
    """The labels of a service's slices: its own, and whose they are."""
    labels = {
        **labels_of(service),
        SERVICE_NAME: service["metadata"]["name"],
        MANAGED_BY: MANAGER,
    }
    if service["spec"].get("clusterIP") == "None":
        labels[HEADLESS] = ""
    return labels


def plan_slices(service: Obj, pods: Iterable[Obj], existing: Sequence[Obj], minor: int) -> Plan:
    """Change as few slices as possible: endpoints stay where they are, new ones fill gaps."""
    wanted: dict[tuple[Port, ...], dict[str, Obj]] = {}
    for pod in pods:
        if takes_part(pod):
            wanted.setdefault(ports_of(service, pod), {})[pod["metadata"]["uid"]] = endpoint_of(service, pod, minor)
    if not wanted:
        wanted = {(): {}}
    by_ports: dict[tuple[Port, ...], list[Obj]] = {}
    for item in existing:
        by_ports.setdefault(_ports_key(item.get("ports")), []).append(item)
    plan, labels = Plan(), labels_for(service)
    for ports, endpoints in wanted.items():
        _plan_group(plan, service, labels, ports, dict(endpoints), by_ports.pop(ports, []))
    for stale in by_ports.values():
        # A slice of other ports is reused where a new one is needed, as Kubernetes does.
        for item in stale:
            if plan.create:
                fresh = plan.create.pop()
                fresh["metadata"] = {**item["metadata"], "labels": labels}
                plan.update.append(fresh)
            else:
                plan.delete.append(item)
    return plan


def _plan_group(
    plan: Plan,
    service: Obj,
    labels: dict[str, str],
    ports: tuple[Port, ...],
    endpoints: dict[str, Obj],
    existing: list[Obj],
) -> None:
    kept: list[tuple[Obj, list[Obj]]] = []
    for item in existing:
        stay = []
        for endpoint in item.get("endpoints") or ():
            now = endpoints.pop((endpoint.get("targetRef") or {}).get("uid", ""), None)
            if now is not None:
                stay.append(now)
        kept.append((item, stay))
    fresh = list(endpoints.values())
    for _, stay in sorted(kept, key=lambda entry: -len(entry[1])):
        room = PER_SLICE - len(stay)
        stay.extend(fresh[:room])
        fresh = fresh[room:]
    groups = [fresh[i : i + PER_SLICE] for i in range(0, len(fresh), PER_SLICE)]
    if not groups and not kept:
        groups = [[]]
    plan.create += [_new_slice(service, labels, ports, group) for group in groups]
    empty_may_stay = not groups and not any(stay for _, stay in kept)
    for item, stay in kept:
        if not stay and not empty_may_stay:
            plan.delete.append(item)
            continue
        empty_may_stay = empty_may_stay and bool(stay)
        if (item.get("endpoints") or []) != stay or labels_of(item) != labels:
            plan.update.append({**item, "metadata": {**item["metadata"], "labels": labels}, "endpoints": stay})


def _new_slice(
    owner: Obj, labels: dict[str, str], ports: tuple[Port, ...], endpoints: list[Obj], family: str = "IPv4"
) -> Obj:
    meta = owner["metadata"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": meta["name"] + "-",
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(owner)],
        },
        "addressType": family,
        "ports": _slice_ports(ports),
        "endpoints": endpoints,
    }


def plan_mirror(endpoints: Obj, existing: Sequence[Obj]) -> Plan:
    """Slices that say what somebody wrote into the Endpoints of a service without a selector: proxies read slices."""
    plan, labels = Plan(), {k: v for k, v in labels_of(endpoints).items() if k not in (SERVICE_NAME, MANAGED_BY)}
    labels |= {SERVICE_NAME: endpoints["metadata"]["name"], MANAGED_BY: MIRROR}
    spare = list(existing)
    for ports, family, ends in _mirrored(endpoints):
        item = next((s for s in spare if (_ports_key(s.get("ports")), s["addressType"]) == (ports, family)), None)
        if item is None:
            plan.create.append(_new_slice(endpoints, labels, ports, ends, family))
            continue
        spare.remove(item)
        if item.get("endpoints") != ends or labels_of(item) != labels:
            plan.update.append({**item, "metadata": {**item["metadata"], "labels": labels}, "endpoints": ends})
    plan.delete = spare
    return plan


def _mirrored(endpoints: Obj) -> Iterator[tuple[tuple[Port, ...], str, list[Obj]]]:
    if labels_of(endpoints).get(SKIP_MIRROR) == "true":
        return
    for subset in endpoints.get("subsets") or ():
        ends: dict[str, list[Obj]] = {}
        for place, ready_ones in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(place) or ():
                kept = {key: address[key] for key in ("hostname", "nodeName", "targetRef") if address.get(key)}
                ends.setdefault("IPv6" if ":" in address["ip"] else "IPv4", []).append(
                    {"addresses": [address["ip"]], "conditions": {"ready": ready_ones}, **kept}
                )
        for family in sorted(ends):
            yield _ports_key(subset.get("ports")), family, ends[family][:PER_ENDPOINTS]


def subsets(service: Obj, pods: Iterable[Obj]) -> list[Obj]:
    """The subsets of a service's Endpoints object, which know no terminating pods."""
    groups: dict[tuple[Port, ...], tuple[list[Obj], list[Obj]]] = {}
    for pod in pods:
        if not takes_part(pod) or (deleting(pod) and not publishes_not_ready(service)):
            continue
        address: Obj = {"ip": pod["status"]["podIP"]}
        if name := _hostname(service, pod):
            address["hostname"] = name
        if pod["spec"].get("nodeName"):
            address["nodeName"] = pod["spec"]["nodeName"]
        address["targetRef"] = _target(pod)
        good = ready(pod) or publishes_not_ready(service)
        groups.setdefault(ports_of(service, pod), ([], []))[0 if good else 1].append(address)
    result = []
    for ports in sorted(groups, key=str):
        subset: Obj = {}
        for name, addresses in zip(("addresses", "notReadyAddresses"), groups[ports], strict=True):
            if addresses:
                subset[name] = sorted(addresses, key=lambda a: _numeric(a["ip"]))[:PER_ENDPOINTS]
        if ports:
            subset["ports"] = [
                {
                    **({"name": name} if name else {}),
                    "port": number,
                    "protocol": protocol,
                    **({"appProtocol": app} if app else {}),
                }
                for name, protocol, number, app in ports
            ]
        result.append(subset)
    return result


def _numeric(ip: str) -> tuple[int, ...]:
    return tuple(int(part) for part in ip.split(".")) if "." in ip else ()
