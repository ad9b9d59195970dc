"""A class of fifty, within what AKS takes; who fails is named, and a second run finishes what is left."""

import re
import threading
import time

import pytest
from click.testing import CliRunner

from labkit.azure import ClusterSettings, classroom
from labkit.azure.classroom import Classroom, Pace
from labkit.errors import OperationInterruptedError
from tests.arm.wire import error

STUDENTS = [f"{number:02}" for number in range(1, 51)]
EVERY = 0.05  # seconds that stand for AKS's minute


class Bucket:
    """AKS's limit on PUTs of clusters, in short minutes. With `refuses` none pass before it has refused one."""

    def __init__(self, wire, every=EVERY, burst=20.0, refuses=False):
        self.every, self.burst, self.refuses = every, burst, refuses
        self.left, self.then, self.refused = burst, time.monotonic(), 0
        self.fault = wire.add("PUT", "/managedclusters/", times=None)
        self.fault.applies = self.applies
        self.fault.answer = error(429, "Throttled", flat=True, retry_after_ms="50")

    def applies(self, method, path):
        if method != "PUT" or "/managedclusters/" not in path.lower():
            return False
        now = time.monotonic()
        if self.refused or not self.refuses:
            self.left = min(self.burst, self.left + (now - self.then) / self.every)
        self.then = now
        if self.left >= 1.0:
            self.left -= 1.0
            return False
        self.refused += 1
        return True


@pytest.fixture
def lines():
    return []


def room(azures, lines, students=STUDENTS, pace=None):
    return Classroom(azures.open(), ClusterSettings(), students, lambda who, line: lines.append((who, line)),
                     pace or Pace(20, EVERY))


def clusters(azures):
    return {str(c["name"]) for c in azures.open().clusters()}


def test_fifty_are_made_and_deleted(azures, lines):
    Bucket(azures.wire)
    made = room(azures, lines).create()
    assert [outcome.error for outcome in made] == [None] * 50
    assert [outcome.student for outcome in made] == STUDENTS
    assert len(clusters(azures)) == 50
    assert {who for who, line in lines if line == "done"} == set(STUDENTS)
    gone = room(azures, lines).delete()
    assert [outcome.error for outcome in gone] == [None] * 50
    assert clusters(azures) == set()
    assert azures.open().groups() == []


def test_who_asks_too_often_waits_and_succeeds(azures, lines):
    bucket = Bucket(azures.wire, every=0.5, burst=3.0, refuses=True)
    made = room(azures, lines, STUDENTS[:8], Pace(100, 0.0001)).create()
    assert bucket.refused > 0
    assert [outcome.error for outcome in made] == [None] * 8


def test_who_fails_is_named_and_the_next_run_makes_only_what_is_missing(azures, lines):
    azures.wire.add("PUT", r"managedclusters/MyCalicoCluster-0[24]$", times=2, answer=error(
        400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota: Total Regional Cores quota", flat=True))
    made = room(azures, lines, STUDENTS[:5]).create()
    assert [outcome.student for outcome in made if outcome.error] == ["02", "04"]
    assert "quota" in str(made[1].error)
    before = len(azures.wire.asked("PUT", "managedclusters"))
    turns = []
    pace = Pace(20, EVERY)
    pace.wait = lambda say: (turns.append(say), say("its turn comes in 30 s"))
    again = room(azures, lines, STUDENTS[:5], pace).create()
    assert len(turns) == 2, "what is there takes no turn from the others"
    assert {who for who, line in lines if line == "its turn comes in 30 s"} == {"02", "04"}
    assert [outcome.error for outcome in again] == [None] * 5
    assert len(azures.wire.asked("PUT", "managedclusters")) == before + 2


def test_an_interrupt_says_what_is_under_way(azures, lines, monkeypatch):
    class Interrupted(classroom.queue.Queue):
        def get(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(classroom.queue, "Queue", Interrupted)
    with pytest.raises(OperationInterruptedError) as stopped:
        room(azures, lines, STUDENTS[:2]).create()
    assert "CalicoDemoRG-01, CalicoDemoRG-02" in stopped.value.why
    assert "run the same again" in stopped.value.fix
    deadline = time.monotonic() + 120
    while sum(line == "done" for _, line in lines) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert clusters(azures) == {"MyCalicoCluster-01", "MyCalicoCluster-02"}, "Azure went on"


def test_an_interrupt_says_that_what_is_done_costs_money_too(azures, lines, monkeypatch):
    class Interrupted(classroom.queue.Queue):
        got = 0

        def get(self, *_):
            self.got += 1
            if self.got > 2:
                raise KeyboardInterrupt
            return super().get()

    monkeypatch.setattr(classroom.queue, "Queue", Interrupted)
    with pytest.raises(OperationInterruptedError, match="2 of 3 are done") as stopped:
        room(azures, lines, STUDENTS[:3]).create()
    assert re.search(r"costs money: CalicoDemoRG-0\d, and so do those that are done", stopped.value.why)
    deadline = time.monotonic() + 120
    while sum(line.startswith(("done", "failed")) for _, line in lines) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)


def test_the_pace_lets_some_go_at_once_and_the_rest_in_line():
    waits, pace = [], Pace(2, 0.1)
    begin = time.monotonic()
    threads = [threading.Thread(target=pace.wait, args=[waits.append]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waits) <= 3
    assert time.monotonic() - begin >= 0.25
    assert all(re.search(r"its turn comes in \d s", said) for said in waits)


def test_the_command(azures, monkeypatch):
    from labkit import cli_classroom, lab

    monkeypatch.setattr(lab.Lab, "open", lambda *_, **__: type("L", (), {
        "azure": azures.open(), "settings": ClusterSettings()})())
    invoke = lambda *words, answer="": CliRunner().invoke(cli_classroom.classroom, words, input=answer)  # noqa: E731
    assert invoke("create").exit_code == 2
    asked = invoke("create", "--count", "3", answer="n\n")
    assert "3 clusters of 2 × Standard_D2s_v3 in canadaeast, 12 vCPUs: on Azure about $0.84 an hour" in asked.output
    assert clusters(azures) == set()
    assert "2 of 2 are done" in invoke("create", "ann", "bob", "--yes").output
    azures.wire.add("DELETE", "MyCalicoCluster-bob$", times=None, answer=error(409, "ScopeLocked"))
    failed = invoke("delete", "ann", "bob", "--yes")
    assert failed.exit_code == 1
    assert "Not done: CalicoDemoRG-bob" in failed.output
    assert clusters(azures) == {"MyCalicoCluster-bob"}
