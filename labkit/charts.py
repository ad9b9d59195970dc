"""Results as plotly figures, built as plain dictionaries and lists.

So they are stable JSON that diffs well, a run without a front end never imports plotly, and each carries
its text for a terminal. Colours are Okabe and Ito's, which colour-blind readers can tell apart; pattern, dash
and marker say the same again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from labkit.markup import text_table
from labkit.reference import Reference, load

__all__ = [
    "PLOTLY",
    "RESULT",
    "Chart",
    "bars",
    "lines",
    "published_bars",
    "published_lines",
    "published_reductions",
    "scatter",
]

PLOTLY: Final = "application/vnd.plotly.v1+json"
#: A measurement beside its picture: front ends do not know this type and draw the others of the bundle.
RESULT: Final = "application/vnd.labkit.result+json"

#: series -> (colour, bar pattern, line dash, marker)
LOOK: Final[dict[str, tuple[str, str, str, str]]] = {
    "vanilla": ("#E69F00", "", "solid", "circle"),
    "iptables": ("#0072B2", "/", "dash", "square"),
    "ebpf": ("#009E73", ".", "solid", "diamond"),
    "ipvs": ("#CC79A7", "x", "dot", "triangle-up"),
}
_ALIASES: Final = {
    "calico_ebpf": "ebpf", "calico ebpf": "ebpf", "azure_cni": "vanilla", "calico_iptables": "iptables",
    "kube-proxy": "vanilla", "kube_proxy_iptables": "vanilla",
}  # fmt: skip
_LABELS: Final = {
    "ebpf": "Calico eBPF",
    "calico_ebpf": "Calico eBPF",
    "iptables": "Calico iptables",
    "calico_iptables": "Calico iptables",
    "vanilla": "kube-proxy",
    "kube_proxy_iptables": "kube-proxy iptables",
    "azure_cni": "Azure CNI, kube-proxy",
    "ipvs": "kube-proxy IPVS",
}
_OTHERS: Final = (
    ("#56B4E9", "", "dashdot", "cross"),
    ("#D55E00", "/", "longdash", "x"),
    ("#8C8C8C", "\\", "dot", "star"),
    ("#CC79A7", "x", "dash", "triangle-up"),
    ("#009E73", ".", "solid", "diamond"),
)
_PATTERN: Final = {"fillmode": "overlay", "solidity": 0.2, "fgcolor": "rgba(255,255,255,0.75)"}
_INK, _GRID = "#757b84", "rgba(128,128,128,0.28)"


@dataclass(frozen=True, repr=False)
class Chart:
    """One figure: plotly's data and layout, and the same in words.

    Args:
        name: stable, for file names.
        data: plotly traces.
        layout: plotly layout.
        text: what a terminal and a screen reader get.
        result: the measurement behind it, kept beside the picture in an executed notebook.
    """

    name: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    text: str
    result: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """Return the figure as plotly's JSON."""
        return {"data": self.data, "layout": self.layout}

    def figure(self) -> Any:
        """Return it as a `plotly.graph_objects.Figure`, which also validates it."""
        import plotly.graph_objects as go

        return go.Figure(self.spec())

    def bundle(self) -> dict[str, Any]:
        """Return what Jupyter displays; the measurement travels along."""
        shown = {
            PLOTLY: {**self.spec(), "config": {"displaylogo": False, "responsive": True}},
            "text/plain": self.text,
        }
        return shown | ({RESULT: self.result} if self.result else {})

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return self.bundle()

    def __repr__(self) -> str:
        return self.text


Interval = tuple[float, float, float]
"""Median, low and high end of its interval."""


