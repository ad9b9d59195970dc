"""Custom resource definitions."""

from __future__ import annotations

from pathlib import Path

from labkit.local.kubeapi import Api

from .conftest import make_api
from .test_verbs import refusal

WIDGETS = {
    "metadata": {"name": "widgets.example.com"},
    "spec": {"group": "example.com", "scope": "Cluster",
             "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{
        "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"},
                "mode": {"type": "string", "enum": ["A", "B"]}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}}}]}}


def widget(**spec) -> dict:
    return {"metadata": {"name": "w"}, "spec": spec}


def test_a_definition_serves_its_kind_at_once(api: Api) -> None:
    made = api.create("customresourcedefinitions.apiextensions.k8s.io", WIDGETS)
    assert {c["type"]: c["status"] for c in made["status"]["conditions"]}["Established"] == "True"
    obj = api.create("widgets.example.com", {**widget(size=2, unknown=1), "status": {"x": 1}})
    assert (obj["apiVersion"], obj["spec"]) == ("example.com/v1", {"size": 2, "color": "red"})
    assert "status" not in obj
    patched = api.patch("widgets.example.com", "w", {"status": {"x": 1}, "spec": {"size": 9}}, subresource="status")
    assert (patched["status"], patched["spec"]["size"]) == ({"x": 1}, 2)


def test_schema_refusals(api: Api) -> None:
    api.create("customresourcedefinitions.apiextensions.k8s.io", WIDGETS)
    for spec, text in (
        ({}, "spec.size: Required value"),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": "big"}, 'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"'),
        ({"size": 1, "mode": "C"}, 'spec.mode: Unsupported value: "C": supported values: "A", "B"'),
    ):
        error = refusal(api.create, "widgets.example.com", widget(**spec))
        assert error.message == f'Widget.example.com "w" is invalid: {text}'


def test_definitions_last_over_a_restart_and_take_their_objects_along(tmp_path: Path) -> None:
    first = make_api(tmp_path / "x.db")
    first.create("customresourcedefinitions.apiextensions.k8s.io", WIDGETS)
    first.create("widgets.example.com", {"metadata": {"name": "w", "finalizers": ["a.b/c"]}, "spec": {"size": 1}})
    first.close()
    api = make_api(tmp_path / "x.db")
    assert api.get("widgets.example.com", "w")["spec"]["size"] == 1
    api.patch("customresourcedefinitions.apiextensions.k8s.io", "widgets.example.com", {
        "metadata": {"annotations": {"a": "b"}}})
    api.delete("customresourcedefinitions.apiextensions.k8s.io", "widgets.example.com")
    assert "deletionTimestamp" in api.get("widgets.example.com", "w")["metadata"]
    api.patch("widgets.example.com", "w", {"metadata": {"finalizers": []}})
    assert api.list("customresourcedefinitions.apiextensions.k8s.io") == []
    assert refusal(api.list, "widgets.example.com").reason == "NotFound"
    assert ("example.com", "v1") not in api.machinery.registry.served, "discovery still shows it"
    api.close()
