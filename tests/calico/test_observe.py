"""What is read of a cluster, on objects as a cluster of kind has them."""

from __future__ import annotations

import copy

import pytest

from labkit.calico import observe, plan_enable_ebpf
from labkit.calico.facts import is_loopback
from tests.doctor.world import FakeKube, cluster

SLICE = {"metadata": {"name": "kubernetes", "namespace": "default",
                      "labels": {"kubernetes.io/service-name": "kubernetes"}},
         "addressType": "IPv4", "endpoints": [{"addresses": ["172.18.0.2"], "conditions": {"ready": True}}],
         "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}


def kind(host: str, *slices: dict) -> FakeKube:
    """A cluster of kind with Calico by an operator of one's own; its kubeconfig has this machine's forwarded port."""
    kube = cluster(operator="v1.42.3", calico="v3.32.1", ebpf=False)
    kube.host = host
    kube.objects["nodes"] = [{"metadata": {"name": "kind-control-plane"}, "status": {"addresses": [
        {"type": "InternalIP", "address": "172.18.0.2"}, {"type": "Hostname", "address": "kind-control-plane"}]}}]
    kube.add("endpointslices.discovery.k8s.io", *copy.deepcopy(slices))
    return kube


def test_nodes_are_told_the_api_servers_own_address_where_the_kubeconfig_has_a_loopback_one():
    kube = kind("https://127.0.0.1:40123", SLICE)
    facts = observe(kube)  # type: ignore[arg-type]
    assert (facts.api_host, facts.api_port) == ("172.18.0.2", 6443)
    step = plan_enable_ebpf(facts, kube)["endpoint"]  # type: ignore[arg-type]
    assert 'KUBERNETES_SERVICE_HOST: "172.18.0.2"\n  KUBERNETES_SERVICE_PORT: "6443"' in step.command
    assert "cluster-info" not in step.command


@pytest.mark.parametrize(("host", "slices", "found"), [
    ("https://kind-external-load-balancer:6443", (SLICE,), ("kind-external-load-balancer", 6443)),
    ("https://api.example", (SLICE,), ("api.example", 443)),
    ("https://[::1]:40123", (SLICE,), ("172.18.0.2", 6443)),
    ("https://127.0.0.1:40123", (), ("127.0.0.1", 40123)),
    ("https://127.0.0.1:40123", ({**SLICE, "endpoints": None},), ("127.0.0.1", 40123)),
])
def test_other_addresses_are_the_kubeconfigs(host, slices, found):
    facts = observe(kind(host, *slices))  # type: ignore[arg-type]
    assert (facts.api_host, facts.api_port) == found


@pytest.mark.parametrize(("host", "so"), [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("0.0.0.0", True),
                                          ("localhost", True), ("a.localhost", True), ("10.0.0.1", False),
                                          ("localhost.example", False)])
def test_what_is_this_machine_itself(host, so):
    assert is_loopback(host) is so
