"""Each check of a cluster: seen to fire on the real texts and states, and to stay quiet on healthy clusters."""

import copy

import pytest

from labkit.doctor import diagnosis
from labkit.doctor.azure_checks import CHECKS as AZURE_CHECKS
from labkit.doctor.azure_checks import AzureView
from labkit.doctor.diagnosis import CLUSTER_CHECKS
from labkit.doctor.service_checks import _selects
from tests.doctor import world
from tests.doctor.world import FELIX, FQDN, INSTALLATION, daemon_set, degraded, pod, service, slice_of, snapshot

REFUSAL = ('Unable to set bpfEnabled: FelixConfiguration "default" has been modified by someone else, refusing to '
           "override potential user configuration.")
LOOKUP = f"dial tcp: lookup {FQDN} on 10.0.0.10:53: no such host"
HEALTHZ = ("BPF Proxy Healthz server failed, restarting error=failed to start proxier healthz on :10256: listen tcp "
           ":10256: bind: address already in use")
PATCH = "kubectl patch "


def felix(**spec):
    return lambda kube: kube.get(FELIX, "default")["spec"].update(spec)


def network(**fields):
    return lambda kube: kube.get(INSTALLATION, "default")["spec"]["calicoNetwork"].update(fields)


def status(component, reason, message):
    def change(kube):
        kube.objects["tigerastatuses.operator.tigera.io"][:] = [degraded(component, reason, message)]
    return change


def said(*lines):
    return lambda kube: kube.texts.update({"calico-aks-2": "\n".join(["2026 [INFO] fine", *lines, "2026 [INFO] on"])})


def replace(resource, *objects):
    return lambda kube: kube.objects.update({resource: list(objects)})


def add(resource, *objects):
    return lambda kube: kube.add(resource, *objects)


def without(resource, name):
    def change(kube):
        kube.objects[resource] = [o for o in kube.objects[resource] if o["metadata"]["name"] != name]
    return change


def both(*changes):
    return lambda kube: [change(kube) for change in changes]


def calico(**fields):
    return both(without("daemonsets.apps", "calico-node"),
                add("daemonsets.apps", daemon_set("calico-node", "calico-system", "oss/calico/node:v3.31.2",
                                                  **{"env": {"KUBERNETES_SERVICE_HOST": FQDN}, **fields})))


def proxy(**fields):
    return both(without("daemonsets.apps", "kube-proxy"), add("daemonsets.apps", daemon_set(
        "kube-proxy", "kube-system", "kube-proxy:v1", labels={"addonmanager.kubernetes.io/mode": "Reconcile"},
        **fields)))


