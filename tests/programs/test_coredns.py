import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from labkit.local.programs.coredns import Zone, answer


@pytest.fixture
def zone():
    zone = Zone()
    service = lambda name, **spec: {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}  # noqa: E731
    zone.on_service("ADDED", service("web", clusterIP="10.0.7.7", ports=[{"name": "http", "port": 80}]))
    zone.on_service("ADDED", service("db", clusterIP="None", ports=[]))
    zone.on_service("ADDED", service("out", externalName="example.com"))
    zone.on_slice("ADDED", {
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "endpoints": [{"addresses": ["10.224.0.9"], "hostname": "db-0", "conditions": {"ready": True}},
                      {"addresses": ["10.224.0.10"], "conditions": {"ready": False}}]})
    return zone


def ask(zone, name, kind="A"):
    reply = DNSRecord.parse(answer(bytes(DNSRecord.question(name, kind).pack()), zone, None))
    return RCODE.get(reply.header.rcode), [str(r.rdata) for r in reply.rr]


@pytest.mark.parametrize(("name", "kind", "expected"), [
    ("web.shop.svc.cluster.local", "A", ("NOERROR", ["10.0.7.7"])),
    ("WEB.shop.svc.cluster.local", "A", ("NOERROR", ["10.0.7.7"])),
    ("web.shop.svc.cluster.local", "AAAA", ("NOERROR", [])),
    ("none.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("web.other.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("db.shop.svc.cluster.local", "A", ("NOERROR", ["10.224.0.9"])),
    ("db-0.db.shop.svc.cluster.local", "A", ("NOERROR", ["10.224.0.9"])),
    ("db-9.db.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("out.shop.svc.cluster.local", "A", ("NOERROR", ["example.com."])),
    ("_http._tcp.web.shop.svc.cluster.local", "SRV", ("NOERROR", ["0 100 80 web.shop.svc.cluster.local."])),
    ("7.7.0.10.in-addr.arpa", "PTR", ("NOERROR", ["web.shop.svc.cluster.local."])),
    ("10-224-0-9.shop.pod.cluster.local", "A", ("NOERROR", ["10.224.0.9"])),
    ("elsewhere.example", "A", ("SERVFAIL", [])),
])
def test_answers(zone, name, kind, expected):
    assert QTYPE.reverse[kind]
    assert ask(zone, name, kind) == expected


def test_a_service_that_went_is_not_known(zone):
    zone.on_service("DELETED", {"metadata": {"name": "web", "namespace": "shop"}, "spec": {}})
    assert ask(zone, "web.shop.svc.cluster.local")[0] == "NXDOMAIN"


def test_noise_is_not_answered(zone):
    assert answer(b"\x00\x01", zone, None) is None
