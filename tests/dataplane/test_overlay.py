"""The overlay of a cluster that brings its own network, as data: blocks, routes, neighbours."""

import subprocess

import pytest

from labkit.local.bootstrap import published
from labkit.local.dataplane.overlay import Overlay, hardware_address, neighbours, routes
from labkit.local.kubeapi import Api
from labkit.local.node import ipam

NODES = {"a": "10.224.0.4", "b": "10.224.0.35", "c": "10.224.0.66"}
BLOCKS = {"192.168.0.0/26": "a", "192.168.0.64/26": "b", "192.168.0.128/26": "gone"}


def test_routes_lead_through_the_tunnel_to_the_node_that_has_the_block():
    overlay = Overlay("192.168.0.0/16", BLOCKS, NODES, "a")
    assert overlay.tunnel == "192.168.0.0"
    assert routes(overlay, 4096) == {
        "blackhole 192.168.0.0/26": "",
        "192.168.0.64/26": "encap ip id 4096 dst 10.224.0.35 via 192.168.0.64 dev vxlan.calico onlink src 192.168.0.0"}
    assert neighbours(overlay) == {"192.168.0.64": hardware_address("10.224.0.35")}
    assert overlay.tunnels() == {"192.168.0.64": "10.224.0.35"}


def test_a_node_without_a_block_has_no_routes_yet():
    overlay = Overlay("192.168.0.0/16", BLOCKS, NODES, "c")
    assert (overlay.tunnel, routes(overlay, 4096)) == ("", {})


@pytest.fixture
def api(tmp_path):
    made = Api(tmp_path / "lab.db", "c1", version="v1.36.2")
    for obj in published()["v1_crd_projectcalico_org.yaml"]:
        made.create("customresourcedefinitions.apiextensions.k8s.io", obj)
    yield made
    made.close()


def test_each_node_takes_a_block_of_the_pool_and_keeps_it(api):
    with pytest.raises(ipam.NetworkNotReadyError, match="no configured Calico pools"):
        ipam.block_of(api, "a")
    api.create(ipam.POOLS, {"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"},
                            "spec": {"cidr": "192.168.0.0/24", "blockSize": 26}})
    assert [ipam.block_of(api, name) for name in "abab"] == [
        "192.168.0.0/26", "192.168.0.64/26", "192.168.0.0/26", "192.168.0.64/26"]
    assert ipam.addresses(api, "b", 2) == ("192.168.0.65", "192.168.0.66"), "the first is the node's own"
    assert {ipam.block_of(api, "c"), ipam.block_of(api, "d")} == {"192.168.0.128/26", "192.168.0.192/26"}
    with pytest.raises(ipam.NetworkNotReadyError):
        ipam.block_of(api, "e")


@pytest.mark.kernel
def test_what_is_taken_of_an_overlay_is_named_and_comes_back():
    done = subprocess.run(["unshare", "-n", "python", "-m", "tests.dataplane.overlay_taken"], capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "back\n"), done.stderr
