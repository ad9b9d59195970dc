"""Runs put together: nothing is lost, nothing counts twice, and what is no comparison is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.bench import knb_files
from labkit.bench.results import Run, Sample
from labkit.bench.together import compare, merge
from labkit.errors import ResultsError

RECORDED = Path(__file__).resolve().parents[1] / "data" / "knb" / "recorded.knbdata"
ABOUT = {"target": "local", "cpu": "EPYC", "kernel": "6.18.1", "mtu": 1500, "kubernetes": "v1.20.2",
         "one_machine": True}


def run(arms=("vanilla", "ebpf"), rounds=3, day=27, facts=None, kind="flows", scale=1.0, cases=("pod to pod, TCP",),
        **parameters):
    samples = [Sample(arm, case, n, {"gbit_per_s": scale * (10.0 + n / 100) * (1 + a)}, "iperf3 -c x",
                      f"2026-11-{day}T08:{10 + n}:{10 + a}.00{c}+00:00")
               for n in range(rounds) for a, arm in enumerate(arms) for c, case in enumerate(cases)]
    provenance = {"labkit": "0.1.0", "parameters": {"rounds": rounds, "seconds": 2, "cases": list(cases)} | parameters,
                  "arms": {arm: ABOUT | (facts or {}) for arm in arms}}
    return Run(kind, "Flows", tuple(samples), provenance, (f"note of {day}",), f"2026-11-{day}T08:00:00.000+00:00",
               f"2026-11-{day}T09:00:00.000+00:00")


def rounds(run, arm):
    return [s.round for s in run.samples if s.arm == arm]


def test_more_rounds_of_the_same_arms_are_numbered_on():
    merged = merge([run(day=28), run(day=27, rounds=2)])
    assert rounds(merged, "ebpf") == rounds(merged, "vanilla") == [0, 1, 2, 3, 4]
    assert [s.at[8:10] for s in merged.samples if s.arm == "ebpf"] == ["27", "27", "28", "28", "28"]
    assert merged.compare("gbit_per_s")[0].n == 5
    assert (merged.started[:10], merged.finished[:10]) == ("2026-11-27", "2026-11-28")
    assert merged.provenance["parameters"]["rounds"] == 5
    assert [m["samples"] for m in merged.provenance["merged"]] == [6, 4]
    assert {"note of 27", "note of 28"} <= set(merged.notes)
    assert any("not interleaved" in note for note in merged.notes)


def test_other_arms_stand_beside_each_other():
    merged = merge([run(("vanilla",)), run(("ebpf",), day=28, cases=("pod to pod, UDP",))])
    assert merged.arms == ("vanilla", "ebpf")
    assert rounds(merged, "vanilla") == rounds(merged, "ebpf") == [0, 1, 2]
    assert set(merged.provenance["arms"]) == {"vanilla", "ebpf"}
    assert merged.provenance["parameters"]["cases"] == ["pod to pod, TCP", "pod to pod, UDP"]


def test_a_killed_run_and_its_continuation_count_once():
    whole = run(rounds=4, cases=("pod to pod, TCP", "pod to pod, UDP"))
    killed = replace(whole, samples=whole.samples[:7], finished="")
    for order in ([killed, whole], [whole, killed], [whole, whole]):
        merged = merge(order)
        assert sorted(map(str, merged.samples)) == sorted(map(str, whole.samples))
    assert any("was not finished" in note for note in merge([killed, whole]).notes)


def test_a_round_that_is_half_there_does_not_take_the_other_halfs_place():
    whole = run(rounds=1, arms=("ebpf",), cases=("a", "b"))
    other = replace(whole, samples=(whole.samples[0], replace(whole.samples[1], at="2026-11-27T12:00:00.000+00:00")))
    merged = merge([whole, other])
    assert [(s.case, s.round) for s in merged.samples] == [("a", 0), ("b", 0), ("b", 1)]


@given(st.lists(st.tuples(st.sampled_from(["vanilla", "ebpf"]), st.sampled_from("ab"), st.integers(0, 3),
                          st.integers(0, 2), st.integers(0, 12)), max_size=25))
def test_nothing_is_lost_and_nothing_counts_twice(drawn):
    parts = [replace(run(("vanilla", "ebpf"), rounds=0, cases=("a", "b")), started=f"2026-11-2{n}T08:00:00+00:00",
                     samples=tuple({(arm, case, round_): Sample(arm, case, round_, {"x": 1.0 * at}, "", f"t{at}")
                                    for arm, case, round_, part, at in drawn if part == n}.values())) for n in range(3)]
    merged = merge(parts)
    taken = {(s.arm, s.case, s.at) for part in parts for s in part.samples}
    assert {(s.arm, s.case, s.at) for s in merged.samples} == taken
    assert len({(s.arm, s.case, s.round) for s in merged.samples}) == len(merged.samples)
    within = max(sum((s.arm, s.case, s.at) == key for s in part.samples) for part in parts for key in taken or [0])
    assert len(merged.samples) == len(taken) or within > 1
    assert merge([merged, *parts]).samples == merged.samples


@pytest.mark.parametrize(("other", "said"), [
    (run(kind="article"), "one is of flows, the other of article"),
    (run(rate="500M"), "the parameter rate is None in one, and 500M in the other"),
    (run(seconds=9), "the parameter seconds is 2 in one, and 9 in the other"),
    (run(facts={"kernel": "5.15"}), r"kernel is 6\.18\.1 in one, and 5\.15 in the other"),
    (run(facts={"kubernetes": "v1.34.0"}), r"kubernetes is v1\.20\.2 in one"),
    (run(("other",), facts={"cpu": "Xeon"}), "cpu is EPYC in one, and Xeon in the other"),
])
def test_what_is_no_one_measurement_is_refused(other, said):
    with pytest.raises(ResultsError, match=said) as error:
        merge([run(), other])
    assert "compare" in error.value.fix


def test_nothing_to_merge():
    with pytest.raises(ResultsError, match="nothing to merge"):
        merge([])


def test_two_runs_of_other_days_and_machines_are_compared_with_what_differs():
    found = compare(run(rounds=5), run(rounds=5, day=28, scale=1.3, facts={"kernel": "5.15"}, rate="500M"),
                    "gbit_per_s", names=("before", "after"))
    assert [(c.base, c.other) for c in found.comparisons] == [
        ("vanilla (before)", "vanilla (after)"), ("ebpf (before)", "ebpf (after)")]
    assert [round(c.ratio, 2) for c in found.comparisons] == [1.3, 1.3]
    assert found.comparisons[0].verdict.startswith("30 % more")
    assert found.differences == ("kernel: 6.18.1, 5.15", "rate: unknown, 500M", "day: 2026-11-27, 2026-11-28")


def test_a_run_of_knbs_is_compared_with_one_of_ours():
    theirs = knb_files.read(RECORDED)
    found = compare(theirs, run(("ebpf",), cases=("idle", "pod to pod, TCP")), "gbit_per_s")  # both know idle
    (only,) = found.comparisons
    assert (only.base, only.other, only.case, only.n) == ("recorded", "ebpf", "p2ptcp", 1)
    assert "too few rounds" in only.verdict
    assert not any(said.startswith("mtu") for said in found.differences)
    assert only.ratio == pytest.approx(10.01 / 8.548)
    assert "measured by: knb 1.5.0, labkit 0.1.0" in found.differences
    assert "kind: knb, flows" in found.differences
    assert any("everything in it is there twice" in said for said in found.differences)


def test_arms_can_be_named():
    found = compare(run(), run(), "gbit_per_s", arms=("vanilla", "ebpf"))
    assert [(c.base, c.other, round(c.ratio, 2)) for c in found.comparisons] == [("vanilla", "ebpf", 2.0)]
    with pytest.raises(ResultsError, match="no arm ipvs"):
        compare(run(), run(), "gbit_per_s", arms=("vanilla", "ipvs"))


def test_what_cannot_be_compared_says_what_there_is():
    with pytest.raises(ResultsError, match="no arm in common") as error:
        compare(run(), run(("a", "b")), "gbit_per_s")
    assert "vanilla, ebpf there, a, b here" in error.value.why
    with pytest.raises(ResultsError, match="no case with p50_us in common") as error:
        compare(run(), run(), "p50_us")
    assert error.value.why == "none there; none here"
    with pytest.raises(ResultsError) as error:
        compare(run(cases=("a", "b")), run(cases=("c",)), "gbit_per_s")
    assert error.value.why == "a; b there; c here"
