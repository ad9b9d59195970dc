"""What a sceptic sees of a run."""

import json
from dataclasses import replace

import pytest

from labkit.bench.results import Run, Sample
from labkit.errors import MeasurementError
from labkit.ui import run_charts, run_views
from labkit.ui.show import show

WIGGLE = (0.0, 0.01, -0.01, 0.02, -0.02)
CASES = {"pod to pod, TCP": (60.0, 60.0), "pod to pod, UDP": (400.0, 300.0)}


def article(spike: float = 0.0) -> Run:
    samples = []
    for number, off in enumerate(WIGGLE):
        for arm in ("vanilla", "iptables", "ebpf"):
            idle = {"node_percent": 4.0 + number, "steal_percent": 0.5}
            samples.append(Sample(arm, "idle", number, idle))
            for case, (before, after) in CASES.items():
                value = (after if arm == "ebpf" else before) * (1 + off)
                value *= 1 + spike if (arm, case, number) == ("iptables", "pod to pod, TCP", 3) else 1
                metrics = {"node_percent_per_10_gbit": value, "steal_percent": 1.0 + number}
                samples.append(Sample(arm, case, number, metrics))
    return Run("article", "Flows", tuple(samples), notes=("On one machine.",))


def scale() -> Run:
    samples = []
    for count, slow in ((10, 40.0), (1000, 90.0)):
        for number, off in enumerate(WIGGLE):
            for arm in ("vanilla", "ebpf"):
                time = slow if arm == "vanilla" else 38.0
                x = float(count)
                samples.append(Sample(arm, f"first packet, {count:,} services", number, {"p50_us": time + off}, x=x))
                for kind, busy in (("quiet", 5.0), ("churn", 50.0 if arm == "vanilla" else 6.0)):
                    series = {"series": {"seconds": [0.5, 1.0], "node_percent": [busy, busy + 1]}}
                    program = "kube-proxy" if arm == "vanilla" else "calico-node"
                    spent = count / 100 if kind == "churn" else 0.1
                    metrics = {"node_percent": busy, f"{program}_percent_of_core": spent}
                    samples.append(Sample(arm, f"{kind}, {count:,} services", number, metrics, x=x, detail=series))
    return Run("scale", "Scale", tuple(samples))


def test_each_claim_has_its_interval_and_what_cannot_be_told_apart_is_hollow() -> None:
    drawn = run_views.claims(article(), "node_percent_per_10_gbit", studies=["article-cpu"])
    marks = {(trace["name"], trace["y"][0]): trace for trace in drawn.data}
    symbols = [trace["marker"]["symbol"] for trace in marks.values()]
    assert symbols == ["diamond-open", "diamond-open", "line-ns-open", "diamond", "diamond", "line-ns-open"]
    assert "no detectable difference" in drawn.text
    assert "25 % less (95 % interval" in drawn.text
    assert "41 % less than Azure CNI, kube-proxy (published)" in drawn.text
    assert "Calico eBPF ÷ Calico iptables" in drawn.text
    assert drawn.figure()


def test_a_run_says_of_itself_what_a_reader_must_know_and_explains_the_figures_that_it_has() -> None:
    run = replace(article(), provenance={
        "forecast": "One minute.", "arms": {"vanilla": {"mtu": 1500}, "ebpf": {"mtu": 1500}},
        "figures": {"node_percent": "CPU of <both>", "cores": "not measured"},
    })  # fmt: skip
    assert run_views.notes(run).text == "One minute.\nOn one machine.\nMTU: 1500."
    explained = run_views.figures(run)
    assert "CPU of &lt;both&gt;" in explained.html
    assert "not measured" not in explained.text


def test_without_ebpf_all_are_compared_with_the_first() -> None:
    run = article()
    without = Run("article", "Flows", tuple(s for s in run.samples if s.arm != "ebpf"))
    drawn = run_views.claims(without, "node_percent_per_10_gbit")
    assert "Calico iptables ÷ kube-proxy" in drawn.text
    assert len(drawn.data) == 2


def test_the_article_s_bars_stand_beside_ours_with_its_caveat_and_our_document_travels() -> None:
    run = article()
    drawn = run_views.beside_published(run, "node_percent_per_10_gbit", "article-cpu", ["azure_cni", "calico_ebpf"])
    ours = [trace for trace in drawn.data if trace.get("xaxis", "x") == "x"]
    assert [trace["name"] for trace in ours] == ["kube-proxy", "Calico iptables", "Calico eBPF"]
    assert list(ours[0]["x"]) == list(CASES)
    assert "648 vCPUs on nodes with two is impossible" in drawn.text
    document = json.loads(json.dumps(drawn.result["document"]))
    assert [sample["metrics"] for sample in document["samples"]] == [sample.metrics for sample in run.samples]
    assert drawn.figure()


