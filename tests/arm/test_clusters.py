"""The life of a cluster, through the Azure SDK."""

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from labkit.local.arm import ClusterError

ARTICLE = {
    "location": "canadaeast", "identity": {"type": "SystemAssigned"},
    "properties": {
        "kubernetesVersion": "1.20.2", "dnsPrefix": "mycalicocl-calicodemorg-03a087",
        "agentPoolProfiles": [{"name": "nodepool1", "count": 2, "vmSize": "Standard_D2s_v3",
                               "mode": "System", "osType": "Linux"}],
        "networkProfile": {"networkPlugin": "azure", "networkPolicy": "calico",
                           "loadBalancerSku": "standard"},
    },
}


def create(arm, name="MyCalicoCluster", body=ARTICLE):
    arm.make_group()
    return arm.aks().managed_clusters.begin_create_or_update("CalicoDemoRG", name, body)


def test_the_articles_cluster_comes_and_goes(arm):
    aks = arm.aks()
    cluster = create(arm).result(60)
    assert cluster.provisioning_state == "Succeeded"
    assert cluster.fqdn.startswith("mycalicocl-calicodemorg-03a087-")
    assert cluster.fqdn.endswith(".hcp.canadaeast.azmk8s.io")
    assert cluster.node_resource_group == "MC_CalicoDemoRG_MyCalicoCluster_canadaeast"
    spec = arm.clusters.specs["c1"]
    assert (spec.kubernetes_version, spec.network_policy, spec.pools[0].count) == ("1.20.2", "calico", 2)

    admin = aks.managed_clusters.list_cluster_admin_credentials("CalicoDemoRG", "MyCalicoCluster")
    assert admin.kubeconfigs[0].name == "clusterAdmin"
    assert admin.kubeconfigs[0].value == b"kubeconfig of MyCalicoCluster, admin=True"

    assert [c.name for c in aks.managed_clusters.list()] == ["MyCalicoCluster"]
    in_group = aks.managed_clusters.list_by_resource_group("calicodemorg")
    assert [c.name for c in in_group] == ["MyCalicoCluster"]
    aks.managed_clusters.begin_delete("CalicoDemoRG", "MyCalicoCluster").result(60)
    with pytest.raises(ResourceNotFoundError, match="was not found"):
        aks.managed_clusters.get("CalicoDemoRG", "MyCalicoCluster")
    assert arm.clusters.specs == {}
    assert [g.name for g in arm.resources().resource_groups.list()] == ["CalicoDemoRG"]


def test_a_second_cluster_never_gets_the_first_ones_key(arm):
    create(arm).result(60)
    arm.aks().managed_clusters.begin_delete("CalicoDemoRG", "MyCalicoCluster").result(60)
    create(arm).result(60)
    assert set(arm.clusters.specs) == {"c2"}


def test_a_failed_creation_says_why_and_is_tried_again_by_the_next_put(arm):
    arm.clusters.error = ClusterError("clang is missing: apt-get install clang", "ToolMissing")
    with pytest.raises(HttpResponseError, match="clang is missing") as failure:
        create(arm).result(60)
    assert failure.value.error.code == "ToolMissing"
    assert arm.aks().managed_clusters.get("CalicoDemoRG", "MyCalicoCluster").provisioning_state == "Failed"
    arm.clusters.error = None
    assert create(arm).result(60).provisioning_state == "Succeeded"
    assert "c1" in arm.clusters.specs


def test_pools_grow_and_shrink(arm):
    create(arm).result(60)
    pools = arm.aks().agent_pools
    pool = pools.get("CalicoDemoRG", "MyCalicoCluster", "nodepool1")
    pool.count = 3
    scaled = pools.begin_create_or_update("CalicoDemoRG", "MyCalicoCluster", "nodepool1", pool).result(60)
    assert (scaled.count, scaled.provisioning_state) == (3, "Succeeded")
    assert arm.clusters.calls[-1] == ("scale", "c1", "nodepool1", 3)
    extra = {"properties": {"count": 1, "vmSize": "Standard_D2s_v3", "mode": "User"}}
    pools.begin_create_or_update("CalicoDemoRG", "MyCalicoCluster", "extra", extra).result(60)
    assert [p.name for p in pools.list("CalicoDemoRG", "MyCalicoCluster")] == ["nodepool1", "extra"]
    extra["properties"]["enableNodePublicIP"] = True
    with pytest.raises(HttpResponseError, match="enableNodePublicIP"):
        pools.begin_create_or_update("CalicoDemoRG", "MyCalicoCluster", "extra", extra)
    pools.begin_delete("CalicoDemoRG", "MyCalicoCluster", "extra").result(60)
    assert ("scale", "c1", "extra", 0) in arm.clusters.calls
    assert [p.name for p in pools.list("CalicoDemoRG", "MyCalicoCluster")] == ["nodepool1"]
    pools.begin_create_or_update("CalicoDemoRG", "MyCalicoCluster", "open", extra).result(60)
    del extra["properties"]["enableNodePublicIP"]  # left out, it stays
    again = pools.begin_create_or_update("CalicoDemoRG", "MyCalicoCluster", "open", extra).result(60)
    assert again.enable_node_public_ip


def test_put_of_what_is_there_scales_and_tags(arm):
    body = create(arm).result(60).as_dict()
    body["tags"] = {"owner": "alice"}
    body["properties"]["agentPoolProfiles"][0]["count"] = 1
    changed = create(arm, body=body).result(60)
    assert (changed.tags, changed.agent_pool_profiles[0].count) == ({"owner": "alice"}, 1)
    retagged = arm.aks().managed_clusters.begin_update_tags(
        "CalicoDemoRG", "MyCalicoCluster", {"tags": {"owner": "bob"}}).result(60)
    assert retagged.tags == {"owner": "bob"}


def test_stop_and_start(arm):
    create(arm).result(60)
    clusters = arm.aks().managed_clusters
    clusters.begin_stop("CalicoDemoRG", "MyCalicoCluster").result(60)
    assert clusters.get("CalicoDemoRG", "MyCalicoCluster").power_state.code == "Stopped"
    with pytest.raises(HttpResponseError, match="is stopped"):
        create(arm)
    clusters.begin_start("CalicoDemoRG", "MyCalicoCluster").result(60)
    assert clusters.get("CalicoDemoRG", "MyCalicoCluster").power_state.code == "Running"
    assert arm.clusters.calls[-2:] == [("stop", "c1"), ("start", "c1")]


def test_an_operation_under_way_refuses_the_next(arm):
    arm.clusters.gate.clear()
    poller = create(arm)
    assert poller.status() == "InProgress"
    with pytest.raises(HttpResponseError, match="in progress create managed cluster operation") as refused:
        create(arm)
    assert (refused.value.status_code, refused.value.error.code) == (409, "OperationNotAllowed")
    arm.loop.call_soon_threadsafe(arm.clusters.gate.set)
    assert poller.result(60).provisioning_state == "Succeeded"


def test_deleting_a_group_deletes_its_clusters(arm):
    create(arm).result(60)
    resources = arm.resources()
    resources.resource_groups.begin_delete("CalicoDemoRG").result(60)
    assert ("delete", "c1") in arm.clusters.calls
    assert list(resources.resource_groups.list()) == []


def test_versions_offer_todays_and_mark_the_articles(arm):
    versions = {v.version: v for v in
                arm.aks().managed_clusters.list_kubernetes_versions("canadaeast").values_property}
    assert versions["1.36"].is_default
    assert "1.36.2" in versions["1.36"].patch_versions
    assert versions["1.20"].capabilities.support_plan == []
