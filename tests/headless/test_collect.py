"""Every measurement of a notebook becomes a file."""

import json
from pathlib import Path
from typing import Any

from labkit.charts import RESULT
from labkit.headless.collect import write_results


def display(document: dict[str, Any]) -> dict[str, Any]:
    bundle = {RESULT: {"name": "scale", "document": document, "csv": f"{document['title']}\n"}}
    return {"cell_type": "code", "outputs": [{"output_type": "display_data", "data": bundle}]}


def test_two_runs_of_one_kind_are_two_files_and_charts_of_one_run_are_one(tmp_path: Path) -> None:
    shown = [{"title": title} for title in ("first packets", "first packets", "churn", "first packets")]
    written = write_results({"cells": [display(document) for document in shown]}, tmp_path, "05")
    assert [path.name for path in written] == ["05-scale.json", "05-scale.csv", "05-scale-2.json", "05-scale-2.csv"]
    assert json.loads((tmp_path / "05-scale.json").read_text()) == {"title": "first packets"}
    assert (tmp_path / "05-scale-2.csv").read_text() == "churn\n"
