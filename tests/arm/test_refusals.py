"""What Resource Manager refuses, and in which words."""

import copy
import time

import pytest

from tests.arm.test_clusters import ARTICLE

CLUSTER = "resourceGroups/CalicoDemoRG/providers/Microsoft.ContainerService/managedClusters/c"


def refused(response):
    body = response.json()
    error = body.get("error", body)
    return response.status_code, error["code"], error["message"]


def article(**network):
    body = copy.deepcopy(ARTICLE)
    body["properties"]["networkProfile"].update(network)
    return body


@pytest.mark.parametrize(("header", "code"), [
    (None, "AuthenticationFailed"), ("Basic abc", "AuthenticationFailed"),
    ("Bearer nonsense", "InvalidAuthenticationToken"),
    ("Bearer e30.e30.c2lnbmVkIGJ5IG5vYm9keQ", "InvalidAuthenticationToken"),
])
def test_a_missing_or_wrong_token(arm, header, code):
    response = arm.request("GET", "/subscriptions", token=header)
    assert refused(response)[:2] == (401, code)
    assert response.headers["WWW-Authenticate"].startswith('Bearer authorization_uri="https://login')


def test_paths_and_parameters(arm):
    sub = arm.sub
    other = "00000000-0000-4000-8000-000000000000"
    for version, code in ((None, "MissingApiVersionParameter"), ("x", "InvalidApiVersionParameter")):
        assert refused(arm.request("GET", f"{sub}/resourcegroups", version=version))[:2] == (400, code)
    assert refused(arm.request("GET", f"/subscriptions/{other}"))[:2] == (404, "SubscriptionNotFound")
    assert refused(arm.request("GET", "/subscriptions/abc"))[:2] == (400, "InvalidSubscriptionId")
    assert refused(arm.request("GET", f"{sub}/providers/Microsoft.Nope"))[1] == "InvalidResourceNamespace"
    assert refused(arm.request("GET", f"{sub}/providers/Microsoft.Compute/disks"))[1] == "InvalidResourceType"
    assert refused(arm.request("POST", f"{sub}/resourcegroups/g"))[:2] == (405, "MethodNotAllowed")


def test_paths_match_in_any_casing_and_with_stray_slashes(arm):
    arm.make_group()
    group = arm.request("GET", f"{arm.sub.upper()}//RESOURCEGROUPS/calicodemorg/").json()
    assert group["name"] == "CalicoDemoRG"


def test_groups(arm):
    sub = arm.sub
    assert refused(arm.request("GET", f"{sub}/resourcegroups/none")) == (
        404, "ResourceGroupNotFound", "Resource group 'none' could not be found.")
    assert arm.request("HEAD", f"{sub}/resourcegroups/none").status_code == 404
    arm.make_group("here")
    assert arm.request("HEAD", f"{sub}/resourcegroups/HERE").status_code == 204
    bad = arm.request("PUT", f"{sub}/resourcegroups/x", json={"location": "marsnorth"})
    assert refused(bad)[:2] == (400, "LocationNotAvailableForResourceGroup")
    assert "canadaeast" in refused(bad)[2]
    assert refused(arm.request("PUT", f"{sub}/resourcegroups/x", json={}))[1] == "LocationRequired"
    moved = arm.request("PUT", f"{sub}/resourcegroups/here", json={"location": "westus"})
    assert refused(moved)[:2] == (409, "InvalidResourceGroupLocation")
    assert refused(arm.request("PUT", f"{sub}/resourcegroups/x", content=b"{"))[1] == "InvalidRequestContent"