def bars(name: str, title: str, axis: str, series: Mapping[str, Mapping[str, Interval]], *, note: str = "") -> Chart:
    """Draw one group of bars for each category, with intervals.

    Args:
        name: of the chart.
        title: of the chart.
        axis: the quantity with unit and formula.
        series: series -> category -> (median, low, high).
        note: stands under the chart.
    """
    data = []
    for index, (key, values) in enumerate(series.items()):
        colour, pattern, _, _ = look(key, index)
        medians = [values[c][0] for c in values]
        trace: dict[str, Any] = {
            "type": "bar", "name": label(key), "x": list(values), "y": medians,
            "marker": {"color": colour, "pattern": {"shape": pattern} | _PATTERN},
            "error_y": _whiskers(list(values.values())),
        }  # fmt: skip
        if all(low == high for _, low, high in values.values()):
            del trace["error_y"]  # published figures have no interval
        data.append(trace)
    rows = [[label(key), c, *values[c]] for key, values in series.items() for c in values]
    text = text_table(["data plane", "flow", "median", "low", "high"], rows, f"{title}\n{axis}")
    return Chart(name, data, {**_layout(title, "", axis, note), "barmode": "group"}, _with(text, note))


def lines(
    name: str, title: str, x_axis: str, y_axis: str, series: Mapping[str, Sequence[tuple[float, ...]]], *,
    note: str = "", published: Sequence[dict[str, Any]] = (), log_x: bool = False, log_y: bool = False,
) -> Chart:  # fmt: skip
    """Draw one line for each series.

    Args:
        name: of the chart.
        title: of the chart.
        x_axis: quantity and unit.
        y_axis: quantity and unit.
        series: series -> points as (x, y) or, with an interval, (x, y, low, high).
        note: stands under the chart.
        published: traces of published figures, drawn thin and behind.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is.
    """
    data = [*published]
    for index, (key, points) in enumerate(series.items()):
        colour, _, dash, marker = look(key, index)
        trace = {
            "type": "scatter", "mode": "lines+markers", "name": label(key),
            "x": [point[0] for point in points], "y": [point[1] for point in points],
            "line": {"color": colour, "dash": dash, "width": 2.5}, "marker": {"symbol": marker, "size": 8},
        }  # fmt: skip
        if points and all(len(point) == 4 for point in points):
            trace["error_y"] = _whiskers([(y, low, high) for _, y, low, high in points])
        data.append(trace)
    layout = _layout(title, x_axis, y_axis, note)
    layout["xaxis"] |= {"type": "log"} if log_x else {}
    layout["yaxis"] |= {"type": "log"} if log_y else {"rangemode": "tozero"}
    rows = [[label(key), *point[:2]] for key, points in series.items() for point in points]
    return Chart(name, data, layout, _with(text_table(["series", x_axis, y_axis], rows, title), note))


def scatter(name: str, title: str, y_axis: str, series: Mapping[str, Sequence[tuple[float | str, float]]]) -> Chart:
    """Draw single samples as dots, over categories or numbers.

    Args:
        name: of the chart.
        title: of the chart.
        y_axis: quantity and unit.
        series: series -> samples as (category or number, value).
    """
    data = []
    for index, (key, points) in enumerate(series.items()):
        colour, _, _, marker = look(key, index)
        data.append({
            "type": "scatter", "mode": "markers", "name": label(key),
            "x": [x for x, _ in points], "y": [y for _, y in points],
            "marker": {"color": colour, "symbol": marker, "size": 9, "opacity": 0.75},
        })  # fmt: skip
    layout = _layout(title, "", y_axis, "")
    layout["yaxis"] |= {"rangemode": "tozero"}
    layout["margin"] |= {"l": 75, "r": 75}  # the outermost categories are written around the edges
    count = sum(len(points) for points in series.values())
    return Chart(name, data, layout, f"{title}: {count} samples")


def published_bars(name: str, reference: Reference, columns: Sequence[str]) -> Chart:
    """Draw published figures as bars: category in the first column, one series for each named column."""
    categories = [str(value) for value in reference.column(reference.columns[0])]
    series = {
        column: {c: _point(v) for c, v in zip(categories, reference.column(column), strict=True)} for column in columns
    }
    return bars(name, reference.title, reference.unit, series, note=f"{reference.citation}. {reference.note}")


