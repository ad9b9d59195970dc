"""Our rules beside those that kube-proxy 1.20.2 itself wrote for the same services, as the kernel gives both back."""

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.kubeproxy import JUMPS, ProxyConfig, build
from labkit.local.dataplane.services import ServiceTable

RECORDED = json.loads(Path(__file__).with_name("kube_proxy_1_20_2.json").read_text())
# a match that would load br_netfilter into the host's kernel (see kubeproxy.py)
PHYSDEV = " -m physdev ! --physdev-is-in"


@pytest.fixture
def iptables():
    name = f"labkit-test-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield Iptables("legacy", prefix=("ip", "netns", "exec", name))
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def ports():
    table = ServiceTable()
    for obj in RECORDED["objects"]:
        (table.on_service if obj["kind"] == "Service" else table.on_slice)("ADDED", obj)
    return list(table.all())


@pytest.mark.kernel
@pytest.mark.parametrize("table", ["nat", "filter"])
def test_the_kernel_holds_what_kube_proxy_would_have_written(iptables, ports, table):
    node = RECORDED["node"]
    iptables.restore(build(ports, ProxyConfig(node["name"], node["ip"], node["cluster_cidr"])).text)
    for where, chain, rule in JUMPS:
        iptables.ensure_rule(where, chain, rule)
    ours = sorted(line.partition(" [")[0] for line in iptables.save(table).splitlines() if "KUBE" in line)
    theirs = sorted(line.replace(PHYSDEV, "") for line in RECORDED["rules"][table])
    # kube-proxy makes its canary chains by itself, beside its rules; the KUBE-FIREWALL pair is the kubelet's
    assert [line for line in ours if "FIREWALL" not in line] == [
        line for line in theirs if "CANARY" not in line and "FIREWALL" not in line]
