"""What README says can be typed is what there is."""

import json
import re
from pathlib import Path

import click

from labkit.cli import cli

ROOT = Path(__file__).resolve().parents[2]


def parameters(number: str) -> str:
    (file,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(file.read_text())["cells"]
    return next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ()))


def test_runs_name_notebooks_and_parameters_that_there_are():
    runs = re.findall(r"`labkit run ([\d ]+) -p (\w+) ", (ROOT / "README.md").read_text())
    assert len(runs) >= 2
    for numbers, parameter in runs:
        for number in numbers.split():
            assert re.search(rf"^{parameter} = ", parameters(number), re.M), f"notebook {number} has no {parameter}"


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    commands = cli.list_commands(click.Context(cli))
    missing = [name for name in commands if not re.search(rf"\blabkit {name}\b", text)]
    assert "plan" in commands
    assert not missing
