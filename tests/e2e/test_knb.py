"""k8s-bench-suite's knb runs on the lab as published, with the kubectl that is there."""

import os
import subprocess

import pytest

from labkit.bench import knb, knb_files
from tests.bench.test_knb import DATA, ask_knb, assert_figures


@pytest.mark.slow
def test_every_line_of_knbs_output_has_a_figure(cluster, namespace, tmp_path):
    client, server = cluster.nodes()[:2]
    file = tmp_path / "lab.knbdata"
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "TERM": "dumb"}
    done = subprocess.run(
        ["bash", str(DATA / "knb"), "-cn", client, "-sn", server, "-n", namespace, "-d", "1", "-t", "30",
         "-o", "data", "-f", str(file)],
        env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    # what is said of this option, which kubectl dropped in 1.28, is all that is said
    complaints = [line for line in done.stderr.splitlines() if "--short" not in line and "kubectl version" not in line]
    assert complaints == []
    text = ask_knb(file, "text", tmp_path / "text").decode()
    assert_figures(text, but=("Discovered k8s version",) if "--short" in done.stderr else ())

    run = knb_files.read(file, "lab")
    assert run.cases == knb.TESTS
    for sample in run.samples:
        if sample.case != "idle":
            assert sample.metrics["gbit_per_s"] > 0
            assert sample.metrics["client_system_percent"] > 0
        assert sample.metrics["client_memory_mb"] > 0
    assert run.provenance["arms"]["lab"]["client_node"] == client
