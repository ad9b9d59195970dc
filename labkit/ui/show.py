"""`ui.show(x)`: widgets where somebody can click, the same thing done and printed where nobody can."""

import sys
from functools import singledispatch
from typing import Any

from labkit import mode
from labkit.charts import Chart
from labkit.course.predictions import Prediction
from labkit.course.progress import Progress
from labkit.markup import Fragment, details, output
from labkit.plan import Plan, PlanResult, Reporter, Step, StepResult, run
from labkit.ui import cards
from labkit.ui.path import Path, picture

__all__ = ["install", "show"]


@singledispatch
def show(thing: Any, **options: Any) -> None:
    """Show a plan, a run, a path, a trace, a chart or a prediction.

    Without a front end a plan is run, because nobody could click it; everything else is printed.

    Args:
        thing: what to show; what labkit does not know is displayed as Jupyter would.
        options: for a benchmark's run ``metric``, ``verdicts`` (False leaves out the table below) and what
            `run_charts.chart` takes; for a doctor's report ``brief``.

    Raises:
        StepError: without a front end, a step of the plan failed.
    """
    if "labkit.bench.results" in sys.modules:  # nobody can hold a run before: numpy need not load to ask
        from labkit.bench.results import Run

        if isinstance(thing, Run):
            _show_run(thing, **options)
            return
    if "labkit.doctor.report" in sys.modules:
        from labkit.doctor.report import Report
        from labkit.ui.findings import report

        if isinstance(thing, Report):
            _display(report(thing, **options))
            return
    if _traces([thing]):
        return
    _display(thing)


def _traces(things: list[Any]) -> bool:
    """Draw traces of connections; whether they were all such."""
    if not things or "labkit.sourceip" not in sys.modules:  # nobody can hold a trace before
        return False
    from labkit.sourceip import Trace

    if not all(isinstance(thing, Trace) for thing in things):
        return False
    from labkit.ui import trace

    _display(trace.picture(things))
    return True


def _show_run(run: Any, metric: str, *, verdicts: bool = True, **options: Any) -> None:
    from labkit.ui import run_charts

    show(run_charts.chart(run, metric, **options))
    if verdicts and len(run.arms) > 1:
        _display(run_charts.comparison(run, metric, str(options.get("measure", ""))))


@show.register
def _(thing: Plan) -> None:
    if not mode.interactive():
        done = run(thing, _Reporter())
        _display(cards.result(done))
        done.raise_for_failure()
        return
    # Imported here: a run without a front end need not load the widgets.
    from labkit.ui.plan_view import PlanView

    progress = Progress()

    def note(step: str, guess: str) -> None:
        question = f"What will {step} change?"
        progress.record("predictions", f"{thing.id}.{step}", question=question, guess=guess)

    _display(PlanView(thing, note))


@show.register
def _(thing: PlanResult) -> None:
    _display(cards.result(thing))


@show.register
def _(thing: Path) -> None:
    _display(picture([thing]))


@show.register
def _(thing: list) -> None:  # type: ignore[type-arg]
    if thing and all(isinstance(item, Path) for item in thing):
        _display(picture(thing))
        return
    if thing and "labkit.sourceip" in sys.modules:
        from labkit.sourceip import Answer, Refused
        from labkit.ui.answers import tally

        if all(isinstance(item, Answer | Refused) for item in thing):
            _display(tally(thing))
            return
    if _traces(thing):
        return
    for item in thing:
        show(item)


@show.register
def _(thing: Chart) -> None:
    if _in_ipython():
        from IPython.display import display

        name = f"{thing.text.partition(chr(10))[0]}; the same in words stands below"
        display({**thing.bundle(), "text/plain": name}, raw=True)  # type: ignore[no-untyped-call]
        # A picture says nothing to a screen reader, and front ends that draw it keep its text to themselves.
        display(Fragment(details("The same in words", output(thing.text)), thing.text))  # type: ignore[no-untyped-call]
    else:
        print(thing.text)


@show.register
def _(thing: Prediction) -> None:
    if not mode.interactive():
        _display(thing)
        return
    from labkit.ui.predict import PredictionView

    _display(PredictionView(thing))


class _Reporter(Reporter):
    """Nothing while it runs: the cards come after, and a log would only repeat them."""

    def finished(self, step: Step, result: StepResult) -> None:
        """Print a line in a terminal, where no cards follow."""
        if not _in_ipython():
            print(f"  {step.title}: {result.state}, {result.seconds:.1f} s")


def install() -> None:
    """Have the kernel show a plan, and how one went, as cards, where a cell ends with it; nothing without a kernel.

    After each cell the cards that stand above are looked at again, where the cell has done a step of a plan.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        bundles = shell.display_formatter.mimebundle_formatter
        bundles.for_type(PlanResult, _bundle)
        bundles.for_type(Plan, lambda plan: _bundle(PlanResult(plan)))
        shell.events.register("post_run_cell", _refresh)


def _refresh(_: object) -> None:
    if plan_view := sys.modules.get("labkit.ui.plan_view"):  # else no card was shown
        plan_view.refresh()


def _bundle(done: PlanResult) -> dict[str, str]:
    drawn = cards.result(done)
    return {"text/html": drawn._repr_html_(), "text/plain": drawn.text}


def _display(thing: Any) -> None:
    if _in_ipython():
        from IPython.display import display

        display(thing)  # type: ignore[no-untyped-call]
    elif isinstance(thing, Fragment):
        print(thing.text)
    else:
        print(repr(thing))


def _in_ipython() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None
