"""Services: cluster IPs, node ports, and what may change about them."""

from __future__ import annotations

import ipaddress
import random
from typing import TYPE_CHECKING

from labkit.local.client import ApiError, Obj

from . import defaults, errors
from .errors import FieldError
from .kinds import Kind
from .strategies import Strategy
from .validation import service_errors

if TYPE_CHECKING:
    from .machinery import Machinery

NETWORK = ipaddress.IPv4Network("10.0.0.0/16")
"""Where cluster IPs come from."""
PORTS = range(30000, 32768)
"""Node ports."""


class ServiceStrategy(Strategy):
    """Hands out cluster IPs and node ports.

    What is in use is derived from the stored services, so a refused or dry-run write leaves nothing behind.
    """

    def __init__(self, machinery: Machinery) -> None:
        super().__init__(machinery)
        self._ips: dict[str, str] = {}
        self._ports: dict[tuple[int, str], str] = {}

    def loaded(self, obj: Obj) -> None:
        """Note what a stored service uses."""
        self._take(obj)

    def default(self, kind: Kind, obj: Obj) -> None:
        """Kubernetes' defaults."""
        if isinstance(obj.setdefault("spec", {}), dict):
            defaults.service(obj, self.api.minor)

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """A load balancer's address is its controller's to write."""
        obj["status"] = {"loadBalancer": {}}

    def prepare_update(self, kind: Kind, new: Obj, old: Obj, sub: str | None) -> None:
        """An update that is silent about what was allocated keeps it, as `kubectl replace` expects."""
        if sub is not None:
            return
        spec, was = new["spec"], old["spec"]
        if spec["type"] == "ExternalName":
            if was["type"] != "ExternalName":
                for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
                    if key not in ("clusterIP", "clusterIPs") or spec.get(key) == was.get(key):
                        spec.pop(key, None)
        elif was["type"] != "ExternalName":
            for key in ("clusterIP", "clusterIPs"):
                if not spec.get(key) and was.get(key):
                    spec[key] = was[key]
        if spec["type"] in ("NodePort", "LoadBalancer"):
            known = {(p.get("protocol"), p["port"]): p["nodePort"] for p in was.get("ports") or () if p.get("nodePort")}
            wanted = {p["nodePort"] for p in spec.get("ports") or () if p.get("nodePort")}
            for port in spec.get("ports") or ():
                kept = known.get((port.get("protocol"), port.get("port")))
                if not port.get("nodePort") and kept and kept not in wanted:
                    port["nodePort"] = kept
        elif was["type"] in ("NodePort", "LoadBalancer"):
            before = {p.get("nodePort") for p in was.get("ports") or ()}
            for port in spec.get("ports") or ():
                if port.get("nodePort") in before:
                    port.pop("nodePort", None)
            for key in ("externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"):
                spec.pop(key, None)
        if spec["type"] == "NodePort" and was["type"] == "LoadBalancer":
            spec.pop("allocateLoadBalancerNodePorts", None)
        if spec.get("externalTrafficPolicy") != "Local" or spec["type"] != "LoadBalancer":
            spec.pop("healthCheckNodePort", None)
        elif was.get("healthCheckNodePort"):
            spec.setdefault("healthCheckNodePort", was["healthCheckNodePort"])
        if spec["type"] != "LoadBalancer" and was["type"] == "LoadBalancer":
            new["status"] = {"loadBalancer": {}}

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Ports, types, and that the cluster IP stays."""
        return [] if sub else service_errors(new["spec"], old["spec"] if old else None)

    def allocate(self, kind: Kind, new: Obj, old: Obj | None) -> None:
        """Assign a cluster IP and node ports where they are missing; check those that are asked for."""
        spec, owner = new["spec"], _key(new)
        if spec["type"] != "ExternalName":
            asked = spec.get("clusterIP")
            if not asked:
                spec["clusterIP"] = self._free_ip()
            elif asked != "None" and self._ips.get(asked) != owner:
                self._check_ip(kind, new, asked)
            if self.api.minor >= 20:
                spec["clusterIPs"] = [spec["clusterIP"]]
        if spec["type"] in ("NodePort", "LoadBalancer"):
            mine: set[tuple[int, str]] = set()
            for i, port in enumerate(spec.get("ports") or ()):
                protocol = port["protocol"]
                if not port.get("nodePort"):
                    if spec.get("allocateLoadBalancerNodePorts") is False and spec["type"] == "LoadBalancer":
                        continue
                    port["nodePort"] = self._free_port(protocol, mine)
                else:
                    self._check_port(kind, new, f"spec.ports[{i}].nodePort", port["nodePort"], protocol, owner)
                mine.add((port["nodePort"], protocol))
            if spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local" \
                    and not spec.get("healthCheckNodePort"):
                spec["healthCheckNodePort"] = self._free_port("TCP", mine)

    def stored(self, kind: Kind, new: Obj, old: Obj | None) -> None:
        """Note what is in use now."""
        if old is not None:
            if old["spec"] == new["spec"]:
                return
            self._give_back(old)
        self._take(new)

    def removed(self, kind: Kind, last: Obj) -> None:
        """Give back what the service used."""
        self._give_back(last)

    def _take(self, obj: Obj) -> None:
        ip, owner = obj["spec"].get("clusterIP"), _key(obj)
        if ip and ip != "None":
            self._ips[ip] = owner
        for port in _node_ports(obj["spec"]):
            self._ports[port] = owner

    def _give_back(self, obj: Obj) -> None:
        self._ips.pop(obj["spec"].get("clusterIP", ""), None)
        for port in _node_ports(obj["spec"]):
            self._ports.pop(port, None)

    def _free_ip(self) -> str:
        size = NETWORK.num_addresses - 2
        base = int(NETWORK.network_address) + 1
        if len(self._ips) < size:
            start = random.randrange(size)
            for step in range(size):
                ip = str(ipaddress.IPv4Address(base + (start + step) % size))
                if ip not in self._ips:
                    return ip
        raise ApiError(500, "InternalError", "Internal error occurred: failed to allocate a serviceIP: range is full")

    def _check_ip(self, kind: Kind, obj: Obj, ip: str) -> None:
        try:
            inside = ipaddress.IPv4Address(ip) in NETWORK
        except ValueError:
            inside = False
        name = obj["metadata"]["name"]
        field = "spec.clusterIPs" if self.api.minor >= 20 else "spec.clusterIP"
        value = [ip] if self.api.minor >= 20 else ip
        if not inside:
            raise errors.invalid(kind, name, [errors.FieldError(
                "FieldValueInvalid", field, f"Invalid value: {_go_list(value)}: failed to allocate IP {ip}: provided IP"
                f" is not in the valid range. The range of valid IPs is {NETWORK}")])
        if ip in self._ips:
            raise errors.invalid(kind, name, [errors.FieldError(
                "FieldValueInvalid", field, f"Invalid value: {_go_list(value)}: failed to allocate IP {ip}: provided IP"
                " is already allocated")])

    def _free_port(self, protocol: str, mine: set[tuple[int, str]]) -> int:
        start = random.randrange(len(PORTS))
        for step in range(len(PORTS)):
            port = PORTS[(start + step) % len(PORTS)]
            # a number is handed out once, for any protocol, as Kubernetes' own allocator does
            if not any((port, p) in self._ports or (port, p) in mine for p in ("TCP", "UDP", "SCTP")):
                return port
        raise ApiError(500, "InternalError", "Internal error occurred: failed to allocate a nodePort: range is full")

    def _check_port(self, kind: Kind, obj: Obj, field: str, port: int, protocol: str, owner: str) -> None:
        name = obj["metadata"]["name"]
        if port not in PORTS:
            raise errors.invalid(kind, name, [errors.bad_value(
                field, port, "provided port is not in the valid range. The range of valid ports is"
                f" {PORTS[0]}-{PORTS[-1]}")])
        if self._ports.get((port, protocol), owner) != owner:
            raise errors.invalid(kind, name, [errors.bad_value(field, port, "provided port is already allocated")])


def _node_ports(spec: Obj) -> list[tuple[int, str]]:
    out = [(p["nodePort"], p.get("protocol", "TCP")) for p in spec.get("ports") or () if p.get("nodePort")]
    if port := spec.get("healthCheckNodePort"):
        out.append((port, "TCP"))
    return out


def _key(obj: Obj) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _go_list(value: str | list[str]) -> str:
    if isinstance(value, str):
        return errors.go_value(value)
    return "[]string{" + ", ".join(map(errors.go_value, value)) + "}"