@pytest.mark.parametrize(("change", "code", "words"), [
    ({"kubernetesVersion": "1.20.7"}, "AgentPoolK8sVersionNotSupported",
     "Version 1.20.7 is not supported in this region. Please use [az aks get-versions]"),
    ({"dnsPrefix": None}, "InvalidParameter", "dnsPrefix is missing"),
    ({"agentPoolProfiles": []}, "InvalidParameter", "at least one system pool"),
    ({"agentPoolProfiles": [{"name": "p", "count": 1, "vmSize": "Standard_X1"}]}, "BadRequest",
     "The VM size of Standard_X1 is not allowed in your subscription in location 'canadaeast'"),
    ({"agentPoolProfiles": [{"name": "Pool", "count": 1}]}, "InvalidParameter", "naming-rules"),
    ({"agentPoolProfiles": [{"name": "p", "count": 50}]}, "ErrCode_InsufficientVCPUQuota", "one machine"),
    ({"networkProfile": {"networkPlugin": "kubenet"}}, "NotModelledByLocalLab", "'kubenet'"),
    ({"httpProxyConfig": {"httpProxy": "http://p"}}, "NotModelledByLocalLab", "a cluster's httpProxyConfig"),
    ({"agentPoolProfiles": [{"name": "p", "count": 1, "availabilityZones": ["1"]}]}, "NotModelledByLocalLab",
     "an agent pool's availabilityZones"),
    ({"agentPoolProfiles": [{"name": "p", "count": 1, "scaleDownMode": "Deallocate"}]}, "NotModelledByLocalLab",
     "kept deallocated"),
    ({"networkProfile": {"loadBalancerProfile": {"managedOutboundIPs": {"count": 2}}}}, "NotModelledByLocalLab",
     "more outbound addresses"),
    ({"agentPoolProfiles": [{"name": "p", "count": 1, "scaleSetPriority": "Spot"}]}, "NotModelledByLocalLab", "spot"),
    ({"networkProfile": {"networkPolicy": "cilium"}}, "NotModelledByLocalLab", "'cilium'"),
    ({"networkProfile": {"serviceCidr": "10.224.0.0/16", "dnsServiceIP": "10.224.0.10"}},
     "ServiceCidrOverlapExistingSubnetsCidr", "conflicted"),
    ({"networkProfile": {"networkPlugin": "none", "networkPolicy": "calico"}}, "InvalidParameter", "plugin none"),
    ({"networkProfile": {"networkPlugin": "none", "podCidr": "10.230.0.0/16"}}, "InvalidParameter", "overlaps 10.224"),
    ({"networkProfile": {"networkPlugin": "none", "podCidr": "172.30.0.0/16"}}, "InvalidParameter", "172.30.0.0/16"),
    ({"networkProfile": {"networkPlugin": "none", "podCidr": "pods"}}, "InvalidParameter", "invalid"),
])
def test_clusters_that_cannot_be(arm, change, code, words):
    arm.make_group()
    body = copy.deepcopy(ARTICLE)
    body["properties"].update(change)
    response = arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=body)
    status, got, message = refused(response)
    assert (status, got) == (400, code)
    assert words in message
    assert "error" not in response.json(), "the AKS resource provider answers flat"
    assert arm.request("GET", f"{arm.sub}/{CLUSTER}").status_code == 404


@pytest.mark.parametrize(("change", "code"), [
    ({"identity": {"type": "UserAssigned", "userAssignedIdentities": {"/x": {}}}}, "NotModelledByLocalLab"),
    ({"sku": {"tier": "Cheap"}}, "InvalidParameter"),
])
def test_what_a_cluster_cannot_have_beside_its_properties(arm, change, code):
    arm.make_group()
    assert refused(arm.request("PUT", f"{arm.sub}/{CLUSTER}", json={**ARTICLE, **change}))[:2] == (400, code)


def objects(document, path=()):
    """The places of a document whose kind the lab reads, with a value of another kind for each."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from objects(value, (*path, key))


FULL = {**ARTICLE, "sku": {"name": "Base", "tier": "Free"}, "tags": {"a": "b"}, "properties": {
    **ARTICLE["properties"], "servicePrincipalProfile": {"clientId": "msi"}, "addonProfiles": {"x": {"enabled": False}},
    "disableLocalAccounts": False, "autoUpgradeProfile": {"upgradeChannel": "none"},
    "agentPoolProfiles": [{**ARTICLE["properties"]["agentPoolProfiles"][0], "powerState": {"code": "Running"},
                           "maxPods": 30, "osDiskSizeGB": 128, "osSKU": "Ubuntu", "nodeLabels": {"a": "b"},
                           "nodeTaints": ["a=b:NoSchedule"], "scaleSetPriority": "Regular", "upgradeSettings": {}}],
    "networkProfile": {**ARTICLE["properties"]["networkProfile"], "serviceCidr": "10.0.0.0/16",
                       "dnsServiceIP": "10.0.0.10", "outboundType": "loadBalancer",
                       "loadBalancerProfile": {"managedOutboundIPs": {"count": 1}},
                       "kubeProxyConfig": {"enabled": True, "mode": "IPTABLES"}}}}


def test_a_value_of_another_kind_is_the_clients_mistake_wherever_it_is(arm):
    """Not the server's: each was a 500 or was taken once."""
    arm.make_group()
    url, preview = f"{arm.sub}/{CLUSTER}", "2026-08-02-preview"
    answers = {}
    for path in objects(FULL):
        for wrong in ([[]], {"a": {}}, 1.5, True):
            body = copy.deepcopy(FULL)
            inner = body
            for key in path[:-1]:
                inner = inner[key]
            if type(wrong) is not type(inner[path[-1]]):
                inner[path[-1]] = wrong
                answers[*path, str(wrong)] = arm.request("PUT", url, json=body, version=preview).status_code
    assert {where: status for where, status in answers.items() if status != 400} == {}
    assert arm.request("PUT", url, json=FULL, version=preview).status_code == 201


