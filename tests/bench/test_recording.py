"""A run that is killed keeps what it measured, and the next attempt measures only the rest."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.bench.recording import Recording
from labkit.bench.results import Run, Sample
from labkit.errors import ResultsError
from labkit.version import __version__

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = {"rounds": 30, "seconds": 1, "planes": ("vanilla", "ebpf")}  # a tuple is a list in a file
FACTS = {"kernel": "6.18", "cpu": "EPYC"}


def wanted(**more):
    provenance = {"labkit": __version__, "parameters": PARAMETERS, "arms": {"vanilla": FACTS, "ebpf": {}}}
    return Run("flows", "Flows", provenance=provenance | more)


def sample(round_=0, arm="vanilla", **metrics):
    return Sample(arm, "pod to pod, TCP", round_, metrics or {"gbit_per_s": 9.0 + round_}, "iperf3",
                  "2026-11-27T08:00:00.000+00:00")


# What a suite does, with nothing to wait for: samples of 20 kB, so that a kill falls into the writing of one. One that
# will be killed waits for that after a while, however late it comes.
SUITE = """
import sys
from tests.bench.test_recording import PARAMETERS, sample, wanted
from dataclasses import replace
from labkit.bench.recording import Recording
recording = Recording(wanted(), sys.argv[1])
for number in range(PARAMETERS["rounds"]):
    if not recording.has("vanilla", "pod to pod, TCP", number):
        print("measured", number, flush=True)
        recording.add(replace(sample(number), detail={"proof": "x" * 20000}))
        if len(recording.run.samples) % 8 == 7:
            sys.stdin.read()
