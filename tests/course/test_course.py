import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import labkit.course.library  # noqa: F401 - before a test puts another table in the place of its checks
from labkit import mode, ui
from labkit.course import checks, predictions
from labkit.course.checks import Check, CheckFailed
from labkit.course.course import ChecksNotPassed, Course
from labkit.course.lessons import LESSONS, lesson, next_lesson
from labkit.course.parameters import ParameterError
from labkit.course.progress import Progress
from labkit.errors import LabError


def passing(lab: object) -> str:
    return "two nodes are ready"


def failing(lab: object) -> str:
    raise CheckFailed("one node is <missing>")


def broken(lab: object) -> str:
    raise RuntimeError("no answer")


def course(tmp_path: Path) -> Course:
    return Course(None, Progress(tmp_path / "deep" / "progress.json"))  # type: ignore[arg-type]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    table = {
        "90.good": Check("90.good", "Good", "look at nodes", passing),
        "91.bad": Check("91.bad", "Bad", "look at <nodes>", failing),
        "91.odd": Check("91.odd", "Odd", "look", broken),
    }
    monkeypatch.setattr(checks, "CHECKS", table)
    return table


def test_a_check_that_passes_shows_its_evidence(registry: dict[str, Check], tmp_path: Path) -> None:
    report = course(tmp_path).check("90")
    assert report.passed
    assert "two nodes are ready" in repr(report)
    assert "hint" not in repr(report)


def test_failures_raise_without_a_front_end_and_are_recorded(
    registry: dict[str, Check], tmp_path: Path
) -> None:
    c = course(tmp_path)
    with pytest.raises(ChecksNotPassed, match="look at <nodes>") as caught:
        c.check("90.good", "91")
    assert "no answer" in str(caught.value)
    assert c.progress.entry("checks", "91.bad")["passed"] is False  # type: ignore[index]
    assert c.progress.entry("checks", "90.good")["passed"] is True  # type: ignore[index]


def test_html_of_a_failure_is_escaped_and_folds_the_hint(registry: dict[str, Check]) -> None:
    html = checks.run(None, checks.select(["91.bad"]))._repr_html_()  # type: ignore[arg-type]
    assert "&lt;missing&gt;" in html
    assert "<details><summary>Hint" in html
    assert "✗ failed" in html


def test_unknown_check_names_those_that_exist(registry: dict[str, Check]) -> None:
    with pytest.raises(LabError, match=r"90\.good"):
        checks.select(["99"])
    with pytest.raises(LabError, match="Which checks"):
        checks.select([])
    with pytest.raises(LabError, match='"00" to "10"'):
        lesson("4")


def test_a_prediction_meets_its_measurement(tmp_path: Path) -> None:
    c = course(tmp_path)
    c.predict("04.tcp", "How much less CPU?", 30, unit="%")
    assert "factor of 2.0" in c.compare("04.tcp", 15).verdict
    assert c.progress.entry("predictions", "04.tcp")["measured"] == 15  # type: ignore[index]
    with pytest.raises(LabError, match=r"04\.udp"):
        c.compare("04.udp", 1)


@pytest.mark.parametrize(
    ("guess", "measured", "verdict"),
    [
        (10, 12, "Close"),
        (10, 10, "As you"),
        (0, 3, "More"),
        (5, -1, "Less"),
        ("Node", "node ", "As you"),
        ("a", "b", "surprise"),
        (20, "no detectable difference", "nothing is said"),
    ],
)
def test_verdicts(guess: float | str, measured: float | str, verdict: str) -> None:
    assert verdict in predictions.compare(predictions.Prediction("k", "q", guess), measured).verdict


def test_a_finding_in_words_has_no_unit() -> None:
    outcome = predictions.compare(predictions.Prediction("k", "q", 20, "% less"), "no detectable difference")
    assert "expected 20 % less, measured no detectable difference." in repr(outcome)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 7}', '{"schema": 1}'])
def test_a_damaged_progress_file_starts_afresh(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "progress.json"
    file.write_text(damage)
    progress = Progress(file)
    progress.record("lessons", "01", opened=True)
    assert json.loads(file.read_text())["lessons"]["01"]["opened"] is True


def test_finishing_lessons_counts_and_points_onward(tmp_path: Path) -> None:
    c = course(tmp_path)
    c.begin("00")
    assert "its checks did not run" in c.finish("00").text
    c.progress.record("checks", "00.ready", passed=False)
    assert "00.ready did not pass" in c.finish("00").text
    assert c.progress.entry("lessons", "00")["finished"] is False  # type: ignore[index]
    c.progress.record("checks", "00.ready", passed=True)
    shown = c.finish("00")
    assert "1 of 11 lessons" in shown.text
    assert "Next: Create the cluster" in shown.text
    assert next_lesson(LESSONS[-1].number) is None


def test_every_check_of_the_course_belongs_to_a_lesson() -> None:
    numbers = {lesson.number for lesson in LESSONS}
    assert checks.CHECKS
    assert {id[:2] for id in checks.CHECKS} <= numbers
    for check in checks.CHECKS.values():
        assert check.hint.endswith((".", "?")), check.id


def test_on_a_cluster_without_nodes_nothing_runs_on_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.calico import facts

    monkeypatch.setattr(facts, "service_tables", lambda kube: {})
    stopped = SimpleNamespace(
        bpf_enabled=True, nodes=(), calico_version="v3.17.2", calico_node=SimpleNamespace(ready=0)
    )
    kube = SimpleNamespace(list=lambda *_, **__: [])
    lab = SimpleNamespace(facts=lambda: stopped, kube=kube)
    report = checks.run(lab, checks.select(["01.nodes", "01.calico", "03.bpf"]))  # type: ignore[arg-type]
    assert not any(result.passed for result in report.results)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", True, None, ["10", "500"], [10], [10, 10], []])
def test_a_parameter_that_cannot_be_meant_is_named_before_anything_runs(tmp_path: Path, bad: object) -> None:
    with pytest.raises(ParameterError, match="The parameter rounds cannot be") as caught:
        course(tmp_path).begin("04", rounds=bad)
    assert caught.value.fix


def test_a_list_of_numbers_is_not_one_number(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="must be a list"):
        course(tmp_path).begin("05", counts=5)


def test_a_switch_is_no_word() -> None:
    with pytest.raises(ParameterError, match="must be True or False"):
        ui.choose("False")  # type: ignore[arg-type]


def test_a_guess_must_be_one_that_the_question_allows(tmp_path: Path) -> None:
    c = course(tmp_path)
    for guess in ("20", None, True, [20], float("nan"), 10**400):
        with pytest.raises(ParameterError, match="not a number"):
            c.predict("04.tcp", "How much?", guess)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'always', 'never'"):
        c.predict("07.ebpf", "Does alice get in?", "perhaps", choices=("always", "never"))


def test_what_a_learner_typed_outlives_the_cell_until_the_parameter_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "interactive", lambda: True)
    c = course(tmp_path)
    c.predict("02.rules", "How many?", 5)
    c.progress.record("predictions", "02.rules", guess=8, typed=8)  # as the field does
    assert c.predict("02.rules", "How many?", 5).guess == 8
    assert c.predict("02.rules", "How many?", 5).guess == 8
    assert c.predict("02.rules", "How many?", 6).guess == 6
    monkeypatch.setattr(mode, "interactive", lambda: False)
    c.progress.record("predictions", "02.rules", guess=8, typed=8)
    assert c.predict("02.rules", "How many?", 6).guess == 6
