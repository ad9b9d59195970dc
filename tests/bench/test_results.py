import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from labkit.bench import files, knb_files, schema
from labkit.bench.recording import Recording
from labkit.bench.results import SCHEMA, Run, Sample, now
from labkit.bench.together import merge
from labkit.errors import ResultsError
from labkit.reference import data_file

DATA = Path(__file__).resolve().parents[1] / "data" / "knb"


def run(**more):
    samples = [Sample(arm, "pod to pod, TCP", n, {"gbit_per_s": value + n / 100}, "iperf3 -c x",
                      f"2026-11-27T08:0{n}:00.000+00:00", detail={"proof": ["KUBE-SVC", 17]})
               for arm, value in (("vanilla", 10.0), ("ebpf", 15.0)) for n in range(5)]
    about = {"target": "local", "kernel": "6.18.1", "cpu": "EPYC", "kubernetes": "v1.20.2", "calico": None,
             "node_count": 2, "client_node": "a", "server_node": "b", "one_machine": True}
    fields = {"provenance": {"labkit": "0.1.0", "parameters": {"rounds": 5}, "arms": {"vanilla": about, "ebpf": about}},
              "started": now(), "finished": now()}
    return Run("flows", "Flows", tuple(samples), notes=("a note",), **{**fields, **more})


def document(**more):
    return {**json.loads(run().to_json()), **more}


def sample(**more):
    return document(samples=[{**document()["samples"][0], **more}])


def without(*path):
    made = document()
    place = made
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return made


def test_survives_a_file(tmp_path):
    made = run()
    path = made.save(tmp_path / "deep" / "run.json")
    assert Run.load(path) == made == files.load(path)
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_compares_with_the_first_arm():
    (found,) = run().compare("gbit_per_s")
    assert (found.base, found.other, found.n) == ("vanilla", "ebpf", 5)
    assert found.ratio == pytest.approx(1.5, abs=0.01)
    assert found.detectable
    assert found.verdict.startswith("50 % more")


def test_summary_holds_medians_of_every_arm():
    assert [(s.arm, round(s.median, 2)) for s in run().summary("gbit_per_s")] == [("vanilla", 10.02), ("ebpf", 15.02)]


def test_csv_has_a_line_for_each_sample():
    lines = run().to_csv().splitlines()
    assert lines[0] == "kind,arm,case,x,round,metric,value,at"
    assert len(lines) == 11
    assert '"pod to pod, TCP"' in lines[1]


