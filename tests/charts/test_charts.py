import json

import plotly.graph_objects as go
import pytest

from labkit import charts, reference

SERIES = {
    "vanilla": {"tcp pod to pod": (0.5, 0.4, 0.7), "udp pod to pod": (2.0, 1.5, 2.5)},
    "ebpf": {"tcp pod to pod": (0.4, 0.3, 0.5), "udp pod to pod": (1.5, 1.2, 1.9)},
}


def drawn() -> list[charts.Chart]:
    published = charts.published_lines(
        reference.load("tigera-2020-connect"), ["kube_proxy_iptables", "ebpf"], scale=1000
    )
    points = {"vanilla": [(10, 40.0), (1000, 90.0)], "ebpf": [(10, 38.0), (1000, 38.5)]}
    return [
        charts.bars("flows", "CPU", "vCPU for 10 Gbit/s", SERIES, note="medians " * 40),
        charts.lines("scale", "First packet", "services", "µs", points, published=published, log_x=True),
        charts.published_bars("article", reference.load("article-cpu"), ["azure_cni", "calico_ebpf"]),
    ]


@pytest.mark.parametrize("chart", drawn(), ids=lambda chart: chart.name)
def test_plotly_accepts_each_figure(chart: charts.Chart) -> None:
    figure = chart.figure()
    assert isinstance(figure, go.Figure)
    assert len(figure.data) == len(chart.data)
    assert "<br>" in figure.layout.title.text


@pytest.mark.parametrize("chart", drawn(), ids=lambda chart: chart.name)
def test_figures_are_plain_json(chart: charts.Chart) -> None:
    assert json.loads(json.dumps(chart.spec())) == chart.spec()


def test_intervals_become_error_bars() -> None:
    trace = charts.bars("flows", "CPU", "vCPU", SERIES).data[0]
    assert trace["error_y"]["array"] == pytest.approx([0.2, 0.5])
    assert trace["error_y"]["arrayminus"] == pytest.approx([0.1, 0.5])


def test_a_data_plane_looks_the_same_everywhere_and_differs_from_the_others_without_colour() -> None:
    assert charts.look("calico_ebpf", 3) == charts.look("ebpf", 0)
    looks = [charts.look(name) for name in charts.LOOK]
    for part in (0, 1, 2, 3):
        distinct = {look[part] for look in looks}
        assert len(distinct) >= len(looks) - 1, f"part {part}"


def test_the_result_travels_with_the_picture() -> None:
    chart = charts.Chart("x", [], {}, "words", {"name": "x", "document": {"a": 1}})
    assert chart.bundle()[charts.RESULT] == {"name": "x", "document": {"a": 1}}
    assert "text/plain" in chart.bundle()


def test_every_published_dataset_has_source_and_caveat_and_full_rows() -> None:
    for name in reference.ids():
        data = reference.load(name)
        assert data.source
        assert data.note
        assert data.unit
        assert all(len(row) == len(data.columns) for row in data.rows), name


def test_the_article_said_11_to_41_percent() -> None:
    data = reference.load("article-cpu")
    for flow, before, after, reduction in data.rows:
        assert round(100 * (1 - after / before), 1) == reduction, flow  # type: ignore[operator]
    assert (min(data.column("reduction_percent")), max(data.column("reduction_percent"))) == (11.0, 41.1)  # type: ignore[type-var]


def test_published_reductions_stand_side_by_side_with_their_formula() -> None:
    drawn = charts.published_reductions("studies", {"article-cpu": "the article", "kops-cpu": "kOps"})
    assert [trace["name"] for trace in drawn.data] == ["the article", "kOps"]
    assert round(drawn.data[0]["y"][0]) == 11
    assert "÷ before × 100" in drawn.text
    assert drawn.figure()
