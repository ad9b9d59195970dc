"""What the API says about services, in the compact form that both data planes program.

Pure: a `ServiceTable` takes watch events of services and endpoint slices, and says which services changed.
kube-proxy's iptables and Calico's eBPF read the same table, so they cannot disagree about a service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

Obj = Mapping[str, Any]
Key = tuple[str, str]
"""(namespace, name) of a service."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address behind a service port."""

    ip: str
    port: int
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service and everything that a proxy has to know about it.

    `external_policy` and `internal_policy` are "Cluster" or "Local"; `node_port`, `affinity_seconds` and
    `health_check_node_port` are 0 where the service has none.
    """

    namespace: str
    name: str
    port_name: str
    protocol: str
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    lb_ips: tuple[str, ...] = ()
    lb_source_ranges: tuple[str, ...] = ()
    external_policy: str = "Cluster"
    internal_policy: str = "Cluster"
    affinity_seconds: int = 0
    health_check_node_port: int = 0
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> Key:
        """The service's key in the table."""
        return self.namespace, self.name

    @property
    def full_name(self) -> str:
        """What kube-proxy calls the port: namespace/name:port, without the colon where it has no name."""
        suffix = f":{self.port_name}" if self.port_name else ""
        return f"{self.namespace}/{self.name}{suffix}"

    def usable(self) -> tuple[Endpoint, ...]:
        """The endpoints that take new connections: the ready ones, or else those that still serve."""
        return _usable(self.endpoints)

    def usable_on(self, node: str) -> tuple[Endpoint, ...]:
        """The same, of the endpoints on one node: for the policy Local."""
        return _usable(tuple(e for e in self.endpoints if e.node == node))

    def ready_on(self, node: str) -> int:
        """How many ready endpoints the node has: what a health check node port answers."""
        return sum(e.ready and e.node == node for e in self.endpoints)


