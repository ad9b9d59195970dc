"""The notebook lint: ``python -m labkit.course.lint notebooks``.

It keeps what review forgets: sources without outputs or widget state, parameters that papermill can replace,
short cells, links that resolve, the same first and last cells everywhere.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from labkit.course.lessons import LESSONS, next_lesson

__all__ = ["lint", "main"]

MAX_LINES: Final = 12
_FIRST_CELL = ("**Aim**", "**Time**", "**Cost**", "**Needs**")
_ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(?:home|root|work|Users|mnt|tmp)/\w+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_METADATA = {"kernelspec", "language_info"}


def lint(folder: Path) -> list[str]:
    """Return what is wrong with the notebooks of a folder, one line each; empty when all is well."""
    problems: list[str] = []
    expected = {lesson.file for lesson in LESSONS}
    found = {file.name for file in folder.glob("*.ipynb")}
    problems += [f"{name}: missing" for name in sorted(expected - found)]
    problems += [f"{name}: not in labkit.course.lessons" for name in sorted(found - expected)]
    for name in sorted(expected & found):
        try:
            notebook = json.loads((folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            problems.append(f"{name}: not JSON: {error}")
            continue
        problems += [f"{name}: {problem}" for problem in _notebook(notebook, folder / name)]
    return problems


def _notebook(notebook: dict[str, Any], file: Path) -> Iterator[str]:
    cells = notebook["cells"]
    if (notebook.get("nbformat"), notebook.get("nbformat_minor")) != (4, 5):
        yield "nbformat must be 4.5"
    if extra := set(notebook["metadata"]) - _METADATA:
        yield f"notebook metadata that does not belong in the repository: {', '.join(sorted(extra))}"
    ids = [cell.get("id") for cell in cells]
    if None in ids or len(set(ids)) != len(ids):
        yield "each cell needs an id of its own"
    for cell in cells:
        yield from (f"cell {cell.get('id')}: {problem}" for problem in _cell(cell, file.parent))
    yield from _structure(cells, file)


def _cell(cell: dict[str, Any], folder: Path) -> Iterator[str]:
    source = _source(cell)
    if _ABSOLUTE.search(source):
        yield f"absolute path {_ABSOLUTE.search(source).group()!r}"  # type: ignore[union-attr]
    if cell["cell_type"] == "code":
        if cell.get("outputs") or cell.get("execution_count") is not None:
            yield "has outputs or an execution count: strip them"
        if len(source.splitlines()) > MAX_LINES:
            yield f"{len(source.splitlines())} lines; at most {MAX_LINES}: the logic belongs in labkit"
        try:
            ast.parse(source)
        except SyntaxError as error:
            yield f"does not parse as Python: {error}"
    else:
        for target in _LINK.findall(source):
            here = "://" not in target and not target.startswith("#")
            if here and not (folder / target.split("#")[0]).exists():
                yield f"link to {target}, which does not exist"
    if extra := set(cell["metadata"]) - {"tags"}:
        yield f"metadata that does not belong in the repository: {', '.join(sorted(extra))}"


def _structure(cells: list[dict[str, Any]], file: Path) -> Iterator[str]:
    first, last = _source(cells[0]), _source(cells[-1])
    if cells[0]["cell_type"] != "markdown" or not first.startswith(f"# {file.name[:2]} "):
        yield f"the first cell must be markdown and start with '# {file.name[:2]} '"
    yield from (f"the first cell does not say {word}" for word in _FIRST_CELL if word not in first)
    parameters = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(parameters) != 1:
        yield "exactly one cell must be tagged 'parameters'"
    else:
        yield from _parameters(_source(parameters[0]))
    if not any("from labkit import Lab, ui" in _source(cell) for cell in cells[:4]):
        yield "one of the first cells must say 'from labkit import Lab, ui'"
    number = file.name[:2]
    if not any(re.search(rf'course\.check\("{number}', _source(cell)) for cell in cells):
        yield f'no check of lesson {number}: lab.course.check("{number}")'
    if cells[-1]["cell_type"] != "markdown" or "What you now know" not in last:
        yield "the last cell must be markdown and say 'What you now know'"
    following = next_lesson(number)
    if following and f"({following.file})" not in last:
        yield f"the last cell must link to {following.file}"


def _parameters(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            yield f"parameters, line {node.lineno}: only assignments"
            continue
        try:
            ast.literal_eval(node.value)
        except ValueError:
            yield f"parameters, line {node.lineno}: not a literal"
        if "#" not in source.splitlines()[node.lineno - 1]:
            yield f"parameters, line {node.lineno}: needs a comment that says what it does"


def _source(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def main(arguments: list[str]) -> int:
    """Lint the folders given; return the exit code."""
    problems = [problem for argument in arguments or ["notebooks"] for problem in lint(Path(argument))]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
