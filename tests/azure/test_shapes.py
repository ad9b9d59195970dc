"""What is sent and what the local lab answers hold against what Azure publishes, and against recordings of Azure.

Every test here and in tests/arm holds its own exchanges when it ends (see the fixtures `arm` and `azures`). Here is
the proof that this finds something, and one life of a cluster with each operation that the library knows.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.azure import kube_proxy
from labkit.azure.arm import PROVIDERS
from labkit.azure.tags import tags
from tests.arm import shapes
from tests.arm.wire import Exchange
from tests.azure.conftest import CLUSTER, OPERATION

RECORDED = Path(__file__).parents[1] / "arm/recorded"
SUB = "/subscriptions/03a08700-0000-4000-8000-00000000aa01"
PATH = f"{SUB}/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"
VERSION = "api-version=2026-08-01"


def recorded(name):
    return json.loads((RECORDED / name).read_text())


def exchange(method="GET", path=PATH, query=VERSION, body=None, status=200, answer=None, **headers):
    return Exchange(method, path, query, body, 0.0, "", status, answer, headers, genuine=True)


@pytest.mark.parametrize(("change", "place"), [
    ({"propertees": {}}, "propertees"), ({"location": 7}, "location"), ({"tags": {"a": 1}}, "tags"),
    ({"location": None}, "location"), ({"sku": {"tier": "Cheap"}}, "sku.tier"),
    ({"properties": {"networkProfile": {"networkPolicy": "cilum"}}}, "networkPolicy"),
    ({"properties": {"networkProfile": {"podCidr": "10.1"}}}, "podCidr"),
    ({"properties": {"networkProfile": {"kubeProxyConfig": {}}}}, "only preview versions"),
    ({"properties": {"agentPoolProfiles": [{"name": "a", "count": "two"}]}}, "count"),
    ({"properties": {"agentPoolProfiles": [{"name": "a", "count": 1001}]}}, "count"),
    ({"properties": {"agentPoolProfiles": [{"name": "Pool-1"}]}}, "name"),
    ({"properties": {"agentPoolProfiles": [{"count": 1}]}}, "'name' is a required"),
    ({"properties": {"agentPoolProfiles": [{"name": "a", "sice": 1}]}}, "sice"),
])
def test_it_refuses_what_is_wrong(change, place):
    found = shapes.of_document("ManagedCluster", {"location": "canadaeast", **change})
    assert place in str(found)


def test_it_knows_who_may_set_what():
    principal = {"clientId": "a", "secret": "b"}
    asked = {"location": "x", "properties": {"fqdn": "a.b", "servicePrincipalProfile": principal}}
    assert shapes.of_document("ManagedCluster", asked, sent=True) == ["$.properties.fqdn: only Azure sets it"]
    assert "never shown" in str(shapes.of_document("ManagedCluster", asked))
    preview = {"location": "x", "properties": {"networkProfile": {"kubeProxyConfig": {"mode": "nftables"}}}}
    assert shapes.of_document("ManagedCluster", preview, preview=True) == []


@pytest.mark.parametrize(("wrong", "said"), [
    (exchange("PUT", answer={"location": "x"}, body={"location": "x"}, status=201), "no header azure-asyncoperation"),
    (exchange(answer={"location": "x"}, query="api-version=2021-05-01"), "api-version 2021-05-01"),
    (exchange(answer={"location": "x"}, query=""), "api-version , not"),
    (exchange(path=PATH + "-", answer={"location": "x"}), "no such operation"),
    (exchange(path=PATH + "/agentPools/Pool1", answer={}), "no such operation"),
    (exchange("POST", PATH + "/restart", status=202), "no such operation"),
    (exchange(answer={"location": "x"}, status=203), "a status not published"),
    (exchange(answer={"message": "no"}, status=404), "not valid under any"),
    (exchange("DELETE", answer={"id": 1}, status=202, location="l", **{"azure-asyncoperation": "a"}), "a body where"),
])
def test_it_refuses_exchanges_that_azure_does_not_publish(wrong, said):
    assert said in str(shapes.problems([wrong]))


def test_what_is_right_passes():
    good = exchange("PUT", PATH.upper().replace("/C", "/c"), body={"location": "x"}, answer={"location": "x"})
    assert shapes.problems([good, exchange(answer={"code": "NotFound", "message": "m"}, status=404)]) == []


def test_a_life_of_a_cluster_holds(azures, settings):
    """The fixtures hold all of this when the test ends; that they saw it is checked here."""
    azure, group, name = azures.open(), "CalicoDemoRG", "MyCalicoCluster"
    azure.create_group(group, "canadaeast", tags())
    azure.create_cluster(replace(settings, network_plugin="none", network_policy="none"), azures.say)
    azure.switch_kube_proxy(group, name, False, azures.say)
    azures.arm.aks().managed_clusters.begin_stop(group, name).result(60)
    azure.start_cluster(group, name, azures.say)
    azure.credentials(group, name)
    azure.credentials(group, name, admin=False)
    azure.tag_group(group, {"x": "y"})
    assert [c["name"] for c in azure.clusters()] == [c["name"] for c in azure.clusters(group)] == [name]
    assert (len(azure.contents(group)), len(azure.groups())) == (1, 2)
    assert azure.locks(group) == []
    assert "Standard_D2s_v3" in azure.sizes("canadaeast")
    assert azure.usages("canadaeast")["cores"][0] == 4
    assert azure.registered(PROVIDERS[0]) == "Registered"
    for path in ("/agentPools", "/agentPools/nodepool1", "/upgradeProfiles/default"):
        azures.arm.request("GET", azure.cluster(group, name)["id"] + path)
    azure.delete_cluster(group, name, azures.say)
    azure.delete_group(group, azures.say)
    kinds = {e.path.lower().rsplit("/", 1)[-1] for e in azures.wire.exchanges}
    assert {"kubernetesversions", "skus", "usages", "locks", "stop", "start", "listclusterusercredential",
            "managedclusters", "resourcegroups", "nodepool1", "default"} <= kinds
    assert all(e.genuine for e in azures.wire.exchanges)


def test_the_request_that_switches_kube_proxy_sends_nothing_that_only_azure_sets():
    found = recorded("real_05_get_200_Succeeded.json")["body"]
    before = copy.deepcopy(found)
    sent = kube_proxy.body(found, enabled=False)
    assert found == before
    assert shapes.of_document("ManagedCluster", sent, sent=True, preview=True) == []
    assert shapes.of_document("ManagedCluster", found, sent=True) != []
    kept = sent["properties"]
    assert kept["agentPoolProfiles"][0]["vmSize"] == "Standard_DS2_v2"
    assert kept["networkProfile"]["loadBalancerProfile"] == {"managedOutboundIPs": {"count": 1}}
    assert sent["identity"] == {"type": "SystemAssigned"}


@pytest.mark.parametrize(("name", "file"), [
    ("ManagedCluster", "real_02_put_201_Creating.json"), ("ManagedCluster", "real_05_get_200_Succeeded.json"),
    ("ResourceGroup", "real_07_resourcegroup_get_200.json"), ("ErrorResponse", "real_01_get_404_ResourceNotFound.json"),
    ("OperationStatusResult", "real_03_operation_InProgress.json"),
    ("OperationStatusResult", "real_04_operation_Succeeded.json"),
    ("KubernetesVersionListResult", "example_KubernetesVersions_List_2026-05-01.json"),
    ("CredentialResults", "example_ListClusterCredential_2026-06-02-preview.json"),
])
def test_recordings_of_azure_hold_too(name, file):
    assert shapes.of_document(name, recorded(file)["body"]) == []


def test_the_recorded_network_of_kube_proxy_is_known_to_the_preview_alone():
    network = recorded("real_08_put_kubeProxyConfig_request_and_networkProfile.json")["response"][
        "body.properties.networkProfile"]
    del network["dockerBridgeCidr"]  # gone from the API since
    assert shapes.of_document("ContainerServiceNetworkProfile", network, preview=True) == []
    assert "only preview versions" in str(shapes.of_document("ContainerServiceNetworkProfile", network))


def leaves(document, path=""):
    """The names of all properties, with where they are."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield f"{path}.{key}"
            yield from leaves(value, f"{path}.{key}")
    if isinstance(document, list) and document:
        yield from leaves(document[0], f"{path}[]")


