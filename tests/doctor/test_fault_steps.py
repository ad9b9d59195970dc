"""The steps of faults, as far as they can be seen without a cluster."""

import pytest

from labkit.calico import observe
from labkit.doctor.fault_steps import WebApplication, holds, two_methods
from labkit.doctor.faults import Faults
from tests.doctor.test_checks import network
from tests.doctor.world import cluster


@pytest.mark.parametrize(("there", "forth", "back"), [
    ({"canReach": "1.1.1.1"}, {"firstFound": True}, {"firstFound": None}),
    ({"firstFound": True}, {"canReach": "8.8.8.8"}, {"canReach": None}),
    ({}, {"firstFound": True, "canReach": "8.8.8.8"}, {"firstFound": None}),
    ({"firstFound": True, "canReach": "1.1.1.1"}, {"firstFound": True}, {"firstFound": None}),
])
def test_two_methods_are_one_again_also_where_the_cluster_is_broken_already(there, forth, back):
    kube = cluster(change=network(nodeAddressAutodetectionV4=there))
    step = two_methods(kube, WebApplication(kube), observe(kube))("op-addr", "")
    shown = [command.split("nodeAddressAutodetectionV4")[1] for command in (step.command, step.revert_command)]
    for words, patch in zip(shown, (forth, back), strict=True):
        assert {name for name in ("firstFound", "canReach") if name in words} == set(patch)
    assert ("null" in shown[0], "null" in shown[1]) == (False, True)
    assert step.reverted().ok is (len(there) < 2)


def test_a_fault_is_told_by_its_symptom_and_mending_says_no_more_than_that():
    faults = Faults(cluster())
    fault = faults.possible()[0]
    assert faults.inject(fault).title == f"Break it: {fault.symptom}"
    back = faults.mend(fault)
    assert back.title == f"Mend it: {fault.symptom}"
    (step,) = back.steps
    assert "Undo" not in step.title
    assert step.command == faults.inject(fault).steps[0].revert_command


@pytest.mark.parametrize(("said", "current", "so"), [
    ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True), ({"a": {"b": None}}, {"a": {}}, True),
    ({"a": {"b": None}}, {"a": {"b": 1}}, False), ({"a": [{"n": 1}]}, {"a": [{"n": 0}, {"n": 1, "x": 2}]}, True),
    ({"a": [{"n": 1}]}, {"a": []}, False), ({"a": {"b": 1}}, {}, False),
])
def test_whether_an_object_is_as_a_patch_says(said, current, so):
    assert holds(said, current) is so
