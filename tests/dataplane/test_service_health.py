"""Health answers, byte for byte as kube-proxy gives them (pkg/proxy/healthcheck, 1.20 and since 1.28)."""

import contextlib
import http.client
import time

import pytest

from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.kubeproxy import ProxyConfig
from labkit.local.programs.httphealth import HealthServers, ServiceHealth, proxy_health, service_health
from labkit.local.programs.kube_proxy import MONITOR_PERIOD, Proxier
from tests.ports import free_port

BODY_1_20 = """{
\t"service": {
\t\t"namespace": "shop",
\t\t"name": "web"
\t},
\t"localEndpoints": %d
}"""
BODY_TODAY = """{
\t"service": {
\t\t"namespace": "shop",
\t\t"name": "web"
\t},
\t"localEndpoints": %d,
\t"serviceProxyHealthy": %s
}"""


def get(port, path="/healthz", verb="GET"):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(client):
        client.request(verb, path)
        reply = client.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read().decode()


@pytest.mark.parametrize(("local", "status"), [(0, 503), (2, 200)])
def test_a_service_answers_as_in_1_20(local, status):
    assert service_health("shop", "web", local, today=False) == (status, BODY_1_20 % local)


@pytest.mark.parametrize(("local", "healthy", "status"), [(0, True, 503), (2, True, 200), (2, False, 503)])
def test_a_service_answers_as_today(local, healthy, status):
    assert service_health("shop", "web", local, healthy=healthy) == (
        status, BODY_TODAY % (local, "true" if healthy else "false"), {"X-Load-Balancing-Endpoint-Weight": str(local)})


def test_the_health_check_node_port_on_the_wire():
    well, servers, port, other = [True], HealthServers(), free_port(), free_port()
    health = ServiceHealth(servers, lambda: well[0])
    health.sync({port: ("shop", "web", 1)})
    for path in ("/healthz", "/", "/anything"):
        status, headers, body = get(port, path)
        assert (status, body) == (200, BODY_TODAY % (1, "true"))
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Load-Balancing-Endpoint-Weight"] == "1"
        assert headers["Date"].endswith("GMT")
    assert get(port, verb="HEAD")[::2] == (200, "")
    well[0] = False
    assert get(port)[0] == 503
    well[0] = True
    health.sync({port: ("shop", "web", 0)})
    assert get(port)[0] == 503
    health.sync({other: ("shop", "web", 3)})
    assert get(other)[2] == BODY_TODAY % (3, "true")
    with pytest.raises(ConnectionRefusedError):
        get(port)
    health.sync({})


def test_the_proxy_itself_answers_as_in_1_20_and_as_today():
    now = "2021-03-04 05:06:07.25 +0000 UTC"
    then = "2021-03-04 05:05:07 +0000 UTC"
    at = 1614834367.25
    assert proxy_health("/healthz", at - 60.25, now=at, today=False) == (
        200, f'{{"lastUpdated": "{now}","currentTime": "{now}"}}')
    assert proxy_health("/healthz", at - 60.25, now=at, healthy=False, today=False) == (
        503, f'{{"lastUpdated": "{then}","currentTime": "{now}"}}')
    assert proxy_health("/healthz", 0, now=at) == (
        200, f'{{"lastUpdated": "{now}","currentTime": "{now}", "nodeEligible": true}}')
    assert proxy_health("/healthz", 0, now=at, eligible=False) == (
        503, f'{{"lastUpdated": "0001-01-01 00:00:00 +0000 UTC","currentTime": "{now}", "nodeEligible": false}}')
    assert proxy_health("/livez", at - 60.25, now=at, eligible=False) == (
        200, f'{{"lastUpdated": "{now}","currentTime": "{now}"}}')
    assert proxy_health("/livez", at, today=False)[0] == 404
    assert proxy_health("/", at)[:2] == (404, "404 page not found\n")


def test_a_change_after_a_long_rest_is_no_illness():
    proxier = Proxier(ProxyConfig(), Iptables("legacy"), partial=True)
    proxier.synced_at = time.time() - 3600
    proxier.table.on_service("ADDED", {"metadata": {"namespace": "shop", "name": "web"},
                                       "spec": {"clusterIP": "10.0.1.1", "ports": [{"port": 80}]}})
    assert proxier.dirty
    assert proxier.healthy
    proxier.pending_since -= 2 * MONITOR_PERIOD
    assert proxier.dirty
    assert not proxier.healthy
