"""Published figures as charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.charts.chart import Chart, Interval
from labkit.charts.draw import bars, lines
from labkit.charts.look import label, look
from labkit.reference import Reference, load

__all__ = ["published_bars", "published_churn", "published_curves", "published_reductions"]


def published_bars(name: str, reference: Reference, columns: Sequence[str]) -> Chart:
    """Draw published figures as bars: category in the first column, one series for each named column.

    Args:
        name: of the chart.
        reference: the figures.
        columns: which; what a study gives as the least and the most of its runs becomes an interval.
    """
    categories = [str(value) for value in reference.column(reference.columns[0])]
    series = {
        column: dict(zip(categories, _intervals(reference, column), strict=True)) for column in columns
    }
    return bars(name, reference.title, reference.unit, series, note=f"{reference.citation}. {reference.caveat}")


def published_reductions(name: str, studies: Sequence[str]) -> Chart:
    """Draw by how much several studies saw CPU fall, side by side.

    Args:
        name: of the chart.
        studies: published figures by name, such as ``article-cpu``.
    """
    series: dict[str, Mapping[str, Interval]] = {}
    for study in studies:
        figures = load(study)
        flows = zip(figures.column("flow"), figures.column("reduction_percent"), strict=True)
        series[figures.short] = {str(flow): _point(value) for flow, value in flows}
    formula = "CPU saved at the same traffic, % = (before − with eBPF) ÷ before × 100; below 0 it costs more"
    sources = "; ".join(dict.fromkeys(load(study).citation for study in studies))
    return bars(name, "Less CPU with Calico eBPF, by study", formula, series, note=sources)


def published_curves(name: str, title: str, axis: str, curves: Mapping[str, Sequence[str]], scale: float) -> Chart:
    """Draw curves of several studies over the number of services.

    Args:
        name: of the chart.
        title: of the chart.
        axis: the quantity with its unit.
        curves: studies by name, and which of their columns.
        scale: factor from their unit to the chart's.
    """
    figures = [load(study) for study in curves]
    traces = [t for study, reference in zip(curves, figures, strict=True)
              for t in _lines(reference, curves[study], scale=scale)]  # fmt: skip
    note = " ".join(f"{reference.citation}. {reference.caveat}" for reference in figures)
    return lines(name, title, "number of services", axis, {}, published=traces, note=note)


def published_churn(name: str, reference: Reference) -> Chart:
    """Draw the article's second chart: CPU over time while one of thousands of services changes."""
    times = reference.column("seconds")
    points = {
        column: [(float(t), float(v)) for t, v in zip(times, reference.column(column), strict=True)
                 if t is not None and v is not None]
        for column in reference.columns[1:]
    }  # fmt: skip
    changing = [(95.0, 215.0, "one service changes")]
    note = f"{reference.citation}. {reference.caveat}"
    return lines(name, reference.title, "seconds", reference.unit, points, note=note, bands=changing, dots=False)


def _lines(reference: Reference, columns: Sequence[str], *, scale: float = 1.0) -> list[dict[str, Any]]:
    """Return curves over a study's first column as thin traces."""
    xs = reference.column(reference.columns[0])
    traces = []
    for index, column in enumerate(columns):
        drawn = look(column, index)
        ys = [None if y is None else round(float(y) * scale, 4) for y in reference.column(column)]
        traces.append({
            "type": "scatter", "mode": "lines", "opacity": 0.8, "x": xs, "y": ys,
            "name": f"{label(column)}, {reference.short}",
            "line": {"color": drawn.colour, "dash": drawn.dash, "width": 1.8}, "marker": {"symbol": drawn.marker},
        })  # fmt: skip
    return traces


def _intervals(reference: Reference, column: str) -> list[Interval]:
    values = reference.column(column)
    ends = [f"{column}_low", f"{column}_high"]
    if not set(ends) <= set(reference.columns):
        return [_point(value) for value in values]
    low, high = (reference.column(end) for end in ends)
    return [(_number(v), _number(a), _number(b)) for v, a, b in zip(values, low, high, strict=True)]


def _point(value: object) -> Interval:
    return (_number(value),) * 3


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
