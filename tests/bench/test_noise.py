"""A machine that does not come to rest: waited for, named, and in the end refused."""

from types import SimpleNamespace

import pytest

from labkit.bench import flows, noise, scale
from labkit.bench.results import Sample
from labkit.errors import MeasurementError


def idle(busy, steal=0.0):
    ends = {f"{end}_{kind}_percent": 0.0 for end in ("client", "server") for kind in ("user", "nice", "system")}
    ends |= {"server_user_percent": busy, "node_percent": busy, "steal_percent": steal}
    return Sample("ebpf", "idle", 0, ends)


def looks(*samples):
    left = list(samples)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_quiet_machine_is_looked_at_once():
    assert noise.rest(looks(idle(4), idle(90)), strict=True) == idle(4)


def test_a_machine_that_comes_to_rest_says_how_busy_it_was():
    sample = noise.rest(looks(idle(80), idle(70), idle(3)), strict=True)
    assert sample.metrics["node_percent"] == 3
    assert sample.detail["busy_before"] == [80, 70]


@pytest.mark.parametrize(("sample", "said"), [
    (idle(80), "80 % busy while nothing"), (idle(2, steal=15), "15 % of the CPU time was stolen")])
def test_one_that_does_not_ends_the_run_and_says_what_to_do(sample, said):
    with pytest.raises(MeasurementError, match="too noisy to measure on") as error:
        noise.rest(looks(sample), strict=True, patience=0)
    assert said in error.value.what
    assert "looked at 1 times" in error.value.why
    assert "stop what else runs" in error.value.fix


def test_a_look_goes_on_and_says_so():
    assert "busy" in noise.rest(looks(idle(80)), strict=False).detail["noisy"]


def test_the_time_that_services_take_to_be_created_is_not_waited_for_rest(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(noise.time, "monotonic", lambda: clock.now)
    look = looks(idle(88), idle(3))
    monkeypatch.setattr(flows, "idle", lambda *_: look())
    block = SimpleNamespace(arm=None, round=0, count=10_000,
                            begin=lambda: setattr(clock, "now", clock.now + 2 * noise.PATIENCE_SECONDS))
    assert scale.at_rest(block, strict=True).detail["busy_before"] == [88]


@pytest.mark.parametrize(("percent", "said"), [
    (noise.STEAL_PERCENT, ""), (noise.STEAL_PERCENT + 2, "12 % of the CPU time was stolen by the hypervisor")])
def test_much_is_more_than_a_tenth(percent, said):
    assert noise.stolen(percent) == said


def test_a_disturbed_sample_keeps_what_it_said_before():
    sample = Sample("ebpf", "quiet", 0, {"steal_percent": 15.0}, detail={"proof": "proven"})
    marked = noise.marked(sample).detail
    assert marked == {"proof": "proven", "noisy": noise.stolen(15.0)}
    assert noise.marked(Sample("ebpf", "quiet", 0, {"steal_percent": 1.0})).detail == {}


def test_work_of_low_priority_is_work_too():
    sample = idle(25)
    sample.metrics["server_nice_percent"] = 25.0
    assert noise.loud(sample) == "a node is 50 % busy while nothing is measured"


def test_a_fifth_of_the_samples_may_be_disturbed_and_of_more_the_last_is_named():
    disturbed = [Sample("ebpf", "quiet", 0, {}, detail={"noisy": f"it was loud at {hour}"}) for hour in (1, 2, 3)]
    quiet = [Sample("ebpf", "quiet", 0, {})] * 12
    noise.check([*disturbed, *quiet])
    noise.check(disturbed[:2])
    with pytest.raises(MeasurementError, match="it was loud at 3") as error:
        noise.check([*disturbed, *quiet[:11]])
    assert "3 of 14 samples" in error.value.why
