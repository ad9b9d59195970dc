"""What is asked for is looked at before anything is created: one sentence, and the cure."""

import pytest

from labkit.bench import Bench, budget, question, workload
from labkit.bench.budget import forecast
from labkit.bench.results import Run, Sample
from labkit.errors import KubeconfigError, MeasurementError


class Nodes:
    """A cluster's nodes; anything else that is asked of it is too much."""

    def __init__(self, *names, taint=None):
        self._names, self._taint = names, taint

    def list(self, resource, *_, **__):
        assert resource == "nodes"
        return [{"metadata": {"name": n, "labels": {"kubernetes.io/os": "linux"}},
                 "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]} if n == self._taint else {},
                 "status": {"conditions": [{"type": "Ready", "status": "True"}]}} for n in self._names]


def bench(*names, nodes=(None, None)):
    return Bench(Nodes(*names), lambda: "ebpf", dict, nodes=nodes)


@pytest.mark.parametrize(("ask", "said", "cure"), [
    (lambda b: b.article(rounds=0), "rounds=0 measures nothing", "rounds=1"),
    (lambda b: b.article(seconds=0), "in seconds=0", "whole seconds from 1"),
    (lambda b: b.article(seconds=1.5), "in seconds=1.5", "whole seconds"),
    (lambda b: b.article(rate="500T"), "No machine carries 500Tbit/s", "measure once without"),
    (lambda b: b.article(rate="fast"), "'fast' is not a rate", "500M"),
    (lambda b: b.article(rate="0M"), "'0M' is not a rate", "500M"),
    (lambda b: b.article(cases=["icmp"]), "no flow 'icmp'", "pod to pod, TCP"),
    (lambda b: b.article(cases=[]), "No flow was asked for", "pod to pod, TCP"),
    (lambda b: b.article(budget=-1), "budget=-1 s", "budget=300"),
    (lambda b: b.latency(seconds=0), "in seconds=0", "0.5"),
    (lambda b: b.latency(cases=["rr"]), "no exchange 'rr'", "request/response"),
    (lambda b: b.scale(services=[10, 0]), "0 is not a number of services", "from 1"),
    (lambda b: b.scale(services=[]), "Nothing is not a number", "services="),
    (lambda b: b.scale(services=[1_000_000]), "1000000 is not a number", "20,000"),
    (lambda b: b.scale(rate=0), "in seconds=0", "2 is a good start"),
    (lambda b: b.scale(measures=["cpu"]), "no measure 'cpu'", "first packet"),
    (lambda b: b.knb(cases=["p2p"]), "no test 'p2p'", "p2ptcp"),
    (lambda b: b.flows(rounds=-1), "rounds=-1", "rounds=1"),
    (lambda b: b.churn(seconds=0), "in seconds=0", "2 is a good start"),
])
def test_what_cannot_be_measured_is_refused_before_a_cluster_is_asked(ask, said, cure):
    class Nobody:
        def __getattr__(self, name):
            raise AssertionError("the cluster was asked")

    with pytest.raises(MeasurementError) as error:
        ask(Bench(Nobody(), lambda: "ebpf", dict))
    assert said in error.value.what
    assert cure in error.value.fix


def test_an_option_that_no_suite_takes_is_refused_by_all():
    for suite in ("article", "latency", "scale", "knb", "flows", "first_packet", "programming", "churn"):
        with pytest.raises(TypeError, match="'watcher'"):
            getattr(bench("n0"), suite)(watcher=None)


@pytest.mark.parametrize(("found", "said", "cure"), [
    (bench("n0"), "there is only one", "az aks scale"),
    (bench(), "No node is ready", "diagnose"),
    (bench("n0", "n1", nodes=("n7", None)), "no node n7", "n0, n1"),
    (bench("n0", "n1", nodes=("n1", "n1")), "both are to be on n1", "another node"),
])
def test_nodes_are_looked_at_before_anything_is_created(found, said, cure):
    with pytest.raises(MeasurementError) as error:
        found.article()
    assert said in error.value.what
    assert cure in error.value.fix


