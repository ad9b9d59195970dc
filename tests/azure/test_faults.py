"""What goes wrong on the wire, through the real SDKs: the learner reads what happened and what to do, in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit import plan as plans
from labkit.azure import steps
from labkit.errors import LabError
from tests.arm.wire import error
from tests.azure.conftest import CLUSTER, OPERATION

REAL = json.loads((Path(__file__).parents[1] / "doctor/real_errors.json").read_text())["errors"]


def failure(azures, settings, plan=steps.create):
    """The error that a learner sees, whole: no exception of the SDKs gets through a plan."""
    azure = azures.open()
    result = plans.run(plan(azure, settings))
    (last,) = [step.error for step in result.steps if step.error]
    assert isinstance(last, LabError)
    assert last.fix
    text = str(last)
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(("answer", "words"), [
    (error(401, "ExpiredAuthenticationToken", "the token has expired"), ("does not accept who we are", "az login")),
    (error(403, "AuthorizationFailed", "no authorization over scope"), ("AuthorizationFailed", "role Contributor")),
    (error(404, "SubscriptionNotFound", "could not be found"), ("SubscriptionNotFound", "az account list")),
    (error(409, "ResourceGroupBeingDeleted", "is in deprovisioning state"), ("deprovisioning",)),
    (error(409, "Conflict", "another change is under way"), ("another change",)),
    (error(409, "OperationNotAllowed", "in progress upgrade", flat=True), ("in progress upgrade",)),
    (error(429, "Throttled", "too many", flat=True, retry_after_ms="10"), ("Throttled", "Retry-After")),
    (error(500, "InternalServerError", "oops"), ("InternalServerError",)),
    (error(502, "BadGateway", "no answer behind"), ("BadGateway",)),
])
def test_refusals_of_the_creation(azures, settings, answer, words):
    azures.wire.add("PUT", CLUSTER, times=None, answer=answer)
    text = failure(azures, settings)
    for word in words:
        assert word in text
    assert azures.arm.clusters.calls == [], "nothing was made"
    assert not azures.journal.exists()


def test_an_answer_that_is_no_json(azures, settings):
    from starlette.responses import HTMLResponse

    azures.wire.add("PUT", CLUSTER, times=None, answer=HTMLResponse("<h1>proxy</h1>", 503))
    assert "Azure refused" in failure(azures, settings)


def test_nobody_answers(azures, settings):
    azures.arm.make_group()
    azures.wire.add("GET", ".*", times=None, cut=True)
    text = failure(azures, settings)
    assert "does not answer" in text
    assert "check the network" in text


def test_slow_answers_are_waited_for_only_so_long(azures, settings):
    azures.wire.add("GET", "kubernetesversions", times=None, slow=3.0)
    azure = azures.open(read=0.3, attempts=1)
    result = plans.run(steps.create(azure, settings))
    assert "does not answer" in str(result["cluster"].error)


def test_a_little_trouble_is_got_over(azures, settings):
    azures.wire.add("GET", "kubernetesversions", answer=error(502, "BadGateway"))
    azures.wire.add("PUT", CLUSTER, answer=error(500, "InternalServerError"))
    azures.wire.add("GET", OPERATION, times=2, answer=error(503, "ServiceUnavailable"))
    azures.wire.add("GET", OPERATION, cut=True)
    plans.run(steps.create(azures.open(), settings)).raise_for_failure()
    assert azures.puts() == 1


def test_a_provider_that_is_not_registered_is_registered_and_said(azures, settings):
    azures.arm.request("POST", f"{azures.arm.sub}/providers/Microsoft.ContainerService/unregister")
    result = plans.run(steps.create(azures.open(), settings))
    result.raise_for_failure()
    assert "registering Microsoft.ContainerService" in " ".join(result["cluster"].log)


def test_who_may_not_register_is_told(azures, settings):
    azures.arm.request("POST", f"{azures.arm.sub}/providers/Microsoft.ContainerService/unregister")
    azures.wire.add("POST", "/register$", times=None, answer=error(403, "AuthorizationFailed"))
    assert "az provider register" in failure(azures, settings)


@pytest.mark.parametrize("real", [r for r in REAL if r["code"] not in ("Throttled", "MissingSubscriptionRegistration")],
                         ids=lambda real: real["code"])
def test_real_refusals_have_a_cure(azures, settings, real):
    azures.wire.add("PUT", CLUSTER, times=None, answer=error(
        real.get("status", 400), real["code"], real["message"], flat=True))
    text = failure(azures, replace(settings, kubernetes_version="1.36"))
    assert real["message"][:60].split("  ")[0] in text
    assert "read Azure's message" not in text, "the table knows it"


def test_sizes_are_tried_in_turn_on_the_real_refusal(azures, settings):
    real = next(r for r in REAL if "VM size" in r["message"])
    azures.wire.add("PUT", CLUSTER, times=2, answer=error(400, real["code"], real["message"], flat=True))
    result = plans.run(steps.create(azures.open(), settings))
    result.raise_for_failure()
    asked = [e.body["properties"]["agentPoolProfiles"][0]["vmSize"] for e in azures.wire.asked("PUT", CLUSTER)]
    assert asked == ["Standard_D2s_v3", "Standard_D2s_v5", "Standard_D2ds_v5"]
    assert "trying Standard_D2s_v5" in " ".join(result["cluster"].log)


def test_only_what_azure_lists_is_tried(azures, settings):
    azures.wire.add("PUT", CLUSTER, times=1, answer=error(
        400, "BadRequest", "The VM size of Standard_D2s_v3 is not allowed in your subscription in location 'x'. (The "
        "available VM sizes are 'standard_d2as_v5,standard_e2s_v5')", flat=True))
    plans.run(steps.create(azures.open(), settings)).raise_for_failure()
    asked = [e.body["properties"]["agentPoolProfiles"][0]["vmSize"] for e in azures.wire.asked("PUT", CLUSTER)]
    assert asked == ["Standard_D2s_v3", "Standard_D2as_v5"]


@pytest.mark.parametrize(("message", "tries"), [
    ("Insufficient vcpu quota requested 2, remaining 0 for family standardDSv3Family for region x.", 2),
    ("exceeding approved Total Regional Cores quota. Current Limit: 4", 1),
])
def test_a_familys_quota_leaves_other_families_a_regions_does_not(azures, settings, message, tries):
    azures.wire.add("PUT", CLUSTER, times=1, answer=error(400, "ErrCode_InsufficientVCPUQuota", message, flat=True))
    plans.run(steps.create(azures.open(), settings))
    assert len(azures.wire.asked("PUT", CLUSTER)) == tries


def test_an_older_version_is_tried_where_the_newest_is_for_long_term_support_only(azures, settings):
    real = next(r for r in REAL if r["code"] == "K8sVersionNotSupported")
    azures.wire.add("PUT", CLUSTER, times=1, answer=error(400, real["code"], real["message"], flat=True))
    plans.run(steps.create(azures.open(), settings)).raise_for_failure()
    asked = [e.body["properties"]["kubernetesVersion"] for e in azures.wire.asked("PUT", CLUSTER)]
    assert len(asked) == 2
    assert asked[0] != asked[1]


def test_a_version_that_was_asked_for_is_never_replaced(azures, settings):
    real = next(r for r in REAL if r["code"] == "AgentPoolK8sVersionNotSupported")
    azures.wire.add("PUT", CLUSTER, times=None, answer=error(400, real["code"], real["message"], flat=True))
    failure(azures, replace(settings, kubernetes_version="1.36"))
    assert len(azures.wire.asked("PUT", CLUSTER)) == 1