def test_what_asks_for_nothing_is_no_wish(arm):
    """As az sends it, and as Azure's published examples are: empty texts, and switches that are off."""
    arm.make_group()
    body = copy.deepcopy(ARTICLE)
    body["properties"] |= {"kubernetesVersion": "", "windowsProfile": None, "addonProfiles": {},
                           "azureMonitorProfile": {"metrics": {"enabled": False, "kubeStateMetrics": {"a": ""}}}}
    body["properties"]["agentPoolProfiles"][0] |= {"orchestratorVersion": "", "enableFIPS": False,
                                                   "availabilityZones": [], "scaleSetPriority": "Regular"}
    assert arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=body).status_code == 201


def test_kube_proxy_config_is_a_preview_property_for_other_plugins(arm):
    arm.make_group()
    body = article(kubeProxyConfig={"enabled": False})
    stable = arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=body, version="2026-03-01")
    assert 'unknown field "kubeProxyConfig"' in refused(stable)[2]
    preview = arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=body, version="2026-08-02-preview")
    assert refused(preview)[1] == "KubeProxyConfigDisabledBYOCNIOnly"


def ended(arm, response):
    """Wait for a request's operation."""
    assert response.status_code in (200, 201), response.text
    for _ in range(100):
        if arm.request("GET", f"{arm.sub}/{CLUSTER}").json()["properties"]["provisioningState"] == "Succeeded":
            return
        time.sleep(0.05)
    raise AssertionError("the operation does not end")


def test_kube_proxy_is_switched_by_the_preview_api_where_the_network_is_brought(arm):
    arm.make_group()
    body = article(networkPlugin="none", networkPolicy="none", podCidr="192.168.0.0/16")
    url, preview = f"{arm.sub}/{CLUSTER}", "2026-08-02-preview"
    ended(arm, arm.request("PUT", url, json=body))
    body["properties"]["networkProfile"]["kubeProxyConfig"] = {"enabled": False}
    assert refused(arm.request("PUT", url, json=body, version="2026-03-01"))[1] == "UnmarshalError"
    ended(arm, arm.request("PUT", url, json=body, version=preview))
    assert list(arm.clusters.kube_proxy.values()) == [False]
    (spec,) = arm.clusters.specs.values()
    assert (spec.network_plugin, spec.pod_cidr, spec.kube_proxy) == ("none", "192.168.0.0/16", True)

    def shown(version):
        return arm.request("GET", url, version=version).json()["properties"]["networkProfile"].get("kubeProxyConfig")

    assert (shown(preview), shown("2026-03-01")) == ({"enabled": False}, None)
    del body["properties"]["networkProfile"]["kubeProxyConfig"]
    ended(arm, arm.request("PUT", url, json=body))  # a client that does not know the property leaves it as it is
    assert shown(preview) == {"enabled": False}
    moved = article(networkPlugin="none", networkPolicy="none", podCidr="192.169.0.0/16")
    assert refused(arm.request("PUT", url, json=moved))[1] == "PropertyChangeNotAllowed"


def test_what_is_not_there(arm):
    assert refused(arm.request("GET", f"{arm.sub}/{CLUSTER}"))[1] == "ResourceGroupNotFound"
    arm.make_group()
    missing = arm.request("GET", f"{arm.sub}/{CLUSTER}")
    assert refused(missing) == (
        404, "ResourceNotFound",
        "The Resource 'Microsoft.ContainerService/managedClusters/c' under resource group 'CalicoDemoRG' was "
        "not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix")
    assert missing.headers["x-ms-failure-cause"] == "gateway"
    assert arm.request("DELETE", f"{arm.sub}/{CLUSTER}").status_code == 204


def test_an_unregistered_provider_is_registered_and_then_works(arm):
    arm.make_group()
    provider = f"{arm.sub}/providers/Microsoft.ContainerService"
    arm.request("POST", f"{provider}/unregister")
    assert refused(arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=ARTICLE))[:2] == (
        409, "MissingSubscriptionRegistration")
    assert arm.request("POST", f"{provider}/register").json()["registrationState"] == "Registered"
    assert arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=ARTICLE).status_code == 201


def test_credentials_of_a_cluster_that_is_not_built(arm):
    arm.make_group()
    arm.clusters.gate.clear()
    arm.request("PUT", f"{arm.sub}/{CLUSTER}", json=ARTICLE)
    early = arm.request("POST", f"{arm.sub}/{CLUSTER}/listClusterAdminCredential")
    assert refused(early)[:2] == (409, "OperationNotAllowed")
    arm.loop.call_soon_threadsafe(arm.clusters.gate.set)
