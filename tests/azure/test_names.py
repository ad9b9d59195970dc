"""Names for a class: nobody's cluster, group or API name is somebody else's, and each is one that Azure takes."""

import re
from pathlib import Path

import pytest

from labkit.azure import ClusterSettings
from labkit.azure.names import for_student, node_group
from labkit.course.progress import default_file
from labkit.errors import AzureError
from labkit.local.server import environment
from labkit.local.server.lifecycle import DaemonInfo
from labkit.student import VARIABLE, suffix
from labkit.targets import local_from

STUDENTS = [*(f"{n:02}" for n in range(50)), "Zoë", "Zoe", "zoe m", "zoe-m", "zoe.m", "李雷", "韩梅梅",
            "a" * 40, "a" * 41, "Ann-Kathrin Müller-Lüdenscheidt", "Ann-Kathrin Muller-Ludenscheidt"]


def test_no_two_students_collide():
    base = ClusterSettings()
    made = [for_student(base, student) for student in STUDENTS]
    for names in ([s.name for s in made], [s.resource_group for s in made],
                  [node_group(s)[:80] for s in made],
                  [x.body("1.36.2", "s")["properties"]["dnsPrefix"] for s in made for x in (s, s.vanilla())]):
        assert len({name.lower() for name in names}) == len(names)


def test_names_are_ones_that_azure_takes():
    for settings in (for_student(ClusterSettings(), student) for student in STUDENTS):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,61}[A-Za-z0-9]", settings.vanilla().name)
        assert len(settings.resource_group) <= 90
        prefix = settings.body("1.36.2", "s")["properties"]["dnsPrefix"]
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,52}[a-z0-9])?", prefix)


def test_the_same_student_comes_back_to_the_same_cluster():
    assert suffix("Zoë ") == suffix("zoë")
    assert suffix("07") == "07"


def test_names_that_azure_would_cut_are_refused():
    with pytest.raises(AzureError, match="too long"):
        for_student(ClusterSettings(name="x" * 30, resource_group="y" * 30), "07")
    with pytest.raises(AzureError, match="needs a name"):
        suffix("  ")


def test_students_on_one_machine_share_no_kubeconfig_and_no_progress(monkeypatch, tmp_path):
    for name in ("KUBECONFIG", "LABKIT_PROGRESS", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    daemon = DaemonInfo("https://localhost:1", 1, 1, "ca", "bundle", "s", "t", "endpoint", "header", "token", [])
    described = vars(daemon) | {"home": str(tmp_path)}
    assert local_from(described).kubeconfig == tmp_path / "kubeconfig"
    assert local_from(described, "08").kubeconfig == tmp_path / "kubeconfig-08"
    monkeypatch.setenv(VARIABLE, "07")
    assert local_from(described).kubeconfig == tmp_path / "kubeconfig-07"
    shell = environment.script(daemon, tmp_path, {VARIABLE: "07", "PATH": "/nowhere"}, tmp_path)
    assert f"export KUBECONFIG={tmp_path}/kubeconfig-07" in list(shell)
    assert default_file() == Path.home() / ".labkit" / "progress-07.json"
    monkeypatch.setenv("KUBECONFIG", "/mine")
    assert local_from(described).kubeconfig == Path("/mine"), "a file that somebody chose stays"
