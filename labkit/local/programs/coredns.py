"""Cluster DNS: names of services and pods, from the API; everything else from the node's resolver.

The records of Kubernetes' DNS specification 1.1, as CoreDNS' plugin "kubernetes" answers: A for services, for the
endpoints of headless ones and for single endpoints, SRV for ports, CNAME for ExternalName with what it points at, PTR
for cluster IPs and endpoints. Ready once the API has been read; without the API it goes on answering what it knows.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import random
import re
import signal
import socket
import socketserver
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from dnslib import CNAME, PTR, QTYPE, RCODE, RR, SOA, SRV, A, DNSError, DNSQuestion, DNSRecord

from labkit.local.client import EventType, Obj
from labkit.local.programs.httphealth import HealthServers
from labkit.local.programs.kubeclient import HttpClient
from labkit.local.programs.kubewire import name_server

log = logging.getLogger("coredns")

DOMAIN = "cluster.local"
_TTL = 5
_FORWARD_TIMEOUT = 2.0  # seconds to wait for the upstream resolver
_WITHOUT_EDNS = 512     # bytes that an answer over UDP may have where the question allows no more
_MOST_ALIASES = 8       # names that one answer follows, before it is taken for a circle


@dataclass(frozen=True)
class Found:
    """An address behind a name of the zone; `port` is None where the slice names none."""

    name: str
    address: str
    port: int | None


@dataclass
class Zone:
    """What the cluster's zone holds; changed by watch events, read by queries."""

    services: dict[tuple[str, str], Obj] = field(default_factory=dict)
    slices: dict[tuple[str, str], dict[str, Obj]] = field(default_factory=lambda: defaultdict(dict))
    by_ip: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)

    def on_service(self, event: EventType, obj: Obj) -> None:
        """A service came, changed or went; only what DNS needs of it is kept."""
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        old = self.services.pop(key, None)
        if old:
            self.by_ip.pop(old["ip"], None)
        if event != "DELETED":
            spec = obj["spec"]
            alias = spec.get("type") == "ExternalName"      # it may keep the name when it becomes another one
            self.services[key] = {
                "ip": "" if alias else spec.get("clusterIP", ""),
                "external": spec.get("externalName") if alias else None,
                "ports": [(p.get("name", ""), p.get("protocol", "TCP"), p["port"]) for p in spec.get("ports", [])],
            }
            self.by_ip[self.services[key]["ip"]] = _service_name(key)

    def on_slice(self, event: EventType, obj: Obj) -> None:
        """A slice came, changed or went; endpoints that are not ready have no names."""
        service = obj["metadata"].get("labels", {}).get("kubernetes.io/service-name")
        if service:
            slices = self.slices[obj["metadata"]["namespace"], service]
            slices.pop(obj["metadata"]["name"], None)
            if event != "DELETED":
                slices[obj["metadata"]["name"]] = {
                    "ports": [(p.get("name") or "", p.get("protocol", "TCP"), p.get("port"))
                              for p in obj.get("ports") or []],
                    "endpoints": [(_host(e), ip) for e in obj.get("endpoints") or [] for ip in e["addresses"]
                                  if e.get("conditions", {}).get("ready") is not False]}

    def find(self, labels: list[str]) -> list[Found] | None:
        """What there is for the labels before "svc.cluster.local"; None for a name that does not exist."""
        if len(labels) == 1:
            return [] if any(ns == labels[0] for ns, _ in list(self.services)) else None
        *front, name, namespace = labels
        key = (namespace, name)
        service = self.services.get(key)
        if service is None or not service["ip"] or len(front) > 2:
            return None
        host = front[0] if len(front) == 1 else ""
        port, protocol = (word.removeprefix("_") for word in front) if len(front) == 2 else ("", "")

        def wanted(ports: list[tuple[str, str, int]]) -> list[int | None]:
            numbers = [n for p, proto, n in ports if port in ("", p.lower()) and protocol in ("", proto.lower())]
            return [*numbers] or ([] if port else [None])

        if service["ip"] == "None" or host:
            found = [Found(f"{each}.{_service_name(key)}", ip, number)
                     for piece in list(self.slices.get(key, {}).values())
                     for each, ip in piece["endpoints"] if host in ("", each)
                     for number in wanted(piece["ports"])]
        else:
            found = [Found(_service_name(key), service["ip"], number) for number in wanted(service["ports"])]
        return found or None

    def external_name(self, labels: list[str]) -> str | None:
        """Where an ExternalName service points; an address is no name, and has no record."""
        service = self.services.get((labels[-1], labels[-2])) if len(labels) == 2 else None
        target = service["external"] if service else None
        return None if target is None or _is_address(target) else str(target)

    def names_of(self, address: str) -> list[str]:
        """The names of an address: of the service whose it is, else of endpoints."""
        if address in self.by_ip:
            return [self.by_ip[address]]
        return [f"{host}.{_service_name(key)}" for key, slices in list(self.slices.items())
                for piece in list(slices.values()) for host, ip in piece["endpoints"] if ip == address]


