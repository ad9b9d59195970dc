"""What `az` asks beyond the SDKs' everyday calls: each of these once ended a command of az's."""

import json

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.arm.test_clusters import ARTICLE, create
from tests.arm.test_refusals import CLUSTER, refused


def test_aks_update_reads_msi_as_the_service_principal(arm):
    cluster = create(arm).result(60)
    assert cluster.service_principal_profile.client_id == "msi"
    body = cluster.as_dict()
    body["tags"] = {"owner": "alice"}
    assert create(arm, body=body).result(60).tags == {"owner": "alice"}


def test_a_service_principals_secret_is_never_shown(arm):
    body = {**ARTICLE, "properties": {**ARTICLE["properties"],
                                      "servicePrincipalProfile": {"clientId": "me", "secret": "hush"}}}
    create(arm, body=body).result(60)
    shown = arm.request("GET", f"{arm.sub}/resourceGroups/CalicoDemoRG/providers/"
                        "Microsoft.ContainerService/managedClusters/MyCalicoCluster").text
    assert json.loads(shown)["properties"]["servicePrincipalProfile"] == {"clientId": "me"}
    assert "hush" not in shown


def test_identities_are_guids_of_their_own(arm):
    cluster = create(arm).result(60)
    kubelet = cluster.identity_profile["kubeletidentity"]
    ids = {cluster.identity.principal_id, kubelet.client_id, kubelet.object_id}
    assert len(ids) == 3
    assert all(len(id) == 36 for id in ids)
    assert cluster.identity.principal_id != arm.tokens.subscription


def test_no_upgrade_is_offered(arm):
    create(arm).result(60)
    profile = arm.aks().managed_clusters.get_upgrade_profile("CalicoDemoRG", "MyCalicoCluster")
    assert profile.control_plane_profile.kubernetes_version == "1.20.2"
    assert profile.control_plane_profile.upgrades == []
    assert [p.name for p in profile.agent_pool_profiles] == ["nodepool1"]
    pools = arm.aks().agent_pools
    assert not pools.get_upgrade_profile("CalicoDemoRG", "MyCalicoCluster", "nodepool1").upgrades
    with pytest.raises(ResourceNotFoundError):
        pools.get_upgrade_profile("CalicoDemoRG", "MyCalicoCluster", "none")


def test_an_update_does_what_it_says_or_is_refused(arm):
    body = create(arm).result(60).as_dict()
    body["sku"]["tier"] = "Standard"
    body["properties"]["disableLocalAccounts"] = True
    changed = create(arm, body=body).result(60)
    assert (changed.disable_local_accounts, changed.sku.tier) == (True, "Standard")
    with pytest.raises(HttpResponseError, match="set to disable local accounts"):
        arm.aks().managed_clusters.list_cluster_admin_credentials("CalicoDemoRG", "MyCalicoCluster")
    body["properties"]["addonProfiles"] = {"omsagent": {"enabled": True}}
    with pytest.raises(HttpResponseError, match="add-ons"):
        create(arm, body=body)


def test_labels_and_taints_of_a_pool_stay_until_they_are_changed(arm):
    create(arm).result(60)
    pools = arm.aks().agent_pools

    def put(**asked):
        return pools.begin_create_or_update(
            "CalicoDemoRG", "MyCalicoCluster", "extra", {"properties": asked}).result(60)

    put(count=1, nodeLabels={"tier": "web"}, nodeTaints=["a=b:NoSchedule"])
    assert (arm.clusters.pool.labels, arm.clusters.pool.taints) == ({"tier": "web"}, ("a=b:NoSchedule",))
    scaled = put(count=2)
    assert (scaled.node_labels, scaled.node_taints) == ({"tier": "web"}, ["a=b:NoSchedule"])
    assert not put(nodeLabels={}, nodeTaints=[]).node_labels
    assert (arm.clusters.pool.labels, arm.clusters.pool.taints) == ({}, ())


@pytest.mark.parametrize(("asked", "words"), [
    ({"nodeLabels": {"a b": "c"}}, "no label of Kubernetes"), ({"nodeLabels": {"a": "c d"}}, "no label of Kubernetes"),
    ({"nodeLabels": "a"}, "must be an object"), ({"nodeTaints": "a"}, "a list"),
    ({"nodeTaints": ["a=b"]}, "key=value:effect"), ({"nodeTaints": ["a=b:Never"]}, "key=value:effect"),
    ({"nodeTaints": ["=b:NoSchedule"]}, "key=value:effect"),
    ({"powerState": {"code": "Stopped"}}, "stopping one agent pool"),
])
def test_what_nodes_would_not_get_is_not_accepted(arm, asked, words):
    create(arm).result(60)
    with pytest.raises(HttpResponseError, match=words):
        arm.aks().agent_pools.begin_create_or_update(
            "CalicoDemoRG", "MyCalicoCluster", "extra", {"properties": {"count": 1, **asked}})


def test_deleting_a_cluster_of_a_group_that_is_not_there(arm):
    assert refused(arm.request("DELETE", f"{arm.sub}/{CLUSTER}")) == (
        404, "ResourceGroupNotFound", "Resource group 'CalicoDemoRG' could not be found.")


