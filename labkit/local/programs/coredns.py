"""Cluster DNS: names of services and pods, from the API; everything else from the node's resolver.

The records of Kubernetes' DNS specification 1.1 that labs meet: A for services and headless services,
A for a pod's hostname below its subdomain, SRV for named ports, CNAME for ExternalName, PTR for
cluster IPs. Ready once the API has been read; without the API it goes on answering what it knows.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import socketserver
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from dnslib import CNAME, PTR, QTYPE, RCODE, RR, SRV, A, DNSError, DNSRecord

from labkit.local.client import EventType, Obj
from labkit.local.programs.httphealth import HealthServers
from labkit.local.programs.kubeclient import HttpClient

log = logging.getLogger("coredns")

DOMAIN = "cluster.local"
_TTL = 5
_FORWARD_TIMEOUT = 2.0  # seconds to wait for the upstream resolver


@dataclass
class Zone:
    """What the cluster's zone holds; changed by watch events, read by queries."""

    services: dict[tuple[str, str], Obj] = field(default_factory=dict)
    slices: dict[tuple[str, str], dict[str, list[Obj]]] = field(default_factory=lambda: defaultdict(dict))
    by_ip: dict[str, str] = field(default_factory=dict)

    def on_service(self, event: EventType, obj: Obj) -> None:
        """A service came, changed or went; only what DNS needs of it is kept."""
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        old = self.services.pop(key, None)
        if old:
            self.by_ip.pop(old["ip"], None)
        if event != "DELETED":
            spec = obj["spec"]
            self.services[key] = {
                "ip": spec.get("clusterIP", ""), "external": spec.get("externalName"),
                "ports": [(p.get("name", ""), p.get("protocol", "TCP"), p["port"]) for p in spec.get("ports", [])],
            }
            self.by_ip[spec.get("clusterIP", "")] = f"{key[1]}.{key[0]}.svc.{DOMAIN}"

    def on_slice(self, event: EventType, obj: Obj) -> None:
        """Endpoints matter to headless services alone, but which are headless may change."""
        service = obj["metadata"].get("labels", {}).get("kubernetes.io/service-name")
        if service:
            slices = self.slices[obj["metadata"]["namespace"], service]
            slices.pop(obj["metadata"]["name"], None)
            if event != "DELETED":
                slices[obj["metadata"]["name"]] = [
                    {"ips": e["addresses"], "hostname": e.get("hostname")} for e in obj.get("endpoints") or []
                    if e.get("conditions", {}).get("ready") is not False]

    def addresses(self, labels: list[str]) -> list[str] | None:
        """Addresses for the labels before "svc.cluster.local"; None for a name that does not exist."""
        if len(labels) == 1:
            return [] if any(ns == labels[0] for ns, _ in self.services) else None
        *front, name, namespace = labels
        service = self.services.get((namespace, name))
        if service is None or len(front) > 1:
            return None
        if service["ip"] not in ("None", ""):
            return None if front else [service["ip"]]
        found = [ip for e in self._endpoints(namespace, name) if not front or _host(e) == front[0] for ip in e["ips"]]
        return found or (None if front else [])

    def external_name(self, labels: list[str]) -> str | None:
        """Where an ExternalName service points."""
        service = self.services.get((labels[-1], labels[-2])) if len(labels) == 2 else None
        return service["external"] if service else None

    def srv(self, labels: list[str]) -> list[tuple[int, str]]:
        """(port, target) for _port._protocol.service.namespace."""
        if len(labels) != 4:
            return []
        port, protocol, name, namespace = labels
        service = self.services.get((namespace, name))
        ports = service["ports"] if service else []
        return [(n, f"{name}.{namespace}.svc.{DOMAIN}") for p, proto, n in ports
                if f"_{p}" == port and f"_{proto.lower()}" == protocol]

    def _endpoints(self, namespace: str, name: str) -> list[Obj]:
        return [e for endpoints in self.slices.get((namespace, name), {}).values() for e in endpoints]


def _host(endpoint: Obj) -> str:
    """An endpoint's label: its hostname, else its address with dashes."""
    return str(endpoint["hostname"] or endpoint["ips"][0].replace(".", "-"))