def test_the_schema_is_one_and_says_the_version_that_is_written():
    found = json.loads(data_file("run.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["properties"]["schema"]["const"] == SCHEMA


def test_every_document_that_the_library_writes_holds_against_the_schema(tmp_path):
    validator = jsonschema.Draft202012Validator(json.loads(data_file("run.schema.json").read_text()))
    begun = Recording(replace(run(), samples=()), tmp_path / "begun.json")
    begun.add(run().samples[0])
    begun.describe("ebpf", {"calico": "v3.28.0"})
    begun.note("the machine was busy")
    begun.close()
    knb_files.read(DATA / "recorded.knbdata").save(tmp_path / "knb.json")
    merge([run(), run(started="2026-11-26T08:00:00.000+00:00")]).save(tmp_path / "merged.json")
    run().save(tmp_path / "run.json")
    written = sorted(tmp_path.glob("*.json"))
    assert len(written) == 4
    for file in written:
        validator.validate(json.loads(file.read_text()))
        Run.load(file)


def test_a_moment_of_ours_is_one_of_the_schemas():
    assert datetime.fromisoformat(now()).tzinfo == UTC
    Run.from_json(run(started=now(), finished="").to_json())


@pytest.mark.parametrize(("wrong", "said"), [
    (document(kind="speed"), "kind: 'speed' is not one of"),
    (document(title=""), "title: "),
    (document(extra=1), r"the document: .*'extra' was unexpected"),
    (document(started="yesterday"), "started: 'yesterday' does not match"),
    (document(notes="a note"), "notes: 'a note' is not of type 'array'"),
    (document(samples={}), "samples: {} is not of type 'array'"),
    (without("finished"), "the document: 'finished' is a required property"),
    (without("provenance", "parameters"), "provenance: 'parameters' is a required property"),
    (without("provenance", "labkit"), "provenance: 'labkit' is a required property"),
    (without("samples", 0, "metrics"), r"samples\[0\]: 'metrics' is a required property"),
    (sample(metrics={}), r"samples\[0\]\.metrics: "),
    (sample(metrics={"gbit_per_s": "9"}), r"samples\[0\]\.metrics\.gbit_per_s: '9' is not of type 'number'"),
    (sample(metrics={"Gbit/s": 9}), r"samples\[0\]\.metrics: 'Gbit/s' does not match"),
    (sample(round=-1), r"samples\[0\]\.round: -1 is less than"),
    (sample(round=0.5), r"samples\[0\]\.round: 0\.5 is not of type 'integer'"),
    (sample(arm=""), r"samples\[0\]\.arm: "),
    (sample(x="10"), r"samples\[0\]\.x: '10' is not of type"),
    (sample(surprise=1), r"samples\[0\]: .*'surprise' was unexpected"),
    (document(provenance={"labkit": "", "parameters": {}, "arms": {"a": {"one_machine": "yes"}}}),
     r"provenance\.arms\.a\.one_machine: 'yes' is not of type 'boolean'"),
])
def test_the_schema_refuses_what_is_wrong_and_says_where(wrong, said):
    with pytest.raises(ResultsError, match=f"no complete results document.\n  Why: {said}") as error:
        Run.from_json(json.dumps(wrong))
    assert error.value.fix


@pytest.mark.parametrize(("text", "said", "cure"), [
    ("my thesis", "not a results document", "a file that a run of labkit has written"),
    ("[]", "not a results document", "a file that"),
    ("{}", "not a results document", "a file that"),
    (b"\xff\xfe\x00", "not a results document", "a file that"),
    ('{"schema": "else/v1"}', "not a results document", "a file that"),
    ('{"schema": "labkit.dev/run/v2", "x": NaN}', "NaN is no number", "a file that"),
    ("", "not a results document", "a file that"),
    (json.dumps({"schema": "labkit.dev/run/v9"}), "this version reads " + SCHEMA, "update labkit"),
    (json.dumps({"schema": SCHEMA}), "no complete results document", "copy it again"),
    *[(run().to_json()[:length], "is cut off", "copy it again") for length in (1, 30, 200, 900, 1500)],
    (run().to_json()[:-1], "is cut off", "copy it again"),
])
def test_bad_documents_say_what_is_wrong(tmp_path, text, said, cure):
    (tmp_path / "it.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ResultsError, match=said.replace(".", r"\.")) as error:
        Run.load(tmp_path / "it.json")
    assert cure in error.value.fix
    assert "it.json" in error.value.what


def test_no_length_of_a_document_is_read_as_a_whole_one():
    text = replace(run(), samples=run().samples[:1]).to_json()
    for length in range(1, len(text), 7):
        with pytest.raises(ResultsError):
            schema.parse(text[:length], "it")


def test_a_document_of_the_first_schema_is_read():
    old = document(schema="labkit.dev/run/v1", provenance={"parameters": {"rounds": 5}})
    del old["finished"]
    for entry in old["samples"]:
        del entry["detail"]
    found = Run.from_json(json.dumps(old))
    assert (found.schema, found.finished) == (SCHEMA, found.samples[-1].at)
    assert found.provenance == {"labkit": "", "parameters": {"rounds": 5}, "arms": {}}
    assert found.samples[0].detail == {}


def test_what_json_does_not_have_is_never_written(tmp_path):
    broken = replace(run(), samples=(Sample("a", "b", 0, {"p50_us": float("nan")}),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.save(tmp_path / "run.json")
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("read", [Run.load, files.load])
def test_missing_file_is_an_error_of_ours(tmp_path, read):
    with pytest.raises(ResultsError, match="cannot be read") as error:
        read(tmp_path / "none.json")
    assert "No such file" in error.value.why
    assert error.value.fix


def test_files_of_knbs_are_known_by_what_is_in_them(tmp_path):
    wanted = knb_files.read(DATA / "recorded.knbdata")
    assert files.load(DATA / "recorded.knbdata") == wanted
    assert files.load(knb_files.write(wanted, tmp_path / "x.json")).kind == "knb"
    assert files.load(wanted.save(tmp_path / "ours.json")) == wanted
