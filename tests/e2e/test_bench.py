"""Suites on a lab: each sample proven by its data plane, CPU told apart, and refusals that come before or at once."""

from __future__ import annotations

import json

import pytest

from labkit import Lab
from labkit.bench import Bench, Run, knb, scale, workload
from labkit.errors import MeasurementError

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
TCP, UDP = "pod to service, TCP", "pod to service, UDP"


@pytest.fixture(scope="module")
def lab(daemon):
    opened = Lab.open("local", cluster="Measured", resource_group="MeasuredRG")
    opened.ensure("ebpf")
    yield opened
    opened.run(opened.clean_up())
    opened.close()


@pytest.fixture(scope="module")
def article(lab, tmp_path_factory):
    path = tmp_path_factory.mktemp("article") / "run.json"
    run = lab.bench.article(rounds=1, seconds=1, cases=[TCP, UDP], path=path)
    assert Run.load(path) == run
    return run


def test_the_article_compares_three_data_planes_and_leaves_the_one_that_it_found(lab, article):
    assert article.arms == ("vanilla", "iptables", "ebpf")
    assert article.cases == ("idle", TCP, UDP)
    assert {arm: about["dataplane"] for arm, about in article.provenance["arms"].items()} == {
        "vanilla": "vanilla", "iptables": "iptables", "ebpf": "ebpf"}
    assert lab.dataplane() == "ebpf"


def test_every_flow_is_proven_by_its_data_planes_own_counters(article):
    proofs = {(s.arm, s.case): s.detail["proof"] for s in article.samples if s.case != "idle"}
    assert {p["state"] for p in proofs.values()} == {"proven"}, proofs
    assert all("KUBE-SERVICES took" in json.dumps(p) or "translated by netfilter" in json.dumps(p)
               for (arm, _), p in proofs.items() if arm != "ebpf")
    assert all("tracked by eBPF" in p["evidence"][0] for (arm, _), p in proofs.items() if arm == "ebpf")


def test_nodes_with_one_kernel_are_counted_once_and_containers_by_their_cgroups(article):
    assert all(about["one_machine"] for about in article.provenance["arms"].values())
    for s in article.samples:
        if s.case != "idle":
            assert "client_cores" not in s.metrics
            assert s.metrics["client_container_cores"] > 0.01
            assert s.metrics["server_container_cores"] > 0.01
            assert s.metrics["client_container_cores"] + s.metrics["server_container_cores"] < s.metrics["cores"] + 0.1
            assert s.metrics["bytes"] > 1e6


def test_a_path_that_was_not_taken_ends_the_run(lab):
    lies = Bench(lab.kube, lambda: "iptables", dict)
    with pytest.raises(MeasurementError, match="did not take the path of 'iptables'"):
        lies.flows(rounds=1, seconds=1, cases=["pod to pod, TCP"])
    for measure in scale.MEASURES:
        with pytest.raises(MeasurementError, match=f"{measure}, 3 services: the packets did not take the path"):
            lies.scale(services=[3], rounds=1, connects=3, seconds=0.5, measures=[measure])


def test_a_fixed_rate_is_kept_or_refused(lab):
    run = lab.bench.flows(rounds=1, seconds=1, rate="50M", cases=[UDP])
    (rate,) = run.values("ebpf", UDP, "gbit_per_s")
    assert rate == pytest.approx(0.05, rel=0.15)
    with pytest.raises(MeasurementError, match="Of the 399Gbit/s that were asked for") as error:
        lab.bench.flows(rounds=1, seconds=1, rate="399G", cases=[TCP])
    assert "give a lower rate" in error.value.fix


def test_requests_and_connections(lab):
    run = lab.bench.latency(rounds=1, seconds=0.5, planes=["ebpf"])
    for case, kind in (("request/response", "request"), ("connect/request/close", "connection")):
        (sample,) = [s for s in run.samples if s.case == case]
        assert sample.metrics[f"{kind}s_per_s"] > 10
        assert sample.metrics[f"cpu_us_per_{kind}"] > 0
        assert sample.metrics["p50_us"] <= sample.metrics["p99_us"]
        assert sample.detail["proof"]["state"] == "proven", sample.detail


def test_services_at_scale_alternate_between_the_clusters(lab):
    run = lab.bench.scale(services=[3, 40], rounds=1, connects=30, seconds=1)
    assert run.arms == ("vanilla", "ebpf")
    assert run.cases[:5] == tuple(f"{what}, 3 services" for what in ("idle", *scale.MEASURES))
    proofs = {(s.arm, s.case): s.detail["proof"] for s in run.samples if not s.case.startswith("idle")}
    assert {p["state"] for p in proofs.values()} == {"proven"}, proofs
    assert all(s.metrics["failed"] == 0 for s in run.samples if "failed" in s.metrics)
    assert {row.x for row in run.summary("p90_us")} == {3, 40}
    churn = [s for s in run.samples if s.case.startswith("churn")]
    assert all(len(s.detail["series"]["seconds"]) > 0 for s in churn)
    programs = {name for s in churn for name in s.metrics if name.endswith("_cpu_ms_per_change")}
    assert programs == {"kube-proxy_cpu_ms_per_change", "calico-node_cpu_ms_per_change"}


def test_knbs_tests_have_all_that_knb_reports(lab):
    run = lab.bench.knb(seconds=1)
    report = knb.from_run(run)
    assert tuple(report.tests) == knb.TESTS
    assert report.tests["p2sudp"].bandwidth > 1
    assert report.mtu == "1500"


def test_a_cluster_of_somebody_elses_by_its_kubeconfig_and_two_nodes(lab):
    nodes = sorted(n["metadata"]["name"] for n in lab.kube.list("nodes"))
    path = lab.target.kubeconfig
    lab.bench.remove()
    with pytest.raises(MeasurementError, match="no node nodeX"):
        Bench.for_cluster(path, lab.settings.context, client_node="nodeX")
    found = lab.kube.find("namespaces", workload.NAMESPACE)
    assert found is None or found["metadata"].get("deletionTimestamp"), "nothing is created before"
    bench = Bench.for_cluster(path, lab.settings.context, client_node=nodes[1], server_node=nodes[0], name="ours")
    run = bench.flows(rounds=1, seconds=1, cases=[TCP])
    assert run.arms == ("ours",)
    assert run.provenance["arms"]["ours"]["client_node"] == nodes[1]
    assert any("nothing is claimed of the data plane of 'ours'" in note for note in run.notes)