def test_the_labs_cluster_says_what_the_recorded_one_says(azures, settings):
    azures.arm.make_group()
    azures.open().create_cluster(settings, azures.say)
    ours = set(leaves(azures.wire.asked("GET", CLUSTER)[-1].answer))
    kubenet = (".podCidr", ".podCidrs", "ssh", "linuxProfile", "diskCSIDriver", "fileCSIDriver", "snapshotController")
    missing = {leaf for leaf in leaves(recorded("real_05_get_200_Succeeded.json")["body"]) if leaf not in ours
               and not leaf.endswith(kubenet) and "linuxProfile" not in leaf}
    assert missing == set()


def test_operations_and_refusals_look_like_the_recorded_ones(azures, settings):
    azures.arm.make_group()
    azures.open().create_cluster(settings, azures.say)
    operation = azures.wire.asked("GET", OPERATION)[-1].answer
    assert set(operation) == set(recorded("real_04_operation_Succeeded.json")["body"])
    missing = azures.arm.request("GET", f"{azures.arm.sub}/resourceGroups/CalicoDemoRG/providers/"
                                 "Microsoft.ContainerService/managedClusters/none").json()
    assert set(leaves(missing)) == set(leaves(recorded("real_01_get_404_ResourceNotFound.json")["body"]))
