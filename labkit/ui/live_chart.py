"""A chart that grows while a benchmark runs, with its progress and a button that stops it.

The suite runs in a thread of its own. The cell's coroutine looks at what has come, a few times in a minute's worth of
samples, and changes the chart in place; between two looks the kernel hears the button, because it takes messages of
widgets while a cell awaits. Redraws cost the CPU that a benchmark measures: only what changed is computed and sent.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from labkit import mode
from labkit.bench import stats
from labkit.bench.flows import IDLE
from labkit.bench.results import Run, Sample
from labkit.bench.watch import Progress, Watch
from labkit.charts import Chart, label, look
from labkit.charts.chart import Interval, layout, whiskers
from labkit.charts.look import OUTLINE
from labkit.markup import text_table
from labkit.ui.run_charts import axis

__all__ = ["Live"]

LOOK_SECONDS: Final = 1.0
#: The chart is drawn at most this often, however fast samples come: a browser needs some 80 ms of CPU each time.
REDRAW_SECONDS: Final = 3.0
#: How many times the smallest median the largest may be before the axis becomes logarithmic.
STEEP: Final = 10
_MARKS = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 2, 5)]
_TICKS: Final = {"tickvals": _MARKS, "ticktext": [f"{mark:,.10g}" for mark in _MARKS]}


class Live(Watch):
    """Watches one metric of a suite. `run` measures and draws; without a front end it only measures.

    Args:
        metric: which metric of each sample; samples without it count only as progress.
        title: of the chart.
    """

    def __init__(self, metric: str, title: str) -> None:
        self.stopped = False
        self._metric, self._title = metric, title
        # Written by the suite's thread, read by the cell's; both only ever append.
        self._samples: list[Sample] = []
        self._progress = Progress(0, 0, "preparing", 0.0)

    def sample(self, sample: Sample) -> None:
        """Take one sample."""
        if self._metric in sample.metrics and not sample.case.startswith(IDLE):
            self._samples.append(sample)

    def progress(self, progress: Progress) -> None:
        """Hear what is being done."""
        self._progress = progress

    def __len__(self) -> int:
        return len(self._samples)

    def __bool__(self) -> bool:
        """Return True: a watcher without samples yet is a watcher all the same."""
        return True

    async def run(self, suite: Callable[..., Run], **options: Any) -> Run:
        """Run a suite and draw what comes.

        Args:
            suite: such as ``lab.bench.article``.
            options: what the suite takes, but for ``watch``.

        Returns:
            The suite's run; where it was stopped, what there was until then.

        Raises:
            LabError: what the suite raises.
        """
        if not mode.interactive():
            return suite(watch=self, **options)
        from labkit.ui.live_view import LiveView  # loads the widgets

        view = LiveView(self)
        view.show()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="labkit-suite") as pool:
            work = asyncio.get_running_loop().run_in_executor(pool, lambda: suite(watch=self, **options))
            try:
                while not work.done():
                    await asyncio.wait({work}, timeout=LOOK_SECONDS)
                    view.update()
                return await work
            except asyncio.CancelledError:
                # The kernel was interrupted: nothing is left running behind the learner's back.
                self.stopped = True
                await asyncio.wait({work})
                raise
            finally:
                view.finish()

    def said(self) -> str:
        """How far the run is, in words."""
        at = self._progress
        if not at.total:
            return f"{at.doing} …"
        left = f", about {_minutes(at.seconds_left)} left" if at.done < at.total and at.seconds_left >= 1 else ""
        return f"{at.done} of {at.total} samples{left}: {at.doing}"

    def chart(self, known: dict[tuple[str, str], tuple[int, Interval]] | None = None) -> Chart:
        """Return what there is so far: a dot for each sample, and each median with its interval.

        Args:
            known: medians of the last time with their number of samples; what has no new sample is taken from there.
        """
        known = {} if known is None else known
        kinds: dict[tuple[str, str], list[Sample]] = {}
        for sample in list(self._samples):
            kinds.setdefault((sample.arm, sample.case), []).append(sample)
        for kind, samples in kinds.items():
            if known.get(kind, (0,))[0] != len(samples):
                values = [sample.metrics[self._metric] for sample in samples]
                known[kind] = len(values), (stats.median(values), *stats.median_interval(values))
        data = []
        rows = []
        varied = len({samples[0].x for samples in kinds.values()} - {None}) > 1
        for index, arm in enumerate(dict.fromkeys(arm for arm, _ in kinds)):
            mine = {case: samples for (of, case), samples in kinds.items() if of == arm}
            data += _traces(arm, index, mine, {case: known[arm, case][1] for case in mine}, self._metric, varied)
            rows += [[label(arm), case, len(mine[case]), *known[arm, case][1]] for case in mine]
        middles = [value[0] for _, value in known.values()]
        # Cases that lie far apart, as TCP and UDP do, would be a flat line and a few dots.
        steep = not varied and min(middles, default=0) > 0 and max(middles) > STEEP * min(middles)
        made = layout(self._title, "number of services" if varied else "",
                      f"{axis(self._metric)}; logarithmic" if steep else axis(self._metric))
        made |= {"scattermode": "group", "scattergap": 0.6}
        made["xaxis"] |= {"type": "linear" if varied else "category"}
        made["yaxis"] |= {"type": "log", **_TICKS} if steep else {"type": "linear", "rangemode": "tozero"}
        text = text_table(["data plane", "case", "samples", "median", "low", "high"], rows, self._title)
        return Chart("live", data, made, text)


def _traces(arm: str, index: int, kinds: dict[str, list[Sample]], medians: dict[str, Interval], metric: str,
            varied: bool) -> list[dict[str, Any]]:  # fmt: skip
    """An arm's samples as small dots, and its medians as large ones with their intervals."""
    drawn = look(arm, index)

    def place(sample: Sample) -> float | str:
        return sample.x if varied and sample.x is not None else sample.case

    first = [samples[0] for samples in kinds.values()]
    every = [sample for samples in kinds.values() for sample in samples]
    group = {} if varied else {"offsetgroup": arm}
    one = varied and len({sample.x for sample in first}) == len(first)  # else lines would join what is not one
    return [
        {
            "type": "scatter", "mode": "markers", "name": label(arm), "showlegend": False, **group,
            "x": [place(sample) for sample in every], "y": [sample.metrics[metric] for sample in every],
            "marker": {"color": drawn.colour, "symbol": drawn.marker, "size": 6, "opacity": 0.45},
        },
        {
            "type": "scatter", "mode": "lines+markers" if one else "markers", "name": label(arm), **group,
            "x": [place(sample) for sample in first], "y": [medians[case][0] for case in kinds],
            "error_y": whiskers([medians[case] for case in kinds]),
            "line": {"color": drawn.colour, "dash": drawn.dash},
            "marker": {"color": drawn.colour, "symbol": drawn.marker, "size": 11, "line": OUTLINE},
        },
    ]  # fmt: skip


def _minutes(seconds: float) -> str:
    """Say a duration as long as a minute counts: what is still to come is known no better."""
    return f"{seconds / 60:.0f} min" if seconds >= 150 else f"{seconds:.0f} s"


def spent(since: float) -> str:
    """How long something took, in words."""
    return _minutes(time.monotonic() - since)
