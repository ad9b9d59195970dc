"""What kinds are made of: documents, and what happens to fields that a kind does not have."""

from __future__ import annotations

import json

import pytest

from labkit.local.client import ApiError
from labkit.local.kubeapi import Api
from labkit.local.kubeapi.decoding import settle
from labkit.local.kubeapi.models import class_of, model

from .conftest import Served
from .test_http import call, kubectl
from .test_verbs import deployment, pod


def test_models_are_read_from_the_client() -> None:
    assert class_of("", "v1", "Event") == "CoreV1Event"
    assert class_of("apps", "v1", "Nothing") is None
    port = model("V1ServicePort").fields
    assert (port["port"].kind, port["port"].required) == ("integer", True)
    assert (port["targetPort"].kind, port["targetPort"].required) == ("intOrString", False)
    assert "exposed by this service" in port["port"].description
    limits = model("V1ResourceRequirements").fields["limits"]
    assert (limits.kind, limits.outer) == ("quantity", "map")
    assert model("CoreV1Event").short == "Event"


def test_unknown_fields_go_and_quantities_become_text(api: Api) -> None:
    obj = pod(foo=1)
    obj["spec"]["containers"][0] |= {"bar": {}, "resources": {"limits": {"cpu": 2}}}
    assert settle(api.served_of("v1", "Pod"), obj) == ["spec.containers[0].bar", "spec.foo"]
    assert "foo" not in obj["spec"]
    assert obj["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "2"}}


@pytest.mark.parametrize(("kind", "obj", "said"), [
    ("Pod", {"spec": {"hostNetwork": "yes"}}, "string into Go struct field PodSpec.spec.hostNetwork of type bool"),
    ("Pod", {"metadata": {"labels": {"a": 1}}},
     "number into Go struct field ObjectMeta.metadata.labels of type string"),
    ("Service", {"spec": {"ports": {}}}, "object into Go struct field ServiceSpec.spec.ports of type []ServicePort"),
    ("ConfigMap", {"data": {"a": True}}, "bool into Go struct field ConfigMap.data of type string"),
])
def test_a_wrong_type_is_refused(api: Api, kind: str, obj: dict, said: str) -> None:
    with pytest.raises(ApiError, match="cannot be handled as a") as caught:
        settle(api.served_of("v1", kind), obj)
    assert caught.value.code == 400
    assert f"json: cannot unmarshal {said}" in str(caught.value)


def test_kubectl_leaves_the_check_to_the_api(served: Served) -> None:
    wrong = deployment()
    wrong["spec"]["foo"] = 1
    manifest = json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", **wrong})
    strict = kubectl(served, "apply", "-f", "-", stdin=manifest)
    assert strict.returncode == 1
    assert 'strict decoding error: unknown field "spec.foo"' in strict.stderr
    told = kubectl(served, "apply", "--validate=warn", "-f", "-", stdin=manifest)
    assert told.returncode == 0
    assert 'Warning: unknown field "spec.foo"' in told.stderr
    applied = kubectl(served, "apply", "--server-side", "-f", "-", stdin=manifest)
    assert ".spec.foo: field not declared in schema" in applied.stderr


def test_kubectl_explains(served: Served) -> None:
    said = kubectl(served, "explain", "pods.spec.containers").stdout
    assert "FIELD: containers <[]Container>" in said
    assert "image\t<string>" in said
    said = kubectl(served, "explain", "deployment", "--recursive").stdout
    assert "maxSurge\t<IntOrString>" in said
    assert "name\t<string> -required-" in said


def test_a_custom_kind_is_in_the_documents(served: Served) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "description": "how it ticks", "properties": {
        "size": {"type": "integer"}}}}}
    served.run(served.api.create, "customresourcedefinitions.apiextensions.k8s.io", {
        "metadata": {"name": "clocks.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "clocks", "kind": "Clock"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}})
    said = kubectl(served, "explain", "clock.spec").stdout
    assert "how it ticks" in said
    assert "size\t<integer>" in said
    made = kubectl(served, "create", "-f", "-", stdin=json.dumps(
        {"apiVersion": "example.com/v1", "kind": "Clock", "metadata": {"name": "c"}, "spec": {"sice": 1}}))
    assert 'unknown field "spec.sice"' in made.stderr
    code, document = call(served, "/openapi/v2")
    assert code == 200
    assert document["definitions"]["com.example.v1.Clock"]["properties"]["metadata"]
    assert document["definitions"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"] == [
        {"group": "", "version": "v1", "kind": "Pod"}]
