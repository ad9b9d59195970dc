"""The four kinds of patch."""

from __future__ import annotations

import pytest

from labkit.local.client import ApiError
from labkit.local.kubeapi import Api
from labkit.local.kubeapi.decoding import settle
from labkit.local.kubeapi.patches import json_patch
from labkit.local.kubeapi.strategic import strategic_merge

from .test_verbs import deployment, refusal


def test_strategic_merge_merges_lists_by_their_keys() -> None:
    pod = {"spec": {"containers": [
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
         "ports": [{"containerPort": 80}]}, {"name": "b", "image": "1"}],
        "tolerations": [{"key": "k"}], "nodeSelector": {"x": "y"}}}
    out = strategic_merge(pod, {"spec": {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
        "containers": [{"name": "a", "image": "2", "env": [
            {"name": "X", "$patch": "delete"}, {"name": "Z", "value": "3"}],
                        "ports": [{"containerPort": 443, "name": "tls"}]},
                       {"name": "b", "$patch": "delete"}, {"name": "c", "image": "9"}],
        "tolerations": [{"key": "other"}], "nodeSelector": {"x": None, "n": "m"}}}, "Pod")
    assert out == {"spec": {
        "containers": [
            {"name": "c", "image": "9"},
            {"name": "a", "image": "2", "env": [{"name": "Z", "value": "3"}, {"name": "Y", "value": "2"}],
             "ports": [{"containerPort": 443, "name": "tls"}, {"containerPort": 80}]}],
        "tolerations": [{"key": "other"}], "nodeSelector": {"n": "m"}}}


def test_strategic_merge_directives() -> None:
    assert strategic_merge({"spec": {"a": 1}}, {"spec": {"$patch": "replace", "b": 2}}, "Pod") == {"spec": {"b": 2}}
    assert strategic_merge({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}}, {
        "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, "Deployment") == {
            "spec": {"strategy": {"type": "Recreate"}}}
    assert strategic_merge({"metadata": {"finalizers": ["a", "b"]}}, {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}, "Pod") == {
            "metadata": {"finalizers": ["c", "b"]}}
    service = {"spec": {"ports": [{"port": 80, "nodePort": 1}]}}
    assert strategic_merge(service, {"spec": {"ports": [{"port": 80, "targetPort": 9}]}}, "Service") == {
        "spec": {"ports": [{"port": 80, "nodePort": 1, "targetPort": 9}]}}
    with pytest.raises(ApiError, match=r"map: map\[image:x\] does not contain declared merge key: name"):
        strategic_merge({}, {"spec": {"containers": [{"image": "x"}]}}, "Pod")


def test_strategic_merge_orders_lists_as_kubernetes_does() -> None:
    """What a patch adds comes before what it does not name; what it names is in its order."""
    def names(*given: str) -> list[dict]:
        return [{"name": n} for n in given]

    for have, patch, expected in (("c", "d", "d c"), ("A B", "Z B Q A", "Z B Q A"), ("a b c", "c", "a b c"),
                                  ("a b c", "x a", "x a b c"), ("a b", "b x", "a b x")):
        out = strategic_merge({"env": names(*have.split())}, {"env": names(*patch.split())}, "containers")
        assert " ".join(e["name"] for e in out["env"]) == expected


def test_json_patch(api: Api) -> None:
    api.create("deployments.apps", deployment(), "default")
    out = api.patch("deployments.apps", "web", [
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 4}], "default", type="json")
    assert out["spec"]["replicas"] == 4
    error = refusal(api.patch, "deployments.apps", "web", [{"op": "remove", "path": "/spec/none"}], "default",
                    type="json")
    assert (error.code, error.reason, error.message) == (
        422, "Invalid", "the server rejected our request due to an error in our request")
    assert not error.details, "kubectl would print what Python says of it"
    assert refusal(api.patch, "deployments.apps", "web", [{"op": "dance"}], "default", type="json").code == 422
    bare = json_patch({"metadata": {"labels": {}}}, [{"op": "add", "path": "/metadata/labels/x"}])
    settle(api.served_of("v1", "Pod"), bare)
    assert bare == {"metadata": {"labels": {"x": ""}}}, "no value is null, and null in a map of strings is empty"


def applied(image: str, **more) -> dict:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, **more,
        "template": {"metadata": {"labels": {"app": "web"}},
                     "spec": {"containers": [{"name": "c", "image": image}]}}}}


def test_apply_finds_conflicts_and_removes_what_is_no_longer_applied(api: Api) -> None:
    def apply(obj: dict, manager: str, force: bool = False) -> dict:
        return api.patch("deployments.apps", "web", obj, "default", type="apply", field_manager=manager, force=force)

    made = apply(applied("1", replicas=2, minReadySeconds=5), "one")
    assert made["metadata"]["managedFields"][0]["manager"] == "one"
    assert apply(applied("1", replicas=2, minReadySeconds=5), "one") is made        # nothing to do, nothing written
    error = refusal(apply, applied("2"), "two")
    assert error.code == 409
    assert error.message == ('Apply failed with 1 conflict: conflict with "one": '
                             '.spec.template.spec.containers[name="c"].image')
    assert apply(applied("2"), "two", force=True)["spec"]["template"]["spec"]["containers"][0]["image"] == "2"
    less = apply(applied("2", replicas=2), "one")
    assert "minReadySeconds" not in less["spec"]
    assert less["spec"]["replicas"] == 2
    assert {m["manager"] for m in less["metadata"]["managedFields"]} == {"one", "two"}


def test_apply_to_what_was_created_before(api: Api) -> None:
    api.create("deployments.apps", deployment(), "default")
    error = refusal(api.patch, "deployments.apps", "web", applied("2"), "default", type="apply", field_manager="me",
                    force=False)
    assert 'conflict with "before-first-apply" using apps/v1: .spec' in error.message


def test_apply_takes_items_of_a_list_out_whole_or_leaves_their_key(api: Api) -> None:
    """A set has no order: with a dozen items some would lose their key first, if it mattered."""
    def apply(names: list[str], manager: str) -> list[dict]:
        manifest = applied("1")
        manifest["spec"]["template"]["spec"]["containers"] = [{"name": n, "image": "1"} for n in names]
        made = api.patch("deployments.apps", "web", manifest, "default", type="apply", field_manager=manager,
                         force=False)
        return made["spec"]["template"]["spec"]["containers"]

    dozen = [f"c{i}" for i in range(12)]
    apply(dozen, "one")
    assert [c["name"] for c in apply(["c0"], "one")] == ["c0"]
    apply(dozen, "one")
    apply(["c0", "c1", "c2", "c3", "c4", "c5"], "two")
    assert [c["name"] for c in apply(["c0"], "one")] == dozen[:6], "what another manager applies stays, with its name"