@pytest.mark.parametrize(("wanted", "placed"), [
    ((None, None), ("a", "c")), (("c", None), ("c", "b")), ((None, "a"), ("b", "a")), (("b", "a"), ("b", "a")),
])
def test_pods_are_placed_on_two_nodes(wanted, placed):
    assert workload.place(Nodes("a", "b", "c"), *wanted) == placed


def test_a_node_that_takes_no_pods_is_none():
    assert workload.place(Nodes("a", "b", "c", taint="a")) == ("b", "c")


@pytest.mark.parametrize(("context", "said"), [("c9", "no context c9"), (None, "no context that is current")])
def test_a_context_that_is_not_in_a_kubeconfig_is_answered_with_those_that_are(tmp_path, context, said):
    path = tmp_path / "k"
    path.write_text("apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts: [{name: c1, context: {}}]\n")
    with pytest.raises(KubeconfigError, match=said) as error:
        Bench.for_cluster(path, context)
    assert "c1" in error.value.fix


class Failing:
    """A cluster whose pods do not start."""

    def __init__(self, reason, restarts):
        self.reason, self.restarts = reason, restarts

    def list(self, *_, **__):
        waiting = {"reason": self.reason, "message": "Back-off pulling image"}
        status = {"phase": "Pending", "containerStatuses": [
            {"name": "x", "restartCount": self.restarts, "state": {"waiting": waiting}}]}
        return [{"metadata": {"name": name}, "status": status} for name in ("client", "server")]

    def logs(self, pod, *_):
        return "Traceback\nFileNotFoundError: 'iperf3'\n"


@pytest.mark.parametrize(("reason", "restarts", "why"), [
    ("ImagePullBackOff", 0, "Back-off pulling image"), ("CrashLoopBackOff", 3, "FileNotFoundError: 'iperf3'")])
def test_pods_that_cannot_run_say_why_and_are_not_waited_for(monkeypatch, reason, restarts, why):
    monkeypatch.setattr(workload, "PATIENCE_SECONDS", -1)
    with pytest.raises(MeasurementError, match=f"cannot run here: client {reason}, server {reason}") as error:
        workload.wait_ready(Failing(reason, restarts), ("client", "server"))
    assert error.value.why == why
    assert "nicolaka/netshoot" in error.value.fix


def test_a_pod_that_fails_at_first_is_given_time(monkeypatch):
    looks = []
    monkeypatch.setattr(workload, "wait_for", lambda _, look, timeout: looks.append(look()))
    workload.wait_ready(Failing("ErrImagePull", 0), ("client",))
    assert looks[0].text == "not ready: client ErrImagePull"


def test_an_unknown_data_plane_names_those_that_there_are():
    with pytest.raises(MeasurementError, match="no data plane 'ipvs'"):
        question.pick("data plane", ["ipvs"], {"vanilla": 1, "ebpf": 2})


def test_a_budget_gives_rounds_and_their_precision():
    found = forecast(5, round_seconds=40, fixed_seconds=10, budget=300)
    assert (found.rounds, found.seconds) == (7, 290)
    assert "7 rounds take about 4 min 50 s" in str(found)
    assert "less than about 7%" in str(found)
    assert "nothing is known of this machine" in str(found)


def test_a_budget_for_no_round_says_what_one_takes():
    with pytest.raises(MeasurementError) as error:
        forecast(5, round_seconds=40.2, fixed_seconds=10, budget=45)
    assert "budget=51" in error.value.fix


def test_a_few_rounds_promise_nothing():
    assert "no claim" in str(forecast(2, 10))


def test_the_spread_of_a_run_before_is_taken():
    values = [9.0, 10.0, 11.0]
    run = Run("article", "", tuple(Sample("ebpf", "a", i, {"cores_per_10_gbit": v}) for i, v in enumerate(values)))
    assert budget.spread_of(run) == pytest.approx(0.1)
    wide, narrow = forecast(5, 10, known=run), forecast(5, 10)
    assert wide.precision == pytest.approx(2 * narrow.precision)
    assert "as in the run before" in str(wide)
