import itertools
import json

import numpy as np
import plotly.graph_objects as go
import pytest

from labkit import charts, reference
from labkit.charts.look import INK

SERIES = {
    "vanilla": {"pod to pod, TCP": (0.5, 0.4, 0.7), "pod to pod, UDP": (2.0, 1.5, 2.5)},
    "ebpf": {"pod to pod, TCP": (0.4, 0.3, 0.5), "pod to pod, UDP": (1.5, 1.2, 1.9)},
}
FINDINGS = [
    charts.Finding("UDP", "ebpf", "eBPF ÷ kube-proxy", 0.8, 0.7, 0.9, "20 % less", True),
    charts.Finding("UDP", "calico_ebpf", "somebody 2020", 0.6, None, None, "40 % less (published)", False),
    charts.Finding("TCP", "ebpf", "eBPF ÷ kube-proxy", 1.02, 0.97, 1.1, "no detectable difference", False),
]


def drawn() -> list[charts.Chart]:
    points = {"vanilla": [(10, 40.0), (1000, 90.0)], "ebpf": [(10, 38.0), (1000, 38.5)]}
    ours = charts.bars("flows", "CPU", "vCPU for 10 Gbit/s", SERIES, note="medians " * 40)
    theirs = charts.published_bars("article", reference.load("article-cpu"), ["azure_cni", "calico_ebpf"])
    curves = {"tigera-2020-connect": ["ipvs", "ebpf"], "k8s-2025-first-packet": ["p50"]}
    return [
        ours,
        theirs,
        charts.lines("scale", "First packet", "services", "µs", points, log_x=True, bands=[(10, 20, "then")]),
        charts.beside(ours, theirs, ("ours", "theirs"), note="a note"),
        charts.forest("claims", "Claims", "ratio of vCPU", FINDINGS, note="hollow: holds 1"),
        charts.published_curves("curves", "First packets", "µs", curves, 1000),
        charts.published_churn("churn", reference.load("article-churn")),
        charts.published_reductions("studies", ["article-cpu", "kops-cpu"]),
        charts.scatter("dots", "Dots", "ms", {"ebpf": [("a", 1.0), ("b", 2.0)]}),
    ]


@pytest.mark.parametrize("chart", drawn(), ids=lambda chart: chart.name)
def test_plotly_accepts_each_figure_and_it_is_plain_json(chart: charts.Chart) -> None:
    figure = chart.figure()
    assert isinstance(figure, go.Figure)
    assert len(figure.data) == len(chart.data) > 0
    assert "<br>" in figure.layout.title.text
    assert json.loads(json.dumps(chart.spec())) == chart.spec()


@pytest.mark.parametrize("chart", drawn(), ids=lambda chart: chart.name)
def test_each_figure_says_in_words_what_it_draws(chart: charts.Chart) -> None:
    title = chart.layout["title"]["text"].removeprefix("<b>").partition("<")[0]
    assert title in chart.text
    for trace in chart.data:
        assert trace["name"].partition(": ")[2] in chart.text or trace["name"] in chart.text or chart.name == "dots"
    for words in chart.layout.get("annotations", []):
        plain = words["text"].replace("<br>", " ").replace("<b>", "").replace("</b>", "")
        assert plain.strip() in " ".join(chart.text.split()), "only the picture says it"


def test_intervals_become_error_bars() -> None:
    trace = charts.bars("flows", "CPU", "vCPU", SERIES).data[0]
    assert trace["error_y"]["array"] == pytest.approx([0.2, 0.5])
    assert trace["error_y"]["arrayminus"] == pytest.approx([0.1, 0.5])


def test_what_a_study_gives_as_least_and_most_becomes_an_interval_and_nothing_else_does() -> None:
    with_runs = charts.published_bars("x", reference.load("infrabuilder-2024"), ["calico_iptables", "calico_ebpf"])
    assert max(with_runs.data[0]["error_y"]["array"]) > 0
    single = charts.published_bars("x", reference.load("article-cpu"), ["azure_cni"])
    assert "error_y" not in single.data[0]


def test_a_finding_whose_interval_holds_1_is_hollow_and_says_so() -> None:
    found = {trace["hovertext"][0]: trace for trace in drawn()[4].data}
    assert found["no detectable difference"]["marker"]["symbol"] == "diamond-open"
    assert found["20 % less"]["marker"]["symbol"] == "diamond"
    published = found["40 % less (published)"]
    assert "error_x" not in published
    assert published["marker"]["symbol"] != "diamond"
    low, high = drawn()[4].layout["xaxis"]["range"]
    assert 10**low < 0.6
    assert 10**high > 1.1


