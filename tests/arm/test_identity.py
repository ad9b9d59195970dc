"""Tokens, and what clients ask before they ask for clusters."""

import time

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential

from labkit.local.arm import LabTokens
from tests.arm.conftest import SUBSCRIPTION, TENANT


@pytest.fixture
def as_managed_identity(arm, monkeypatch):
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{arm.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "identity-secret")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")


@pytest.mark.usefixtures("as_managed_identity")
def test_default_azure_credential_gets_a_token_that_resource_manager_takes(arm):
    with DefaultAzureCredential(connection_verify=str(arm.ca)) as credential:
        token = credential.get_token("https://management.azure.com/.default")
    assert token.expires_on > time.time() + 3600
    answer = arm.request("GET", "/subscriptions", token=f"Bearer {token.token}").json()
    assert [s["subscriptionId"] for s in answer["value"]] == [SUBSCRIPTION]
    assert answer["value"][0]["tenantId"] == TENANT


@pytest.mark.usefixtures("as_managed_identity")
def test_a_wrong_identity_header_gets_no_token(arm, monkeypatch):
    monkeypatch.setenv("IDENTITY_HEADER", "guess")
    with (DefaultAzureCredential(connection_verify=str(arm.ca)) as credential,
          pytest.raises(ClientAuthenticationError, match="labkit env")):
        credential.get_token("https://management.azure.com/.default")


def test_an_expired_token_is_named_so(arm, monkeypatch):
    monkeypatch.setattr("labkit.local.arm.identity.LIFETIME", -10)
    old, _ = arm.tokens.issue("https://management.azure.com/")
    refused = arm.request("GET", "/subscriptions", token=f"Bearer {old}")
    assert refused.json()["error"]["code"] == "ExpiredAuthenticationToken"


def test_a_token_of_another_lab_is_refused():
    other = LabTokens(b"other" * 8, "x", TENANT, SUBSCRIPTION)
    ours = LabTokens(b"k" * 32, "x", TENANT, SUBSCRIPTION)
    assert ours.reason_to_refuse(other.issue("r")[0]) == "The access token is invalid."
    assert ours.reason_to_refuse(ours.issue("r")[0]) is None


def test_metadata_names_this_resource_manager_and_nothing_of_the_public_cloud(arm):
    metadata = arm.request("GET", "/metadata/endpoints", token=None, version="2022-09-01").json()
    assert metadata["resourceManager"] == f"{arm.url}/"
    assert metadata["authentication"]["audiences"] == [f"{arm.url}/"]
    assert "azure" not in str(metadata).lower()


def test_regions_providers_sizes_and_quota(arm):
    sub = arm.sub
    regions = {r["name"]: r for r in arm.request("GET", f"{sub}/locations").json()["value"]}
    assert regions["canadaeast"]["regionalDisplayName"] == "(Canada) Canada East"
    providers = arm.resources().providers
    assert providers.get("Microsoft.ContainerService").registration_state == "Registered"
    skus = arm.request("GET", f"{sub}/providers/Microsoft.Compute/skus").json()["value"]
    assert {"Standard_D2s_v3", "Standard_D2s_v5"} <= {s["name"] for s in skus}
    usages = f"{sub}/providers/Microsoft.Compute/locations/canadaeast/usages"
    assert all(u["currentValue"] < u["limit"] for u in arm.request("GET", usages).json()["value"])


def test_groups_and_resources_are_found_by_tag(arm):
    resources = arm.resources()
    resources.resource_groups.create_or_update("a", {"location": "eastus", "tags": {"labkit-run": "7"}})
    resources.resource_groups.create_or_update("b", {"location": "eastus"})
    found = resources.resource_groups.list(filter="tagName eq 'labkit-run' and tagValue eq '7'")
    assert [g.name for g in found] == ["a"]
    assert resources.resource_groups.update("b", {"tags": {"x": "y"}}).tags == {"x": "y"}
    assert list(resources.resources.list()) == []
