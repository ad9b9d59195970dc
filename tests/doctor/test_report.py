"""How the doctor says what it found: in a terminal, in a notebook, for programs; and that the docs list all of it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from labkit import lab as labs
from labkit.cli_doctor import doctor
from labkit.doctor import Finding, Report, rows
from labkit.ui.findings import report as drawn

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md").read_text()
FOUND = Report("Diagnosis", (
    Finding("nodes", "Nodes", "ok", "2 ready", group="Nodes"),
    Finding("mtu", "MTU", "warning", "1500", "stalls", "VXLAN", "set it", "kubectl patch <x>", "here", "eBPF"),
    Finding("log", "Log", "unknown", "cannot be read", group="eBPF"),
    Finding("web", "Web", "ok", "fine", "hidden", group="Services"),
    Finding("empty", "Back ends", "problem", "none of `web`", "silence", "a <selector>", "mend it", "kubectl x",
            "there", "Services"),
))


def test_problems_come_first_and_groups_stay_together():
    assert [name for name, _ in FOUND.groups()] == ["Services", "eBPF", "Nodes"]
    assert [f.id for _, findings in FOUND.groups() for f in findings] == ["empty", "web", "mtu", "log", "nodes"]
    assert FOUND.verdict == "1 problem, 1 warning, 1 not seen"
    assert not FOUND.ok
    assert Report("x", FOUND.findings[:4]).ok


def test_the_text_has_ids_sources_and_commands_where_something_is_not_well():
    text = FOUND.brief()
    assert text.splitlines()[:3] == ["Diagnosis: 1 problem, 1 warning, 1 not seen", "Services",
                                     "✗ Back ends: none of `web` [empty]"]
    assert "    cure: mend it\n      kubectl x\n    source: there" in text
    assert "hidden" not in str(FOUND), "what is well needs no symptom"
    assert "Nodes" not in text
    assert "✓ Nodes: 2 ready [nodes]" in str(FOUND)


def test_the_widget_has_the_same_and_escapes_it():
    html = drawn(FOUND).html
    assert html.index("Services") < html.index("eBPF") < html.index("2 ready")
    assert "kubectl patch &lt;x&gt;" in html
    assert "a &lt;selector&gt;" in html
    assert "<code>web</code>" in html
    for text in ("there", "empty", "not seen", "✗ mend"):
        assert text in html
    assert "2 ready" not in drawn(FOUND, brief=True).html
    assert drawn(FOUND, brief=True).text == FOUND.brief()


class FakeLab:
    """A lab whose preflight and diagnosis a test gives."""

    def __init__(self, before, found, cluster):
        self.target = SimpleNamespace(arm_url="https://arm")
        self.settings = SimpleNamespace(resource_group="Group-07", name="Cluster-07")  # a student's
        self.azure = SimpleNamespace(
            cluster=lambda group, name: cluster if (group, name) == ("Group-07", "Cluster-07") else None)
        self.preflight, self.diagnose = lambda: before, lambda: found


FINE = Report("Preflight", (Finding("python", "Python", "ok", "3.11", group="This machine"),))
BAD = Report("Preflight", (Finding("az-login", "Login", "problem", "401"),))


@pytest.fixture
def command(monkeypatch):
    def run(*words, before=FINE, found=FOUND, cluster=None):
        monkeypatch.setattr(labs.Lab, "open", lambda *a, **k: FakeLab(before, found, cluster))
        return CliRunner().invoke(doctor, words)
    return run


def test_the_command_exits_with_1_where_there_is_a_problem(command):
    assert command(cluster={"name": "c"}).exit_code == 1
    assert command(before=BAD).exit_code == 1
    fine = command(cluster={"name": "c"}, found=FINE)
    assert (fine.exit_code, fine.stdout) == (0, "Preflight: all is well\nPreflight: all is well\n")
    assert "✓ Python: 3.11 [python]" in command("--all").stdout


def test_without_a_cluster_it_says_so(command):
    alone = command()
    assert (alone.exit_code, "no cluster Cluster-07" in alone.stderr) == (0, True)
    assert "no cluster" not in command(before=BAD).stderr, "nobody could ask"


def test_json_is_for_programs(command):
    said = json.loads(command("--json", cluster={"name": "c"}).stdout)
    assert [one["ok"] for one in said] == [True, False]
    assert {"id", "level", "evidence", "cure", "command", "source", "group"} <= said[1]["findings"][0].keys()
    assert said[1]["findings"][4]["command"] == "kubectl x"


def test_explain_says_what_is_known_and_looks_at_nothing(monkeypatch):
    monkeypatch.setattr(labs.Lab, "open", None)
    said = CliRunner().invoke(doctor, ["--explain", "kp-fight"])
    assert (said.exit_code, "calico#10538" in said.stdout) == (0, True)
    wrong = CliRunner().invoke(doctor, ["--explain", "kp-figth"])
    assert (wrong.exit_code, "kp-fight" in wrong.stderr) == (1, True)


def test_the_docs_list_every_id_and_no_other():
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", DOCS, re.M)) | set(re.findall(r"\(`([a-z-]+)`\)", DOCS))
    assert listed == {row.id for row in rows()}
