import json
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from labkit.charts import PLOTLY, bars
from labkit.cli_run import run
from labkit.headless import collect, notebooks, report, run_course

DRAWS = """from labkit.charts import bars
from labkit.ui import show
import dataclasses
chart = bars("cpu", "CPU </script>", "vCPU", {"ebpf": {"tcp": (value, 1, 3)}})
result = {"name": "cpu", "document": {"value": value}, "csv": f"round,cpu\\n1,{value}\\n"}
show(dataclasses.replace(chart, result=result))"""


def write(folder: Path, name: str, *code: str) -> Path:
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_markdown_cell(f"# {name[:2]} A title"),
        nbformat.v4.new_code_cell("value = 2"),
    ]
    book.cells[1].metadata["tags"] = ["parameters"]
    book.cells += [nbformat.v4.new_code_cell(source) for source in code]
    file = folder / f"{name}.ipynb"
    nbformat.write(book, file)
    return file


def test_a_run_keeps_results_and_writes_one_offline_report(tmp_path: Path) -> None:
    book = write(tmp_path, "00_start_here", DRAWS)
    course = run_course([str(book)], parameters={"value": 2.5}, results=tmp_path / "results")
    assert course.ok
    assert json.loads((course.folder / "00_start_here-cpu.json").read_text()) == {"value": 2.5}
    assert (course.folder / "00_start_here-cpu.csv").read_text().splitlines() == ["round,cpu", "1,2.5"]
    page = course.report.read_text()
    assert page.count('class="plotly-graph"') == 1
    assert "CPU <\\/script>" in page
    assert '<script src="' not in page
    assert json.loads((course.folder / "run.json").read_text())["ok"] is True


def test_a_failing_cell_stops_the_run_and_its_hint_is_said(tmp_path: Path) -> None:
    raises = "from labkit.errors import LabError\nraise LabError('It broke.', 'a test', 'mend it')"
    first, second = write(tmp_path, "00_start_here", raises), write(tmp_path, "01_create_the_cluster", "1")
    outcome = CliRunner().invoke(run, [str(first), str(second), "-o", str(tmp_path / "results")])
    assert outcome.exit_code == 1
    assert outcome.output.count("What to do: mend it") == 1
    (page,) = (tmp_path / "results").glob("*/report.html")
    assert "<h2>00 A title</h2>" in page.read_text()
    assert "raise LabError(&#x27;It broke.&#x27;" in page.read_text()
    assert "01_create_the_cluster" not in outcome.output
    assert "1 notebook in" in outcome.output


def test_a_kernel_that_dies_leaves_a_report_of_what_was_done(tmp_path: Path) -> None:
    book = write(tmp_path, "00_start_here", DRAWS, "import os\nos._exit(1)", "print('never')")
    outcome = CliRunner().invoke(run, [str(book), "-o", str(tmp_path / "results")])
    assert outcome.exit_code == 1
    assert "os._exit(1)" in outcome.output
    assert "The kernel died." in outcome.output
    assert "out of memory" in outcome.output
    (page,) = (tmp_path / "results").glob("*/report.html")
    assert page.read_text().count('class="plotly-graph"') == 1
    assert "The kernel died." in page.read_text()


def test_an_interrupt_ends_the_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import papermill

    def interrupted(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    books = [str(write(tmp_path, name)) for name in ("00_start_here", "01_create_the_cluster")]
    course = run_course(books, results=tmp_path / "results")
    assert [run.failure.error for run in course.notebooks if run.failure] == ["Interrupted."]
    assert course.report.exists()


def test_parameters_are_shared_out_and_unknown_ones_refused(tmp_path: Path) -> None:
    book = write(tmp_path, "00_start_here")
    assert notebooks.parameters_of(book) == {"value": 2}
    assert notebooks.share({"value": 3}, [book]) == {book: {"value": 3}}
    with pytest.raises(notebooks.UnknownParameterError, match="Use one of: value"):
        run_course([str(book)], parameters={"valeu": 3}, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_unknown_notebooks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(notebooks.UnknownNotebookError, match="'12'"):
        notebooks.find(["12"], tmp_path)
    assert [file.name for file in notebooks.find(["03", "04_benchmark"], tmp_path)] == [
        "03_enable_ebpf.ipynb",
        "04_benchmark.ipynb",
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("true", True), ("[1, 10]", [1, 10]), ("local", "local")]
)
def test_values_are_read_as_papermill_reads_them(text: str, value: object) -> None:
    assert notebooks.literal(text) == value


def test_the_report_shows_only_what_labkit_drew() -> None:
    chart = bars("cpu", "CPU", "vCPU", {"ebpf": {"tcp": (1, 1, 1)}})
    shown = [
        {"output_type": "display_data", "data": {PLOTLY: chart.spec()}},
        {"output_type": "display_data", "data": {"text/html": "<script>alert(1)</script>"}},
        {"output_type": "error", "ename": "Bad", "evalue": "<it>"},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# 04 Measure\n", "## Flows"]},
        {"cell_type": "code", "source": "", "outputs": shown},
    ]
    page = report.render([report.Page("04", 1.0, False, {"cells": cells})], seconds=1.0)
    assert "alert(1)" not in page
    assert "<h3>Flows</h3>" in page
    assert "&lt;it&gt;" in page
    assert [heading for heading, _ in collect.outputs({"cells": cells})] == ["Flows", "Flows"]
