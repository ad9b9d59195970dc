import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from labkit import mode
from labkit.errors import LabError, StepError
from labkit.plan import Evidence, Log, Plan, Step, run
from labkit.ui import Hop, Leg, Path, show
from labkit.ui.path import picture
from labkit.ui.plan_view import PlanView, refresh

if TYPE_CHECKING:
    from labkit.bench.results import Run


class World:
    """Something that steps can change."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.refuse = ""

    def step(self, name: str, *, revertible: bool = True) -> Step:
        def apply(log: Log) -> None:
            log(f"doing <{name}>")
            if name == self.refuse:
                raise LabError("Refused.", "it is a test", "stop refusing")
            self.done.add(name)

        def verify() -> Evidence:
            return Evidence(name in self.done, f"{name} in {sorted(self.done)}")

        def revert(log: Log) -> None:
            self.done.discard(name)

        return Step(
            name,
            f"Do {name}",
            "because",
            "all breaks",
            f"kubectl {name} <x>",
            apply,
            verify,
            revert if revertible else None,
            timeout=1,
        )

    def plan(self, *names: str) -> Plan:
        return Plan("p", "A plan", tuple(self.step(name) for name in names), note="the lane & why")


def test_without_a_front_end_showing_a_plan_runs_it(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    show(world.plan("one", "two"))
    assert world.done == {"one", "two"}
    assert "✓ 2. Do two [done]" in capsys.readouterr().out


def test_without_a_front_end_a_failing_step_raises_after_it_was_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World()
    world.refuse = "two"
    with pytest.raises(StepError, match="stop refusing"):
        show(world.plan("one", "two", "three"))
    out = capsys.readouterr().out
    assert "✗ 2. Do two [failed]" in out
    assert "○ 3. Do three [pending]" in out


def test_a_cell_that_ends_with_a_plan_shows_cards_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython
    from IPython.core.formatters import DisplayFormatter

    from labkit.ui.show import install

    display = DisplayFormatter()  # type: ignore[no-untyped-call]
    after: dict[str, Callable[[object], None]] = {}
    shell = SimpleNamespace(display_formatter=display, events=SimpleNamespace(register=after.__setitem__))
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    install()
    plan = World().plan("one")
    for thing, state in ((plan, "to do"), (run(plan), "done")):
        shown = display.format(thing)[0]  # type: ignore[no-untyped-call]
        assert state in shown["text/html"]
        assert "function" not in shown["text/plain"]
    view = PlanView(World().plan("two"))
    run(view.plan)
    after["post_run_cell"](None)
    assert view.steps[0].state == "already done", "the cards are looked at after each cell"


def test_widgets_run_check_and_revert() -> None:
    world = World()
    world.done.add("one")
    view = PlanView(world.plan("one", "two"))
    assert [step.state for step in view.steps] == ["already done", "pending"]
    view.steps[1].buttons["run"].click()
    assert world.done == {"one", "two"}
    assert "2 of 2 steps" in view._tally.value
    view.steps[1].buttons["revert"].click()
    assert world.done == {"one"}
    view.steps[1].buttons["check"].click()
    assert "not yet" in view.steps[1]._outcome.value
    assert "1 of 2 steps" in view._tally.value


def test_cards_show_what_another_cell_has_done_or_undone_since() -> None:
    world = World()
    view = PlanView(world.plan("one", "two"))
    view.steps[0].buttons["run"].click()
    log = view.steps[0]._outcome.value
    assert "doing" in log
    lab_ran = run(world.plan("one", "two"))
    assert [step.state for step in lab_ran.steps] == ["already done", "done"]
    refresh()
    assert [step.state for step in view.steps] == ["done", "already done"]
    assert view.steps[0]._outcome.value == log, "what a click found out stays"
    assert "2 of 2 steps" in view._tally.value
    world.done.clear()
    refresh()
    assert view.steps[0].state == "done", "nothing is asked where no step was done"
    beside = PlanView(Plan("q", "Another plan", (world.step("three"),)))
    beside.steps[0].buttons["run"].click()
    assert [step.state for step in view.steps] == ["pending", "pending"]
    assert "no longer" in view.steps[0]._outcome.value
    assert "0 of 2 steps" in view._tally.value


def test_a_failing_card_shows_error_and_log_escaped_and_can_be_clicked_again() -> None:
    world = World()
    world.refuse = "one"
    view = PlanView(world.plan("one"))
    assert view.run() is False
    outcome = view.steps[0]._outcome.value
    assert "stop refusing" in outcome
    assert "doing &lt;one&gt;" in outcome
    world.refuse = ""
    view.steps[0].buttons["run"].click()
    assert view.steps[0].state == "done"


def test_revert_is_off_where_there_is_no_way_back() -> None:
    world = World()
    view = PlanView(Plan("p", "P", (world.step("one", revertible=False),)))
    assert view.steps[0].buttons["revert"].disabled
    view.run()
    assert view.steps[0].buttons["revert"].disabled


def test_predictions_are_kept_and_open_what_breaks() -> None:
    kept: list[tuple[str, str]] = []
    view = PlanView(World().plan("one"), note=lambda step, guess: kept.append((step, guess)))
    view.steps[0]._guess.value = "nothing"
    view.steps[0].buttons["predict"].click()
    assert kept == [("one", "nothing")]
    assert "<details open><summary>What breaks" in view.steps[0]._text.value


def test_a_path_says_in_words_what_it_draws() -> None:
    hops = (
        Hop("alice", "203.0.113.10"),
        Hop("load balancer", "192.0.2.5"),
        Hop("pod", "10.224.0.9", "sees <node>"),
    )
    legs = (Leg("203.0.113.10", "192.0.2.5:80"), Leg("10.224.0.4", "10.224.0.9:8080", changed=True))
    drawn = picture([Path("kube-proxy", hops, legs, "The pod sees the node.")])
    assert drawn.html.count("<rect") == 3
    assert drawn.html.count("<line") == 2
    assert "sees &lt;node&gt;" in drawn.html
    assert "source replaced" in drawn.text
    with pytest.raises(ValueError, match="need 2 legs"):
        Path("x", hops, legs[:1])


@pytest.mark.parametrize("variable", ["JPY_SESSION_NAME", "VSCODE_PID"])
def test_no_kernel_no_clicks(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.delenv("LABKIT_HEADLESS", raising=False)
    assert not mode.interactive()


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'plotly', 'ipywidgets', 'kubernetes', 'azure', 'numpy', 'papermill', 'IPython'}"
    code = f"import sys; import labkit; from labkit import ui; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert loaded.stdout.strip() == "[]"


def a_run() -> "Run":
    from labkit.bench.results import Run, Sample

    samples = tuple(
        Sample(arm, case, n, {"gbit_per_s": value + n / 10})
        for n in range(5)
        for arm, value in (("iptables", 5.0), ("ebpf", 8.0))
        for case in ("pod-to-pod TCP",)
    )
    provenance = {"labkit": "0.1.0", "parameters": {"rounds": 5}, "arms": {}}
    return Run("flows", "Flows", samples, provenance, notes=("On one machine.",))


def test_a_run_is_shown_as_chart_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    show(a_run(), metric="gbit_per_s")
    out = capsys.readouterr().out
    assert "throughput at the receiver, Gbit/s" in out
    assert "59 % more" in out or "58 % more" in out
    assert "On one machine." in out


def test_the_document_of_a_run_travels_in_its_chart() -> None:
    from labkit.bench.results import Run
    from labkit.ui.run_charts import chart

    run = a_run()
    drawn = chart(run, "gbit_per_s")
    assert "throughput at the receiver, Gbit/s" in drawn.figure().layout.title.text
    assert Run.from_json(json.dumps(drawn.result["document"])) == run


def test_lines_where_something_was_varied() -> None:
    from labkit.bench.results import Run, Sample
    from labkit.ui.run_charts import chart

    samples = tuple(Sample("ebpf", f"{x} services", 0, {"connect_us": 40.0}, x=x) for x in (10.0, 1000.0))
    drawn = chart(Run("first-packet", "First packet", samples), "connect_us", log_x=True)
    assert drawn.data[0]["x"] == [10.0, 1000.0]
    assert "connect, µs" in drawn.layout["title"]["text"]


def test_watching_counts_answers_silence_and_errors() -> None:
    from labkit.ui import Watch

    answers = iter([True, False, True])

    def ask() -> bool:
        return next(answers)  # then StopIteration: no answer

    watch = Watch(ask, pause=0.01)
    deadline = time.monotonic() + 60
    while watch.asked < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watch.stop() == watch.asked - 2
    assert "without an answer" in repr(watch)


def test_c_excerpts_are_whole_functions_with_their_comment() -> None:
    from labkit.ui.source import excerpt

    comment = '/* Why. */\nSEC("tc")\n'
    wanted = "int wanted(struct x *a,\n\t   int b)\n{\n\treturn 1;\n}\n"
    text = f"int other(void);\n\n{comment}{wanted}\nint z(void)\n{{\n}}\n"
    start, body = excerpt(text, "wanted")
    assert start == 3
    assert body.startswith("/* Why. */")
    assert body.endswith("    return 1;\n}")
    with pytest.raises(LookupError, match="nothing"):
        excerpt(text, "nothing")


def test_what_a_learner_mistypes_is_answered_in_words() -> None:
    from labkit.lab import Lab
    from labkit.ui import sh, source

    with pytest.raises(LabError, match=r"nope.*\n.*nat\.h, .*tc\.c"):
        source("nat.h", "nope")
    with pytest.raises(LabError, match="nope"):
        source("nope.c", "handle")
    lab = SimpleNamespace(target=SimpleNamespace(env={}))
    with pytest.raises(LabError, match="close the quotation"):
        sh(lab, "kubectl get 'pods")  # type: ignore[arg-type]
    with pytest.raises(LabError, match="no command"):
        sh(lab, "  ")  # type: ignore[arg-type]
    with pytest.raises(LabError, match=r'`lab\.ensure\("ebpf"\)`'):
        Lab.run(lab, "ebpf")  # type: ignore[arg-type]


def test_the_excerpts_that_the_notebooks_show_exist() -> None:
    from labkit.ui import source

    for file, function in (("connect.c", "translate"), ("nat.h", "choose_for"), ("tc.c", "handle")):
        assert function in source(file, function).text


def test_answers_are_counted_and_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    from labkit import sourceip
    from labkit.ui import path_of

    seen = sourceip.Answer("alice", "203.0.113.10", "192.0.2.9", "10.224.0.4", "echo-1", "n1", "n0", 4.0)
    kept = sourceip.Answer("alice", "203.0.113.10", "192.0.2.9", "203.0.113.10", "echo-1", "n1", "client", 4.0)
    silent = sourceip.Refused("bob", "198.51.100.20", "192.0.2.9", "no answer within 1 s", 1000.0)
    show([seen, seen, kept, silent])
    out = capsys.readouterr().out
    assert "node n0" in out
    assert "no answer within 1 s" in out
    show([path_of(seen), path_of(kept), path_of(silent)])
    out = capsys.readouterr().out
    assert "source replaced" in out
    assert "The pod sees the client." in out


def test_a_long_name_stays_in_its_box() -> None:
    hops = (Hop("alice"), Hop("pod", "a-deployment-of-a-long-name-784c78484d-tg24s"))
    drawn = picture([Path("p", hops, (Leg("a", "b"),))])
    assert ">a-deployment-of-a-long-…<" in drawn.html
    assert "784c78484d-tg24s" in drawn.text


def test_the_lines_of_a_run_have_the_intervals_that_the_note_speaks_of() -> None:
    from labkit.bench.results import Run, Sample
    from labkit.ui.run_charts import chart

    values = ((10.0, 40.0), (10.0, 44.0), (10.0, 41.0), (1000.0, 50.0), (1000.0, 51.0), (1000.0, 58.0))
    samples = tuple(Sample("ebpf", f"{x} services", n, {"p50_us": y}, x=x) for n, (x, y) in enumerate(values))
    drawn = chart(Run("first-packet", "First packet", samples), "p50_us", log_y=True)
    assert "95 % intervals" in drawn.text
    assert all(above > 0 for above in drawn.data[0]["error_y"]["array"])
    assert drawn.layout["yaxis"]["type"] == "log"
    assert drawn.figure()


def test_errors_with_a_cure_are_shown_without_the_library() -> None:
    from labkit.ui.failures import lines

    try:
        raise LabError("It is off.", "a test", "turn it on")
    except LabError as error:
        shown = "\n".join(lines(type(error), error, error.__traceback__))
    assert "What to do: turn it on" in shown
    assert "test_ui" not in shown


def test_a_cell_that_was_passed_over_is_named_as_the_cause() -> None:
    from labkit.ui.failures import lines

    for file, meant in (("/tmp/ipykernel_7/1.py", True), ("/usr/lib/labkit/lab.py", False)):
        try:
            exec(compile("run.notes", file, "exec"), {})
        except NameError as error:
            shown = "\n".join(lines(type(error), error, error.__traceback__ and error.__traceback__.tb_next))
        assert "name 'run' is not defined" in shown
        assert ("Run All Above" in shown) == meant


def test_a_cell_that_was_stopped_says_that_it_may_run_again() -> None:
    from labkit.ui.failures import lines

    shown = lines(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert shown[0] == "Interrupted."
    measuring = lines(asyncio.CancelledError, asyncio.CancelledError(), None)
    assert "Stop ends a run too" in measuring[1]
    assert "run the cell again" in shown[-1]


def test_a_command_keeps_its_columns_and_a_missing_one_says_where_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from labkit.markup import output
    from labkit.ui import sh

    lab = SimpleNamespace(target=SimpleNamespace(env={"WHO": "<alice>"}))
    sh(lab, "printenv WHO")  # type: ignore[arg-type]
    sh(lab, "labkit-no-such-program")  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "$ printenv WHO\n<alice>" in out
    assert "labkit-no-such-program is not installed here" in out
    assert "&lt;alice&gt;" in output("<alice>")


def test_a_chart_in_a_notebook_says_its_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Front ends that cannot draw plotly's figures show the text of the bundle in its place."""
    from labkit.charts import Chart

    shown: list[dict[str, str]] = []
    monkeypatch.setattr(sys.modules["labkit.ui.show"], "_in_ipython", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda thing, raw=False: shown.append(
        thing if raw else {"text/html": thing._repr_html_(), "text/plain": repr(thing)}))  # fmt: skip
    show(Chart("flows", [], {}, "CPU of flows\nebpf 4.2"))
    assert len(shown) == 2
    assert shown[0]["text/plain"] == "CPU of flows; the same in words stands below"
    assert [text for bundle in shown for text in bundle.values() if "ebpf 4.2" in text] == list(shown[1].values())


def test_an_interrupt_waits_until_the_import_under_way_is_done(tmp_path: FilePath) -> None:
    library = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.1)\nwhole = True\n"
    (tmp_path / "slow_library.py").write_text(library)
    script = (
        "import signal, sys, time\n"
        "from labkit.ui import interrupts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "interrupts._before_cell(None)\n"
        "try:\n    import slow_library\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print(vars(sys.modules['slow_library'])['whole'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
