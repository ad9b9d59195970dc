"""A chart that grows while a benchmark runs."""

import time
from typing import Any

from labkit import mode
from labkit.charts import Chart, lines

__all__ = ["Live", "live"]

#: Redraws cost the CPU that a benchmark measures: few are enough to see that it lives.
REDRAW_SECONDS = 0.5


class Live:
    """Takes samples as (series, x, y); pass `add`, or the object itself, where a callback is wanted.

    Without a front end it only counts: the finished chart comes from the result.
    """

    def __init__(self, title: str, x_axis: str, y_axis: str) -> None:
        self._title, self._x_axis, self._y_axis = title, x_axis, y_axis
        self._points: dict[str, list[tuple[float, float]]] = {}
        self._drawn = 0.0
        self._handle: Any = None
        self._figure: Any = None
        if mode.interactive():
            self._open()

    def add(self, series: str, x: float, y: float) -> None:
        """Add one sample; redraws at most twice a second."""
        self._points.setdefault(series, []).append((x, y))
        if mode.interactive() and time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw()

    __call__ = add

    def close(self) -> None:
        """Draw what came since the last redraw."""
        if mode.interactive():
            self._draw()

    def __len__(self) -> int:
        return sum(len(points) for points in self._points.values())

    def _chart(self) -> Chart:
        return lines("live", self._title, self._x_axis, self._y_axis, self._points)

    def _open(self) -> None:
        from IPython.display import display

        try:
            # FigureWidget is built on anywidget and changes in place; without it the output is replaced.
            import plotly.graph_objects as go

            self._figure = go.FigureWidget(self._chart().spec())
            display(self._figure)  # type: ignore[no-untyped-call]
        except ImportError:
            self._handle = display(self._chart().bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        chart = self._chart()
        if self._handle is not None:
            self._handle.update(chart.bundle(), raw=True)
            return
        if len(self._figure.data) != len(chart.data):
            self._figure.data = ()
            self._figure.add_traces(chart.data)
            return
        with self._figure.batch_update():
            for trace, fresh in zip(self._figure.data, chart.data, strict=True):
                trace.x, trace.y = fresh["x"], fresh["y"]


def live(title: str, x_axis: str = "samples", y_axis: str = "") -> Live:
    """Open a live chart above the output of the cell that measures."""
    return Live(title, x_axis, y_axis)