recording.finish()
"""


def test_a_killed_run_is_whole_and_the_next_attempt_measures_only_the_rest(tmp_path):
    path, measured, kills, kept = tmp_path / "run.json", [], 0, 0
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", SUITE, str(path)], cwd=ROOT, text=True,
                                   stdin=subprocess.PIPE if attempt < 3 else subprocess.DEVNULL, stdout=subprocess.PIPE)
        line = process.stdout.readline()
        if attempt < 3:
            time.sleep(0.001 + 0.003 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        rest = process.stdout.read()
        process.stdout.close()
        if process.stdin:
            process.stdin.close()
        if process.wait() == 0:
            break
        measured.append([int(word.split()[1]) for word in (line + rest).splitlines()])
        found = Run.load(path)
        assert not found.finished
        # the one that was being written may be missing, and nothing else
        assert [s.round for s in found.samples] in (list(range(measured[-1][-1])), list(range(measured[-1][-1] + 1)))
        assert measured[-1][0] == kept
        kept = len(found.samples)
    assert kills == 3
    whole = Run.load(path)
    assert whole.finished
    assert whole.values("vanilla", "pod to pod, TCP", "gbit_per_s") == [9.0 + n for n in range(30)]
    assert sum("interrupted" in note for note in whole.notes) == kills
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_two_cannot_write_one_document(tmp_path):
    path = tmp_path / "run.json"
    with Recording(wanted(), path) as first:
        first.add(sample())
        with pytest.raises(ResultsError, match="Another run is being written") as error:
            Recording(wanted(), path)
    assert f"process {os.getpid()}" in error.value.why
    assert "wait until it ends" in error.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    with Recording(wanted(), path) as second:
        assert second.run.samples == first.run.samples


HOLDER = """
import sys, time
from tests.bench.test_recording import Recording, sample, wanted
recording = Recording(wanted(), sys.argv[1])
recording.add(sample())
print("there", flush=True)
time.sleep(60)
"""


def test_another_process_is_refused_until_the_first_ends_however_it_does(tmp_path):
    path = tmp_path / "run.json"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "there\n"
    with pytest.raises(ResultsError, match="Another run is being written"):
        Recording(wanted(), path)
    process.kill()
    process.wait()
    process.stdout.close()
    with Recording(wanted(), path) as recording:
        assert recording.has("vanilla", "pod to pod, TCP", 0)


def test_every_sample_is_on_the_disk_when_it_has_been_added(tmp_path):
    path = tmp_path / "deep" / "run.json"
    recording = Recording(wanted(), path)
    assert Run.load(path).samples == ()
    recording.add(sample())
    recording.note("the machine was busy")
    recording.note("the machine was busy")
    on_disk = Run.load(path)
    assert on_disk == recording.run
    assert (on_disk.samples, on_disk.notes) == ((sample(),), ("the machine was busy",))
    assert recording.has("vanilla", "pod to pod, TCP", 0)
    assert not recording.has("ebpf", "pod to pod, TCP", 0)
    assert not recording.has("vanilla", "pod to pod, TCP", 1)
    assert recording.finish() == Run.load(path)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recording = Recording(wanted(), None)
    recording.add(sample())
    assert recording.finish().samples == (sample(),)
    assert list(tmp_path.iterdir()) == []


def test_an_arm_is_described_when_its_turn_comes_and_must_be_the_same_later(tmp_path):
    path = tmp_path / "run.json"
    recording = Recording(wanted(), path)
    recording.describe("ebpf", {"calico": "v3.28.0"})
    recording.describe("ebpf", {"calico": "v3.28.1"})  # nothing has been measured on the first
    recording.add(sample(arm="ebpf"))
    recording.describe("ebpf", {"pools": ("a", "b")})
    recording.close()
    again = Recording(wanted(), path)
    again.describe("ebpf", {"pools": ("a", "b")})
    assert again.run.provenance["arms"] == {"vanilla": FACTS, "ebpf": {"calico": "v3.28.1", "pools": ["a", "b"]}}
    with pytest.raises(ResultsError, match=r"calico was v3\.28\.1, and is v3\.30\.0 now"):
        again.describe("ebpf", {"calico": "v3.30.0"})
    again.close()


@pytest.mark.parametrize(("there", "said"), [
    (lambda: Run("scale", "Scale", provenance=wanted().provenance), "holds a run of scale; this one is of flows"),
    (lambda: wanted(labkit="0.0.1"), r"0\.0\.1 there, .* here: it may measure otherwise"),
    (lambda: wanted(parameters={"rounds": 3}), "with other parameters"),
    (lambda: wanted(arms={"vanilla": FACTS}), "other arms.\n  Why: not in both: ebpf"),
    (lambda: wanted(arms={"vanilla": FACTS | {"kernel": "5.15"}, "ebpf": {}}), r"kernel was 5\.15, and is 6\.18 now"),
    (lambda: replace(wanted(), finished="2026-11-27T08:00:00+00:00"), "holds a finished run"),
])
def test_another_run_is_never_overwritten(tmp_path, there, said):
    path = there().save(tmp_path / "run.json")
    text = path.read_text()
    with pytest.raises(ResultsError, match=said) as error:
        Recording(wanted(), path)
    assert "another path" in error.value.fix
    assert path.read_text() == text


@pytest.mark.parametrize("content", ["my thesis", "", '{"schema": "labkit.dev/run/v9"}'])
def test_a_file_that_is_no_run_is_never_overwritten(tmp_path, content):
    path = tmp_path / "thesis.txt"
    path.write_text(content)
    with pytest.raises(ResultsError, match="no run that one could go on with") as error:
        Recording(wanted(), path)
    assert "another path" in error.value.fix
    assert path.read_text() == content


def test_what_is_no_number_or_counts_twice_is_refused(tmp_path):
    recording = Recording(wanted(), tmp_path / "run.json")
    recording.add(sample())
    for value in (float("nan"), float("inf")):
        with pytest.raises(ResultsError, match=r"round 2: p50_us is not a number"):
            recording.add(sample(1, p50_us=value))
    with pytest.raises(ResultsError, match="round 1 is in the run already"):
        recording.add(sample())
    assert json.loads((tmp_path / "run.json").read_text())["samples"] == json.loads(recording.run.to_json())["samples"]
    assert len(recording.run.samples) == 1
    recording.close()


def test_a_path_that_cannot_be_written_says_so_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        Recording(wanted(), tmp_path / "file" / "run.json")
