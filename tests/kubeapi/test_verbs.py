"""Create, update, delete and their refusals, in process."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.local.client import ApiError, copy_of
from labkit.local.kubeapi import Api

from .conftest import make_api


def pod(name: str = "p", **spec) -> dict:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec}}


def service(name: str = "web", **spec) -> dict:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def deployment(name: str = "web", labels: dict | None = None) -> dict:
    return {"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": labels or {"app": "web"}}, "spec": pod()["spec"]}}}


def refusal(call, *args, **kwargs) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*args, **kwargs)
    return caught.value


def test_refusals_read_as_kubernetes_words_them(api: Api) -> None:
    api.create("services", service(), "default")
    cases = [
        (api.get, ("pods", "x", "default"), 404, "NotFound", 'pods "x" not found'),
        (api.get, ("deployments.apps", "x", "default"), 404, "NotFound", 'deployments.apps "x" not found'),
        (api.create, ("services", service(), "default"), 409, "AlreadyExists", 'services "web" already exists'),
        (api.create, ("pods", pod(), "nope"), 404, "NotFound", 'namespaces "nope" not found'),
        (api.create, ("pods", {"metadata": {"name": "p"}}, "default"), 422, "Invalid",
         'Pod "p" is invalid: spec.containers: Required value'),
        (api.create, ("services", service("Web"), "default"), 422, "Invalid",
         'Service "Web" is invalid: metadata.name: Invalid value: "Web": a DNS-1035 label must consist of'),
        (api.create, ("services", service("w", clusterIP="1.2.3.4"), "default"), 422, "Invalid",
         "provided IP is not in the valid range. The range of valid IPs is 10.0.0.0/16"),
        (api.create, ("services", {"metadata": {"name": "w"}, "spec": {"ports": [{"port": 0}]}}, "default"), 422,
         "Invalid", "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (api.create, ("deployments.apps", deployment(labels={"app": "other"}), "default"), 422, "Invalid",
         'spec.template.metadata.labels: Invalid value: map[string]string{"app":"other"}: `selector` does not match'),
        (api.list, ("widgets.example.com",), 404, "NotFound", "could not find the requested resource"),
        (api.delete, ("namespaces", "default"), 403, "Forbidden", "this namespace may not be deleted"),
    ]
    for call, args, code, reason, text in cases:
        error = refusal(call, *args)
        assert (error.code, error.reason) == (code, reason)
        assert text in error.message


def test_a_stale_update_is_a_conflict(api: Api) -> None:
    first = api.create("configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}}, "default")
    newer = copy_of(first)
    newer["data"]["a"] = "2"
    api.update("configmaps", newer)
    error = refusal(api.update, "configmaps", {**first, "data": {"a": "3"}})
    assert error.reason == "Conflict"
    assert error.message == ('Operation cannot be fulfilled on configmaps "c": the object has been modified; '
                             "please apply your changes to the latest version and try again")
    assert api.get("configmaps", "c", "default")["data"] == {"a": "2"}


def test_a_write_that_changes_nothing_keeps_the_version(api: Api) -> None:
    first = api.create("deployments.apps", deployment(), "default")
    assert api.update("deployments.apps", first) is first
    scaled = api.patch("deployments.apps", "web", {"spec": {"replicas": 3}}, "default")
    assert (first["metadata"]["generation"], scaled["metadata"]["generation"]) == (1, 2)
    status = api.update("deployments.apps", {**scaled, "status": {"replicas": 3}, "spec": {}}, subresource="status")
    assert status["metadata"]["generation"] == 2
    noted = api.patch("deployments.apps", "web", {"metadata": {"annotations": {"a": "b"}, "labels": {"a": "b"}}},
                      "default", subresource="status")
    assert noted["metadata"]["annotations"] == {"a": "b"}, "a status may be written with a note"
    assert "labels" not in noted["metadata"], "a deployment's labels are no part of it"
    assert status["spec"]["replicas"] == 3
    again = api.update("deployments.apps", {**noted, "status": {"replicas": 99}})
    assert again["status"] == {"replicas": 3}


def test_immutable_fields(api: Api) -> None:
    for kind, value in (("configmaps", "1"), ("secrets", "MQ==")):
        api.create(kind, {"metadata": {"name": "c"}, "data": {"a": value}, "immutable": True}, "default")
        for change, field in (({"immutable": False}, "immutable"), ({"data": {"b": value}}, "data")):
            error = refusal(api.patch, kind, "c", change, "default")
            assert error.message.endswith(f"{field}: Forbidden: field is immutable when `immutable` is set")
    made = api.create("deployments.apps", deployment(), "default")
    error = refusal(api.patch, "deployments.apps", "web", {"spec": {
        "selector": {"matchLabels": {"app": "web", "x": "y"}},
        "template": {"metadata": {"labels": {"app": "web", "x": "y"}}}}}, "default")
    assert "spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string{" in error.message
    assert error.message.endswith("field is immutable")
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": "25%"}
    svc = api.create("services", service(), "default")
    other = "10.0.9.9" if svc["spec"]["clusterIP"] != "10.0.9.9" else "10.0.9.8"
    error = refusal(api.patch, "services", "web", {"spec": {"clusterIP": other}}, "default")
    assert "may not change once set" in error.message
    api.create("pods", pod(), "default")
    error = refusal(api.patch, "pods", "p", {"spec": {"hostNetwork": True}}, "default")
    assert "pod updates may not change fields other than `spec.containers[*].image`" in error.message
    changed = api.patch("pods", "p", {"spec": {"containers": [{"name": "c", "image": "other"}]}}, "default",
                        type="strategic")
    assert changed["spec"]["containers"][0]["image"] == "other"


def test_node_ports_are_handed_out_once_and_come_back(api: Api) -> None:
    one = api.create("services", service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]), "default")
    error = refusal(api.create, "services", service("b", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]),
                    "default")
    assert error.message.endswith("nodePort: Invalid value: 30080: provided port is already allocated")
    error = refusal(api.create, "services", service("b", clusterIP=one["spec"]["clusterIP"]), "default")
    assert "provided IP is already allocated" in error.message
    api.delete("services", "a", "default")
    again = api.create("services", service("b", type="LoadBalancer", ports=[{"port": 80, "nodePort": 30080}],
                                           clusterIP=one["spec"]["clusterIP"]), "default")
    back = api.patch("services", "b", {"spec": {"type": "ClusterIP"}}, "default")
    assert again["spec"]["ports"][0]["nodePort"] == 30080
    assert "nodePort" not in back["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in back["spec"]


def test_a_pod_on_a_node_goes_when_its_kubelet_says_so(api: Api) -> None:
    api.create("pods", pod(), "default")
    api.create("pods/binding", {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}, "default")
    bound = api.get("pods", "p", "default")
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    error = refusal(api.create, "pods/binding", {"metadata": {"name": "p"}, "target": {"name": "n2"}}, "default")
    assert 'pod p is already assigned to node "n1"' in error.message
    api.delete("pods", "p", "default")
    going = api.get("pods", "p", "default")
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    api.patch("pods", "p", {"status": {"phase": "Running"}}, "default", subresource="status")
    assert refusal(api.delete, "pods", "p", "default", grace_period=0, uid="other").reason == "Conflict"
    api.delete("pods", "p", "default", grace_period=0, uid=going["metadata"]["uid"])
    assert refusal(api.get, "pods", "p", "default").reason == "NotFound"


def test_finalizers_hold_an_object(api: Api) -> None:
    api.create("configmaps", {"metadata": {"name": "c", "finalizers": ["a.b/c"]}}, "default")
    api.delete("configmaps", "c", "default")
    assert "deletionTimestamp" in api.get("configmaps", "c", "default")["metadata"]
    api.patch("configmaps", "c", {"metadata": {"finalizers": None}}, "default")
    assert refusal(api.get, "configmaps", "c", "default").reason == "NotFound"
    api.create("deployments.apps", deployment(), "default")
    api.delete("deployments.apps", "web", "default", propagation="Foreground")
    assert api.get("deployments.apps", "web", "default")["metadata"]["finalizers"] == ["foregroundDeletion"]


def test_a_namespace_takes_nothing_new_once_it_is_going(api: Api) -> None:
    api.create("namespaces", {"metadata": {"name": "n"}})
    api.delete("namespaces", "n")
    assert api.get("namespaces", "n")["status"]["phase"] == "Terminating"
    error = refusal(api.create, "pods", pod(), "n")
    assert error.message == ('pods "p" is forbidden: unable to create new content in namespace n because it is being '
                             "terminated")
    api.update("namespaces", {"metadata": {"name": "n"}, "spec": {"finalizers": []}}, subresource="finalize")
    assert refusal(api.get, "namespaces", "n").reason == "NotFound"


def test_restart_keeps_objects_and_versions_grow(tmp_path: Path) -> None:
    first = make_api(tmp_path / "x.db")
    kept = first.create("services", service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]), "default")
    first.create("pods", pod(), "default")
    first.delete("pods", "p", "default")
    before = first.machinery.store.rv
    token = first.create("serviceaccounts", {"metadata": {"name": "sa"}}, "default") and first.create(
        "serviceaccounts/token", {"metadata": {"name": "sa"}}, "default")["status"]["token"]
    before = first.machinery.store.rv
    first.machinery.store._db.close()                    # no clean end

    second = make_api(tmp_path / "x.db")
    assert second.get("services", "web", "default") == kept
    assert refusal(second.get, "pods", "p", "default").reason == "NotFound"
    assert second.machinery.store.rv == before
    assert int(second.create("pods", pod(), "default")["metadata"]["resourceVersion"]) == before + 1
    assert "already allocated" in refusal(second.create, "services", service(
        "b", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]), "default").message
    user = second.user_of(token)
    assert user
    assert user.name == "system:serviceaccount:default:sa"
    second.delete("serviceaccounts", "sa", "default")
    assert second.user_of(token) is None
    assert second.user_of(token[:-2] + "xx") is None
    second.close()


def test_deleting_last_keeps_the_version_after_restart(tmp_path: Path) -> None:
    first = make_api(tmp_path / "x.db")
    for i in range(300):
        first.create("configmaps", {"metadata": {"name": f"c{i}"}}, "default")
        first.delete("configmaps", f"c{i}", "default")
    version = first.machinery.store.rv
    first.close()
    second = make_api(tmp_path / "x.db")
    assert second.machinery.store.rv == version
    second.close()


def test_selectors(api: Api) -> None:
    for name, labels, node in (("a", {"app": "x"}, "n1"), ("b", {"app": "y"}, "n1"), ("c", {"tier": "z"}, "n2")):
        obj = pod(name, nodeName=node)
        obj["metadata"]["labels"] = labels
        api.create("pods", obj, "default")

    def names(label: str | None = None, field: str | None = None) -> str:
        return "".join(p["metadata"]["name"] for p in api.list("pods", label_selector=label, field_selector=field))

    assert names("app=x") == "a"
    assert names("app!=x") == "bc"
    assert names("app in (x, y)") == "ab"
    assert names("app notin (x),app") == "b"
    assert names("!app") == "c"
    assert names(field="spec.nodeName=n1") == "ab"
    assert names("app=x", "spec.nodeName!=n1") == ""
    assert names(field="metadata.name=c") == "c"
    assert names(field="spec.hostNetwork=true") == ""
    assert names(field="spec.hostNetwork=false") == names(), "what is not written down is false"
    for name, source in (("old", {"source": {"component": "kubelet"}}), ("new", {"reportingComponent": "kubelet"}),
                         ("other", {"reportingComponent": "mine"})):
        api.create("events", {"metadata": {"name": name, "namespace": "default"},
                              "involvedObject": {"namespace": "default"}, **source}, "default")
    assert {e["metadata"]["name"] for e in api.list("events", field_selector="source=kubelet")} == {"old", "new"}
    assert refusal(api.list, "pods", field_selector="spec.foo=1").message == "field label not supported: spec.foo"
    assert refusal(api.list, "pods", label_selector="a=b=c").reason == "BadRequest"


@pytest.mark.parametrize(("resources", "expected"), [
    ({}, "BestEffort"), ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
    ({"requests": {"cpu": "1", "memory": "1Gi"}}, "Burstable")])
def test_quality_of_service(api: Api, resources: dict, expected: str) -> None:
    made = api.create("pods", pod(containers=[{"name": "c", "image": "busybox", "resources": resources}]), "default")
    assert made["status"]["qosClass"] == expected