def test_a_node_resource_group_goes_with_its_cluster_only(arm):
    create(arm).result(60)
    group = f"{arm.sub}/resourcegroups/MC_CalicoDemoRG_MyCalicoCluster_canadaeast"
    assert refused(arm.request("DELETE", group))[1] == "NotModelledByLocalLab"
    assert arm.request("HEAD", group).status_code == 204


def test_an_operation_goes_on_from_its_continuation_token(arm):
    arm.clusters.gate.clear()
    token = create(arm).continuation_token()
    arm.loop.call_soon_threadsafe(arm.clusters.gate.set)
    again = arm.aks().managed_clusters.begin_create_or_update(
        "CalicoDemoRG", "MyCalicoCluster", {}, continuation_token=token)
    assert again.result(60).provisioning_state == "Succeeded"


def test_accepted_operations_carry_the_headers_of_the_recordings(arm):
    arm.make_group()
    put = arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=ARTICLE)
    where = "/providers/Microsoft.ContainerService/locations/canadaeast/operations/"
    assert put.status_code == 201
    assert where in put.headers["Azure-AsyncOperation"]
    assert "Location" not in put.headers
    arm.request("GET", put.headers["Azure-AsyncOperation"].split("?")[0].removeprefix(arm.url))
    delete = arm.request("DELETE", f"{arm.sub}/{CLUSTER}")
    assert (delete.status_code, delete.content) == (202, b"")
    assert where in delete.headers["Azure-AsyncOperation"]
    assert "/operationresults/" in delete.headers["Location"]


@pytest.mark.parametrize(("name", "words"), [
    ("bad%3Fname", "'bad?name' has these invalid characters: '?'. The name can only be a letter, digit, "),
    ("bad.", "'bad.' cannot end with '.'"), ("a" * 91, "is too long"),
])
def test_group_names(arm, name, words):
    status, code, message = refused(
        arm.request("PUT", f"{arm.sub}/resourcegroups/{name}", json={"location": "canadaeast"}))
    assert (status, code) == (400, "InvalidResourceGroup")
    assert words in message


@pytest.mark.parametrize(("change", "target", "words"), [
    ({"name": "Pool"}, "agentPoolProfile.name", "https://aka.ms/aks-naming-rules"),
    ({"count": 0}, "agentPoolProfile.count", "count was 0. It must be greater or equal to minCount:1"),
    ({"count": 1001}, "agentPoolProfile.count", "less than or equal to maxCount:1000"),
    ({"count": 1001, "mode": "User"}, "agentPoolProfile.count", "minCount:0"),
])
def test_refused_properties_are_named_as_the_target(arm, change, target, words):
    arm.make_group()
    pool = {"name": "nodepool1", "count": 1, "mode": "System", **change}
    body = {**ARTICLE, "properties": {**ARTICLE["properties"], "agentPoolProfiles": [pool]}}
    response = arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=body)
    assert refused(response)[:2] == (400, "InvalidParameter")
    assert words in response.json()["message"]
    assert response.json()["target"] == target


def test_what_a_pools_request_leaves_out_stays(arm):
    create(arm).result(60)
    pools = arm.aks().agent_pools
    same = pools.begin_create_or_update(
        "CalicoDemoRG", "MyCalicoCluster", "nodepool1", {"properties": {"count": None}}).result(60)
    assert (same.count, same.mode, same.vm_size) == (2, "System", "Standard_D2s_v3")
    new = pools.begin_create_or_update(
        "CalicoDemoRG", "MyCalicoCluster", "extra", {"properties": {"count": 1}}).result(60)
    assert new.mode == "User"


def test_a_pools_machines_do_not_change_through_the_cluster_either(arm):
    body = create(arm).result(60).as_dict()
    body["properties"]["agentPoolProfiles"][0]["vmSize"] = "Standard_D4s_v3"
    with pytest.raises(HttpResponseError, match=r"'agentPoolProfile.vmSize' is not allowed") as refusal:
        create(arm, body=body)
    assert refusal.value.error.code == "PropertyChangeNotAllowed"


@pytest.mark.parametrize("properties", [
    "x", {"agentPoolProfiles": "x"}, {"agentPoolProfiles": ["x"]}, {"networkProfile": "x"},
    {"addonProfiles": ["x"]},
])
def test_a_body_of_the_wrong_shape_is_refused_not_fallen_over(arm, properties):
    arm.make_group()
    body = {"location": "canadaeast", "properties": properties}
    assert refused(arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=body))[:2] == (400, "InvalidRequestContent")


def test_login_without_the_identity_ends_here_and_says_how(arm):
    tenant = "/login/organizations"
    known = arm.request("GET", f"{tenant}/v2.0/.well-known/openid-configuration", token=None).json()
    assert known["token_endpoint"].startswith(arm.url)
    assert "microsoftonline" not in str(known)
    device = arm.request("POST", f"{tenant}/oauth2/v2.0/devicecode", token=None)
    assert device.status_code == 400
    assert "az login --identity" in device.json()["error_description"]
