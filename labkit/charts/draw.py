"""The shapes that results are drawn in: bars, lines, dots, and two charts side by side."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from labkit.charts.chart import Chart, Interval, layout, whiskers, words
from labkit.charts.look import OUTLINE, label, look
from labkit.markup import text_table

__all__ = ["bars", "beside", "lines", "scatter"]

_PATTERN: Final = {"fillmode": "overlay", "solidity": 0.2, "fgcolor": "rgba(255,255,255,0.75)"}
_SHADE: Final = "rgba(128,128,128,0.14)"


def bars(
    name: str, title: str, axis: str, series: Mapping[str, Mapping[str, Interval]], *, note: str = "",
    names: Mapping[str, str] | None = None,
) -> Chart:  # fmt: skip
    """Draw one group of bars for each category, with intervals.

    Args:
        name: of the chart.
        title: of the chart.
        axis: the quantity with unit and formula.
        series: series -> category -> (median, low, high).
        note: stands under the chart.
        names: how series are called, where that is not what their key says.
    """
    called = {key: (names or {}).get(key, label(key)) for key in series}
    data = []
    for index, (key, values) in enumerate(series.items()):
        drawn = look(key, index)
        trace: dict[str, Any] = {
            "type": "bar", "name": called[key], "x": list(values), "y": [values[c][0] for c in values],
            "marker": {"color": drawn.colour, "line": OUTLINE, "pattern": {"shape": drawn.pattern} | _PATTERN},
        }  # fmt: skip
        if any(low != high for _, low, high in values.values()):  # most published figures have no interval
            trace["error_y"] = whiskers(list(values.values()))
        data.append(trace)
    rows = [[called[key], c, *values[c]] for key, values in series.items() for c in values]
    columns = ["series", "case", "median", "low", "high"]
    if all("error_y" not in trace for trace in data):
        rows, columns = [row[:3] for row in rows], ["series", "case", "value"]
    text = text_table(columns, rows, f"{title}\n{axis}")
    made = layout(title, "", axis, note, legend=list(called.values()))
    return Chart(name, data, {**made, "barmode": "group"}, _with(text, note))


def lines(
    name: str, title: str, x_axis: str, y_axis: str, series: Mapping[str, Sequence[tuple[float, ...]]], *,
    note: str = "", published: Sequence[dict[str, Any]] = (), log_x: bool = False, log_y: bool = False,
    bands: Sequence[tuple[float, float, str]] = (), dots: bool = True,
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
        bands: stretches of the horizontal axis that are shaded, as (from, to, what happened then); the same each time.
        dots: whether points are marked: not where there are hundreds.
    """
    data = [*published]
    for index, (key, points) in enumerate(series.items()):
        drawn = look(key, index)
        trace = {
            "type": "scatter", "mode": "lines+markers" if dots else "lines", "name": label(key),
            "x": [point[0] for point in points], "y": [point[1] for point in points],
            "line": {"color": drawn.colour, "dash": drawn.dash, "width": 2.5},
            "marker": {"symbol": drawn.marker, "size": 8, "line": OUTLINE},
        }  # fmt: skip
        if points and all(len(point) == 4 for point in points):
            trace["error_y"] = whiskers([(y, low, high) for _, y, low, high in points])
        data.append(trace)
    made = layout(title, x_axis, y_axis, note, legend=[trace["name"] for trace in data])
    made["xaxis"] |= {"type": "log"} if log_x else {}
    made["yaxis"] |= {"type": "log"} if log_y else {"rangemode": "tozero"}
    made["shapes"] = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1,
         "fillcolor": _SHADE, "line": {"width": 0}, "layer": "below"}
        for start, end, _ in bands
    ]  # fmt: skip
    shown = [words(what, xref="x", x=start, y=1, xanchor="left", yanchor="top") for start, _, what in bands[:1]]
    made["annotations"] = [*made.get("annotations", []), *shown]
    rows = [[label(key), *point[:2]] for key, points in series.items() for point in points]
    rows += [[t["name"], x, y] for t in published for x, y in zip(t["x"], t["y"], strict=True) if y is not None]
    stretches = ", ".join(f"{start:.4g} to {end:.4g}" for start, end, _ in bands)
    said = f"\n{bands[0][2]}: {stretches} {x_axis}" if bands else ""
    text = text_table(["series", x_axis, y_axis], rows, title) if dots else _ranges(title, x_axis, y_axis, series)
    return Chart(name, data, made, _with(text + said, note))


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
        drawn = look(key, index)
        data.append({
            "type": "scatter", "mode": "markers", "name": label(key),
            "x": [x for x, _ in points], "y": [y for _, y in points],
            "marker": {"color": drawn.colour, "symbol": drawn.marker, "size": 9, "opacity": 0.75, "line": OUTLINE},
        })  # fmt: skip
    made = layout(title, "", y_axis)
    made["yaxis"] |= {"rangemode": "tozero"}
    made["margin"] |= {"l": 75, "r": 75}  # the outermost categories are written around the edges
    count = sum(len(points) for points in series.values())
    return Chart(name, data, made, f"{title}: {count} samples")


