"""Samples in their order: alternation, switching, stopping, budgets, going on; no cluster is needed for it."""

import json
from types import SimpleNamespace

import pytest

from labkit.bench import exchange, flows, scale, services, suite
from labkit.bench.budget import outliers
from labkit.bench.recording import Recording
from labkit.bench.results import Run, Sample
from labkit.bench.suite import Arm, Task, conduct, orders, seconds_of
from labkit.bench.watch import Watch
from labkit.bench.workload import Workload
from labkit.errors import MeasurementError

AT = Workload("n0", "n1", "10.0.0.1", "10.0.0.2", "10.1.0.1", {"client": "a", "server": "a"}, "6.1", "", 1500)


def arm(name, entered=None, **more):
    enter = (lambda: entered.append(name)) if entered is not None else (lambda: None)
    return Arm(name, SimpleNamespace(), AT, enter, **more)


class Watched(Watch):
    def __init__(self, stop_after=99):
        self.heard, self.stop_after = [], stop_after

    def sample(self, sample):
        self.heard.append((sample.arm, sample.case, sample.round))
        self.stopped = len(self.heard) >= self.stop_after


def tasks(arms, cases=("a", "b"), value=lambda number: 10.0 + number):
    def taker(a, case, number):
        return lambda: Sample(a.name, case, number, {"gbit_per_s": value(number)})

    return [Task(a, case, number, 1.0, taker(a, case, number))
            for number, order in enumerate(arms) for a in order for case in cases]


def recording(path=None):
    about = {"parameters": {"rounds": 2}, "arms": {"vanilla": {}, "ebpf": {}}}
    return Recording(Run("flows", "Flows", (), about), path)


def names(each):
    return ["".join(a.name[0] for a in order) for order in each]


def test_rounds_turn_around_so_that_a_cluster_is_switched_once_in_each():
    three = [arm("vanilla"), arm("iptables"), arm("ebpf")]
    assert names(orders(three, 3)) == ["vie", "eiv", "vie"]
    assert names(orders(three, 3, "ebpf")) == ["eiv", "vie", "eiv"]
    assert names(orders(three[:1], 2, "vanilla")) == ["v", "v"]


def test_an_arm_is_entered_before_its_block_and_not_within():
    entered = []
    two = [arm("vanilla", entered), arm("ebpf", entered)]
    watch = Watched()
    run = conduct(tasks(orders(two, 2)), recording(), watch)
    assert entered == ["vanilla", "ebpf", "vanilla"], "the arm that ends a round begins the next"
    assert [f"{a[0]}{c}{r}" for a, c, r in watch.heard] == ["va0", "vb0", "ea0", "eb0", "ea1", "eb1", "va1", "vb1"]
    assert run.finished
    assert run.provenance["arms"]["ebpf"]["client_node"] == "n0"


def test_the_first_arm_is_what_others_are_compared_with_also_when_a_round_goes_backwards():
    run = conduct(tasks(orders([arm("vanilla"), arm("ebpf")], 5, "ebpf")), recording(), Watch())
    assert run.samples[0].arm == "ebpf"
    assert {c.base for c in run.compare("gbit_per_s")} == {"vanilla"}


def test_what_fails_keeps_the_samples_before(tmp_path):
    def broken(number):
        if number == 1:
            raise MeasurementError("No.")
        return 1.0

    path = tmp_path / "run.json"
    with recording(path) as kept, pytest.raises(MeasurementError):
        conduct(tasks(orders([arm("vanilla"), arm("ebpf")], 2), value=broken), kept, Watch())
    kept = Run.load(path)
    assert len(kept.samples) == 4
    assert not kept.finished


@pytest.mark.parametrize(("name", "kept"), [("ebpf", 1), ("mine", 4)])
def test_a_cluster_that_somebody_switches_meanwhile_ends_the_run(name, kept):
    has = ["ebpf"]

    def value(number):
        has.append("iptables" if number else "ebpf")  # somebody has, in the second round
        return 1.0

    a = arm(name, now=lambda: has[-1])
    record = recording()
    if name == "mine":  # a name that claims nothing
        conduct(tasks([[a], [a]], value=value), record, Watch())
    else:
        todo = tasks([[a], [a]], ("a",), value)
        with pytest.raises(MeasurementError, match="should have the data plane ebpf, and has iptables"):
            conduct(todo, record, Watch())
    assert len(record.run.samples) == kept


