import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord

from labkit.local.programs.coredns import Zone, answer, fitting, hosts


@pytest.fixture
def zone():
    zone = Zone()
    service = lambda name, **spec: {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}  # noqa: E731
    zone.on_service("ADDED", service("web", clusterIP="10.0.7.7", ports=[{"name": "http", "port": 80}]))
    zone.on_service("ADDED", service("db", clusterIP="None", ports=[]))
    zone.on_service("ADDED", service("idle", clusterIP="None", ports=[]))
    for name, target in (("out", "example.com"), ("alias", "web.shop.svc.cluster.local"), ("address", "192.0.2.7"),
                         ("circle", "circle.shop.svc.cluster.local")):
        zone.on_service("ADDED", service(name, type="ExternalName", externalName=target, clusterIP=""))
    zone.on_service("ADDED", service("former", type="ClusterIP", externalName="example.com", clusterIP="10.0.7.8"))
    for piece, port, endpoints in (
            ("db-1", 5432, [{"addresses": ["10.224.0.9"], "hostname": "db-0", "conditions": {"ready": True}},
                            {"addresses": ["10.224.0.10"], "conditions": {"ready": False}}]),
            ("db-2", 6543, [{"addresses": ["10.224.0.11"]}]),
            ("web-1", 8080, [{"addresses": ["10.224.0.12"]}])):
        zone.on_slice("ADDED", {
            "metadata": {"name": piece, "namespace": "shop", "labels": {"kubernetes.io/service-name": piece[:-2]}},
            "ports": [{"name": "sql", "port": port, "protocol": "TCP"}], "endpoints": endpoints})
    return zone


def asked(zone, name, kind="A"):
    return DNSRecord.parse(answer(bytes(DNSRecord.question(name, kind).pack()), zone, None))


def ask(zone, name, kind="A"):
    reply = asked(zone, name, kind)
    return RCODE.get(reply.header.rcode), sorted(str(r.rdata) for r in reply.rr)


@pytest.mark.parametrize(("name", "kind", "expected"), [
    ("web.shop.svc.cluster.local", "A", ("NOERROR", ["10.0.7.7"])),
    ("WEB.shop.svc.cluster.local", "A", ("NOERROR", ["10.0.7.7"])),
    ("web.shop.svc.cluster.local", "AAAA", ("NOERROR", [])),
    ("none.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("web.other.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("shop.svc.cluster.local", "A", ("NOERROR", [])),
    ("db.shop.svc.cluster.local", "A", ("NOERROR", ["10.224.0.11", "10.224.0.9"])),
    ("idle.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("db-0.db.shop.svc.cluster.local", "A", ("NOERROR", ["10.224.0.9"])),
    ("db-9.db.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("10-224-0-11.db.shop.svc.cluster.local", "A", ("NOERROR", ["10.224.0.11"])),
    ("10-224-0-12.web.shop.svc.cluster.local", "A", ("NOERROR", ["10.224.0.12"])),
    ("out.shop.svc.cluster.local", "A", ("NOERROR", ["example.com."])),
    ("out.shop.svc.cluster.local", "CNAME", ("NOERROR", ["example.com."])),
    ("former.shop.svc.cluster.local", "A", ("NOERROR", ["10.0.7.8"])),
    ("alias.shop.svc.cluster.local", "A", ("NOERROR", ["10.0.7.7", "web.shop.svc.cluster.local."])),
    ("alias.shop.svc.cluster.local", "AAAA", ("NOERROR", ["web.shop.svc.cluster.local."])),
    ("circle.shop.svc.cluster.local", "A", ("NOERROR", ["circle.shop.svc.cluster.local."] * 9)),
    ("address.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
    ("_http._tcp.web.shop.svc.cluster.local", "SRV", ("NOERROR", ["0 100 80 web.shop.svc.cluster.local."])),
    ("_http._udp.web.shop.svc.cluster.local", "SRV", ("NXDOMAIN", [])),
    ("web.shop.svc.cluster.local", "SRV", ("NOERROR", ["0 100 80 web.shop.svc.cluster.local."])),
    ("_sql._tcp.db.shop.svc.cluster.local", "SRV", ("NOERROR", [
        "0 50 5432 db-0.db.shop.svc.cluster.local.", "0 50 6543 10-224-0-11.db.shop.svc.cluster.local."])),
    ("7.7.0.10.in-addr.arpa", "PTR", ("NOERROR", ["web.shop.svc.cluster.local."])),
    ("9.0.224.10.in-addr.arpa", "PTR", ("NOERROR", ["db-0.db.shop.svc.cluster.local."])),
    ("10-224-0-9.shop.pod.cluster.local", "A", ("NOERROR", ["10.224.0.9"])),
    ("elsewhere.example", "A", ("SERVFAIL", [])),
])
def test_answers(zone, name, kind, expected):
    assert QTYPE.reverse[kind]
    assert ask(zone, name, kind) == expected


def test_a_name_without_such_a_record_says_how_long_that_holds(zone):
    for name, kind in (("web.shop.svc.cluster.local", "AAAA"), ("none.shop.svc.cluster.local", "A")):
        [authority] = asked(zone, name, kind).auth
        assert (str(authority.rname), str(authority.rdata).split()[0]) == ("cluster.local.", "ns.dns.cluster.local.")
    assert not asked(zone, "web.shop.svc.cluster.local").auth


def test_who_asks_for_a_port_gets_the_address_too(zone):
    found = asked(zone, "_sql._tcp.db.shop.svc.cluster.local", "SRV").ar
    assert {(str(r.rname), str(r.rdata)) for r in found} == {
        ("db-0.db.shop.svc.cluster.local.", "10.224.0.9"), ("10-224-0-11.db.shop.svc.cluster.local.", "10.224.0.11")}


def test_what_does_not_fit_into_a_datagram_is_asked_for_again(zone):
    zone.on_slice("ADDED", {
        "metadata": {"name": "db-3", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "endpoints": [{"addresses": [f"10.224.1.{i}"]} for i in range(60)]})
    question = DNSRecord.question("db.shop.svc.cluster.local")
    request = bytes(question.pack())
    reply = answer(request, zone, None)
    cut = DNSRecord.parse(fitting(request, reply))
    assert (cut.header.tc, cut.rr, str(cut.q.qname)) == (1, [], "db.shop.svc.cluster.local.")
    question.add_ar(EDNS0(udp_len=1232))
    assert fitting(bytes(question.pack()), reply) == reply


def test_without_a_cluster_it_answers_what_its_corefile_lists(zone):
    zone.hosts = hosts(". {\n\thosts {\n\t\t192.0.2.1 name.test\n\t\t192.0.2.2 a.test B.test\n\t}\n\tlog\n}")
    assert zone.hosts == {"name.test": "192.0.2.1", "a.test": "192.0.2.2", "b.test": "192.0.2.2"}
    assert ask(zone, "Name.test") == ("NOERROR", ["192.0.2.1"])


def test_a_service_that_went_is_not_known(zone):
    zone.on_service("DELETED", {"metadata": {"name": "web", "namespace": "shop"}, "spec": {}})
    assert ask(zone, "web.shop.svc.cluster.local")[0] == "NXDOMAIN"


def test_noise_is_not_answered(zone):
    assert answer(b"\x00\x01", zone, None) is None
