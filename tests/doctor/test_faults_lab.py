"""Faults on clusters of a lab: the doctor names each by its id, and its cure, pasted into a shell, mends it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from labkit import Lab
from labkit.doctor.faults import FAULTS
from tests.e2e import support
from tests.e2e.support import TestCluster, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ARTICLE = {"iptables": ("kube-proxy-gone", "op-addr"),
           "ebpf": ("wrong-image", "no-endpoints", "policy-denies", "ep-missing", "lb-ranges", "lb-local")}
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

    wait_for(nothing, what, 90, 1)


def pasted(lab: Lab, command: str, tmp_path) -> None:
    """A shell that has been told of the lab runs the command as it is printed."""
    credentials = lab.azure.credentials(lab.settings.resource_group, lab.settings.name)
    (tmp_path / "kubeconfig").write_bytes(credentials)
    done = subprocess.run(["bash", "-ec", command], env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def broken_named_and_mended(lab: Lab, name: str, tmp_path) -> None:
    lab.run(lab.faults.inject(name))

    def named():
        found = lab.diagnose()[name]
        return found if found.level in ("problem", "warning") else None

    found = wait_for(named, f"the doctor names {name}", 60, 1)
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


def test_every_fault_is_tried():
    assert {name for names in (*ARTICLE.values(), *TODAY.values()) for name in names} == set(FAULTS)
