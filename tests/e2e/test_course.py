"""The course itself: every notebook, in order, on one lab; what one run leaves must not break the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from labkit.headless.notebooks import find, share

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"rounds": 1, "seconds": 1, "connects": 100, "counts": [10, 300]}


@pytest.mark.usefixtures("daemon")
def test_by_papermill(tmp_path):
    quick = [word for name, value in QUICK.items() for word in ("-p", name, json.dumps(value))]
    done = subprocess.run(
        [sys.executable, "-m", "labkit.cli", "run", "-o", str(tmp_path), *quick],
        text=True,
        capture_output=True,
        timeout=700,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = tmp_path.iterdir()
    executed = sorted(p.name for p in results.glob("*.ipynb"))
    assert executed == sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))
    page = (results / "report.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page, "the report must open offline"
    run = json.loads((results / "04_benchmark-article.json").read_text())
    assert {s["case"] for s in run["samples"]} >= {"pod to pod, TCP", "pod to service, UDP"}
    assert {s["arm"] for s in run["samples"]} == {"vanilla", "iptables", "ebpf"}


@pytest.mark.usefixtures("daemon")
def test_by_nbval_on_what_papermill_left(tmp_path):
    """Each cell runs, and outputs that are stored must come again."""
    for file, parameters in share(QUICK, find([], ROOT / "notebooks")).items():
        notebook = parameterize_notebook(load_notebook_node(str(file)), parameters)
        nbformat.write(notebook, tmp_path / file.name)
    environment = os.environ | {
        "LABKIT_HEADLESS": "1",
        "LABKIT_PROGRESS": str(tmp_path / "progress.json"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env",
         "--nbval-sanitize-with", str(ROOT / "tests/notebooks/sanitize.cfg"), "--nbval-cell-timeout", "180",
         "-W", "ignore", str(tmp_path)],
        text=True,
        capture_output=True,
        timeout=700,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-6000:]


def test_run_names_the_failing_cell_and_a_hint(tmp_path, daemon):
    """A notebook that fails ends the run with its cell, and the exit code tells."""
    done = subprocess.run(
        [sys.executable, "-m", "labkit.cli", "run", "-o", str(tmp_path), "01", "-p", "kubernetes_version", "0.9.9"],
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout
    assert "01_create_the_cluster, cell" in done.stderr
    assert done.stderr.count("What to do:") == 1
    assert "0.9.9" in done.stderr
