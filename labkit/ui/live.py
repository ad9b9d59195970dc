"""A chart that grows while a benchmark runs: one dot for each sample."""

import time

from labkit import mode
from labkit.bench.results import Sample
from labkit.bench.watch import Watch
from labkit.charts import Chart, scatter
from labkit.ui.run_charts import axis

__all__ = ["Live"]

#: Redraws cost the CPU that a benchmark measures: few are enough to see that it lives.
REDRAW_SECONDS = 0.5


class Live(Watch):
    """Watches a run of `lab.bench`, sample by sample.

    It replaces what its cell has shown. Without a front end it only counts: the finished chart comes from the result.
    """

    def __init__(self, metric: str, title: str) -> None:
        self._metric, self._title = metric, title
        self._points: dict[str, list[tuple[float | str, float]]] = {}
        self._drawn = 0.0

    def sample(self, sample: Sample) -> None:
        """Take one sample; redraws at most twice a second."""
        if self._metric not in sample.metrics:
            return
        where = sample.case if sample.x is None else sample.x
        self._points.setdefault(sample.arm, []).append((where, sample.metrics[self._metric]))
        if mode.interactive() and time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw()

    def __bool__(self) -> bool:
        """Return True: one without samples yet is one all the same."""
        return True

    def __len__(self) -> int:
        return sum(len(points) for points in self._points.values())

    def chart(self) -> Chart:
        """Return the samples so far."""
        return scatter("live", self._title, axis(self._metric), self._points)

    def _draw(self) -> None:
        from IPython.display import clear_output, display

        self._drawn = time.monotonic()
        # Drawn anew each time: JupyterLab's plotly leaves a chart as it was when its output is updated.
        clear_output(wait=True)  # type: ignore[no-untyped-call]
        display(self.chart().bundle(), raw=True)  # type: ignore[no-untyped-call]
