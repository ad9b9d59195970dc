"""A chart that grows while a benchmark runs: one dot for each sample."""

import time
from typing import Any

from labkit import mode
from labkit.bench.results import Sample
from labkit.charts import Chart, scatter
from labkit.ui.run_charts import axis

__all__ = ["Live"]

#: Redraws cost the CPU that a benchmark measures: few are enough to see that it lives.
REDRAW_SECONDS = 0.5


class Live:
    """A callback for samples, such as `lab.bench` takes as ``on_sample``.

    Without a front end it only counts: the finished chart comes from the result.
    """

    def __init__(self, metric: str, title: str) -> None:
        self._metric, self._title = metric, title
        self._points: dict[str, list[tuple[float | str, float]]] = {}
        self._drawn = 0.0
        self._handle: Any = None
        self._figure: Any = None

    def __call__(self, sample: Sample) -> None:
        """Take one sample; redraws at most twice a second."""
        if self._metric not in sample.metrics:
            return
        where = sample.case if sample.x is None else sample.x
        self._points.setdefault(sample.arm, []).append((where, sample.metrics[self._metric]))
        if mode.interactive() and time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw()

    def __len__(self) -> int:
        return sum(len(points) for points in self._points.values())

    def chart(self) -> Chart:
        """Return the samples so far."""
        return scatter("live", self._title, axis(self._metric), self._points)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        chart = self.chart()
        if self._figure is None and self._handle is None:
            self._open(chart)
        elif self._handle is not None:
            self._handle.update(chart.bundle(), raw=True)
        elif len(self._figure.data) != len(chart.data):
            self._figure.data = ()
            self._figure.add_traces(chart.data)
        else:
            with self._figure.batch_update():
                for trace, fresh in zip(self._figure.data, chart.data, strict=True):
                    trace.x, trace.y = fresh["x"], fresh["y"]

    def _open(self, chart: Chart) -> None:
        from IPython.display import display

        try:
            # FigureWidget is built on anywidget and changes in place; without it the output is replaced.
            import plotly.graph_objects as go

            self._figure = go.FigureWidget(chart.spec())
            display(self._figure)  # type: ignore[no-untyped-call]
        except ImportError:
            self._handle = display(chart.bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