def test_verdicts_break_into_lines_that_fit_beside_the_axis_and_into_their_row() -> None:
    claim = "31 % less (95 % interval 17 to 45 %)"
    found = charts.Finding("UDP", "ebpf", "a ÷ b", 0.7, 0.55, 0.83, claim, True)
    chart = charts.forest("x", "Claims", "ratio", [found])
    (said,) = (a["text"].split("<br>") for a in chart.layout["annotations"])
    assert " ".join(said) == claim
    assert len(said) <= 2
    assert max(map(len, said)) <= 25


def test_a_source_of_two_studies_is_named_once() -> None:
    text = charts.published_reductions("x", ["infrabuilder-2020", "infrabuilder-2020-mtu-1440"]).text
    assert text.count(reference.load("infrabuilder-2020").citation) == 1


def test_half_a_figure_has_short_category_names_upright() -> None:
    across = drawn()[3].layout["xaxis2"]
    assert across["tickangle"] == 0
    assert max(len(line) for text in across["ticktext"] for line in text.split("<br>")) <= 8


def test_two_charts_in_one_keep_their_own_axes_and_one_legend() -> None:
    both = drawn()[3]
    sides = [(trace.get("xaxis", "x"), trace["name"], trace.get("showlegend", True)) for trace in both.data]
    assert sides == [("x", "kube-proxy", True), ("x", "Calico eBPF", True), ("x2", "Azure CNI, kube-proxy", True),
                     ("x2", "Calico eBPF", False)]  # fmt: skip
    assert both.layout["xaxis2"]["anchor"] == "y2"
    assert both.layout["xaxis"]["domain"][1] < both.layout["xaxis2"]["domain"][0]


def test_a_data_plane_looks_the_same_everywhere_and_differs_from_the_others_without_colour() -> None:
    assert charts.look("calico_ebpf", 3) == charts.look("ebpf", 0)
    looks = [charts.look(name) for name in charts.LOOK]
    for part in (1, 2, 3):
        assert len({look[part] for look in looks}) >= len(looks) - 1, f"part {part}"
    assert len({look[1:] for look in looks}) == len(looks)


# Viénot, Brettel and Mollon 1999: what two kinds of dichromats see, in linear RGB.
SEEN = {
    "everybody": np.eye(3),
    "protanopes": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopes": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("who", SEEN)
def test_colours_can_be_told_apart(who: str) -> None:
    for one, other in itertools.combinations(charts.LOOK, 2):
        seen = [lab(SEEN[who] @ linear(charts.look(name).colour)) for name in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > 15, f"{one} and {other}"


@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_ink_is_readable_in_both_themes(background: str) -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    light, dark = sorted((float(weights @ linear(c)) for c in (INK, background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 4.2


def test_the_result_travels_with_the_picture() -> None:
    chart = charts.Chart("x", [], {}, "words", {"name": "x", "document": {"a": 1}})
    assert chart.bundle()[charts.RESULT] == {"name": "x", "document": {"a": 1}}
    assert "text/plain" in chart.bundle()


def test_hundreds_of_points_are_told_in_a_few_lines() -> None:
    text = charts.published_churn("churn", reference.load("article-churn")).text
    assert "one service changes: 95 to 215 seconds" in text
    assert "180" in text  # the article's highest peak, read off over two seconds
    assert len(text.splitlines()) < 10


def test_a_long_formula_breaks_into_lines_also_above_two_charts() -> None:
    formula = "the left formula, % of a node, " * 5
    bar = {"ebpf": {"a": (1.0, 1.0, 1.0)}}
    one = charts.bars("x", "t", formula, bar)
    two = charts.beside(one, one, ("left", "right"))
    for chart in (one, two):
        lines = chart.layout["title"]["text"].split("<br>")[1:]
        assert len(lines) == 2
        assert "".join(lines).count("the left formula") == 5
    assert one.layout["margin"]["t"] > charts.bars("x", "t", "%", bar).layout["margin"]["t"]


def test_a_long_legend_has_room() -> None:
    curves = {"tigera-2020-connect": ["kube_proxy_iptables", "ipvs", "ebpf"], "k8s-2025-first-packet": ["p50", "p99"]}
    tall = charts.published_curves("x", "t", "µs", curves, 1)
    low = charts.published_curves("x", "t", "µs", {"k8s-2025-first-packet": ["p50"]}, 1)
    assert tall.layout["margin"]["t"] > low.layout["margin"]["t"]


def test_published_reductions_stand_side_by_side_with_their_formula() -> None:
    studies = [name for name in reference.ids() if "reduction_percent" in reference.load(name).columns]
    found = charts.published_reductions("studies", studies)
    drawn = {trace["name"]: trace for trace in found.data}
    assert round(drawn["the article, AKS 2021"]["y"][0]) == 11
    assert "÷ before × 100" in found.text
    assert all(reference.load(study).citation in found.text for study in studies)
    looks = [(trace["marker"]["color"], trace["marker"]["pattern"]["shape"]) for trace in found.data]
    assert len(looks) == len(set(looks)) == len(studies) > 5, "two studies look the same"
