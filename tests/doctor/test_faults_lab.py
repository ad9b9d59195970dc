"""Faults on clusters of a lab: the doctor names each by its id, and its cure, pasted into a shell, mends it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.doctor.faults import FAULTS
from tests.e2e import support
from tests.e2e.support import TestCluster, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ARTICLE = {"iptables": ("kube-proxy-gone", "op-addr"),
           "ebpf": ("wrong-image", "no-endpoints", "policy-denies", "ep-missing", "lb-ranges", "lb-local")}
OWN_NETWORK = ("ep-missing", "ep-wrong")
TODAY = {"iptables": ("op-refuse", "kp-back"), "ebpf": ("op-addr", "ep-wrong", "kp-fight", "kp-healthz")}


def opened(cluster: TestCluster) -> Iterator[Lab]:
    lab = Lab.open("local", cluster=cluster.name, resource_group=cluster.group)
    yield lab
    lab.close()
    support.delete_cluster(cluster)


@pytest.fixture(scope="module")
def article(daemon, lab_paths, tmp_path_factory):
    yield from opened(support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("article")))


@pytest.fixture(scope="module")
def today(daemon, lab_paths, tmp_path_factory):
    yield from opened(support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("today"), version="1.36.2"))


@pytest.fixture
def vanilla(daemon, lab_paths, tmp_path_factory):
    yield from opened(support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("vanilla"), policy="none",
                                             version="1.36.2", count=1))


def unwell(lab: Lab) -> list[str]:
    return [str(f) for f in lab.diagnose().findings if f.level != "ok"]


def well(lab: Lab, what: str) -> None:
    """The doctor finds nothing, at the latest after a while."""
    def nothing():
        assert unwell(lab) == []
        return True

    wait_for(nothing, what, interval=1)


def pasted(lab: Lab, command: str, tmp_path) -> None:
    """A shell that has been told of the lab runs the command as it is printed."""
    credentials = lab.azure.credentials(lab.settings.resource_group, lab.settings.name)
    (tmp_path / "kubeconfig").write_bytes(credentials)
    done = subprocess.run(["bash", "-ec", command], env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def broken_named_and_mended(lab: Lab, name: str, tmp_path) -> None:
    lab.run(lab.faults.inject(name))

    def named():
        found = lab.diagnose()[name]
        return found if found.level in ("problem", "warning") else None

    found = wait_for(named, f"the doctor names {name}", interval=1)
    assert found.command
    pasted(lab, found.command, tmp_path)
    well(lab, f"all is well after {name}")
    lab.run(lab.faults.mend(name))  # what the doctor's command left, such as a range that it added

    lab.run(lab.faults.inject(name))
    lab.run(lab.faults.mend(name))
    well(lab, f"{name} is mended by its plan")


@pytest.mark.parametrize("plane", ["iptables", "ebpf"])
def test_faults_of_the_articles_cluster(article, plane, tmp_path):
    article.ensure(plane)
    well(article, "no false alarm")
    for name in ARTICLE[plane]:
        broken_named_and_mended(article, name, tmp_path)
    article.faults.remove()


@pytest.mark.parametrize("plane", ["iptables", "ebpf"])
def test_faults_of_todays_cluster(today, plane, tmp_path):
    today.ensure(plane)
    well(today, "no false alarm")
    for name in TODAY[plane]:
        broken_named_and_mended(today, name, tmp_path)


def test_no_false_alarm_without_calico(vanilla):
    well(vanilla, "no false alarm")
    assert {fault.name for fault in vanilla.faults.possible()} == {"wrong-image", "no-endpoints", "policy-denies"}


@pytest.fixture
def bare(daemon, lab_paths, tmp_path_factory):
    yield from opened(support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("bare"), policy="none",
                                             version="1.36.2", plugin="none"))


def flush(lab: Lab, prefix: str) -> None:
    """Take kube-proxy's rules off the nodes: a node that comes after kube-proxy went never had them."""
    for space in Path("/run/netns").iterdir():
        if space.name.startswith(prefix) and space.name.endswith(lab.facts().nodes):
            for table in ("nat", "filter", "mangle"):
                subprocess.run(["nsenter", f"--net={space}", "iptables-legacy", "-t", table, "-F"], check=True)


def test_a_cluster_that_brings_its_own_network(bare, lab_paths, tmp_path):
    """Without a network; without kube-proxy too early, so that nobody finds the API's name; and with all in order."""
    wait_for(lambda: {f.split("[")[-1].split("]")[0] for f in unwell(bare)} == {"no-cni", "no-endpoints"},
             "the doctor says that there is no network", interval=1)
    switch = bare._around(0).proxy
    switch.set(False, print)
    flush(bare, lab_paths.prefix)
    plan = bare.enable_ebpf()
    for name in ("install-operator", "endpoint", "installation"):  # the ConfigMap comes too early
        plan[name].apply(print)

    def stuck():
        report = bare.diagnose()
        assert report["kube-proxy-gone"].command == switch.command(True)
        return report["ep-dns-deadlock"] if report["ep-dns-deadlock"].level == "problem" else None

    found = wait_for(stuck, "the doctor names the deadlock", interval=1)
    assert f"lookup {bare.facts().api_host} on 10.0.0.10:53: i/o timeout" in found.evidence
    assert found.command.startswith(switch.command(True))
    switch.set(True, print)  # what az does by an extension that is not on PyPI
    pasted(bare, found.command.removeprefix(switch.command(True)), tmp_path)
    well(bare, "the operator has made the network")

    bare.run(bare.enable_ebpf())
    well(bare, "no false alarm")
    assert not {"kp-fight", "kp-healthz", "kp-back"} & {fault.name for fault in bare.faults.possible()}
    for name in OWN_NETWORK:
        broken_named_and_mended(bare, name, tmp_path)


def test_every_fault_is_tried():
    assert {name for names in (*ARTICLE.values(), *TODAY.values()) for name in names} == set(FAULTS)
