"""Finding notebooks and what can be set in them."""

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from labkit.course.lessons import LESSONS
from labkit.errors import LabError

__all__ = [
    "UnknownNotebookError",
    "UnknownParameterError",
    "default_folder",
    "find",
    "literal",
    "parameters_of",
    "share",
]


class UnknownNotebookError(LabError):
    """A notebook was named that the course does not have."""


class UnknownParameterError(LabError):
    """A parameter was set that no chosen notebook has."""


def default_folder() -> Path:
    """Return the notebooks of this checkout, or ``notebooks`` where we are."""
    beside = Path(__file__).resolve().parents[2] / "notebooks"
    return beside if beside.is_dir() else Path("notebooks")


def find(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the files for names such as ``03``, ``03_enable_ebpf`` or a path; all lessons for no names."""
    if not names:
        return [folder / lesson.file for lesson in LESSONS]
    return [_find(name, folder) for name in names]


def _find(name: str, folder: Path) -> Path:
    if (path := Path(name)).suffix == ".ipynb" and path.is_file():
        return path
    for lesson in LESSONS:
        if name in (lesson.number, lesson.slug, lesson.file) or Path(name).name == lesson.file:
            return folder / lesson.file
    raise UnknownNotebookError(
        f"There is no notebook {name!r}.",
        why="It is neither a file nor a lesson of the course.",
        fix=f"Name a lesson by its digits, {LESSONS[0].number} to {LESSONS[-1].number}, or by its path.",
    )


def parameters_of(file: Path) -> dict[str, Any]:
    """Return the literals of the cell tagged ``parameters``."""
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            return {
                target.id: ast.literal_eval(node.value)
                for node in ast.parse(source).body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
    return {}


def literal(text: str) -> Any:
    """Read a value from the command line as papermill does: ``5`` is a number, ``[1, 2]`` a list."""
    return yaml.safe_load(text)


def share(parameters: Mapping[str, Any], files: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Give each notebook those parameters that it has.

    Raises:
        UnknownParameterError: no chosen notebook has it.
    """
    known = {file: parameters_of(file) for file in files}
    everywhere = sorted(set().union(*known.values()))
    for name in parameters:
        if name not in everywhere:
            raise UnknownParameterError(
                f"No notebook has a parameter {name!r}.",
                why="Parameters are the literals in a notebook's cell tagged 'parameters'.",
                fix=f"Use one of: {', '.join(everywhere)}.",
            )
    return {file: {k: v for k, v in parameters.items() if k in known[file]} for file in files}
