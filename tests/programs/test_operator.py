"""The operator against the API: what an Installation makes, refuses and reports."""

import pytest

from labkit.calico.lanes import CALICO_RELEASE
from labkit.local.arm import ClusterSpec, PoolSpec
from labkit.local.bootstrap import PUBLISHED, manifests, published, release_for
from labkit.local.kubeapi import Api
from labkit.local.programs.kube_controllers import Controllers
from labkit.local.programs.tigera.installation import InvalidInstallation, validate
from labkit.local.programs.tigera.reconcile import Reconciler
from labkit.local.programs.tigera.release import Release
from labkit.local.programs.tigera.render import Endpoint

INSTALLATIONS, FELIX = "installations.operator.tigera.io", "felixconfigurations.crd.projectcalico.org"
ENDPOINT = {"KUBERNETES_SERVICE_HOST": "api.example", "KUBERNETES_SERVICE_PORT": "443"}


class Cluster:
    """An API with the system's objects, an operator, and somebody who plays the kubelet."""

    def __init__(self, path, version):
        spec = ClusterSpec("c1", "one", "rg", "canadaeast", version, "api.example",
                           (PoolSpec("nodepool1", 2, "Standard_D2s_v3"),), network_policy="calico")
        self.api = Api(path, "c1", version=f"v{version}")
        for obj in manifests(spec, "192.0.2.10"):
            self.api.create(self.api.resource_of(obj["apiVersion"], obj["kind"]), obj)
        self.release = Release(release_for(int(version.split(".")[1])).operator)
        self.restart(Endpoint("10.0.0.1", "443"))

    def restart(self, endpoint):
        self.operator = Reconciler(self.api, self.release, endpoint)
        self.operator.reconcile()

    def node(self):
        return self.api.get("daemonsets.apps", "calico-node", "calico-system")

    def env(self):
        pod = self.node()["spec"]["template"]["spec"]
        return {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}

    def felix(self):
        return self.api.get(FELIX, "default")

    def install(self, **network):
        self.api.patch(INSTALLATIONS, "default", {"spec": {"calicoNetwork": network}}, type="merge")
        self.operator.reconcile()

    def all_pods_run(self, *, available=2):
        node = self.node()
        status = {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2,
                  "numberAvailable": available, "numberReady": available, "numberMisscheduled": 0,
                  "numberUnavailable": 2 - available, "observedGeneration": node["metadata"]["generation"]}
        self.api.update("daemonsets.apps", {**node, "status": status}, subresource="status")
        name, namespace = "calico-kube-controllers", "calico-system"
        deployment = self.api.get("deployments.apps", name, namespace)
        status = {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1,
                  "observedGeneration": deployment["metadata"]["generation"]}
        self.api.update("deployments.apps", {**deployment, "status": status}, subresource="status")
        self.operator.reconcile()

    def conditions(self):
        status = self.api.get("tigerastatuses.operator.tigera.io", "calico")["status"]
        return {c["type"]: (c["status"], c.get("reason", ""), c.get("message", ""))
                for c in status["conditions"]}


@pytest.fixture
def article(tmp_path):
    cluster = Cluster(tmp_path / "article.db", "1.20.2")
    yield cluster
    cluster.api.close()


@pytest.fixture
def today(tmp_path):
    cluster = Cluster(tmp_path / "today.db", "1.36.2")
    yield cluster
    cluster.api.close()


def test_an_installation_becomes_workloads_of_the_operators_calico(article, today):
    for cluster, calico in ((article, "v3.17.2"), (today, "v3.31.2")):
        node = cluster.node()["spec"]["template"]["spec"]
        assert node["containers"][0]["image"] == f"mcr.microsoft.com/oss/calico/node:{calico}"
        assert node["hostNetwork"]
        assert cluster.conditions()["Available"][0] == "False"
        cluster.all_pods_run()
        assert cluster.conditions()["Available"][0] == "True"
        assert cluster.conditions()["Degraded"][0] == "False"


def test_a_reconciliation_that_changes_nothing_writes_nothing(today):
    today.all_pods_run()
    before = {r: [o["metadata"]["resourceVersion"] for o in today.api.list(r)]
              for r in ("daemonsets.apps", "deployments.apps", FELIX, "tigerastatuses.operator.tigera.io")}
    today.operator.reconcile()
    assert before == {r: [o["metadata"]["resourceVersion"] for o in today.api.list(r)] for r in before}


