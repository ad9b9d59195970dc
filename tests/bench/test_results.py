import json

import pytest

from labkit.bench.results import SCHEMA, Run, Sample
from labkit.errors import ResultsError


def run(**more):
    samples = [Sample(arm, "pod to pod, TCP", n, {"gbit_per_s": value + n / 100}, "iperf3 -c x", "t")
               for arm, value in (("vanilla", 10.0), ("ebpf", 15.0)) for n in range(5)]
    return Run("flows", "Flows", tuple(samples), {"target": "local"}, ("a note",), **more)


def test_survives_a_file(tmp_path):
    path = run().save(tmp_path / "deep" / "run.json")
    assert Run.load(path) == run()


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


@pytest.mark.parametrize(("text", "said"), [
    ("{", "not a results document"), ("[]", "not a results document"),
    (json.dumps({"schema": "labkit.dev/run/v9"}), "this version reads " + SCHEMA),
    (json.dumps({"schema": SCHEMA}), "incomplete"),
])
def test_bad_documents_say_what_is_wrong(text, said):
    with pytest.raises(ResultsError, match=said.replace(".", r"\.")):
        Run.from_json(text)


def test_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(ResultsError, match="cannot be read"):
        Run.load(tmp_path / "none.json")