def test_a_stopped_run_says_so_and_goes_on_where_it_was(tmp_path):
    path, two = tmp_path / "run.json", [arm("vanilla"), arm("ebpf")]
    with recording(path) as kept:
        stopped = conduct(tasks(orders(two, 2)), kept, Watched(stop_after=3))
    assert len(stopped.samples) == 3
    assert not stopped.finished
    assert "Stopped after 3 of 8 samples." in stopped.notes
    watch = Watched()
    run = conduct(tasks(orders(two, 2)), recording(path), watch)
    assert len(watch.heard) == 5
    assert (len(run.samples), bool(run.finished)) == (8, True)


def test_a_round_that_no_longer_fits_the_budget_is_not_begun(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(suite, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def slow(number):
        clock.now += 3.0  # three times what was expected
        return 1.0

    run = conduct(tasks(orders([arm("vanilla")], 4), value=slow), recording(), Watch(), seconds=14)
    assert {s.round for s in run.samples} == {0, 1}
    assert "The budget of 14 s was spent after 4 of 8 samples." in run.notes
    assert run.finished


def test_far_samples_are_kept_and_can_be_named():
    far = tasks(orders([arm("vanilla")], 6), ("a",), lambda number: 99.0 if number == 3 else 10.0 + number / 10)
    run = conduct(far, recording(), Watch())
    assert len(run.samples) == 6
    assert outliers(run, ["gbit_per_s"]) == [
        "vanilla, a, round 4: gbit_per_s 99, beside a median of 10.3"]


def test_a_sample_that_much_was_stolen_from_says_so():
    task = Task(arm("vanilla"), "a", 0, 1.0, lambda: Sample("vanilla", "a", 0, {"steal_percent": 12.0}))
    run = conduct([task], recording(), Watch())
    assert run.samples[0].detail == {"noisy": "12 % of the CPU time was stolen by the hypervisor"}
    assert "noisy in 1 samples" in run.notes[-1]


@pytest.mark.parametrize(("strict", "stolen", "kept"), [
    (True, (50, 0, 50, 0, 0, 50, 0, 0), 6),      # the third of six is one too many
    (True, (50, 50, 0, 0, 0, 0, 0, 0), 8),       # two may be chance
    (False, (50,) * 8, 8),
])
def test_a_claim_ends_when_too_many_of_its_samples_were_disturbed(tmp_path, strict, stolen, kept):
    def taker(number):
        return lambda: Sample("vanilla", "a", number, {"steal_percent": float(stolen[number])})

    todo = [Task(arm("vanilla"), "a", number, 1.0, taker(number)) for number in range(8)]
    path = tmp_path / "run.json"
    with recording(path) as kept_in:
        if kept == 8:
            conduct(todo, kept_in, Watch(), strict=strict)
        else:
            with pytest.raises(MeasurementError, match="too noisy to measure on: 50 % of the CPU time") as error:
                conduct(todo, kept_in, Watch(), strict=strict)
            assert "3 of 6 samples were disturbed" in error.value.why
    assert len(Run.load(path).samples) == kept
    if kept < 8:
        stolen = (0,) * 8
        with recording(path) as again:
            assert len(conduct(todo, again, Watch(), strict=strict).samples) == 8, "a quiet machine goes on"


def test_unproven_and_noisy_samples_are_in_the_notes():
    detail = {"proof": {"state": "not proven", "evidence": ["no shell"]}, "noisy": "12 % was stolen"}
    task = Task(arm("vanilla"), "a", 0, 1.0, lambda: Sample("vanilla", "a", 0, {"x": 1.0}, detail=detail))
    notes = "\n".join(conduct([task], recording(), Watch()).notes)
    assert "not proven that its data plane carried every flow: no shell" in notes
    assert "noisy in 1 samples; the first: vanilla, a, round 1: 12 % was stolen" in notes


def article(rounds, seconds):
    """The longest way: the cluster that is switched costs a switch at each change of arm."""
    three = [arm("vanilla"), arm("iptables", enter_seconds=9), arm("ebpf", enter_seconds=3)]
    return seconds_of(flows.tasks(orders(three, rounds), flows.FLOWS, seconds, None))


def test_a_look_takes_less_than_a_minute_and_a_claim_less_than_five():
    assert article(1, 1) < 55
    assert article(5, 2) < 295


def test_a_block_is_idle_first_and_then_all_flows():
    found = flows.tasks(orders([arm("vanilla"), arm("ebpf")], 1), flows.FLOWS[:2], 2, None)
    assert [(t.arm.name, t.case) for t in found] == [
        ("vanilla", "idle"), ("vanilla", "pod to pod, TCP"), ("vanilla", "pod to pod, UDP"),
        ("ebpf", "idle"), ("ebpf", "pod to pod, TCP"), ("ebpf", "pod to pod, UDP")]


def test_exchanges_have_an_idle_window_too():
    found = exchange.tasks(orders([arm("ebpf")], 1), list(exchange.CASES), 1)
    assert [t.case for t in found] == ["idle", "request/response", "connect/request/close"]


def test_clusters_alternate_at_each_number_of_services():
    two = [arm("vanilla"), arm("ebpf")]
    found = scale.tasks(two, orders(two, 2), [10, 1000], ["first packet"], connects=10, seconds=1, rate=1, say=print)
    turns = (("v", 0), ("e", 0), ("e", 1), ("v", 1))
    assert [(t.arm.name[0], t.case, t.round) for t in found] == [
        (a, f"{what}, {n} services", r) for n in ("10", "1,000") for a, r in turns for what in ("idle", "first packet")]
    assert [t.seconds for t in found[8:]] == [pytest.approx(found[10].seconds + 5), *[t.seconds for t in found[1:8]]], (
        "the first task at a number creates the services")


def test_services_are_created_once_for_a_number_and_asked_at_both_ends_and_in_the_middle(monkeypatch):
    two, made, said = [arm("vanilla"), arm("ebpf")], [], []

    def scaled(of, count):
        made.append((of.name, count))
        return {services.name(i): f"10.1.0.{i}" for i in range(count)}

    monkeypatch.setattr(scale, "_scaled", scaled)
    stage = scale.Stage(two, said.append)
    at = [scale.Block(each, stage, count, 0).addresses() for count in (9, 1) for each in two]
    assert at == [["10.1.0.0", "10.1.0.4", "10.1.0.8"]] * 2 + [["10.1.0.0"]] * 2
    assert sorted(made) == [("ebpf", 1), ("ebpf", 9), ("vanilla", 1), ("vanilla", 9)]
    assert said == [f"{count} services are being created in 2 clusters at once" for count in (9, 1)]


def test_each_service_is_asked_at_least_once_and_every_failure_counts(monkeypatch):
    asked, window = [], SimpleNamespace(metrics=lambda _: {"steal_percent": 0.0})

    def spend(kube, at, argv, *_, **__):
        asked.append(argv[3:])
        found = {"microseconds": [10.0], "ports": [1], "failed": 2}
        window.output = json.dumps(dict.fromkeys(argv[5:], found))
        return window

    monkeypatch.setattr(scale, "spend", spend)
    block = scale.Block(SimpleNamespace(name="ebpf", kube=None, workload=None), None, 9, 0)
    for name, answer in (("begin", None), ("addresses", ["a", "b", "c"]), ("proven", {})):
        monkeypatch.setattr(block, name, lambda *_, answer=answer: answer)
    metrics = scale.first_packet(block, 2).metrics
    scale.first_packet(block, 9)
    assert [words[:2] for words in asked] == [["80", "1"], ["80", "3"]]
    assert (metrics["connects"], metrics["failed"]) == (3.0, 6.0)
