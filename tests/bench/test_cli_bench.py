"""`labkit bench` as it is typed: what it prints, what it writes, and one sentence for what cannot be."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labkit import cli, cli_bench
from labkit.bench import knb_files
from labkit.bench.recording import Recording
from labkit.bench.results import Run, Sample
from labkit.bench.watch import Progress

RECORDED = Path(__file__).resolve().parents[1] / "data" / "knb" / "recorded.knbdata"


def a_run(day=27, scale=1.0, rounds=5):
    samples = [Sample(arm, "pod to pod, TCP", n, {"gbit_per_s": scale * value + n / 100}, "iperf3",
                      f"2026-11-{day}T08:0{n}:00.000+00:00")
               for n in range(rounds) for arm, value in (("vanilla", 10.0), ("ebpf", 15.0))]
    provenance = {"labkit": "0.1.0", "parameters": {"rounds": rounds, "seconds": 2},
                  "arms": {arm: {"target": "local", "kernel": "6.18.1"} for arm in ("vanilla", "ebpf")}}
    return Run("flows", "Flows", tuple(samples), provenance, ("a note",), f"2026-11-{day}T08:00:00.000+00:00",
               f"2026-11-{day}T08:09:00.000+00:00")


@pytest.fixture
def labkit(monkeypatch, capsys, tmp_path):
    """Run a command: (exit code, what it printed, what it said on standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["labkit", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_show_has_where_medians_differences_and_notes(labkit):
    a_run().save("run.json")
    code, out, _ = labkit("bench", "show", "run.json")
    assert code == 0
    assert "vanilla: target local, kernel 6.18.1" in out
    assert "pod to pod, TCP  vanilla  gbit_per_s  10      10 to 10" in out
    assert "ebpf against vanilla: 50 % more (95 % interval" in out
    assert "note: a note" in out
    assert "NOT FINISHED" not in out


def test_show_says_that_a_run_was_not_finished(labkit):
    replace(a_run(), finished="").save("run.json")
    assert "NOT FINISHED" in labkit("bench", "show", "run.json")[1]
    replace(a_run(), finished="", samples=()).save("empty.json")
    assert labkit("bench", "show", "empty.json")[0] == 0


def test_show_reads_files_of_knbs(labkit):
    out = labkit("bench", "show", RECORDED, "-m", "gbit_per_s")[1]
    assert "p2ptcp  recorded  gbit_per_s  8.55" in out


def test_compare_says_what_else_differs(labkit):
    a_run().save("before.json")
    a_run(28, 1.3).save("after.json")
    code, out, _ = labkit("bench", "compare", "before.json", "after.json")
    assert code == 0
    assert "pod to pod, TCP, gbit_per_s: ebpf (after) against ebpf (before): 30 % more" in out
    assert "; ratio of medians 1.3\n" in out
    assert "differs beside: day: 2026-11-27, 2026-11-28" in out
    out = labkit("bench", "compare", "before.json", RECORDED, "--arms", "vanilla,recorded")[1]
    assert "p2ptcp, gbit_per_s: recorded against vanilla: too few rounds" in out


def test_merge_then_export(labkit):
    a_run().save("one.json")
    a_run(28).save("two.json")
    assert labkit("bench", "merge", "one.json", "two.json", "-o", "both.json")[0] == 0
    assert len(Run.load("both.json").values("ebpf", "pod to pod, TCP", "gbit_per_s")) == 10
    out = labkit("bench", "export", "both.json", "--csv")[1]
    assert len(out.splitlines()) == 1 + 20
    assert labkit("bench", "export", RECORDED, "--json", "-o", "deep/ours.json")[0] == 0
    assert Run.load("deep/ours.json") == knb_files.read(RECORDED)
    assert labkit("bench", "export", "deep/ours.json", "--knb", "-o", "again.knbdata")[0] == 0
    assert knb_files.read("again.knbdata").samples[1].metrics == knb_files.read(RECORDED).samples[1].metrics
    assert labkit("bench", "export", "deep/ours.json", "--knb", "-o", "again.json")[0] == 0
    assert json.loads(Path("again.json").read_text())["data"]["pod2pod"]["tcp"]["bandwidth"] == 8548


@pytest.mark.parametrize(("words", "said", "cure"), [
    (("show", "none.json"), "none.json cannot be read", "give another path"),
    (("show", "thesis.txt"), "thesis.txt is not a results document", "a file that a run of labkit has written"),
    (("show", "newer.json"), "newer.json is of schema labkit.dev/run/v9", "update labkit"),
    (("show", "cut.json"), "cut.json is cut off", "copy it again"),
    (("show", "run.json", "-m", "speed"), "no metric speed", "there are: gbit_per_s"),
    (("compare", "run.json", RECORDED), "no arm in common", "--arms"),
    (("compare", "run.json", "run.json", "--arms", "vanilla"), "two names", "vanilla,ebpf"),
    (("merge", "run.json", RECORDED, "-o", "x.json"), "cannot be merged", "labkit bench compare"),
    (("merge", "run.json", "-o", "run.json"), "run.json is there already", "another name"),
    (("export", "run.json"), "Say which form", "--csv"),
    (("export", "run.json", "--knb"), "say where to", "-o FILE.knbdata"),
    (("export", "run.json", "--knb", "-o", "x.knbdata"), "one arm", "vanilla, ebpf"),
    (("export", "run.json", "--knb", "-o", "x.knbdata", "--arm", "ebpf"), "has no client_user_percent", "bench.knb()"),
    (("export", "run.json", "--csv", "-o", "run.json"), "is there already", "another name"),
    (("run", "speed"), "'speed' is not one of", "article"),
    (("run", "article", "--client-node", "a"), "go with --kubeconfig", "--kubeconfig"),
    (("run", "knb", "--rate", "500M"), "--rate is an option of article", "article"),
    (("run", "scale", "--services", "many"), "it is numbers", "10,1000"),
    (("run", "article", "--kubeconfig", "none", "--planes", "ebpf"), "--planes switches", "as it is"),
    (("run", "article", "--kubeconfig", "none"), "none cannot be read", "the cluster's kubeconfig"),
])
def test_bad_input_is_one_sentence_and_its_cure(labkit, words, said, cure):
    a_run().save("run.json")
    Path("thesis.txt").write_text("my thesis")
    Path("newer.json").write_text('{"schema": "labkit.dev/run/v9"}')
    Path("cut.json").write_text(a_run().to_json()[:500])
    before = Path("run.json").read_bytes()
    code, _, err = labkit("bench", *words)
    assert code != 0
    assert said in err
    assert cure in err
    assert "Traceback" not in err
    assert "does not expect" not in err
    assert Path("run.json").read_bytes() == before
    assert not Path("x.json").exists()


class Suite:
    """A suite of three samples that is told to stop by Ctrl-C in its second, once."""

    def __init__(self, interrupt):
        self.interrupt, self.taken, self.asked = interrupt, [], None

    def knb(self, *, path, watch, **asked):
        self.asked = asked
        provenance = {"parameters": asked, "arms": {"cluster": {}}}
        with Recording(Run("knb", "knb", provenance=provenance), path) as recording:
            return self.measure(recording, watch)

    def measure(self, recording, watch):
        for number, case in enumerate(("idle", "p2ptcp", "p2pudp")):
            if watch.stopped:
                return recording.run
            if recording.has("cluster", case, 0):
                continue
            watch.progress(Progress(number, 3, case, 9.0))
            if self.interrupt and number == 1:
                os.kill(os.getpid(), signal.SIGINT)
            recording.add(Sample("cluster", case, 0, {"gbit_per_s": 1.5}))
            watch.sample(recording.run.samples[-1])
            self.taken.append(case)
        return recording.finish()


def test_ctrl_c_ends_a_run_after_the_measurement_under_way_and_the_same_command_goes_on(labkit, monkeypatch):
    first, second = Suite(interrupt=True), Suite(interrupt=False)
    suites = iter((first, second))
    monkeypatch.setattr(cli_bench, "_bench", lambda *_: next(suites))
    words = ("bench", "run", "knb", "--kubeconfig", "k", "--rounds", "0", "--seconds", "0", "--out", "run.json")
    before = signal.getsignal(signal.SIGINT)
    code, _, err = labkit(*words)
    assert (code, first.taken) == (130, ["idle", "p2ptcp"])
    assert "1/3, 9 s left: p2ptcp" in err
    assert "gbit_per_s 1.5" in err
    assert "--out run.json goes on" in err
    assert signal.getsignal(signal.SIGINT) == before
    assert first.asked == {"rounds": 0, "seconds": 0, "planes": ()}  # zero is for the suite to refuse
    code, _, err = labkit(*words)
    assert (code, second.taken) == (0, ["p2pudp"])
    assert "labkit bench show run.json" in err
    assert len(Run.load("run.json").samples) == 3


def test_options_of_a_suite_reach_it(labkit, monkeypatch):
    suite = Suite(interrupt=False)
    suite.scale = suite.article = suite.knb
    monkeypatch.setattr(cli_bench, "_bench", lambda *_: suite)
    assert labkit("bench", "run", "scale", "--services", "10,1000", "--budget", "60")[0] == 0
    assert suite.asked == {"services": [10, 1000], "budget": 60.0}
    assert labkit("bench", "run", "article", "--planes", "vanilla,ebpf", "--rate", "500M", "--accept-noise")[0] == 0
    assert suite.asked == {"planes": ["vanilla", "ebpf"], "rate": "500M", "accept_noise": True}
    assert len(list(Path("results").glob("article-*.json"))) == 1
