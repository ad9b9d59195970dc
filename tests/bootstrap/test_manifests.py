"""What a new cluster begins with, accepted by the API that serves it."""

import copy

import pytest

from labkit.local.arm import ClusterSpec, PoolSpec
from labkit.local.bootstrap import manifests
from labkit.local.controllers.addons import plan
from labkit.local.kubeapi import Api

FQDN = "mycalicocl-calicodemorg-03a087-9388cb76.hcp.canadaeast.azmk8s.io"


def spec(version="1.20.2", policy="calico"):
    return ClusterSpec("c1", "MyCalicoCluster", "CalicoDemoRG", "canadaeast", version, FQDN,
                       (PoolSpec("nodepool1", 2, "Standard_D2s_v3"),), network_policy=policy)


@pytest.fixture(params=["1.20.2", "1.35.6", "1.36.2", "1.37.0"])
def cluster(request, tmp_path):
    api = Api(tmp_path / "lab.db", "c1", version=f"v{request.param}")
    for obj in manifests(spec(request.param), "192.0.2.10"):
        api.create(api.resource_of(obj["apiVersion"], obj["kind"]), obj)
    yield request.param, api
    api.close()


def test_every_object_is_taken_and_the_api_is_where_pods_look_for_it(cluster):
    _, api = cluster
    assert api.get("services", "kubernetes", "default")["spec"]["clusterIP"] == "10.0.0.1"
    subset = api.get("endpoints", "kubernetes", "default")["subsets"][0]
    assert (subset["addresses"], subset["ports"][0]["port"]) == ([{"ip": "192.0.2.10"}], 443)
    assert api.get("services", "kube-dns", "kube-system")["spec"]["clusterIP"] == "10.0.0.10"


def test_kube_proxy_does_not_depend_on_what_it_provides(cluster):
    version, api = cluster
    pod = api.get("daemonsets.apps", "kube-proxy", "kube-system")["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    assert env["KUBERNETES_SERVICE_HOST"] == FQDN
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "Default")
    assert pod["containers"][0]["image"].endswith(f"kube-proxy:v{version}")


def test_the_articles_patches_are_taken(cluster):
    version, api = cluster
    patch = {"spec": {"calicoNetwork": {"nodeAddressAutodetectionV4": {"canReach": "8.8.8.8"}}}}
    installation = api.patch("installations.operator.tigera.io", "default", patch, type="merge")
    assert installation["spec"]["calicoNetwork"]["nodeAddressAutodetectionV4"] == {"canReach": "8.8.8.8"}
    none = {"spec": {"template": {"spec": {"nodeSelector": {"non-calico": "true"}}}}}
    selector = api.patch("daemonsets.apps", "kube-proxy", none, "kube-system", type="strategic")
    assert selector["spec"]["template"]["spec"]["nodeSelector"]["non-calico"] == "true"
    today = api.patch("installations.operator.tigera.io", "default",
                      {"spec": {"calicoNetwork": {"linuxDataplane": "BPF"}}}, type="merge")
    known = "linuxDataplane" in today["spec"]["calicoNetwork"]
    assert known == (version != "1.20.2"), "the operator of 2021 does not know the field"


def test_without_a_policy_engine_there_is_no_calico():
    kinds = {obj["kind"] for obj in manifests(spec(policy="none"), "192.0.2.10")}
    assert {"Installation", "CustomResourceDefinition"}.isdisjoint(kinds)


@pytest.mark.parametrize(("kind", "change", "back"), [
    ("Installation", lambda o: o["spec"]["calicoNetwork"]["nodeAddressAutodetectionV4"].update(canReach="8.8.8.8"),
     {"spec": {"calicoNetwork": {"nodeAddressAutodetectionV4": {"canReach": "1.1.1.1"}}}}),
    ("Installation", lambda o: o["spec"]["calicoNetwork"].update(linuxDataplane="BPF"), {}),
    ("Deployment", lambda o: o["spec"].update(replicas=0), {"spec": {"replicas": 1}}),
    ("Deployment", lambda o: o["spec"]["template"]["metadata"].update(annotations={"labkit/data-plane": "ebpf"}), {}),
])
def test_the_add_on_manager_takes_back_what_aks_says_and_leaves_the_rest(kind, change, back):
    (manifest,) = (o for o in manifests(spec("1.36.2"), "192.0.2.10") if o["kind"] == kind
                   and o["metadata"]["name"] in ("default", "tigera-operator"))
    current = copy.deepcopy(manifest)
    change(current)
    assert plan(manifest, current) == back