def test_what_somebody_changes_in_calico_node_is_taken_back(today):
    patch = {"spec": {"template": {"spec": {"containers": [{
        "name": "calico-node", "env": [{"name": "FELIX_BPFENABLED", "value": "true"}]}]}}}}
    today.api.patch("daemonsets.apps", "calico-node", patch, "calico-system", type="strategic")
    assert "FELIX_BPFENABLED" in today.env()
    today.operator.reconcile()
    assert "FELIX_BPFENABLED" not in today.env()


def test_the_articles_operator_hands_its_own_environment_on_and_needs_a_restart(article):
    assert article.env()["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": ENDPOINT,
              "metadata": {"name": "kubernetes-services-endpoint", "namespace": "tigera-operator"}}
    article.api.create("configmaps", config)
    article.operator.reconcile()
    assert article.env()["KUBERNETES_SERVICE_HOST"] == "10.0.0.1", "the ConfigMap alone changes nothing"
    article.restart(Endpoint("api.example", "443"))
    assert article.env()["KUBERNETES_SERVICE_HOST"] == "api.example"


def test_todays_operator_reads_the_config_map(today):
    assert "KUBERNETES_SERVICE_HOST" not in today.env()
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": ENDPOINT,
              "metadata": {"name": "kubernetes-services-endpoint", "namespace": "tigera-operator"}}
    today.api.create("configmaps", config)
    today.operator.reconcile()
    assert today.env()["KUBERNETES_SERVICE_HOST"] == "api.example"
    today.api.delete("configmaps", "kubernetes-services-endpoint", "tigera-operator")
    today.operator.reconcile()
    assert "KUBERNETES_SERVICE_HOST" not in today.env()


def test_the_address_detection_that_the_article_patches_reaches_calico_node(article):
    assert article.env()["IP"] == "none"
    article.install(nodeAddressAutodetectionV4={"canReach": "8.8.8.8"})
    assert (article.env()["IP"], article.env()["IP_AUTODETECTION_METHOD"]) == ("autodetect", "can-reach=8.8.8.8")


def test_the_data_plane_is_a_default_that_the_operator_writes(article, today):
    for cluster, written in ((article, None), (today, "Iptables")):
        network = cluster.api.get(INSTALLATIONS, "default")["spec"]["calicoNetwork"]
        assert network.get("linuxDataplane") == written


def test_two_detection_methods_are_refused_and_workloads_stay(today):
    before = today.node()["metadata"]["resourceVersion"]
    today.install(nodeAddressAutodetectionV4={"firstFound": True, "canReach": "8.8.8.8"})
    status, reason, message = today.conditions()["Degraded"]
    assert (status, reason) == ("True", "InvalidConfigurationError")
    assert message == ("Invalid Installation provided: no more than one node address autodetection method can be "
                       "specified per-family")
    assert today.node()["metadata"]["resourceVersion"] == before
    today.install(nodeAddressAutodetectionV4={"firstFound": None, "canReach": "8.8.8.8"})
    assert today.conditions()["Degraded"][0] == "False"


def test_ebpf_needs_a_detection_method_and_the_operator_fills_one_in(today):
    network = {"linuxDataplane": "BPF", "ipPools": [{"cidr": "10.224.0.0/16"}]}
    with pytest.raises(InvalidInstallation, match="AutodetectionV4 is required for the BPF dataplane"):
        validate({"spec": {"kubernetesProvider": "AKS", "calicoNetwork": network}})
    today.install(linuxDataplane="BPF", nodeAddressAutodetectionV4=None)
    spec = today.api.get(INSTALLATIONS, "default")["spec"]
    assert spec["calicoNetwork"]["nodeAddressAutodetectionV4"] == {"firstFound": True}
    assert today.env()["IP_AUTODETECTION_METHOD"] == "first-found"


def test_what_the_operator_makes_goes_with_the_installation(today):
    uid = today.api.get(INSTALLATIONS, "default")["metadata"]["uid"]
    for resource, name, namespace in (("namespaces", "calico-system", None),
                                      ("daemonsets.apps", "calico-node", "calico-system")):
        owners = today.api.get(resource, name, namespace)["metadata"]["ownerReferences"]
        assert [(o["kind"], o["uid"]) for o in owners] == [("Installation", uid)]


def test_the_published_manifests_make_an_operator_that_is_nobody_elses():
    definitions, operator = published().values()
    kinds = {d["spec"]["names"]["kind"] for d in definitions}
    assert {"Installation", "TigeraStatus", "FelixConfiguration", "IPPool"} <= kinds
    assert not [o for o in operator if "addonmanager.kubernetes.io/mode" in (o["metadata"].get("labels") or {})]
    (deployment,) = (o for o in operator if o["kind"] == "Deployment")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f":{PUBLISHED[1]}")
    assert Release(PUBLISHED[1]).calico == PUBLISHED[0] == CALICO_RELEASE