def test_noise_is_shown_by_round_with_idle_and_steal_and_outliers_are_ringed_not_dropped() -> None:
    quiet = run_views.noise(article(), "node_percent_per_10_gbit")
    assert "far from the others" not in [trace["name"] for trace in quiet.data]
    assert "No sample lies far" in quiet.text
    loud = run_views.noise(article(spike=0.5), "node_percent_per_10_gbit")
    rings = next(trace for trace in loud.data if trace["name"] == "far from the others")
    assert rings["hovertext"] == ["Calico iptables, pod to pod, TCP, round 4"]
    assert "counted all the same: Calico iptables, pod to pod, TCP, round 4" in loud.text
    dots = [trace for trace in loud.data if trace["mode"] == "markers" and trace is not rings]
    assert sum(len(trace["y"]) for trace in dots) == 3 * len(CASES) * len(WIGGLE)
    background = {trace["name"]: trace["y"] for trace in loud.data if trace.get("xaxis") == "x2"}
    assert background["kube-proxy"] == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert background["stolen by the hypervisor, most of each round"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert loud.figure()


def test_the_noise_of_a_single_round_is_not_known() -> None:
    one = Run("article", "Flows", tuple(s for s in article().samples if s.round == 0))
    assert "One round only" in run_views.noise(one, "node_percent_per_10_gbit").text
    assert "no intervals" in run_charts.chart(one, "node_percent_per_10_gbit").text


def test_first_packets_stand_beside_the_published_curves() -> None:
    drawn = run_views.first_packet(scale())
    names = [trace["name"] for trace in drawn.data]
    assert names[:2] == ["kube-proxy", "Calico eBPF"]
    assert "kube-proxy iptables, Tigera 2020" in names
    assert "kube-proxy iptables, median, Kubernetes 2025" in names
    assert drawn.data[0]["x"] == [10.0, 1000.0]
    assert drawn.data[names.index("Calico eBPF, Tigera 2020")]["y"][0] == 380.0, "ms became µs"
    assert "Medians of 5 rounds" in drawn.text
    assert drawn.figure()


def test_churn_over_time_is_of_the_largest_number_and_shades_what_changed() -> None:
    drawn = run_views.churn(scale())
    vanilla = drawn.data[0]
    assert vanilla["name"] == "kube-proxy"
    assert vanilla["x"][:4] == [0.5, 1.0, 1.5, 2.0]
    assert vanilla["y"][:4] == [5.0, 6.0, 50.0, 51.0]
    assert len(vanilla["x"]) == 4 * len(WIGGLE)
    assert [(shape["x0"], shape["x1"]) for shape in drawn.layout["shapes"]][:2] == [(1.0, 2.0), (3.0, 4.0)]
    assert "With 1,000 services" in drawn.text
    assert drawn.figure()


def test_cpu_of_each_program_stands_by_its_data_plane_at_the_largest_number() -> None:
    drawn = run_views.programs(Run("scale", "Scale", tuple(reversed(scale().samples))))
    assert [(trace["name"], trace["x"], trace["y"]) for trace in drawn.data] == [
        ("Calico eBPF", ["calico-node, churn", "calico-node, quiet"], [10.0, 0.1]),
        ("kube-proxy", ["kube-proxy, churn", "kube-proxy, quiet"], [10.0, 0.1])]  # fmt: skip
    assert "With 1,000 services." in drawn.text
    assert "% of one core" in drawn.text
    assert drawn.figure()


def test_one_measure_of_a_suite_is_one_line_for_each_data_plane(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = run_charts.chart(scale(), "node_percent", measure="churn")
    assert [(trace["name"], trace["y"]) for trace in drawn.data] == [("kube-proxy", [50.0, 50.0]),
                                                                    ("Calico eBPF", [6.0, 6.0])]  # fmt: skip
    one = Run("scale", "Scale", tuple(s for s in scale().samples if s.x == 10))
    assert {trace["type"] for trace in run_charts.chart(one, "node_percent", measure="churn").data} == {"bar"}
    show(scale(), metric="node_percent", measure="churn")
    out = capsys.readouterr().out
    assert "churn, 1,000 services" in out
    assert "quiet" not in out


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("node_percent_per_10_gbit", "% of a node for 10 Gbit/s = (client % + server %) × 10 ÷ Gbit/s"),
        ("kube-proxy_percent_of_core", "CPU of kube-proxy, % of one core"),
        ("kube-proxy_cpu_ms_per_change", "kube-proxy CPU for each change, ms"),
        ("connections_per_s", "connections per s"),
        ("connect_us", "connect, µs"),
    ],
)
def test_axes_name_quantity_and_unit(metric: str, words: str) -> None:
    assert words in run_charts.axis(metric)


def test_too_few_rounds_claim_nothing_wherever_the_interval_lies() -> None:
    one = Run("article", "Flows", tuple(s for s in article().samples if s.round == 0))
    drawn = run_views.claims(one, "node_percent_per_10_gbit")
    assert {trace["marker"]["symbol"] for trace in drawn.data} == {"diamond-open"}
    assert "too few rounds for a claim" in drawn.text


def test_a_slope_needs_two_numbers_of_services() -> None:
    run = scale()
    slopes = run_views.slopes(run)
    assert slopes["vanilla"][0] == pytest.approx(50 / 990, rel=0.01)
    assert abs(slopes["ebpf"][0]) < 1e-6
    stopped = Run("scale", "Scale", tuple(s for s in run.samples if s.arm == "ebpf" or s.x == 10))
    assert set(run_views.slopes(stopped)) == {"ebpf"}


def test_a_run_that_was_stopped_early_says_what_it_lacks_and_what_to_do() -> None:
    run = article()
    assert run_views.finding(run, "node_percent_per_10_gbit", "pod to pod, UDP").ratio == pytest.approx(0.75)
    stopped = Run("article", "Flows", tuple(s for s in run.samples if s.arm == "iptables"))
    with pytest.raises(MeasurementError, match="stopped before"):
        run_views.finding(stopped, "node_percent_per_10_gbit", "pod to pod, UDP")
