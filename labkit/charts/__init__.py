"""Results as plotly figures: views, each with its text for a terminal and a screen reader."""

from labkit.charts.chart import PLOTLY, RESULT, Chart
from labkit.charts.draw import bars, beside, lines, scatter
from labkit.charts.forest import Finding, forest
from labkit.charts.look import LOOK, label, look
from labkit.charts.published import published_bars, published_churn, published_curves, published_reductions

__all__ = [
    "LOOK",
    "PLOTLY",
    "RESULT",
    "Chart",
    "Finding",
    "bars",
    "beside",
    "forest",
    "label",
    "lines",
    "look",
    "published_bars",
    "published_churn",
    "published_curves",
    "published_reductions",
    "scatter",
]
