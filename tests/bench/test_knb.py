"""k8s-bench-suite's own script, unmodified, reads what we write, and we read what it writes."""

import io
import json
import re
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from labkit.bench import knb, knb_files
from labkit.bench.results import Run, Sample
from labkit.errors import ResultsError

DATA = Path(__file__).resolve().parents[1] / "data" / "knb"
RECORDED = DATA / "recorded.knbdata"  # `knb -d 2 --name recorded` on a local lab
BANDWIDTHS = {"p2ptcp": 13.5, "p2pudp": 0.9061, "p2stcp": 12.0, "p2sudp": 0.75}


def ours(tests=knb.TESTS, rounds=1, arms=("ebpf",), name=None):
    """A run as `lab.bench.knb()` makes it; every figure in it is another one."""
    samples = []
    for a, arm in enumerate(arms):
        for t, test in enumerate(tests):
            for n in range(rounds):
                metrics = {} if test == "idle" else {"gbit_per_s": BANDWIDTHS[test] * (1 + n / 10)}
                metrics |= {f"{side}_{part}_percent": 0.25 + 30 * (side == "server") + 5 * p + t + n / 4
                            for side in ("client", "server") for p, part in enumerate(knb.CPU)}
                metrics |= {"client_memory_mb": 1000.0 + t, "server_memory_mb": 2000.0 + t + a}
                samples.append(Sample(arm, test, n, metrics, "iperf3 -c x", "2026-11-27T08:00:10.000+00:00"))
    about = {"client_node": "node-a", "server_node": "node-b", "cpu": "AMD EPYC 7763", "kernel": "6.18.1",
             "kubernetes": "v1.20.2", "mtu": 1500} | ({"name": name} if name else {})
    return Run("knb", "knb", tuple(samples), {"parameters": {"rounds": rounds}, "arms": dict.fromkeys(arms, about)},
               started="2026-11-27T08:00:00.000+00:00", finished="2026-11-27T08:01:00.000+00:00")


def ask_knb(file, output, to):
    """What knb makes of a file; it complains on stderr about a terminal without colours, and of nothing else."""
    done = subprocess.run(["bash", str(DATA / "knb"), "-fd", str(file), "-o", output, "-f", str(to)],
                          capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "TERM": "dumb"}, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return to.read_bytes()


def figures(report):
    """What all of knb's outputs have, rounded as they are."""
    return {name: (round(test.bandwidth, 2), *(
        (*(round(end.cpu[part], 2) for part in knb.CPU), round(end.ram)) for end in (test.client, test.server)))
        for name, test in report.tests.items()}


def test_the_copy_of_knb_is_the_one_that_was_published():
    assert re.search(r"^VERSION=1\.5\.0$", (DATA / "knb").read_text(), re.M)
    assert (DATA / "LICENSE").read_text().startswith("MIT License")


@pytest.mark.parametrize("output", ["json", "yaml", "data"])
def test_knb_reads_our_data_and_we_read_what_it_makes_of_it(tmp_path, output):
    file = knb_files.write(ours(), tmp_path / "deep" / "ours.knbdata")
    said = ask_knb(file, output, tmp_path / "said")
    document = yaml.safe_load(said) if output == "yaml" else None
    report = knb_files.parse(json.dumps(document, default=str).encode() if document else said, "knb's")
    wanted = knb.from_run(ours())
    assert figures(report) == figures(wanted)
    for fact in ("name", "date", "client_node", "server_node", "cpu", "kernel", "k8s_version", "mtu"):
        assert getattr(report, fact) == getattr(wanted, fact), fact


def test_knbs_text_of_our_data_has_a_figure_in_every_line(tmp_path):
    said = ask_knb(knb_files.write(ours(), tmp_path / "ours.knbdata"), "text", tmp_path / "said").decode()
    assert "bandwidth = 906.1 Mbit/s" in said
    assert "server cpu = total 206.25% (user 31.25%, nice 36.25%, system 41.25%, iowait 46.25%, steal 51.25%)" in said
    assert_figures(said)


def assert_figures(text, but=()):
    """Every line of knb's text that should have a value has one."""
    lines = [line for line in text.splitlines() if re.search(r"[:=] ?", line) and not set(line.strip()) <= {"="}]
    headings = [line for line in lines if re.fullmatch(r" *(Idle|Pod to pod|Pod to Service|TCP|UDP) :", line)]
    values = [line for line in lines if line not in headings]
    assert (len(headings), len(values)) == (7, 7 + 4 + 5 * 5)
    for line in values:
        name, _, value = line.partition(" = " if " = " in line else " : ")
        assert name.strip() in but or value.strip(), line
        if " = " in line:
            assert re.search(r"\d", value), line
            assert "nan" not in value, line


@pytest.mark.parametrize("tests", [("idle",), ("p2ptcp",), ("idle", "p2sudp"), ("p2pudp", "p2stcp")])
def test_some_of_the_tests_alone(tmp_path, tests):
    wanted = knb.from_run(ours(tests))
    file = knb_files.write(ours(tests), tmp_path / "some.knbdata")
    assert figures(knb_files.parse(ask_knb(file, "json", tmp_path / "said"), "knb's")) == figures(wanted)
    assert tuple(wanted.tests) == tests


