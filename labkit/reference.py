"""Published figures, read from ``data/published.json``: what others measured, with their sources.

They are drawn beside a learner's own result, never mixed into it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Reference", "data_file", "ids", "load"]


@dataclass(frozen=True)
class Reference:
    """One published dataset and where it comes from.

    Args:
        id: its key.
        title: of a chart of it.
        short: who and when, as a legend calls it.
        source: who published it, and where.
        year: when.
        method: how it was measured, and how the figures were obtained.
        unit: of all its numbers.
        caveat: what one must know before one believes it.
        columns: names of the columns.
        rows: the figures.
    """

    id: str
    title: str
    short: str
    source: str
    year: int
    method: str
    unit: str
    caveat: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]

    def column(self, name: str) -> list[str | float | None]:
        """Return one column as a plain list."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    @property
    def citation(self) -> str:
        """The line that stands under a chart that shows these figures."""
        return f"{self.source} ({self.year}); {self.method}"


def data_file(name: str) -> Path:
    """Where a file of `data/` is: beside the package, unless LABKIT_DATA names another folder.

    Args:
        name: of the file.
    """
    folder = os.environ.get("LABKIT_DATA")
    return (Path(folder) if folder else Path(__file__).resolve().parent.parent / "data") / name


@cache
def _datasets() -> dict[str, Reference]:
    document = json.loads(data_file("published.json").read_text(encoding="utf-8"))
    return {
        entry["id"]: Reference(
            **{**entry, "columns": tuple(entry["columns"]), "rows": tuple(map(tuple, entry["rows"]))}
        )
        for entry in document["datasets"]
    }


def ids() -> Sequence[str]:
    """Return the names of all datasets."""
    return list(_datasets())


def load(name: str) -> Reference:
    """Return one published dataset.

    Raises:
        KeyError: no such dataset; the message names those that exist.
    """
    try:
        return _datasets()[name]
    except KeyError:
        raise KeyError(f"no published dataset {name!r}; there are {', '.join(_datasets())}") from None