def answer(request: bytes, zone: Zone, upstream: str | None) -> bytes | None:
    """The reply to a DNS message; None for what is none."""
    try:
        query = DNSRecord.parse(request)
    except (DNSError, ValueError, IndexError):
        return None
    if not query.questions:
        return None
    name = str(query.q.qname).rstrip(".").lower()
    if name == DOMAIN or name.endswith("." + DOMAIN):
        return bytes(_from_zone(query, name, zone).pack())
    if name.endswith(".in-addr.arpa") and (target := zone.by_ip.get(_reversed(name))):
        reply = query.reply(aa=1, ra=1)
        reply.add_answer(RR(query.q.qname, QTYPE.PTR, rdata=PTR(target), ttl=_TTL))
        return bytes(reply.pack())
    return _forward(request, query, upstream)


def _from_zone(query: DNSRecord, name: str, zone: Zone) -> DNSRecord:
    reply = query.reply(aa=1, ra=1)
    labels = name.removesuffix(DOMAIN).rstrip(".").split(".")
    if labels[-1] == "pod" and len(labels) == 3:
        with contextlib.suppress(ValueError):
            address = str(ipaddress.ip_address(labels[0].replace("-", ".")))
            reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(address), ttl=_TTL))
            return reply
    if labels[-1] != "svc":
        reply.header.rcode = RCODE.NXDOMAIN if labels != [""] else RCODE.NOERROR
        return reply
    labels = labels[:-1]
    if target := zone.external_name(labels):
        reply.add_answer(RR(query.q.qname, QTYPE.CNAME, rdata=CNAME(target), ttl=_TTL))
    elif ports := zone.srv(labels):
        for port, host in ports:
            reply.add_answer(RR(query.q.qname, QTYPE.SRV, rdata=SRV(0, 100, port, host), ttl=_TTL))
    elif labels and (addresses := zone.addresses(labels)) is not None:
        if query.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in addresses:
                reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(address), ttl=_TTL))
    else:
        reply.header.rcode = RCODE.NXDOMAIN if labels else RCODE.NOERROR
    return reply


def _reversed(name: str) -> str:
    return ".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))


def _forward(request: bytes, query: DNSRecord, upstream: str | None) -> bytes:
    if upstream:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_FORWARD_TIMEOUT)
            sock.connect((upstream, 53))
            sock.send(request)
            return sock.recv(65535)
    failed = query.reply()
    failed.header.rcode = RCODE.SERVFAIL
    return bytes(failed.pack())


def upstream_resolver(resolv_conf: Path = Path("/etc/resolv.conf")) -> str | None:
    """The first name server of the pod's own resolv.conf, which is the node's (dnsPolicy Default)."""
    words = (line.split() for line in resolv_conf.read_text().splitlines())
    return next((w[1] for w in words if len(w) == 2 and w[0] == "nameserver"), None)


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = allow_reuse_address = True


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


def serve(zone: Zone, upstream: str | None, port: int = 53) -> None:
    """Answer on UDP and TCP, until the process ends."""

    class OverUdp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            if reply := answer(data, zone, upstream):
                sock.sendto(reply, self.client_address)

    class OverTcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while len(head := self.rfile.read(2)) == 2:
                if not (reply := answer(self.rfile.read(int.from_bytes(head)), zone, upstream)):
                    return
                self.wfile.write(len(reply).to_bytes(2) + reply)

    threading.Thread(target=_Tcp(("", port), OverTcp).serve_forever, daemon=True).start()
    _Udp(("", port), OverUdp).serve_forever()


def main() -> None:
    """Run in a pod."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    zone, upstream, ready = Zone(), upstream_resolver(), threading.Event()
    health = HealthServers()
    health.serve("", 8080, lambda path: (200, "OK"))
    health.serve("", 8181, lambda path: (200, "OK") if ready.is_set() else (503, "kubernetes"))

    def read_api() -> None:
        client = HttpClient.in_cluster(user_agent="coredns")
        client.watch("services", zone.on_service)
        client.watch("endpointslices.discovery.k8s.io", zone.on_slice)
        while not zone.services:  # `kubernetes` is always there
            threading.Event().wait(0.02)
        ready.set()
        log.info("plugin/kubernetes: synchronised with the API, %d services", len(zone.services))

    threading.Thread(target=read_api, daemon=True).start()
    log.info(".:53  forward to %s", upstream)
    serve(zone, upstream)


if __name__ == "__main__":
    main()
