import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from labkit.course.lint import lint, main

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def test_the_notebooks_are_clean() -> None:
    assert lint(NOTEBOOKS) == []
    assert main([str(NOTEBOOKS)]) == 0


def cell(book: dict[str, Any], tag: str) -> dict[str, Any]:
    return next(c for c in book["cells"] if tag in c["metadata"].get("tags", []))


def first_code(book: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in book["cells"] if c["cell_type"] == "code" and not c["metadata"].get("tags"))


SPOILS = {
    "strip them": lambda book: first_code(book).update(execution_count=3),
    "outputs": lambda book: first_code(book).update(outputs=[{"output_type": "stream"}]),
    "not a literal": lambda book: cell(book, "parameters").update(source="region = pick()  # where"),
    "needs a comment": lambda book: cell(book, "parameters").update(source="region = 'x'"),
    "only assignments": lambda book: cell(book, "parameters").update(source="import os"),
    "exactly one cell": lambda book: cell(book, "parameters").update(metadata={}),
    "absolute path": lambda book: first_code(book).update(source="open('/home/me/x')"),
    "does not exist": lambda book: book["cells"][0].update(source=book["cells"][0]["source"] + ["[x](nowhere.ipynb)"]),
    "lines; at most": lambda book: first_code(book).update(source="x = 1\n" * 40),
    "does not parse": lambda book: first_code(book).update(source="x ="),
    "widgets": lambda book: book["metadata"].update(widgets={}),
    "does not say **Cost**": lambda book: book["cells"][0].update(source="# 03 x **Aim** **Time** **Needs**"),
    "must link to": lambda book: book["cells"][-1].update(source="What you now know"),
    "id of its own": lambda book: book["cells"][1].update(id=book["cells"][0]["id"]),
}


@pytest.mark.parametrize("said", SPOILS)
def test_the_lint_sees(said: str, tmp_path: Path) -> None:
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    file = tmp_path / "notebooks" / "03_enable_ebpf.ipynb"
    book = json.loads(file.read_text())
    SPOILS[said](book)
    file.write_text(json.dumps(book))
    problems = lint(tmp_path / "notebooks")
    assert any(said in problem and problem.startswith(file.name) for problem in problems), problems


def test_a_missing_and_a_stray_notebook_are_seen(tmp_path: Path) -> None:
    (tmp_path / "99_extra.ipynb").write_text("{}")
    problems = lint(tmp_path)
    assert "99_extra.ipynb: not in labkit.course.lessons" in problems
    assert "03_enable_ebpf.ipynb: missing" in problems