def _service_name(key: tuple[str, str]) -> str:
    return f"{key[1]}.{key[0]}.svc.{DOMAIN}"


def _host(endpoint: Obj) -> str:
    """An endpoint's label: its hostname, else its address with dashes."""
    return str(endpoint.get("hostname") or endpoint["addresses"][0].replace(".", "-"))


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def answer(request: bytes, zone: Zone, upstream: str | None) -> bytes | None:
    """The reply to a DNS message; None for what is none."""
    try:
        query = DNSRecord.parse(request)
    except (DNSError, ValueError, IndexError):
        return None
    if not query.questions:
        return None
    name = str(query.q.qname).rstrip(".").lower()
    if _is_ours(name):
        return bytes(_from_zone(query, name, zone, upstream).pack())
    if name in zone.hosts and query.q.qtype == QTYPE.A:
        reply = query.reply(aa=1, ra=1)
        reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(zone.hosts[name]), ttl=_TTL))
        return bytes(reply.pack())
    if name.endswith(".in-addr.arpa") and (targets := zone.names_of(_reversed(name))):
        reply = query.reply(aa=1, ra=1)
        for target in targets:
            reply.add_answer(RR(query.q.qname, QTYPE.PTR, rdata=PTR(target), ttl=_TTL))
        return bytes(reply.pack())
    return _forward(request, query, upstream)


def _is_ours(name: str) -> bool:
    return name == DOMAIN or name.endswith("." + DOMAIN)