def beside(left: Chart, right: Chart, titles: tuple[str, str], *, note: str = "") -> Chart:
    """Put two charts into one figure, each with an axis of its own: alike in kind, apart in size.

    Args:
        left: whose name, title and measurement the figure has.
        right: of the same quantity; its series join the legend where they are others.
        titles: what stands above each.
        note: stands under the figure, in place of both notes.
    """
    title, _, axis = left.layout["title"]["text"].partition("<br>")
    # Words below the axes are two or three lines high: those of narrow categories, or ticks and the axis' title.
    known = {trace["name"] for trace in left.data}
    legend = [*known, *(trace["name"] for trace in right.data if trace["name"] not in known)]
    bare = title.removeprefix("<b>").removesuffix("</b>")
    made = layout(bare, " ", axis.partition(">")[2].removesuffix("</span>").replace("<br>", " "), note, legend=legend)
    made["height"] += 24
    made["margin"]["t"] += 24
    made |= {key: value for key, value in left.layout.items() if key == "barmode"}
    for side, chart, domain in (("", left, [0, 0.47]), ("2", right, [0.54, 1])):
        across = {**deepcopy(chart.layout["xaxis"]), **_narrow(chart)}
        made[f"xaxis{side}"] = {**across, "domain": domain, "anchor": f"y{side}"}
        made[f"yaxis{side}"] = {**deepcopy(chart.layout["yaxis"]), "anchor": f"x{side}"}
    heads = [words(f"<b>{text}</b>", x=x, y=1, xanchor="left", yanchor="bottom")
             for text, x in zip(titles, (0, 0.54), strict=True)]  # fmt: skip
    made["annotations"] = [*made.get("annotations", []), *heads]
    made["legend"]["y"] = 1.07
    data = [*deepcopy(left.data)]
    data += [{**deepcopy(trace), "xaxis": "x2", "yaxis": "y2", "showlegend": trace["name"] not in known}
             for trace in right.data]  # fmt: skip
    text = f"{titles[0]}\n{left.text}\n\n{titles[1]}\n{right.text}"
    return Chart(left.name, data, made, _with(text, note), left.result)


def _narrow(chart: Chart) -> dict[str, Any]:
    """Categories broken into short lines: half a figure's width would turn them askew, or let them touch."""
    names = [x for trace in chart.data for x in trace["x"] if isinstance(x, str)]
    kinds = list(dict.fromkeys(names))
    broken = [kind.replace(", ", ",<br>").replace(" to ", " to<br>") for kind in kinds]
    return {"tickvals": kinds, "ticktext": broken, "tickangle": 0, "tickfont": {"size": 11}} if kinds else {}


def _with(text: str, note: str) -> str:
    return f"{text}\n{note}" if note else text


def _ranges(title: str, x_axis: str, y_axis: str, series: Mapping[str, Sequence[tuple[float, ...]]]) -> str:
    """Hundreds of points in words: where each line begins and ends, its least, its middle and its most."""
    rows = []
    for key, points in series.items():
        values = sorted(point[1] for point in points)
        if values:
            middle = values[len(values) // 2]
            rows.append([label(key), points[0][0], points[-1][0], values[0], middle, values[-1]])
    return text_table(["series", f"from, {x_axis}", "to", "least", "median", "most"], rows, f"{title}\n{y_axis}")