def published_reductions(name: str, studies: Mapping[str, str]) -> Chart:
    """Draw by how much several studies saw CPU fall, side by side.

    Args:
        name: of the chart.
        studies: published figures by name, such as ``article-cpu``, and how each is called in the chart.
    """
    series = {}
    for study, title in studies.items():
        figures = load(study)
        flows = zip(figures.column("flow"), figures.column("reduction_percent"), strict=True)
        series[title] = {str(flow): _point(value) for flow, value in flows}
    formula = "CPU saved at the same traffic, % = (before − with eBPF) ÷ before × 100; below 0 it costs more"
    return bars(name, "Less CPU with Calico eBPF, by study", formula, series)


def published_lines(reference: Reference, columns: Sequence[str], *, scale: float = 1.0) -> list[dict[str, Any]]:
    """Return published curves as thin traces that stand behind a learner's own.

    Args:
        reference: whose first column is the horizontal axis.
        columns: which curves.
        scale: factor to the unit of the chart.
    """
    xs = reference.column(reference.columns[0])
    traces = []
    for index, column in enumerate(columns):
        colour, _, dash, marker = look(column, index)
        ys = [None if y is None else round(float(y) * scale, 4) for y in reference.column(column)]
        traces.append({
            "type": "scatter", "mode": "lines", "opacity": 0.55, "x": xs, "y": ys,
            "name": f"{label(column)}, published {reference.year}",
            "line": {"color": colour, "dash": dash, "width": 1.2}, "marker": {"symbol": marker},
        })  # fmt: skip
    return traces


def look(series: str, index: int = 0) -> tuple[str, str, str, str]:
    """Return colour, pattern, dash and marker: the same for a data plane in every chart."""
    key = series.casefold()
    return LOOK.get(_ALIASES.get(key, key)) or _OTHERS[index % len(_OTHERS)]


def label(series: str) -> str:
    """Return how a series is written for people."""
    return _LABELS.get(series, series.replace("_", " "))


def _whiskers(values: Sequence[Interval]) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "color": _INK,
        "array": [max(0.0, high - middle) for middle, _, high in values],
        "arrayminus": [max(0.0, middle - low) for middle, low, _ in values],
    }  # fmt: skip


def _point(value: object) -> Interval:
    number = float(value) if isinstance(value, int | float) else 0.0
    return number, number, number


def _with(text: str, note: str) -> str:
    return f"{text}\n{note}" if note else text


def _layout(title: str, x_axis: str, y_axis: str, note: str) -> dict[str, Any]:
    """Return the layout; the vertical axis' words stand above it, where a formula has room."""
    wrapped = _broken(note) if note else ""
    lines = wrapped.count("<br>") + 1 if note else 0
    below = (60 if x_axis else 28) + 16 * lines
    layout: dict[str, Any] = {
        "title": {
            "text": f"<b>{title}</b><br><span style='font-size:12px'>{y_axis}</span>",
            "font": {"size": 15}, "x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top",
        },
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": _INK, "size": 13},
        "height": 420 + 16 * lines, "margin": {"l": 60, "r": 20, "t": 96, "b": below + 8},
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        "xaxis": {"title": {"text": x_axis, "font": {"size": 12}}, "gridcolor": _GRID, "zerolinecolor": _GRID},
        "yaxis": {"gridcolor": _GRID, "zerolinecolor": _GRID},
    }  # fmt: skip
    if note:
        layout["annotations"] = [{
            "text": wrapped, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": 0,
            "yshift": -(below - 16 * lines + 6), "xanchor": "left", "yanchor": "top", "align": "left",
            "font": {"size": 11, "color": _INK},
        }]  # fmt: skip
    return layout


def _broken(text: str, width: int = 115) -> str:
    """Break a note into lines: plotly draws an annotation on one."""
    import textwrap

    return "<br>".join(textwrap.wrap(text, width))
