"""Looking again after a while: by the time that the operator gives, on the effects of all steps before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from labkit import plan as plans
from labkit.calico.facts import STATUSES
from labkit.calico.operator_lane import recheck
from labkit.plan import Evidence, Step
from tests.doctor.world import FakeKube


def step(title: str, stands: list[bool]) -> Step:
    return Step(title.lower(), title, "why", "without", "command", lambda log: None,
                lambda: Evidence(stands[0], "it was taken back" if not stands[0] else "it is there"))


def since(seconds: float, available: str = "True") -> FakeKube:
    kube = FakeKube()
    when = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    kube.add(STATUSES, {"metadata": {"name": "calico"}, "status": {"conditions": [
        {"type": "Available", "status": available, "lastTransitionTime": when}]}})
    return kube


@pytest.mark.parametrize(("seconds", "available", "stands", "so", "said"), [
    (400, "True", True, True, "all of it stands, 40"),
    (400, "True", False, False, "Ask for it: it was taken back"),
    (200, "True", True, False, "300 s are to pass"),
    (400, "False", True, False, "does not say that Calico is available"),
    (None, "", True, False, "does not say that Calico is available"),
])
def test_what_it_sees(seconds, available, stands, so, said):
    kube = FakeKube() if seconds is None else since(seconds, available)
    seen = recheck((step("First", [True]), step("Ask for it", [stands])), kube, 300).verify()
    assert (seen.ok, said in seen.text) == (so, True), seen.text


class TakesBack(plans.Reporter):
    """AKS's add-on manager, which comes round while the step waits."""

    def __init__(self, stands: list[bool]) -> None:
        self.stands = stands

    def log(self, step: Step, line: str) -> None:
        if "are to pass" in line:
            self.stands[0] = False


def test_what_is_taken_back_meanwhile_ends_the_plan_and_is_named():
    stands = [True]
    looked = replace(recheck((step("Ask for it", stands),), since(298.5), 300), timeout=3)
    result = plans.run_step(looked, TakesBack(stands))
    assert not result.ok
    assert "Ask for it: it was taken back" in result.error.why
    assert any("300 s are to pass" in line for line in result.log)
