"""What is sent and what the local lab answers hold against the published shape of the API, and against recordings.

The shape is of the API version that the SDK speaks; properties that only Azure may set are no part of a request.
"""

import json
from pathlib import Path

import jsonschema
import pytest

from labkit.azure import steps
from labkit.azure.tags import tags
from tests.arm import shapes
from tests.azure.conftest import CLUSTER, OPERATION

SHAPES = json.loads(shapes.FILE.read_text())
RECORDED = Path(__file__).parents[1] / "arm/recorded"


def problems(name, document, *, sent=False):
    definitions = shapes.request(SHAPES) if sent else SHAPES
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


def recorded(name):
    return json.loads((RECORDED / name).read_text())["body"]


def test_the_schema_is_the_sdks():
    assert shapes.derive() == SHAPES
    properties = SHAPES["ManagedClusterProperties"]["properties"]
    assert {"dnsPrefix", "agentPoolProfiles", "networkProfile"} <= set(properties)
    assert properties["fqdn"]["readOnly"]


@pytest.mark.parametrize(("change", "place"), [
    ({"propertees": {}}, "propertees"), ({"location": 7}, "location"), ({"tags": {"a": 1}}, "tags"),
    ({"properties": {"networkProfile": {"kubeProxyConfig": {}}}}, "networkProfile"),
    ({"properties": {"agentPoolProfiles": [{"name": "a", "count": "two"}]}}, "agentPoolProfiles"),
])
def test_it_refuses_what_is_wrong(change, place):
    found = problems("ManagedCluster", {"location": "canadaeast", **change})
    assert found
    assert place in str(found)


def test_it_refuses_a_request_that_sets_what_only_azure_sets():
    body = {"location": "x", "properties": {"fqdn": "a.b"}}
    assert problems("ManagedCluster", body) == []
    assert problems("ManagedCluster", body, sent=True)


def test_what_the_library_sends_and_the_lab_answers(azures, settings):
    azure = azures.open()
    azure.create_group("CalicoDemoRG", "canadaeast", tags())
    azure.create_cluster(settings, azures.say)
    azure.stop_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    steps.cluster_is_up(azure.cluster("CalicoDemoRG", "MyCalicoCluster"), settings)
    azure.credentials("CalicoDemoRG", "MyCalicoCluster")
    azure.tag_group("CalicoDemoRG", {"x": "y"})
    pool = azures.arm.request("GET", f"{azures.arm.sub}/resourceGroups/CalicoDemoRG/providers/"
                              "Microsoft.ContainerService/managedClusters/MyCalicoCluster/agentPools/nodepool1").json()
    (put,) = azures.wire.asked("PUT", CLUSTER)
    assert problems("ManagedCluster", put.body, sent=True) == []
    for exchange in (put, *azures.wire.asked("GET", CLUSTER)):
        if exchange.status < 300:
            assert problems("ManagedCluster", exchange.answer) == []
    assert problems("AgentPool", pool) == []
    (groups, tagged) = azures.wire.asked("PUT", "/CalicoDemoRG$"), azures.wire.asked("PATCH", "/CalicoDemoRG$")
    assert problems("ResourceGroup", groups[0].body, sent=True) == []
    assert problems("ResourceGroup", groups[0].answer) == []
    assert set(tagged[0].body) == {"tags"}
    for path, name in (("kubernetesversions", "KubernetesVersionListResult"),):
        assert problems(name, azures.wire.asked("GET", path)[0].answer) == []
    (credentials,) = azures.wire.asked("POST", "listclusteradmincredential")
    assert problems("CredentialResults", credentials.answer) == []


@pytest.mark.parametrize(("name", "file"), [
    ("ManagedCluster", "real_02_put_201_Creating.json"), ("ManagedCluster", "real_05_get_200_Succeeded.json"),
    ("ResourceGroup", "real_07_resourcegroup_get_200.json"),
    ("KubernetesVersionListResult", "example_KubernetesVersions_List_2026-05-01.json"),
    ("CredentialResults", "example_ListClusterCredential_2026-06-02-preview.json"),
])
def test_recordings_of_azure_hold_too(name, file):
    assert problems(name, recorded(file)) == []


def leaves(document, path=""):
    """The names of all properties, with where they are."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield f"{path}.{key}"
            yield from leaves(value, f"{path}.{key}")
    if isinstance(document, list) and document:
        yield from leaves(document[0], f"{path}[]")


def test_the_labs_cluster_says_what_the_recorded_one_says(azures, settings):
    azures.arm.make_group()
    azures.open().create_cluster(settings, azures.say)
    ours = set(leaves(azures.wire.asked("GET", CLUSTER)[-1].answer))
    kubenet = (".podCidr", ".podCidrs", "ssh", "linuxProfile", "diskCSIDriver", "fileCSIDriver", "snapshotController")
    missing = {leaf for leaf in leaves(recorded("real_05_get_200_Succeeded.json")) if leaf not in ours
               and not leaf.endswith(kubenet) and "linuxProfile" not in leaf}
    assert missing == set()


def test_operations_and_refusals_look_like_the_recorded_ones(azures, settings):
    azures.arm.make_group()
    azures.open().create_cluster(settings, azures.say)
    operation = azures.wire.asked("GET", OPERATION)[-1].answer
    assert set(operation) == set(recorded("real_04_operation_Succeeded.json"))
    missing = azures.arm.request("GET", f"{azures.arm.sub}/resourceGroups/CalicoDemoRG/providers/"
                                 "Microsoft.ContainerService/managedClusters/none").json()
    assert set(leaves(missing)) == set(leaves(recorded("real_01_get_404_ResourceNotFound.json")))
