"""One figure: plotly's data and layout as plain dictionaries and lists, and the same in words.

So it is stable JSON that diffs well, and a run without a front end never imports plotly.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from labkit.charts.look import GRID, INK

__all__ = ["PLOTLY", "RESULT", "Chart", "Interval", "axis", "layout", "whiskers", "words"]

PLOTLY: Final = "application/vnd.plotly.v1+json"
#: A measurement beside its picture: front ends do not know this type and draw the others of the bundle.
RESULT: Final = "application/vnd.labkit.result+json"

Interval = tuple[float, float, float]
"""Median, low and high end of its interval."""


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


def layout(
    title: str, x_axis: str, y_axis: str, note: str = "", *, rows: int = 0, legend: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a layout; the vertical axis' words stand above it, where a formula has room.

    Args:
        title: of the chart.
        x_axis: quantity and unit.
        y_axis: quantity, unit and formula.
        note: stands under the chart.
        rows: of a chart that lists things, each two small lines high; 0 for the usual height.
        legend: its entries, where there may be more than fit into one line.
    """
    # Plotly breaks no lines itself; these fit into a notebook in a window of 800 pixels.
    wrapped, formula = ("<br>".join(textwrap.wrap(text, 88)) for text in (note, y_axis))
    lines = wrapped.count("<br>") + 1 if note else 0
    below = (60 if x_axis else 28) + 16 * lines
    above = 96 + 19 * (_legend_lines(legend) - 1) + 16 * formula.count("<br>")
    height = above + 324 if not rows else above + 44 + 30 * rows + (60 if x_axis else 28)
    made: dict[str, Any] = {
        "title": {
            "text": f"<b>{title}</b><br><span style='font-size:12px'>{formula}</span>",
            "font": {"size": 15}, "x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top", "yref": "container",
        },
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 13},
        "height": height + 16 * lines, "margin": {"l": 60, "r": 20, "t": above, "b": below + 8},
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        "xaxis": axis(x_axis), "yaxis": axis(),
    }  # fmt: skip
    if note:
        made["annotations"] = [words(
            wrapped, x=0, y=0, yshift=-(below - 16 * lines + 6), xanchor="left", yanchor="top", align="left",
        )]  # fmt: skip
    return made


def _legend_lines(entries: Sequence[str], width: int = 560) -> int:
    """How many lines plotly sets a legend in: all its columns are as wide as the longest entry."""
    if not entries:
        return 1
    widths = [44 + 7 * len(entry) for entry in entries]
    return 1 if sum(widths) <= width else -(-len(entries) // max(1, width // max(widths)))


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """Return an axis in our colours, with its words."""
    return {"title": {"text": title, "font": {"size": 12}}, "gridcolor": GRID, "zerolinecolor": GRID, **more}


def words(text: str, **more: Any) -> dict[str, Any]:
    """Return an annotation without an arrow; it stands where ``more`` says, in the chart's own coordinates."""
    place = {"xref": "paper", "yref": "paper"}
    return {"text": text, "showarrow": False, "font": {"size": 11, "color": INK}, **place, **more}


def whiskers(values: list[Interval]) -> dict[str, Any]:
    """Return error bars that reach to both ends of each interval."""
    return {
        "type": "data", "symmetric": False, "color": INK,
        "array": [max(0.0, high - middle) for middle, _, high in values],
        "arrayminus": [max(0.0, middle - low) for middle, low, _ in values],
    }  # fmt: skip