def _from_zone(query: DNSRecord, name: str, zone: Zone, upstream: str | None, depth: int = 0) -> DNSRecord:
    reply, kind = query.reply(aa=1, ra=1), query.q.qtype
    labels = name.removesuffix(DOMAIN).rstrip(".").split(".")
    found: list[Found] | None = None
    if labels == [""]:
        found = []
        if kind in (QTYPE.SOA, QTYPE.ANY):
            reply.add_answer(_authority())
    elif labels[-1] == "pod" and len(labels) == 3 and _is_address(address := labels[0].replace("-", ".")):
        found = [Found(name, address, None)]
    elif labels[-1] == "svc" and (target := zone.external_name(labels[:-1])):
        reply.add_answer(RR(query.q.qname, QTYPE.CNAME, rdata=CNAME(target), ttl=_TTL))
        if kind != QTYPE.CNAME and depth < _MOST_ALIASES:   # who asks does not ask again for what it points at
            reply.add_answer(*_follow(target, kind, zone, upstream, depth + 1))
        return reply
    elif labels[-1] == "svc":
        found = zone.find(labels[:-1]) if labels[:-1] else []
    if found is None:
        reply.header.rcode = RCODE.NXDOMAIN
    elif kind in (QTYPE.A, QTYPE.ANY):
        addresses = [*dict.fromkeys(each.address for each in found)]
        random.shuffle(addresses)       # as the plugin "loadbalance" does: many take the first
        reply.add_answer(*(RR(query.q.qname, QTYPE.A, rdata=A(each), ttl=_TTL) for each in addresses))
    elif kind == QTYPE.SRV:
        ends = [*dict.fromkeys(each for each in found if each.port is not None)]
        for each in ends:
            reply.add_answer(RR(query.q.qname, QTYPE.SRV, rdata=SRV(0, 100 // len(ends) or 1, each.port, each.name),
                                ttl=_TTL))
        reply.add_ar(*(RR(name, QTYPE.A, rdata=A(address), ttl=_TTL)
                       for name, address in dict.fromkeys((each.name, each.address) for each in ends)))
    if not reply.rr:
        reply.add_auth(_authority())
    return reply


def _authority() -> RR:
    """The zone's SOA: how long it may be remembered that a name has no such record."""
    return RR(DOMAIN, QTYPE.SOA, ttl=_TTL, rdata=SOA(f"ns.dns.{DOMAIN}", f"hostmaster.{DOMAIN}",
                                                     (1, 7200, 1800, 86400, _TTL)))


def _follow(target: str, kind: int, zone: Zone, upstream: str | None, depth: int) -> list[RR]:
    """The records of a name that an alias points at, here or elsewhere."""
    query = DNSRecord(q=DNSQuestion(target, kind))
    if _is_ours(name := target.rstrip(".").lower()):
        return list(_from_zone(query, name, zone, upstream, depth).rr)
    with contextlib.suppress(DNSError, ValueError, IndexError):
        return list(DNSRecord.parse(_forward(bytes(query.pack()), query, upstream)).rr)
    return []


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


def fitting(request: bytes, reply: bytes) -> bytes:
    """The reply, as far as it fits into what the asker takes over UDP: cut off, it asks again over TCP."""
    parsed = DNSRecord.parse(request)
    room = max((rr.edns_len for rr in parsed.ar if rr.rtype == QTYPE.OPT), default=_WITHOUT_EDNS)
    if len(reply) <= max(room, _WITHOUT_EDNS):
        return reply
    cut = DNSRecord.parse(reply)
    cut.rr, cut.auth, cut.ar, cut.header.tc = [], [], [], 1
    return bytes(cut.pack())


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
                sock.sendto(fitting(data, reply), self.client_address)

    class OverTcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while len(head := self.rfile.read(2)) == 2:
                if not (reply := answer(self.rfile.read(int.from_bytes(head)), zone, upstream)):
                    return
                self.wfile.write(len(reply).to_bytes(2) + reply)

    threading.Thread(target=_Tcp(("", port), OverTcp).serve_forever, daemon=True).start()
    _Udp(("", port), OverUdp).serve_forever()


def hosts(corefile: str) -> dict[str, str]:
    """The names that a Corefile's plugin "hosts" lists, with their addresses."""
    blocks = re.findall(r"\bhosts\s*\{([^}]*)\}", corefile)
    lines = (line.split() for block in blocks for line in block.splitlines())
    return {name.rstrip(".").lower(): ip for ip, *names in filter(None, lines) if _is_address(ip) for name in names}


def main() -> None:
    """Run in a pod: as cluster DNS, or by a Corefile without the plugin "kubernetes" for the names that it lists."""
    parser = argparse.ArgumentParser("coredns")
    parser.add_argument("-conf", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    zone, ready = Zone(), threading.Event()
    upstream = name_server()  # the node's, by dnsPolicy Default
    if options.conf and "kubernetes" not in (corefile := options.conf.read_text()):
        zone.hosts = hosts(corefile)
        log.info(".:53  hosts %s", " ".join(zone.hosts))
        serve(zone, upstream)
    health = HealthServers()
    health.serve("", 8080, lambda path: (200, "OK"))
    health.serve("", 8181, lambda path: (200, "OK") if ready.is_set() else (503, "kubernetes"))

    def read_api() -> None:
        client = HttpClient.in_cluster(user_agent="coredns")
        for watch in (client.watch("services", zone.on_service),
                      client.watch("endpointslices.discovery.k8s.io", zone.on_slice)):
            watch.synced.wait()
        ready.set()
        log.info("plugin/kubernetes: synchronised with the API, %d services", len(zone.services))

    threading.Thread(target=read_api, daemon=True).start()
    log.info(".:53  forward to %s", upstream)
    serve(zone, upstream)


if __name__ == "__main__":
    main()