def test_a_recording_of_knb_is_read_alike_from_all_that_knb_writes(tmp_path):
    run = knb_files.read(RECORDED)
    assert (run.kind, run.arms, run.cases) == ("knb", ("recorded",), knb.TESTS)
    from_json = knb_files.read(tmp_path / ask_file(tmp_path, "json"), "other name")
    assert from_json.arms == ("other name",)
    assert [s.metrics for s in from_json.samples] == [s.metrics for s in run.samples]
    (tmp_path / "folder").mkdir()
    subprocess.run(["tar", "-xzf", RECORDED, "-C", tmp_path / "folder"], check=True)
    assert knb_files.read(tmp_path / "folder") == run
    (tcp,) = (s for s in run.samples if s.case == "p2ptcp")
    assert tcp.metrics["gbit_per_s"] == 8.548
    assert (tcp.metrics["client_user_percent"], tcp.metrics["server_system_percent"]) == (6.63, 62.49)
    assert tcp.metrics["node_percent_per_10_gbit"] == pytest.approx((6.63 + 63.52 + 7.35 + 62.49) * 10 / 8.548)
    assert tcp.at == "2026-11-27T08:20:15.000+00:00"
    assert "8548 Mbits/sec                  receiver" in tcp.detail["log"]
    assert (run.started, run.finished[:19]) == ("2026-11-27T08:20:10.000+00:00", "2026-11-27T08:20:27")
    assert run.provenance["arms"]["recorded"]["client_node"].endswith("vmss000000")


def ask_file(tmp_path, output):
    ask_knb(RECORDED, output, tmp_path / f"recorded.{output}")
    return f"recorded.{output}"


def test_what_we_read_of_knb_is_written_back_the_same(tmp_path):
    run = knb_files.read(RECORDED)
    for name in ("again.knbdata", "again.json"):
        again = knb_files.read(knb_files.write(run, tmp_path / name))
        assert [s.metrics for s in again.samples] == [s.metrics for s in run.samples]
        assert again.provenance == run.provenance
    assert ask_knb(tmp_path / "again.knbdata", "text", tmp_path / "b") == ask_knb(RECORDED, "text", tmp_path / "a")


def test_rounds_are_written_as_their_medians():
    report = knb.from_run(ours(rounds=3))
    assert report.tests["p2ptcp"].bandwidth == pytest.approx(13500 * 1.1)
    assert report.tests["idle"].client.cpu["user"] == 0.5


def test_one_arm_is_written_and_it_must_be_named():
    several = ours(arms=("vanilla", "ebpf"))
    with pytest.raises(ResultsError, match="several") as error:
        knb.from_run(several)
    assert "vanilla, ebpf" in error.value.fix
    assert knb.from_run(several, "ebpf").tests["idle"].server.ram == 2001
    with pytest.raises(ResultsError, match="no arm ipvs"):
        knb.from_run(several, "ipvs")


def test_an_article_run_can_be_written_too():
    run = ours(("p2ptcp",))
    renamed = replace(run, kind="article", samples=tuple(replace(s, case="pod to pod, TCP") for s in run.samples))
    assert knb.from_run(renamed).tests["p2ptcp"].bandwidth == 13500


def test_what_knb_needs_and_the_run_lacks_is_named():
    run = ours(("p2ptcp",))
    without = {k: v for k, v in run.samples[0].metrics.items() if k != "server_memory_mb"}
    with pytest.raises(ResultsError, match="p2ptcp has no server_memory_mb"):
        knb.from_run(replace(run, samples=(replace(run.samples[0], metrics=without),)))
    with pytest.raises(ResultsError, match="None of knb's tests"):
        knb.from_run(replace(run, samples=(replace(run.samples[0], case="10 services"),)))
    with pytest.raises(ResultsError, match="no samples"):
        knb.from_run(replace(run, samples=()))


def test_a_name_is_never_run_by_the_shell_that_reads_it(tmp_path):
    nasty = """$(touch evil) `touch evil` ' " \\ ; touch evil"""
    file = knb_files.write(ours(name=nasty), tmp_path / "nasty.knbdata")
    report = json.loads(ask_knb(file, "json", tmp_path / "said"))
    assert report["metadata"]["name"].startswith("$(touch evil) `touch evil` '")
    assert not list(tmp_path.glob("**/evil"))
    assert not Path("evil").exists()


def packed(**changes):
    """The recording with files replaced, or left out where None."""
    with tarfile.open(RECORDED) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            data = next((new for end, new in changes.items() if name.endswith(end.replace("_", "."))), data)
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(("data", "said"), [
    (lambda: b"my thesis", "is not a file of knb's"),
    (lambda: b"{}", "is not a file of knb's"),
    (lambda: b"[1, 2]", "is not a file of knb's"),
    (lambda: RECORDED.read_bytes()[:1000], "cut off or damaged"),
    (lambda: RECORDED.read_bytes()[:12], "cut off or damaged"),
    (lambda: packed(env=None), "there is no `env` in it"),
    (lambda: packed(env=b"BENCHMARK_DATE='2026-11-27 08:20:10'"), "There is no test"),
    (lambda: packed(env=b"BENCHMARK_DATE=now\nIDLE_POD_NAME=knb-client-idle-23954"), "date 'now'"),
    (lambda: packed(_bw=b"\n"), "bandwidth of idle is '', which is no number"),
    (lambda: packed(_bw=None), r"incomplete: knb-client-idle-23954\.bw is missing"),
    (lambda: packed(_avg=b"cpu-user\n-nan -nan -nan -nan -nan 0 0\n"), "'-nan', which is no number"),
    (lambda: packed(_avg=b""), "has no figures"),
    (lambda: packed(_log=b" " * (5 * 2**20)), "in it is of 5242880 B"),
    (lambda: b'{\n "metadata": {},\n "data": {\n "idle": {\n "bandwidth": ,\n', "bandwidth in it is '', which is no"),
])
def test_what_is_no_file_of_knbs_says_so(tmp_path, data, said):
    file = tmp_path / "it.knbdata"
    file.write_bytes(data())
    with pytest.raises(ResultsError, match=said):
        knb_files.read(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ResultsError, match="cannot be read"):
        knb_files.read(tmp_path / "none.knbdata")
