import tracemalloc

from labkit.local.dataplane.services import Endpoint, ServiceTable


def service(name="web", cluster_ip="10.0.1.1", status=None, **spec):
    spec = {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], **spec}
    return {"metadata": {"namespace": "shop", "name": name}, "spec": spec, "status": status or {}}


def endpoint_slice(*ips, name="web-1", service="web", ready=True, node="n1", port=8080):
    return {
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "nodeName": node, "conditions": {"ready": ready}} for ip in ips],
    }


def test_a_service_port_carries_what_the_object_says():
    table = ServiceTable()
    table.on_service("ADDED", service(
        type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=31000,
        sessionAffinity="ClientIP", loadBalancerSourceRanges=["203.0.113.0/24"],
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
        ports=[{"name": "http", "port": 80, "nodePort": 30080}]))
    [port] = table.get(("shop", "web"))
    assert (port.full_name, port.protocol, port.port, port.node_port) == ("shop/web:http", "TCP", 80, 30080)
    assert (port.lb_ips, port.lb_source_ranges) == (("192.0.2.9",), ("203.0.113.0/24",))
    assert (port.external_policy, port.health_check_node_port) == ("Local", 31000)
    assert port.affinity_seconds == 10800
    assert port.endpoints == ()


def test_endpoints_come_from_all_slices_in_any_order_of_events():
    table = ServiceTable()
    table.on_slice("ADDED", endpoint_slice("10.224.0.9"))
    assert table.changed() == set()            # a slice without its service is nothing to program
    table.on_service("ADDED", service())
    table.on_slice("ADDED", endpoint_slice("10.224.0.40", name="web-2", node="n2"))
    [port] = table.get(("shop", "web"))
    assert port.endpoints == (Endpoint("10.224.0.40", 8080, "n2"), Endpoint("10.224.0.9", 8080, "n1"))
    assert port.usable_on("n2") == (Endpoint("10.224.0.40", 8080, "n2"),)
    assert table.changed() == {("shop", "web")}
    assert table.changed() == set()


def test_only_real_changes_are_reported():
    table = ServiceTable()
    table.on_service("ADDED", service())
    table.on_slice("ADDED", endpoint_slice("10.224.0.9"))
    table.changed()
    table.on_service("MODIFIED", service())
    table.on_slice("MODIFIED", endpoint_slice("10.224.0.9"))
    assert table.changed() == set()
    table.on_slice("DELETED", endpoint_slice("10.224.0.9"))
    assert table.changed() == {("shop", "web")}
    assert table.get(("shop", "web"))[0].endpoints == ()
    table.on_service("DELETED", service())
    assert table.changed() == {("shop", "web")}
    assert table.get(("shop", "web")) == ()


def test_headless_and_external_name_services_are_not_proxied():
    table = ServiceTable()
    table.on_service("ADDED", service("db", cluster_ip="None"))
    table.on_service("ADDED", service("mail", cluster_ip="", type="ExternalName"))
    assert (list(table.all()), table.changed()) == ([], set())


def test_terminating_endpoints_serve_only_when_none_is_ready():
    table = ServiceTable()
    table.on_service("ADDED", service())
    dying = endpoint_slice("10.224.0.9", ready=False)
    dying["endpoints"][0]["conditions"].update(serving=True, terminating=True)
    table.on_slice("ADDED", dying)
    assert [e.ip for e in table.get(("shop", "web"))[0].usable()] == ["10.224.0.9"]
    table.on_slice("ADDED", endpoint_slice("10.224.0.10", name="web-2"))
    assert [e.ip for e in table.get(("shop", "web"))[0].usable()] == ["10.224.0.10"]


def test_of_an_endpoint_in_two_slices_the_better_one_counts():
    """It is on its way from one to the other; whichever is seen first."""
    conditions = [{"ready": False, "serving": False, "terminating": False},
                  {"ready": False, "serving": True, "terminating": True}, {"ready": True}]
    for worse, better in ((0, 1), (1, 2), (0, 2)):
        for order in ((worse, better), (better, worse)):
            table = ServiceTable()
            table.on_service("ADDED", service())
            for number in order:
                one = endpoint_slice("10.224.0.9", name=f"web-{order.index(number)}")
                one["endpoints"][0]["conditions"] = conditions[number]
                table.on_slice("ADDED", one)
            [endpoint] = table.get(("shop", "web"))[0].endpoints
            assert (endpoint.ready, endpoint.serving) == (better == 2, True), order


def test_ten_thousand_services_stay_small():
    tracemalloc.start()
    table = ServiceTable()
    for i in range(10_000):
        ip = f"10.0.{i // 250}.{i % 250}"
        table.on_service("ADDED", service(f"web{i}", cluster_ip=ip))
        table.on_slice("ADDED", endpoint_slice(f"10.224.1.{i % 250}", "10.224.2.2", name=f"web{i}-1",
                                               service=f"web{i}"))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 10_000
    assert used < 60e6