def test_todays_operator_turns_ebpf_on_after_the_rollout_and_off_again(today):
    today.all_pods_run()
    today.install(linuxDataplane="BPF")
    assert today.felix()["spec"]["bpfEnabled"] is False, "the pods still run without bpffs"
    assert "bpffs" in [v["name"] for v in today.node()["spec"]["template"]["spec"]["volumes"]]
    today.all_pods_run(available=1)
    assert today.felix()["spec"]["bpfEnabled"] is False
    assert today.conditions()["Progressing"][2] == (
        'DaemonSet "calico-system/calico-node" is not available (awaiting 1 nodes)')
    today.all_pods_run()
    assert today.felix()["spec"]["bpfEnabled"] is True
    assert today.felix()["metadata"]["annotations"]["operator.tigera.io/bpfEnabled"] == "true"
    today.install(linuxDataplane="Iptables")
    assert today.felix()["spec"]["bpfEnabled"] is False
    assert not today.node()["spec"]["template"]["spec"].get("volumes")


def test_todays_operator_refuses_a_hand_set_bpf_enabled_until_it_is_set_back(today):
    today.all_pods_run()
    today.api.patch(FELIX, "default", {"spec": {"bpfEnabled": True}}, type="merge")
    today.operator.reconcile()
    assert today.felix()["spec"]["bpfEnabled"] is True, "Felix turns eBPF on all the same"
    status, reason, message = today.conditions()["Degraded"]
    assert (status, reason) == ("True", "ResourceUpdateError")
    assert message == (
        'Error updating resource: Unable to set bpfEnabled: FelixConfiguration "default" has been modified by '
        "someone else, refusing to override potential user configuration.")
    today.api.patch(FELIX, "default", {"spec": {"bpfEnabled": False}}, type="merge")
    today.operator.reconcile()
    assert today.conditions()["Degraded"][0] == "False"


def test_the_articles_operator_leaves_bpf_enabled_to_the_user(article):
    article.all_pods_run()
    article.api.patch(FELIX, "default", {"spec": {"bpfEnabled": True}}, type="merge")
    article.operator.reconcile()
    assert article.felix()["spec"]["bpfEnabled"] is True
    assert article.conditions()["Degraded"] == ("False", "", "")


def test_a_crash_loop_is_told(today):
    today.all_pods_run()
    today.api.create("pods", {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "calico-node-x", "namespace": "calico-system", "labels": {"k8s-app": "calico-node"}},
        "spec": {"containers": [{"name": "calico-node", "image": "calico/node"}]}})
    pod = today.api.get("pods", "calico-node-x", "calico-system")
    waiting = {"name": "calico-node", "image": "calico/node", "imageID": "", "ready": False, "restartCount": 3,
               "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    today.api.update("pods", {**pod, "status": {"phase": "Running", "containerStatuses": [waiting]}},
                     subresource="status")
    today.operator.reconcile()
    assert today.conditions()["Degraded"] == (
        "True", "PodFailure", "Pod calico-system/calico-node-x has crash looping container: calico-node")


def test_without_an_installation_there_is_no_status(today):
    today.api.delete(INSTALLATIONS, "default")
    today.operator.reconcile()
    assert today.api.list("tigerastatuses.operator.tigera.io") == []


def test_kube_controllers_keep_cluster_information_and_forget_nodes_that_are_gone(today):
    controllers = Controllers(today.api, "v3.31.2")
    for name in ("a", "b"):
        controllers.on_node("ADDED", {"metadata": {"name": name}})
        today.api.create(FELIX, {"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration",
                                 "metadata": {"name": f"node.{name}"}, "spec": {}})
    controllers.reconcile()
    information = today.api.get("clusterinformations.crd.projectcalico.org", "default")
    assert (information["spec"]["calicoVersion"], information["spec"]["datastoreReady"]) == ("v3.31.2", True)
    controllers.on_node("DELETED", {"metadata": {"name": "b"}})
    assert controllers.pending
    controllers.reconcile()
    assert {f["metadata"]["name"] for f in today.api.list(FELIX)} == {"default", "node.a"}
    guid = information["spec"]["clusterGUID"]
    again = today.api.get("clusterinformations.crd.projectcalico.org", "default")
    assert again["spec"]["clusterGUID"] == guid