def _usable(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    if all(e.ready for e in endpoints):
        return endpoints
    return (tuple(e for e in endpoints if e.ready)
            or tuple(e for e in endpoints if e.serving and e.terminating))


@dataclass(frozen=True, slots=True)
class _Slice:
    service: Key
    ports: tuple[tuple[str, str, int], ...]                  # name, protocol, number
    addresses: tuple[tuple[str, str, bool, bool, bool], ...]  # ip, node, ready, serving, terminating


OURS = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
"""The label selector of services and slices that kube-proxy and Felix serve: others have a proxy of their own."""


class ServiceTable:
    """The services of a cluster, kept up to date from watch events. Not thread-safe: give it one thread."""

    def __init__(self) -> None:
        self._bare: dict[Key, tuple[ServicePort, ...]] = {}   # without endpoints
        self._slices: dict[Key, dict[str, _Slice]] = {}       # service -> slice name -> slice
        self._owner: dict[Key, Key] = {}                      # slice -> service
        self._full: dict[Key, tuple[ServicePort, ...]] = {}
        self._changed: set[Key] = set()
        self._health_checked: set[Key] = set()                # few among many: found without a walk

    def on_service(self, event: str, obj: Obj) -> None:
        """Take a watch event of a service."""
        key = _key(obj)
        ports = () if event == "DELETED" else service_ports(obj)
        if ports == self._bare.get(key, ()):
            return
        if ports:
            self._bare[key] = ports
        else:
            del self._bare[key]
        self._rebuild(key)

    def on_slice(self, event: str, obj: Obj) -> None:
        """Take a watch event of an endpoint slice."""
        key = _key(obj)
        new = None if event == "DELETED" else _slice(obj)
        before = self._owner.get(key)
        if before and (new is None or new.service != before):
            del self._owner[key]
            self._slices[before].pop(key[1])
            if not self._slices[before]:
                del self._slices[before]
            self._rebuild(before)
        if new and self._slices.get(new.service, {}).get(key[1]) != new:
            self._owner[key] = new.service
            self._slices.setdefault(new.service, {})[key[1]] = new
            self._rebuild(new.service)

    def changed(self) -> set[Key]:
        """The services whose ports or endpoints changed since the last call."""
        drained, self._changed = self._changed, set()
        return drained

    def get(self, key: Key) -> tuple[ServicePort, ...]:
        """The ports of a service; empty for one that is gone, headless or an ExternalName."""
        return self._full.get(key, ())

    def all(self) -> Iterator[ServicePort]:
        """Every port of every service."""
        for ports in self._full.values():
            yield from ports

    def items(self) -> Iterator[tuple[Key, tuple[ServicePort, ...]]]:
        """Every service with its ports."""
        yield from self._full.items()

    def health_ports(self, node: str) -> dict[int, tuple[str, str, int]]:
        """The health check node ports: whose each is (namespace, name), and how many ready endpoints `node` has."""
        return {port.health_check_node_port: (*key, port.ready_on(node))
                for key in self._health_checked for port in self._full[key]}

    def __len__(self) -> int:
        return len(self._full)

    def _rebuild(self, key: Key) -> None:
        slices = self._slices.get(key, {}).values()
        full = tuple(_with_endpoints(port, slices) for port in self._bare.get(key, ()))
        if full == self._full.get(key, ()):
            return
        if full:
            self._full[key] = full
        else:
            del self._full[key]
        if any(port.health_check_node_port for port in full):
            self._health_checked.add(key)
        else:
            self._health_checked.discard(key)
        self._changed.add(key)


def service_ports(service: Obj) -> tuple[ServicePort, ...]:
    """The ports of a Service object, still without endpoints."""
    meta, spec = service["metadata"], service.get("spec") or {}
    cluster_ip = spec.get("clusterIP") or ""
    if spec.get("type") == "ExternalName" or cluster_ip in ("", "None") or ":" in cluster_ip:
        return ()
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    affinity = 0
    if spec.get("sessionAffinity") == "ClientIP":
        client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity = int(client_ip.get("timeoutSeconds") or 10800)
    external = spec.get("externalTrafficPolicy") or "Cluster"
    return tuple(
        ServicePort(
            namespace=intern(meta["namespace"]), name=meta["name"], port_name=intern(port.get("name") or ""),
            protocol=intern(port.get("protocol") or "TCP"), cluster_ip=cluster_ip, port=int(port["port"]),
            node_port=int(port.get("nodePort") or 0),
            external_ips=_ipv4(spec.get("externalIPs") or ()),
            # With the mode "Proxy" a load balancer sends to node ports, and wants its own address left alone.
            lb_ips=_ipv4(entry.get("ip") or "" for entry in ingress if entry.get("ipMode") != "Proxy"),
            lb_source_ranges=_ipv4(spec.get("loadBalancerSourceRanges") or ()),
            external_policy=intern(external),
            internal_policy=intern(spec.get("internalTrafficPolicy") or "Cluster"),
            affinity_seconds=affinity,
            health_check_node_port=int(spec.get("healthCheckNodePort") or 0) if external == "Local" else 0,
        )
        for port in spec.get("ports") or ()
    )


def _ipv4(given: Iterable[str]) -> tuple[str, ...]:
    """Without the other family's, each once and in the order given."""
    return tuple(dict.fromkeys(text for each in given if (text := each.strip()) and ":" not in text))


def _slice(obj: Obj) -> _Slice | None:
    meta = obj["metadata"]
    service = (meta.get("labels") or {}).get("kubernetes.io/service-name")
    if not service or obj.get("addressType", "IPv4") != "IPv4":
        return None
    addresses = []
    for endpoint in obj.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        ready = conditions.get("ready") is not False
        serving = conditions.get("serving", ready) is not False
        terminating = bool(conditions.get("terminating"))
        topology = endpoint.get("topology") or {}     # where v1beta1 of the API had the node
        node = intern(endpoint.get("nodeName") or topology.get("kubernetes.io/hostname") or "")
        addresses += [(ip, node, ready, serving, terminating) for ip in endpoint.get("addresses") or ()]
    ports = tuple((intern(port.get("name") or ""), intern(port.get("protocol") or "TCP"), int(port["port"]))
                  for port in obj.get("ports") or () if port.get("port"))
    return _Slice((intern(meta["namespace"]), service), ports, tuple(addresses))


def _with_endpoints(port: ServicePort, slices: Any) -> ServicePort:
    # An endpoint on its way from one slice to another is in both for a while: one of them, and the better one, counts.
    found: dict[tuple[str, int], Endpoint] = {}
    for piece in slices:
        for name, protocol, number in piece.ports:
            if name != port.port_name or protocol != port.protocol:
                continue
            for ip, node, ready, serving, terminating in piece.addresses:
                endpoint, known = Endpoint(ip, number, node, ready, serving, terminating), found.get((ip, number))
                if known is None or _rank(endpoint) > _rank(known):
                    found[ip, number] = endpoint
    if not found:
        return port
    return ServicePort(
        port.namespace, port.name, port.port_name, port.protocol, port.cluster_ip, port.port, port.node_port,
        port.external_ips, port.lb_ips, port.lb_source_ranges, port.external_policy, port.internal_policy,
        port.affinity_seconds, port.health_check_node_port, tuple(sorted(found.values())),
    )


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool, str]:
    return endpoint.ready, endpoint.serving, not endpoint.terminating, endpoint.node


def _key(obj: Obj) -> Key:
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]
