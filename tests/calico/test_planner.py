"""From what a cluster is to the plan that is right for it: pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from labkit.calico import Around, NetworkProfile, choose_lane, plan_disable_ebpf, plan_enable_ebpf
from labkit.calico.facts import lacks_network
from labkit.calico.lanes import healthz_port
from labkit.calico.own_operator import installation
from labkit.errors import NotSupportedError
from labkit.kube import Kube
from tests.calico.clusters import (
    ARTICLE,
    AZURE,
    BYO,
    VANILLA,
    daemon_set,
    managed,
    with_operator,
)

NOBODY = cast(Kube, None)


class Switch:
    def set(self, enabled: bool, log: Any) -> None:
        raise AssertionError("a planner does nothing")

    def command(self, enabled: bool) -> str:
        return f"switch {enabled}"


AROUND = Around(releases="/there", recheck=60, proxy=Switch())
COMMON = ["endpoint", "kube-proxy", "bpf", "connections"]
INSTALL = ["install-operator", "installation"]
WAYS = {
    "the article's": (ARTICLE, "article", ["node-address", "endpoint", "operator", "kube-proxy", "bpf"]),
    "managed, 1.34.7": (managed("v1.34.7"), "A", [*COMMON, "recheck"]),
    "managed, 1.36.7": (managed("v1.36.7"), "A", [*COMMON, "recheck"]),
    "managed, 1.38.8": (managed("v1.38.8"), "A", [*COMMON, "recheck"]),
    "managed, 1.40.2": (managed("v1.40.2"), "A", [*COMMON, "recheck"]),
    "managed, eBPF is on": (
        managed("v1.40.2", bpf_enabled=True, bpf_annotation="true"), "A",
        [*COMMON, "recheck"]),
    "managed, set by hand": (managed("v1.40.2", bpf_enabled=True), "A", ["hand-set", *COMMON, "recheck"]),
    "managed, set by hand after the operator": (
        managed("v1.40.2", bpf_enabled=True, bpf_annotation="false"), "A", ["hand-set", *COMMON, "recheck"]),
    "managed, two methods": (
        managed("v1.40.2", node_address={"firstFound": True, "canReach": "1.1.1.1"}), "A",
        ["one-method", *COMMON, "recheck"]),
    "managed, bootstrap and ConfigMap": (
        managed("v1.40.2", bootstrap="Enabled", endpoint={"KUBERNETES_SERVICE_HOST": "api.example"}), "A",
        ["by-hand", *COMMON, "recheck"]),
    "managed, kubeProxyManagement": (
        managed("v1.40.2", proxy_management="Enabled"), "A", ["by-hand", *COMMON, "recheck"]),
    "Azure CNI without a policy": (VANILLA, "B", [*INSTALL, *COMMON]),
    "Azure CNI, an operator of mine": (with_operator("v1.42.3"), "B", COMMON),
    "Azure CNI, installed by such a plan": (with_operator("v1.42.3", ours=True), "B", [*INSTALL, *COMMON]),
    "Azure CNI, an operator without an Installation": (
        with_operator("v1.42.3", installed=False, calico_node=None), "B", [*INSTALL, *COMMON]),
    "no Azure to ask, an operator of mine": (
        with_operator("v1.40.2", provider="", network=NetworkProfile()), "B", COMMON),
    "bring your own": (replace(VANILLA, network=BYO), "C", [*INSTALL, *COMMON, "proxy-off", "take-over"]),
    "bring your own, installed by such a plan": (
        with_operator("v1.42.3", network=BYO, ours=True), "C",
        [*INSTALL, *COMMON, "proxy-off", "take-over"]),
    "bring your own, kube-proxy off": (
        with_operator("v1.42.3", network=BYO, kube_proxy=None), "C",
        [*COMMON, "proxy-off", "take-over"]),
}


@pytest.mark.parametrize(("facts", "lane", "steps"), WAYS.values(), ids=WAYS)
def test_the_lane_and_its_steps(facts, lane, steps):
    assert choose_lane(facts).id == lane
    plan = plan_enable_ebpf(facts, NOBODY, AROUND)
    assert [step.id for step in plan.steps] == steps
    assert all(step.why and step.without and step.command for step in plan.steps)
    assert all(step.revert is None or step.revert_command for step in plan.steps)
    if facts.calico_node is None:
        with pytest.raises(NotSupportedError, match="to turn off"):
            plan_disable_ebpf(facts, NOBODY, AROUND)
        return
    back = [step.id for step in plan_disable_ebpf(facts, NOBODY, AROUND).steps]
    assert back[-1] == ("undo-node-address" if lane == "article" else "undo-connections")
    kept = {"undo-install-operator", "undo-installation", "undo-hand-set", "undo-one-method", "undo-by-hand"}
    assert not kept & set(back)


REFUSED = {
    "no Calico, and nobody says which plugin": (replace(VANILLA, network=NetworkProfile()), "no operator", "create"),
    "kubenet": (replace(VANILLA, network=replace(AZURE, plugin="kubenet")), "kubenet", "create"),
    "Kubernetes too old for today's Calico": (replace(VANILLA, version="v1.20.2"), "v1.20.2", "create"),
    "AKS has not made it yet": (replace(VANILLA, network=replace(AZURE, policy="calico")), "not made", "wait"),
    "the operator has not made calico-node yet": (managed("v1.40.2", calico_node=None), "not finished", "wait"),
    "Calico without an operator": (replace(VANILLA, without_operator=True), "kube-system/calico-node", "migration"),
    "IPVS": (managed("v1.40.2", kube_proxy=daemon_set("--proxy-mode=ipvs")), "kube-ipvs0", "IPTABLES"),
    "IPVS, in two words": (
        managed("v1.40.2", kube_proxy=daemon_set("kube-proxy", "--proxy-mode", "IPVS")), "kube-ipvs0", "IPTABLES"),
    "Cilium": (replace(VANILLA, network=replace(AZURE, dataplane="cilium")), "cilium", "calico"),
    "Azure's policies": (replace(VANILLA, network=replace(AZURE, policy="azure")), "networkPolicy azure", "calico"),
    "an operator elsewhere without an Installation": (
        with_operator("v1.40.2", installed=False, network=NetworkProfile()), "no Installation", "documentation"),
}


@pytest.mark.parametrize(("facts", "why", "fix"), REFUSED.values(), ids=REFUSED)
def test_what_no_lane_fits_is_refused_with_the_reason_and_a_way(facts, why, fix):
    with pytest.raises(NotSupportedError) as caught:
        plan_enable_ebpf(facts, NOBODY, AROUND)
    assert why in caught.value.why
    assert fix in caught.value.fix


def test_kube_proxy_cannot_be_switched_off_without_azure():
    with pytest.raises(NotSupportedError, match="kube-proxy"):
        plan_enable_ebpf(replace(VANILLA, network=BYO), NOBODY, Around(proxy=None))


@pytest.mark.parametrize(("operator", "port"), [
    ("v1.34.7", 10258), ("v1.36.7", 10258), ("v1.38.8", 10258), ("v1.40.2", 10258), ("v1.42.3", 0)])
def test_the_port_of_the_health_server_by_calicos_version(operator, port):
    facts = managed(operator)
    assert healthz_port(facts) == port
    assert f'"bpfKubeProxyHealthzPort": {port}' in plan_enable_ebpf(facts, NOBODY, AROUND)["kube-proxy"].command


def test_what_is_installed_decides_the_port_where_there_is_no_calico_yet():
    assert healthz_port(VANILLA) == 0


def test_of_two_methods_the_one_stays_that_aks_writes():
    facts = managed("v1.40.2", node_address={"firstFound": True, "canReach": "1.1.1.1"})
    step = plan_enable_ebpf(facts, NOBODY, AROUND)["one-method"]
    assert '{"firstFound": null, "canReach": "1.1.1.1"}' in step.command


def test_a_hand_set_field_goes_back_to_what_the_operator_wrote():
    for annotation, value in ((None, "null"), ("false", "false")):
        facts = managed("v1.40.2", bpf_enabled=True, bpf_annotation=annotation)
        assert f'"bpfEnabled": {value}' in plan_enable_ebpf(facts, NOBODY, AROUND)["hand-set"].command


def test_the_re_check_can_be_left_out():
    steps = plan_enable_ebpf(managed("v1.40.2"), NOBODY, replace(AROUND, recheck=0)).steps
    assert "recheck" not in {step.id for step in steps}


def test_on_the_way_back_kube_proxy_comes_before_ebpf_goes_where_azure_has_to_bring_it():
    back = plan_disable_ebpf(with_operator("v1.42.3", network=BYO), NOBODY, AROUND)
    assert [step.id for step in back.steps] == [
        "undo-take-over", "undo-proxy-off", "undo-bpf", "undo-kube-proxy", "undo-endpoint", "undo-connections"]


def test_installations_are_as_calico_documents_them():
    mine = installation(VANILLA, "B")["spec"]
    assert mine == {"kubernetesProvider": "AKS", "cni": {"type": "AzureVNET"}}
    own = installation(replace(VANILLA, network=BYO), "C")["spec"]
    assert own == {"kubernetesProvider": "AKS", "cni": {"type": "Calico"}, "calicoNetwork": {
        "bgp": "Disabled", "ipPools": [{"cidr": "192.168.0.0/16", "encapsulation": "VXLAN"}]}}


def test_azures_profile_is_read_whatever_its_case():
    found = NetworkProfile.of({"properties": {"networkProfile": {
        "networkPlugin": "Azure", "networkPolicy": None, "networkDataplane": "azure"}}})
    assert found == AZURE
    assert NetworkProfile.of(None) == NetworkProfile()


def test_a_node_without_a_network_says_so():
    message = ("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
               "message:Network plugin returns error: cni plugin not initialized")
    node = {"metadata": {"name": "a"}, "status": {"conditions": [
        {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": message}]}}
    assert lacks_network(node)
    assert not lacks_network(json.loads(json.dumps(node).replace("NetworkPluginNotReady", "Other")))
