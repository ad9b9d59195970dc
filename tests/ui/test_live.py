"""The chart that grows: what it draws, that it can be stopped, and that it keeps out of the way."""

import asyncio
import threading
import time

import pytest

from labkit import mode, ui
from labkit.bench.results import Run, Sample
from labkit.bench.watch import Progress, Watch
from labkit.charts import Chart
from labkit.errors import MeasurementError
from labkit.ui import live_chart, live_view

CASES = ("pod to pod, TCP", "pod to pod, UDP")


def suite(watch: Watch, *, rounds: int = 3, pause: float = 0.0, fail: bool = False) -> Run:
    samples: list[Sample] = []
    for number in range(rounds):
        for arm, value in (("vanilla", 5.0), ("ebpf", 4.0)):
            for case in CASES:
                if watch.stopped:
                    return Run("article", "t", tuple(samples), notes=("stopped",))
                watch.progress(Progress(len(samples), rounds * 4, f"{arm}: {case}", 100.0))
                time.sleep(pause)
                samples.append(Sample(arm, case, number, {"cores": value + number / 10}))
                watch.sample(samples[-1])
    if fail:
        raise MeasurementError("The machine is too noisy.")
    return Run("article", "t", tuple(samples))


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[live_view.LiveView]:
    """A front end: whatever is shown is kept here."""
    shown: list[live_view.LiveView] = []
    monkeypatch.setattr(mode, "interactive", lambda: True)
    monkeypatch.setattr(live_view.LiveView, "show", lambda view: shown.append(view))
    monkeypatch.setattr(live_chart, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(live_chart, "REDRAW_SECONDS", 0.0)
    return shown


def test_without_a_front_end_it_measures_in_the_cell_s_own_thread_and_draws_nothing() -> None:
    threads = set()

    def here(watch: Watch) -> Run:
        threads.add(threading.current_thread())
        return suite(watch)

    live = ui.live("cores")
    assert live, "a suite may ask whether somebody watches"
    run = asyncio.run(live.run(here))
    assert len(run.samples) == len(live) == 12
    assert threads == {threading.main_thread()}
    assert ui.live("cores"), "the name is still a function after the first call"


def test_it_grows_while_samples_come(views: list[live_view.LiveView]) -> None:
    live = ui.live("cores", "CPU")
    suite(live)
    view = live_view.LiveView(live)
    view.update()
    dots = [trace for trace in view.figure.data if not trace.error_y.array]
    assert sum(len(trace.y) for trace in dots) == 12
    medians = {trace.name: trace for trace in view.figure.data if trace.error_y.array}
    assert list(medians["kube-proxy"].y) == pytest.approx([5.1, 5.1])
    assert list(medians["Calico eBPF"].error_y.array) == pytest.approx([0.1, 0.1])


def test_a_browser_that_does_not_draw_gets_another_figure(
    views: list[live_view.LiveView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "PATIENCE_SECONDS", -1.0)
    live = ui.live("cores", "CPU")
    view = live_view.LiveView(live)
    silent = view.figure
    suite(live)
    view.update()
    assert view.figure is not silent
    assert view.figure in view._box.children
    assert sum(len(trace.y) for trace in view.figure.data if not trace.error_y.array) == 12
    heard = view.figure
    heard._js2py_layoutDelta = {"layout_delta": {}, "layout_edit_id": -1}
    view.update()
    assert view.figure is heard, "it was drawn"


def test_it_ends_with_a_chart_that_needs_no_kernel(
    views: list[live_view.LiveView], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Chart] = []
    monkeypatch.setattr(live_view, "show", drawn.append)
    asyncio.run(ui.live("cores", "CPU").run(suite))
    (view,) = views
    assert view.stop.disabled
    assert "Ended after" in view.line.value
    assert view.figure.comm is None, "the one that grew is still there"
    (chart,) = drawn
    assert sum(len(trace["y"]) for trace in chart.data if "error_y" not in trace) == 12
    assert "pod to pod, UDP" in chart.text


def test_where_nothing_was_measured_no_empty_axes_are_left(
    views: list[live_view.LiveView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "show", lambda chart: pytest.fail("an empty chart"))
    with pytest.raises(MeasurementError):
        asyncio.run(ui.live("cores").run(suite, rounds=0, fail=True))
    assert "nothing was measured" in views[0].line.value
    assert views[0].figure.comm is None


def test_the_button_ends_the_suite_and_the_cell_has_its_run(views: list[live_view.LiveView]) -> None:
    live = ui.live("cores")

    async def learner() -> Run:
        cell = asyncio.create_task(live.run(suite, rounds=1000, pause=0.01))
        while len(live) < 5 and not cell.done():
            await asyncio.sleep(0.01)
        views[0].stop.click()
        return await cell

    run = asyncio.run(learner())
    assert run.notes == ("stopped",)
    assert 5 <= len(run.samples) < 100
    assert "Stopped after" in views[0].line.value


def test_an_interrupted_cell_leaves_no_suite_running(views: list[live_view.LiveView]) -> None:
    live = ui.live("cores")

    async def kernel() -> None:
        cell = asyncio.create_task(live.run(suite, rounds=1000, pause=0.01))
        while len(live) < 5 and not cell.done():
            await asyncio.sleep(0.01)
        cell.cancel()
        await cell

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(kernel())
    assert not [t for t in threading.enumerate() if t.name.startswith("labkit-suite")]
    assert len(live) < 100
    assert "Stopped after" in views[0].line.value


def test_what_the_suite_raises_reaches_the_cell(views: list[live_view.LiveView]) -> None:
    with pytest.raises(MeasurementError, match="too noisy"):
        asyncio.run(ui.live("cores").run(suite, fail=True))
    assert views[0].stop.disabled


def test_progress_says_how_far_and_how_long() -> None:
    live = live_chart.Live("cores", "t")
    assert live.said() == "preparing …"
    live.progress(Progress(3, 60, "ebpf: pod to pod, UDP", 200.0))
    assert live.said() == "3 of 60 samples, about 3 min left: ebpf: pod to pod, UDP"
    live.progress(Progress(60, 60, "done", 0.0))
    assert live.said() == "60 of 60 samples: done"


def test_only_what_has_new_samples_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[list[float]] = []
    monkeypatch.setattr(live_chart.stats, "median_interval", lambda values: computed.append(values) or (1.0, 2.0))
    live = live_chart.Live("cores", "t")
    known: dict[tuple[str, str], tuple[int, tuple[float, float, float]]] = {}
    for case in CASES:
        live.sample(Sample("ebpf", case, 0, {"cores": 1.0}))
    live.chart(known)
    live.sample(Sample("ebpf", CASES[0], 1, {"cores": 2.0}))
    live.sample(Sample("ebpf", "idle", 1, {"other": 2.0}))
    live.chart(known)
    assert computed == [[1.0], [1.0], [1.0, 2.0]]


def test_where_a_number_was_varied_it_is_the_axis() -> None:
    live = live_chart.Live("p50_us", "t")
    for count in (10.0, 1000.0):
        live.sample(Sample("ebpf", f"first packet, {count:g} services", 0, {"p50_us": 40.0}, x=count))
    drawn = live.chart()
    assert drawn.layout["xaxis"]["type"] == "linear"
    assert (drawn.data[1]["x"], drawn.data[1]["mode"]) == ([10.0, 1000.0], "lines+markers")
    assert drawn.figure()


def test_what_is_measured_at_one_number_is_told_apart_by_its_kind_and_idling_is_not_drawn() -> None:
    live = live_chart.Live("node_percent", "t")
    for case in ("idle, 10 services", "quiet, 10 services", "churn, 10 services"):
        live.sample(Sample("ebpf", case, 0, {"node_percent": 4.0}, x=10.0))
    assert live.chart().data[1]["x"] == ["quiet, 10 services", "churn, 10 services"]
    live.sample(Sample("ebpf", "quiet, 1,000 services", 0, {"node_percent": 4.0}, x=1000.0))
    assert (live.chart().data[1]["x"], live.chart().data[1]["mode"]) == ([10.0, 10.0, 1000.0], "markers")


def test_the_axis_turns_into_numbers_with_the_second_one(views: list[live_view.LiveView]) -> None:
    def scale(watch: Watch) -> Run:
        for count in (10.0, 1000.0):
            watch.sample(Sample("ebpf", f"first packet, {count:g} services", 0, {"p50_us": 40.0}, x=count))
            time.sleep(0.1)
        return Run("scale", "t")

    asyncio.run(ui.live("p50_us").run(scale))
    figure = views[0].figure
    assert (figure.layout.xaxis.type, list(figure.data[1].x), figure.data[1].mode) == (
        "linear", [10.0, 1000.0], "lines+markers")


def test_cases_that_lie_far_apart_have_a_logarithmic_axis(views: list[live_view.LiveView]) -> None:
    live = ui.live("cores", "CPU")
    for samples in (1, 2):
        live.sample(Sample("ebpf", CASES[0], samples, {"cores": 12.0}))
    view = live_view.LiveView(live)
    view.update()
    assert view.figure.layout.yaxis.type == "linear"
    live.sample(Sample("ebpf", CASES[1], 1, {"cores": 500.0}))
    view.update()
    assert view.figure.layout.yaxis.type == "log"
    assert "logarithmic" in view.figure.layout.title.text
