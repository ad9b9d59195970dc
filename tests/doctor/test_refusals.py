"""What Azure refuses, in the texts that people met, and the row that explains each."""

import json
from pathlib import Path

import pytest

from labkit.azure.refusals import REFUSALS, known

REAL = json.loads((Path(__file__).parent / "real_errors.json").read_text())["errors"]
ROWS = ("az-local", "az-kubeproxy", "az-version", "az-version", "az-sku", "az-quota", "az-quota", "az-capacity",
        "az-rp", "az-count", "az-throttle")


@pytest.mark.parametrize(("error", "row"), list(zip(REAL, ROWS, strict=True)), ids=lambda value: str(value)[:30])
def test_each_real_error_has_its_row(error, row):
    assert known(error["code"], error["message"], error.get("status")).id == row


@pytest.mark.parametrize(("code", "message", "status", "row"), [
    ("BadRequest", "The VM size of X is not allowed in your subscription in location 'x'.", 400, "az-sku"),
    ("UnmarshalError", 'Api-version 2026-08-01 does not know it: json: unknown field "kubeProxyConfig"', 400,
     "az-kubeproxy"),
    ("AuthorizationFailed", "The client 'x' does not have authorization to perform action 'Microsoft.ContainerService/"
     "managedClusters/listClusterAdminCredential/action'", 403, "az-rbac"),
    ("", "", 429, "az-throttle"), ("", "", 403, "az-rbac"), ("", "", 401, "az-login"),
    ("", "getting credentials: exec: executable kubelogin not found", None, "az-kubelogin"),
    ("", "kubelogin is not installed which is required to connect to AAD enabled cluster.", None, "az-kubelogin"),
    ("", "Error: unknown shorthand flag: 'l' in -l", None, "az-kubelogin"),
    ("InvalidParameter", "The pod CIDR 172.30.0.0/16 is reserved", 400, "az-podcidr"),
    ("LocationNotAvailableForResourceGroup", "The provided location 'moon' is not available", 400, "az-location"),
    ("SubscriptionNotFound", "", 404, "az-subscription"), ("ResourceGroupNotFound", "", 404, "az-no-group"),
    ("ResourceNotFound", "", 404, "az-no-cluster"),
])
def test_codes_words_and_statuses(code, message, status, row):
    assert known(code, message, status).id == row


@pytest.mark.parametrize(("code", "message", "status"), [
    ("BadRequest", "something else entirely", 400), ("InternalServerError", "", 500), ("Conflict", "", 409),
])
def test_what_the_table_does_not_know_is_not_explained_away(code, message, status):
    assert known(code, message, status) is None


def test_every_row_is_met_here_and_complete():
    met = {*ROWS, *(case[3] for case in test_codes_words_and_statuses.pytestmark[0].args[1])}
    assert met == {refusal.id for refusal in REFUSALS}
    for refusal in REFUSALS:
        assert all((refusal.title, refusal.symptom, refusal.cause, refusal.fix, refusal.source)), refusal.id