def waiting(reason):
    return {"conditions": [], "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}


def killed():
    return {"conditions": [], "containerStatuses": [{"lastState": {"terminated": {"reason": "OOMKilled"}}}]}


def policy(name, *, ingress=(), selector=None):
    return {"metadata": world.meta(name, "shop"),
            "spec": {"podSelector": selector or {}, "policyTypes": ["Ingress"], "ingress": list(ingress)}}


def balanced(**spec):
    return replace("services", service("web", kind="LoadBalancer", **spec))


def limited(kube):
    for found in kube.list("pods", "calico-system"):
        found["spec"]["containers"][0]["resources"] = {"limits": {"memory": "512Mi"}}


NO_CNI = {"metadata": {"name": "aks-9"}, "status": {"conditions": [{
    "type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "container runtime network not ready: "
    "NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not "
    "initialized"}]}}
ARTICLE = {"operator": "v1.13.5", "calico": "v3.17.2"}
SHARED = {"properties": {"networkProfile": {"loadBalancerProfile": {
    "clusterServiceLoadBalancerHealthProbeMode": "Shared"}}}, "id": "/subscriptions/s/resourceGroups/g/x", "name": "c"}
OWN = {"properties": {"networkProfile": {"networkPlugin": "none"}}, "id": "/subscriptions/s/resourceGroups/g/x",
       "name": "c"}
SWITCH_ON = ("echo '{\"enabled\": true}' > kube-proxy.json\naz aks update --resource-group g --name c "
             "--kube-proxy-config kube-proxy.json")
NO_HTTP = {"annotations": {"service.beta.kubernetes.io/azure-load-balancer-health-probe-request-path": "/ok"}}

# id, the cluster, what is broken, the level, a part of the evidence, a part of the command
FIRES = [
    ("nodes", {}, replace("nodes", {"metadata": {"name": "aks-9"}, "status": {}}), "problem", "aks-9", "describe node"),
    ("nodes", {}, replace("nodes"), "problem", "no node", ""),
    ("no-cni", {}, replace("nodes", NO_CNI), "problem", "aks-9", "labkit plan enable-ebpf"),
    ("no-cni", {"azure": OWN}, replace("nodes", NO_CNI), "problem", "aks-9", "--resource-group g --cluster c"),
    ("wrong-image", {}, add("pods", pod("new", "shop", owner="web-5f7", status=waiting("ErrImagePull"))), "problem",
     "an/image:1", "kubectl rollout undo -n shop deployment/web"),
    ("wrong-image", {}, add("pods", pod("new", "shop", status=waiting("ImagePullBackOff"))), "problem", "shop",
     "kubectl describe pod -n shop new"),
    ("crashing", {}, add("pods", pod("bad", "shop", status=waiting("CrashLoopBackOff"))), "problem", "shop/bad",
     "kubectl logs --previous -n shop bad"),
    ("ep-missing", {}, without("configmaps", "kubernetes-services-endpoint"), "problem", "absent", FQDN),
    ("ep-missing", {}, calico(env={}), "problem", "the service 10.0.0.1", "kubectl apply"),
    ("ep-missing", {**ARTICLE, "ebpf": False}, proxy(desired=0), "problem", "absent",
     "kubectl delete pod -n tigera-operator"),
    ("ep-wrong", {}, lambda kube: kube.objects["configmaps"][0].update(data={
        "KUBERNETES_SERVICE_HOST": "other.example", "KUBERNETES_SERVICE_PORT": "443"}), "problem", "other.example",
     FQDN),
    ("ep-wrong", {}, lambda kube: kube.objects["configmaps"][0]["data"].update(KUBERNETES_SERVICE_PORT="6443"),
     "problem", "6443", '"443"'),
    ("ep-dns-deadlock", {"ebpf": False}, both(
        without("daemonsets.apps", "calico-node"), lambda kube: kube.texts.update({"operator-1": LOOKUP})), "problem",
     "no such host", "kubectl delete configmap -n tigera-operator kubernetes-services-endpoint"),
    ("ep-dns-deadlock", {"ebpf": False}, both(
        without("daemonsets.apps", "calico-node"), without("daemonsets.apps", "kube-proxy"), lambda kube:
        kube.texts.update({"operator-1": f"dial tcp: lookup {FQDN}: i/o timeout"})), "problem", "i/o timeout",
     "dnsPolicy"),
    ("ep-dns-deadlock", {"ebpf": False, "azure": OWN}, both(
        without("daemonsets.apps", "calico-node"), without("daemonsets.apps", "kube-proxy"),
        lambda kube: kube.texts.update({"operator-1": LOOKUP})), "problem", "no such host", SWITCH_ON),
    ("ep-both", {}, status("calico", "ResourceValidationError", "bpfNetworkBootstrap is Enabled but the requirements "
                           "are not met: kubernetes service endpoint is defined by the kubernetes-service-endpoints "
                           "ConfigMap"), "problem", "requirements", '"bpfNetworkBootstrap": "Disabled"'),
    ("ep-both", {}, network(bpfNetworkBootstrap="Enabled"), "problem", FQDN, '"bpfNetworkBootstrap": "Disabled"'),
    ("op-refuse", {"ebpf": False}, both(status("calico", "ResourceUpdateError", f"Error updating resource: {REFUSAL}"),
                                        felix(bpfEnabled=True)), "problem", "refusing", '"bpfEnabled": false'),
    ("op-addr", {}, network(nodeAddressAutodetectionV4={"canReach": "8.8.8.8", "firstFound": True}), "problem",
     "canReach, firstFound", '"firstFound": null'),
    ("op-addr", {}, both(network(nodeAddressAutodetectionV4={}), status(
        "calico", "InvalidConfigurationError", "Invalid Installation provided: spec.calicoNetwork."
        "nodeAddressAutodetectionV4 is required for the BPF dataplane")), "problem", "is required", "8.8.8.8"),
    ("op-kp", {}, status("kube-proxy", "ResourceValidationError", 'DaemonSet is likely managed by another source due '
                         "to the label addonmanager.kubernetes.io/mode"), "problem", "likely managed", "Disabled"),
    ("op-kp", {}, both(without("daemonsets.apps", "kube-proxy"), network(kubeProxyManagement="Enabled")), "problem",
     "no kube-proxy", '"kubeProxyManagement": "Disabled"'),
    ("operator", {}, status("calico", "PodFailure", "Pod calico-system/x has crash looping container"), "problem",
     "crash looping", "tigerastatus"),
    ("operator", {}, replace("tigerastatuses.operator.tigera.io"), "warning", "not reported", "tigerastatus"),
    ("calico-node", {}, calico(ready=1), "problem", "1 of 2", "kubectl logs"),
    ("kube-proxy-gone", {**ARTICLE, "ebpf": False}, proxy(desired=0), "problem", "0 of 0", '"non-calico": null'),
    ("kube-proxy-gone", {"ebpf": False, "azure": OWN}, without("daemonsets.apps", "kube-proxy"), "problem",
     "no kube-proxy; eBPF is off", SWITCH_ON),
    ("kp-back", {}, proxy(desired=0, selector={"non-calico": "true"}), "problem", "add-on manager", "null"),
    ("kp-fight", {}, felix(bpfKubeProxyIptablesCleanupEnabled=None), "problem", "removes",
     '"bpfKubeProxyIptablesCleanupEnabled": false'),
    ("kp-fight", ARTICLE, proxy(), "problem", "removes", '"non-calico": "true"'),
    ("kp-healthz", {}, both(felix(bpfKubeProxyHealthzPort=10256), said(HEALTHZ)), "problem", "already in use", "10258"),
    ("kp-healthz", {}, both(lambda kube: kube.get(FELIX, "default")["spec"].pop("bpfKubeProxyHealthzPort"),
                            said("failed to start proxy healthz on 0.0.0.0:10256: address already in use")), "problem",
     "aks-2", "10258"),
    ("kp-healthz", {"calico": "v3.32.1"}, felix(bpfKubeProxyHealthzPort=10256), "warning", "both", ": 0}"),
    ("kp-ipvs", {}, proxy(args=("--proxy-mode=ipvs",)), "problem", "ipvs", ""),
    ("kp-ipvs", {}, add("configmaps", {"metadata": world.meta("kube-proxy", "kube-system"),
                                       "data": {"config.conf": 'a: b\nmode: "ipvs"\n'}}), "problem", "ipvs", ""),
    ("kp-ipvs", {"ebpf": False}, said("kube-proxy mode changed. Restart felix."), "warning", "Restart felix", ""),
    ("bpf-kernel", {}, said("BPF dataplane mode enabled but not supported by the kernel.  Disabling BPF mode."),
     "problem", "aks-2", ""),
    ("bpf-kernel", {}, said("BPF data plane mode enabled but not supported by the kernel."), "problem", "aks-2", ""),
    ("verifier", {}, said("Failed to apply policy to endpoint, leaving it dirty"), "problem", "dirty", ""),
    ("verifier", {}, both(felix(bpfLogLevel="Debug"), said("prog 'calico_tc' failed to load: -13")), "problem", "-13",
     '"bpfLogLevel": "Off"'),
    ("ctlb-cgroup", {}, said("failed to attach calico_connect_v4 to cgroup /run/calico/cgroup"), "problem", "cgroup",
     ""),
    ("ctlb-udp", {}, felix(bpfHostNetworkedNATWithoutCTLB="Disabled"), "problem", "Disabled", "Enabled"),
    ("dsr-azure", {}, felix(bpfExternalServiceMode="DSR"), "warning", "DSR", "Tunnel"),
    ("mtu", {}, network(mtu=1500), "warning", "1500", '"mtu": 1350'),
    ("mtu", {"ebpf": False}, network(mtu=1500, ipPools=[{"encapsulation": "VXLANCrossSubnet"}]), "warning", "1500", ""),
    ("vf", {"operator": "v1.34.7", "calico": "v3.28.2"}, lambda kube: kube.answers.update({
        "calico-aks-1": "  3 : {flags: workload,ready, name: azv1}\n", "calico-aks-2": "2: {name: enP30832s1}"}),
     "problem", "aks-2: enP30832s1", "bpfDataIfacePattern"),
    ("oom", {}, add("pods", pod("calico-3", "calico-system", status=killed(), **{"k8s-app": "calico-node"})), "problem",
     "OOMKilled", "1Gi"),
    ("oom", {}, limited, "warning", "512Mi", "1Gi"),
    ("wg", {}, felix(wireguardEnabled=True), "warning", "wireguardEnabled", "false"),
    ("no-endpoints", {}, both(replace("endpointslices.discovery.k8s.io"), replace(
        "services", service("web", selector={"app": "webb"}))), "problem", "app=webb", '{"app": "web"}'),
    ("no-endpoints", {}, replace("endpointslices.discovery.k8s.io", slice_of("web")), "problem", "shop/web",
     "kubectl describe pods -n shop -l app=web"),
    ("policy-denies", {}, add("networkpolicies.networking.k8s.io", policy("hardening")), "problem", "shop/hardening",
     "kubectl delete networkpolicy -n shop hardening"),
    ("lb-local", {}, both(balanced(externalTrafficPolicy="Local"), replace(
        "endpointslices.discovery.k8s.io", slice_of("web", "aks-1"))), "warning", "no pod on aks-2", '"Cluster"'),
    ("lb-local", {}, both(balanced(externalTrafficPolicy="Local"), said(
        'Failed to start healthcheck for "shop/web" on port 32000: address already in use')), "warning", "32000",
     '"Cluster"'),
    ("lb-probe", {"azure": SHARED, **ARTICLE}, lambda kube: None, "problem", "Shared", "-g g -n c"),
    ("lb-probe", {}, lambda kube: None, "unknown", "not asked", ""),
    ("lb-http", {}, balanced(ports=({"port": 80, "appProtocol": "HTTP"},)), "warning", "shop/web", "annotate"),
    ("lb-ranges", {}, balanced(loadBalancerSourceRanges=["203.0.113.0/24"]), "warning", "10.224.0.0/16",
     '["203.0.113.0/24", "10.224.0.0/16"]'),
]

# What is like one of these faults and is none, and what could not be looked at.
QUIET = [
    ("nodes", {}, replace("nodes", NO_CNI), "ok"),
    ("no-cni", {}, replace("nodes", {"metadata": {"name": "aks-9"}, "status": {}}), "ok"),
    ("ep-missing", {"ebpf": False}, lambda kube: None, "ok"),
    ("ep-missing", {}, both(network(bpfNetworkBootstrap="Enabled"), calico(env={}),
                            without("configmaps", "kubernetes-services-endpoint")), "ok"),
    ("ep-dns-deadlock", {}, lambda kube: kube.texts.update({"operator-1": LOOKUP}), "ok"),
    ("ep-dns-deadlock", {}, both(without("daemonsets.apps", "calico-node"),
                                 lambda kube: kube.texts.update({"operator-1": None})), "unknown"),
    ("operator", {}, status("calico", "x", REFUSAL), "ok"),
    ("op-kp", {}, both(network(kubeProxyManagement="Enabled"), without("daemonsets.apps", "kube-proxy"), add(
        "daemonsets.apps", daemon_set("kube-proxy", "kube-system", "i"))), "ok"),
    ("kp-back", ARTICLE, lambda kube: None, "ok"),
    ("kp-fight", {"ebpf": False}, felix(bpfKubeProxyIptablesCleanupEnabled=True), "ok"),
    ("kp-healthz", {}, said(HEALTHZ), "ok"),
    ("kp-healthz", {}, both(felix(bpfKubeProxyHealthzPort=10256),
                            lambda kube: kube.texts.update({"calico-aks-2": None})), "unknown"),
    ("verifier", {"ebpf": False}, said("leaving it dirty"), "ok"),
    ("verifier", {}, lambda kube: kube.texts.update({"calico-aks-1": None}), "unknown"),
    ("bpf-kernel", {}, without("pods", "calico-aks-1"), "ok"),
    ("ctlb-udp", {}, felix(bpfHostNetworkedNATWithoutCTLB="Disabled", bpfConnectTimeLoadBalancing="Enabled"), "ok"),
    ("mtu", {}, network(mtu=1450), "ok"), ("mtu", {"ebpf": False}, network(mtu=1500), "ok"),
    ("vf", {"operator": "v1.34.7", "calico": "v3.28.2"}, lambda kube: kube.answers.update(
        {"calico-aks-1": "2: {name: eth0}", "calico-aks-2": "2: {name: eth0}"}), "ok"),
    ("vf", {"operator": "v1.34.7", "calico": "v3.28.2"}, lambda kube: None, "unknown"),
    ("vf", {}, lambda kube: kube.answers.update({"calico-aks-1": "enP1s1"}), "ok"),
    ("wg", {"ebpf": False}, felix(wireguardEnabled=True), "ok"),
    ("no-endpoints", {}, add("services", {**service("old"), "metadata": world.meta("old", deletionTimestamp="now")}),
     "ok"),
    ("no-endpoints", {}, both(add("services", service("old", namespace="old")), add(
        "namespaces", {"metadata": {"name": "old", "deletionTimestamp": "now"}})), "ok"),
    ("kp-ipvs", {}, lambda kube: kube.texts.update({"calico-aks-1": None}), "unknown"),
    ("no-endpoints", {}, add("services", service("far", type="ExternalName", externalName="x")), "ok"),
    ("policy-denies", {}, add("networkpolicies.networking.k8s.io", policy("base"), policy("let", ingress=[{}])), "ok"),
    ("policy-denies", {}, add("networkpolicies.networking.k8s.io", policy("x", selector={"matchLabels": {"app": "y"}})),
     "ok"),
    ("lb-local", {}, balanced(externalTrafficPolicy="Local"), "ok"),
    ("lb-probe", {"azure": SHARED}, lambda kube: None, "ok"),
    ("lb-http", {}, balanced(ports=({"port": 80, "appProtocol": "http"},), **NO_HTTP), "ok"),
    ("lb-ranges", {}, balanced(loadBalancerSourceRanges=["203.0.113.0/24", "10.224.0.0/16"]), "ok"),
    ("lb-ranges", {"ebpf": False}, balanced(loadBalancerSourceRanges=["203.0.113.0/24"]), "ok"),
]
BY_ID = {check.row.id: check for check in CLUSTER_CHECKS}


@pytest.mark.parametrize(("row", "made", "change", "level", "evidence", "command"), FIRES,
                         ids=[f"{n}-{case[0]}" for n, case in enumerate(FIRES)])
def test_it_fires(row, made, change, level, evidence, command):
    found = BY_ID[row](snapshot(**made, change=change))
    assert found.level == level
    assert evidence in found.evidence
    assert command in found.command
    assert bool(command) <= bool(found.command)


@pytest.mark.parametrize(("row", "made", "change", "level"), QUIET,
                         ids=[f"{n}-{case[0]}" for n, case in enumerate(QUIET)])
def test_it_stays_quiet(row, made, change, level):
    found = BY_ID[row](snapshot(**made, change=change))
    assert found.level == level, found.evidence
    assert not found.command


@pytest.mark.parametrize("made", [
    {}, {"ebpf": False}, ARTICLE, {**ARTICLE, "ebpf": False}, {"operator": None}, {"calico": "v3.32.1"},
])
def test_healthy_clusters_are_well(made):
    azure = {"properties": {}, "name": "c", "id": "/subscriptions/s/resourceGroups/g/x"}
    found = [check(snapshot(azure, **made)) for check in CLUSTER_CHECKS]
    assert [str(f) for f in found if f.level != "ok"] == []


def test_each_check_is_seen_to_fire():
    assert {case[0] for case in FIRES} == set(BY_ID)


CLUSTER = {"name": "c", "id": "/subscriptions/s/resourceGroups/g/x", "properties": {
    "provisioningState": "Succeeded", "powerState": {"code": "Running"}, "networkProfile": {"networkPlugin": "azure"}}}


def resource(**properties):
    found = copy.deepcopy(CLUSTER)
    found["properties"].update(properties)
    return found


BYO = {"networkPlugin": "none", "serviceCidr": "10.0.0.0/16"}
AZURE = [
    ("az-state", AzureView(resource(powerState={"code": "Stopped"})), "problem", "az aks start -g g -n c"),
    ("az-state", AzureView(resource(provisioningState="Failed")), "problem", "az aks update -g g -n c"),
    ("az-state", AzureView(resource(provisioningState="Updating")), "warning", "az aks wait"),
    ("az-local", AzureView(resource(disableLocalAccounts=True)), "warning", "--format exec"),
    ("az-kubelogin", AzureView(resource(disableLocalAccounts=True)), "problem", "install-cli"),
    ("az-kubelogin", AzureView(CLUSTER, helpers=("kubelogin",)), "problem", "install-cli"),
    ("az-kubelogin", AzureView(CLUSTER, helpers=("kubelogin",), here=frozenset({"kubelogin"})), "ok", ""),
    ("az-podcidr", AzureView(resource(networkProfile=BYO)), "problem", ""),
    ("az-podcidr", AzureView(resource(networkProfile={**BYO, "podCidr": "172.30.0.0/16"})), "problem", ""),
    ("az-podcidr", AzureView(resource(networkProfile={**BYO, "podCidr": "10.0.128.0/17"})), "problem", ""),
    ("az-podcidr", AzureView(resource(networkProfile={**BYO, "podCidr": "192.168.0.0/16"})), "ok", ""),
]


@pytest.mark.parametrize(("row", "view", "level", "command"), AZURE)
def test_the_cluster_as_azure_has_it(row, view, level, command):
    found = {check.row.id: check for check in AZURE_CHECKS}[row](view)
    assert found.level == level
    assert command in found.command


def test_a_healthy_resource_is_well():
    assert [str(f) for f in (check(AzureView(CLUSTER)) for check in AZURE_CHECKS) if f.level != "ok"] == []


@pytest.mark.parametrize(("selector", "holds"), [
    ({}, True), ({"matchLabels": {"app": "web"}}, True), ({"matchLabels": {"app": "db"}}, False),
    ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
    ({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}, True),
    ({"matchExpressions": [{"key": "x", "operator": "Exists"}]}, False),
    ({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}, True),
])
def test_selectors(selector, holds):
    assert _selects(selector, {"app": "web"}) is holds


def test_rows_are_complete_and_each_id_is_one():
    rows = diagnosis.rows()
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert all((row.group, row.title, row.symptom, row.cause, row.cure, row.source)), row.id
