"""Manifests that Kubernetes refuses, and its words; each was held against Kubernetes 1.20.2."""

from __future__ import annotations

import pytest

from labkit.local.kubeapi import Api

from .test_verbs import deployment, pod, refusal, service


def container(**of) -> dict:
    return pod(containers=[{"name": "a", "image": "x", **of}])


def variable(**source) -> dict:
    return container(env=[{"name": "A", **source}])


C = "spec.containers[0]"
POD_CASES = [
    (container(livenessProbe={}), f"{C}.livenessProbe: Required value: must specify a handler type"),
    (container(livenessProbe={"tcpSocket": {"port": 80}, "httpGet": {"port": 80}}),
     f"{C}.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"),
    (container(livenessProbe={"tcpSocket": {"port": 80}, "successThreshold": 2}),
     f"{C}.livenessProbe.successThreshold: Invalid value: 2: must be 1"),
    (container(readinessProbe={"httpGet": {"path": "/"}}),
     f"{C}.readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    (container(lifecycle={"preStop": {}}), f"{C}.lifecycle.preStop: Required value: must specify a handler type"),
    (container(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
     f'{C}.resources.requests: Invalid value: "2": must be less than or equal to cpu limit'),
    (container(resources={"requests": {"foo": "1"}}),
     f'{C}.resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers'),
    (container(resources={"limits": {"cpu": "-1"}}),
     f'{C}.resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0'),
    (pod(containers=[{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/x"}] * 2}],
         volumes=[{"name": "v", "emptyDir": {}}]),
     f'{C}.volumeMounts[1].mountPath: Invalid value: "/x": must be unique'),
    (pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
     "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"),
    (pod(volumes=[{"name": "v", "hostPath": {"path": "../x"}}]),
     'spec.volumes[0].hostPath.path: Invalid value: "../x": must not contain \'..\''),
    (pod(volumes=[{"name": "v", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "spec.foo"}}]}}]),
     'spec.volumes[0].downwardAPI.fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field'
     " label not supported: spec.foo"),
    (variable(valueFrom={"fieldRef": {"fieldPath": "spec.foo"}}),
     f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo"'),
    (variable(value="b", valueFrom={"fieldRef": {"fieldPath": "spec.nodeName"}}),
     f'{C}.env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'),
    (variable(valueFrom={}), f'{C}.env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`'),
    (pod(tolerations=[{"operator": "Equal"}]), 'spec.tolerations[0].operator: Invalid value: "Equal": operator must be'
     " Exists when `key` is empty"),
    (pod(tolerations=[{"key": "a", "effect": "Nope"}]), 'spec.tolerations[0].effect: Unsupported value: "Nope"'),
    (pod(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647"),
    (pod(nodeSelector={"a b": "c"}), 'spec.nodeSelector: Invalid value: "a b": name part must consist of'),
    (pod(hostNetwork=True, containers=[{"name": "a", "image": "x", "ports": [{"containerPort": 80, "hostPort": 81}]}]),
     f"{C}.ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true"),
]


@pytest.mark.parametrize(("manifest", "text"), POD_CASES, ids=[text.partition(": ")[0] for _, text in POD_CASES])
def test_a_pod_that_cannot_be(api: Api, manifest: dict, text: str) -> None:
    error = refusal(api.create, "pods", manifest, "default")
    assert (error.code, error.reason) == (422, "Invalid")
    assert text in error.message


def test_a_pod_that_uses_everything_is_accepted(api: Api) -> None:
    port = {"tcpSocket": {"port": "web"}}
    out = api.create("pods", container(
        ports=[{"containerPort": 80, "name": "web"}], livenessProbe=port, startupProbe=port,
        readinessProbe={**port, "successThreshold": 2}, resources={"limits": {"cpu": "1", "memory": "1Gi"},
                                                                   "requests": {"cpu": "999m", "memory": "1000Mi"}},
        env=[{"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
             {"name": "E", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        lifecycle={"preStop": {"exec": {"command": ["true"]}}}), "default")
    assert out["status"]["phase"] == "Pending"


OTHERS = [
    ("deployments.apps", {**deployment(), "spec": {**deployment()["spec"], "strategy": {"type": "Nope"}}},
     'strategy.type: Unsupported value: "Nope": supported values: "Recreate", "RollingUpdate"'),
    ("deployments.apps", {**deployment(), "spec": {**deployment()["spec"], "strategy": {
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}, "may not be 0 when `maxSurge` is 0"),
    ("configmaps", {"metadata": {"name": "c"}, "data": {"a b": "x"}},
     'data[a b]: Invalid value: "a b": a valid config key must consist of'),
    ("configmaps", {"metadata": {"name": "c", "finalizers": ["x"]}},
     'metadata.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully'),
    ("roles.rbac.authorization.k8s.io", {"metadata": {"name": "r"}, "rules": [{"verbs": []}]},
     "rules[0].resources: Required value: resource rules must supply at least one resource"),
    ("services", service(type="LoadBalancer", loadBalancerSourceRanges=["nope"]),
     'spec.LoadBalancerSourceRanges: Invalid value: "[nope]": must be a list of IP ranges.'),
    ("services", service(loadBalancerSourceRanges=["10.0.0.0/8"]),
     "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"),
    ("services", service(externalIPs=["192.0.2.7", "127.0.0.1"]),
     'spec.externalIPs[1]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8)'),
    ("services", service(externalIPs=["x"]), 'spec.externalIPs[0]: Invalid value: "x": must be a valid IP address'),
    ("services", service(clusterIP="abc"), 'spec.clusterIPs[0]: Invalid value: "abc": must be a valid IP address'),
    ("priorityclasses.scheduling.k8s.io", {"metadata": {"name": "p"}, "value": 1_000_000_001},
     "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
]


@pytest.mark.parametrize(("resource", "manifest", "text"), OTHERS, ids=[text[:40] for _, _, text in OTHERS])
def test_other_kinds_that_cannot_be(api: Api, resource: str, manifest: dict, text: str) -> None:
    error = refusal(api.create, resource, manifest, "default")
    assert (error.code, error.reason) == (422, "Invalid")
    assert text in error.message


def test_requests_follow_limits_in_pods_and_not_in_templates(api: Api) -> None:
    limited = {"resources": {"limits": {"cpu": "1"}}}
    out = api.create("pods", container(**limited), "default")
    assert out["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1"}
    manifest = deployment()
    manifest["spec"]["template"]["spec"] = container(**limited)["spec"]
    out = api.create("deployments.apps", manifest, "default")
    assert out["spec"]["template"]["spec"]["containers"][0]["resources"] == limited["resources"]


def test_fields_that_cannot_be_selected_on(api: Api) -> None:
    assert refusal(api.list, "pods", field_selector="foo=bar").message == "field label not supported: foo"
    assert refusal(api.list, "configmaps", field_selector="foo=bar").message == (
        '"foo" is not a known field selector: only "metadata.name", "metadata.namespace"')
