"""Results and charts out of executed notebooks: the notebook is the record, these are copies of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.charts import RESULT

__all__ = ["outputs", "text_of", "write_results"]


def outputs(notebook: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each display as (nearest heading above it, MIME bundle)."""
    heading = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            lines = [line for line in text_of(cell["source"]).splitlines() if line.startswith("#")]
            heading = lines[-1].lstrip("# ") if lines else heading
        for output in cell.get("outputs", []):
            if "data" in output:
                yield heading, output["data"]


def write_results(notebook: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write every measurement of a notebook as JSON, and its samples as CSV."""
    written: list[Path] = []
    known: dict[str, list[Any]] = {}  # charts of one run share a document; two runs of one kind are two
    for _, bundle in outputs(notebook):
        if (result := bundle.get(RESULT)) is None:
            continue
        others = known.setdefault(result["name"], [])
        if result["document"] in others:
            continue
        others.append(result["document"])
        stem = "-".join([name, result["name"], *([str(len(others))] if len(others) > 1 else [])])
        document = folder / f"{stem}.json"
        document.write_text(json.dumps(result["document"], indent=1), encoding="utf-8")
        written.append(document)
        if samples := result.get("csv"):
            (folder / f"{stem}.csv").write_text(samples, encoding="utf-8")
            written.append(folder / f"{stem}.csv")
    return written


def text_of(source: str | list[str]) -> str:
    """Return a source or an output, which notebooks hold whole or as lines."""
    return source if isinstance(source, str) else "".join(source)
