"""The lanes to eBPF on clusters as AKS makes them today: there, left alone, refused by hand, and back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from labkit import Lab
from labkit import plan as plans
from labkit.calico import effects
from labkit.calico.facts import STATUSES
from labkit.cli import cli
from tests.e2e import planes, support
from tests.e2e.planes import FELIX, curl, curl_from, node_pods
from tests.e2e.support import TestCluster, pod, service, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ALICE = "203.0.113.10"
REFUSAL = (
    'Unable to set bpfEnabled: FelixConfiguration "default" has been modified by someone else, '
    "refusing to override potential user configuration."
)


@contextmanager
def lab_of(cluster: TestCluster) -> Iterator[Lab]:
    opened = Lab.open("local", cluster=cluster.name, resource_group=cluster.group)
    yield opened
    opened.close()


def conditions(lab: Lab) -> dict[str, tuple[str, str]]:
    found = lab.kube.get(STATUSES, "calico").get("status", {}).get("conditions") or []
    return {c["type"]: (c["status"], f"{c.get('reason', '')} {c.get('message', '')}".strip()) for c in found}


def serve(cluster: TestCluster, namespace: str) -> str:
    """A server on the second node, callers on both, and a load balancer in front; its address."""
    first, second = cluster.nodes()
    ports = (("TCP", 80, 8080), ("UDP", 81, 8081))
    cluster.apply(
        pod("server", namespace, node=second, args=["netexec", "--http-port=8080"], ready_port=8080),
        pod("far", namespace, node=first, args=["pause"]),
        pod("near", namespace, node=second, args=["pause"]),
        service("front", namespace, app="server", kind="LoadBalancer", ports=ports),
    )

    def address() -> str:
        assert all(planes.is_ready(p) for p in cluster.core.list_namespaced_pod(namespace).items)
        front = cluster.core.read_namespaced_service("front", namespace).status.load_balancer.ingress
        return front[0].ip if front else ""

    return str(wait_for(address, "the workload is there"))


def flows(cluster: TestCluster, namespace: str, address: str) -> dict[str, str]:
    """Who answers in the cluster, and whom the server sees, each on new connections."""
    cluster_ip = cluster.core.read_namespaced_service("front", namespace).spec.cluster_ip
    server = cluster.core.read_namespaced_pod("server", namespace).status.pod_ip
    seen = {curl_from(cluster, "alice", f"http://{address}/clientip").rpartition(":")[0] for _ in range(6)}
    return {
        "pod": curl(cluster, namespace, "far", f"http://{server}:8080/hostname"),
        "near": curl(cluster, namespace, "near", f"http://{cluster_ip}/hostname"),
        "far": curl(cluster, namespace, "far", f"http://{cluster_ip}/hostname"),
        "name": curl(cluster, namespace, "far", f"http://front.{namespace}/hostname"),
        "outside": ",".join(sorted(seen)),
    }


WORKING = {"pod": "server", "near": "server", "far": "server", "name": "server", "outside": ALICE}


@pytest.fixture(scope="module")
def today(daemon, lab_paths, tmp_path_factory):
    """A cluster as AKS makes it today."""
    made = support.create_cluster(daemon, lab_paths, tmp_path_factory.mktemp("today"), version="1.36.2")
    yield made
    support.delete_cluster(made)


@pytest.fixture
def todays_lab(today):
    with lab_of(today) as opened:
        yield opened


def test_todays_lane(today, todays_lab):
    """The operator switches, kube-proxy stays, and the add-on manager leaves all of it alone."""
    lab = todays_lab
    before = {p.metadata.uid for p in node_pods(today)}
    with today.namespace() as namespace:
        address = serve(today, namespace)
        plan = lab.enable_ebpf(recheck=3)
        assert [s.id for s in plan.steps] == ["endpoint", "kube-proxy", "bpf", "connections", "recheck"]
        result = lab.run(plan)
        assert int(re.search(r"(\d+) s after", result["recheck"].evidence.text)[1]) >= 3
        installation = lab.kube.get("installations.operator.tigera.io", "default")
        felix = lab.kube.get(FELIX, "default")
        assert installation["spec"]["calicoNetwork"]["linuxDataplane"] == "BPF"
        assert felix["spec"]["bpfEnabled"] is True
        assert felix["metadata"]["annotations"]["operator.tigera.io/bpfEnabled"] == "true"
        assert planes.data_planes(today) == {"Calico eBPF"}
        assert before.isdisjoint({p.metadata.uid for p in node_pods(today)}), "calico-node has rolled out"
        proxies = today.core.list_namespaced_pod("kube-system", label_selector="component=kube-proxy").items
        assert len(proxies) == 2
        assert all(map(planes.is_ready, proxies))
        wait_for(lambda: flows(today, namespace, address) == WORKING, "every flow works")
        assert {plans.run_step(step).state for step in lab.enable_ebpf(recheck=3).steps} == {plans.State.ALREADY_DONE}

        # Somebody follows the article: the add-on manager takes kube-proxy back, and nothing else.
        planes.patch_kube_proxy(today, away=True)
        wait_for(lambda: effects.kube_proxy_runs(lab.kube).ok, "kube-proxy is back", interval=1)
        assert lab.kube.get("installations.operator.tigera.io", "default")["spec"] == installation["spec"]
        assert lab.kube.get(FELIX, "default")["spec"] == felix["spec"]
        assert flows(today, namespace, address) == WORKING

        lab.run(lab.disable_ebpf())
        assert planes.data_planes(today) == {"Calico iptables"}
        felix = lab.kube.get(FELIX, "default")
        assert felix["metadata"]["annotations"]["operator.tigera.io/bpfEnabled"] == "false"
        assert not {"bpfKubeProxyHealthzPort", "bpfKubeProxyIptablesCleanupEnabled"} & felix["spec"].keys()
        seen = flows(today, namespace, address)
        assert {**seen, "outside": ALICE} == WORKING
        assert ALICE not in seen["outside"]


def test_todays_operator_refuses_a_hand_set_field(today, todays_lab):
    lab = todays_lab
    planes.patch_felix(today, bpfEnabled=True)
    wait_for(lambda: conditions(lab)["Degraded"][0] == "True", "the operator is Degraded")
    assert REFUSAL in conditions(lab)["Degraded"][1]
    wait_for(lambda: planes.data_planes(today) == {"Calico eBPF"}, "Felix takes it all the same")
    planes.patch_felix(today, bpfEnabled=False)
    wait_for(lambda: conditions(lab)["Degraded"][0] == "False", "the operator is content again")
    wait_for(lambda: planes.data_planes(today) == {"Calico iptables"}, "Felix has gone back")


def test_the_commands_of_todays_lane_work_when_pasted(today, todays_lab):
    plan = todays_lab.enable_ebpf(recheck=3)
    walk(today, plan.steps, pasted=True)
    assert planes.data_planes(today) == {"Calico eBPF"}
    walk(today, todays_lab.disable_ebpf().steps, pasted=True)
    off_ebpf(today)


def test_the_commands_of_the_articles_lane_work_when_pasted(cluster):
    with lab_of(cluster) as lab:
        lab.run(lab.disable_ebpf())
        plan = lab.enable_ebpf()
        assert [s.id for s in plan.steps] == ["node-address", "endpoint", "operator", "kube-proxy", "bpf"]
        walk(cluster, plan.steps, pasted=True)
        assert planes.data_planes(cluster) == {"Calico eBPF"}
        walk(cluster, lab.disable_ebpf().steps, pasted=True)
        off_ebpf(cluster)


@pytest.fixture(scope="module")
def plain(daemon, lab_paths, tmp_path_factory):
    """Azure CNI and no network policy: no Calico."""
    made = support.create_cluster(
        daemon, lab_paths, tmp_path_factory.mktemp("plain"), version="1.36.2", policy="none")
    yield made
    support.delete_cluster(made)


def paste(cluster: TestCluster, command: str) -> None:
    """Run a step's twin in a shell that has nothing but the cluster's kubeconfig."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], text=True, capture_output=True, timeout=300, check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": str(cluster.kubeconfig)})
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def walk(cluster: TestCluster, steps: tuple[plans.Step, ...], pasted: bool) -> None:
    """Do steps, by their commands or by the library, and see each hold."""
    for step in steps:
        if pasted:
            paste(cluster, step.command)
            wait_for(lambda step=step: plans.check_step(step).ok, f"{step.id} holds")
        else:
            assert (done := plans.run_step(step)).ok, done.error


def off_ebpf(cluster: TestCluster) -> None:
    """Wait until eBPF is off: after the last command it serves on until kube-proxy has written its rules."""
    wait_for(lambda: planes.data_planes(cluster) == {"Calico iptables"}, "iptables on every node")


def rules(cluster: TestCluster, *parts: str) -> list[str]:
    """The lines of iptables and the sets on all nodes that have one of these parts."""
    found = []
    for node in cluster.nodes():
        (space,) = (p for p in Path("/run/netns").iterdir() if p.name.endswith(node))
        for words in (["iptables-legacy-save"], ["ipset", "list", "-n"]):
            shown = subprocess.run(["nsenter", f"--net={space}", *words], text=True, capture_output=True, check=True)
            found += [line for line in shown.stdout.splitlines() if any(part in line for part in parts)]
    return found


def versions(cluster: TestCluster) -> dict[str, str]:
    """Every object with its resource version, but for what beats by itself and what is measured on request."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kept = [kind for kind in kinds if kind.split(".")[0] not in ("events", "leases", "nodes", "componentstatuses")]
    found = json.loads(cluster.kubectl("get", ",".join(kept), "-A", "-o", "json"))["items"]
    return {f"{o['kind']} {o['metadata'].get('namespace')}/{o['metadata']['name']}": o["metadata"]["resourceVersion"]
            for o in found if "resourceVersion" in o["metadata"]}


def printed(cluster: TestCluster, *words: str) -> str:
    """What `labkit plan …` prints about a cluster."""
    result = CliRunner().invoke(cli, ["plan", *words, "--cluster", cluster.name, "--resource-group", cluster.group],
                                catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_labkit_plan_prints_the_lane_and_does_nothing(plain):
    before = versions(plain)
    said = printed(plain)
    assert "Lane B." in said
    for step in OWN:
        assert f"[{step}]" in said
    assert said.count("to do:") == len(OWN)
    assert "kubectl patch installation default --type=merge" in said
    assert said.endswith("Nothing was changed.\n")
    with lab_of(plain) as lab:
        assert lab.azure.group("rg-nobody") is None
        words = ["plan", "create", "--cluster", "nobody", "--resource-group", "rg-nobody"]
        assert "az aks create" in CliRunner().invoke(cli, words, catch_exceptions=False).output
        assert lab.azure.group("rg-nobody") is None
    assert versions(plain) == before


def test_labkit_plan_says_what_holds_already(today):
    before = versions(today)
    said = printed(today)
    assert "Lane A." in said
    assert [step for step in ("endpoint", "kube-proxy", "bpf") if f"[{step}]\n   to do" in said] == [
        "endpoint", "kube-proxy", "bpf"]
    assert "[undo-bpf]\n   holds already" in printed(today, "disable-ebpf")
    assert versions(today) == before


OWN = ["install-operator", "installation", "endpoint", "kube-proxy", "bpf", "connections"]


@pytest.mark.parametrize("pasted", ["there", "back"])
def test_the_lane_of_an_own_operator(plain, pasted):
    """There by the library and back by its commands, and the other way round; services work all the time."""
    with lab_of(plain) as lab, plain.namespace() as namespace:
        assert lab.dataplane() == "vanilla"
        address = serve(plain, namespace)
        plan = lab.enable_ebpf()
        assert [step.id for step in plan.steps] == OWN
        walk(plain, plan.steps, pasted == "there")
        assert planes.data_planes(plain) == {"Calico eBPF"}
        wait_for(lambda: flows(plain, namespace, address) == WORKING, "every flow works")
        assert rules(plain, "cali-")

        if pasted == "there":
            lab.run(lab.disable_ebpf())
            assert (lab.dataplane(), lab.facts().endpoint) == ("iptables", None)
            assert planes.data_planes(plain) == {"Calico iptables"}
        plan = lab.enable_ebpf()
        assert [step.id for step in plan.steps] == OWN, "what the plan installed is still the plan's to remove"
        walk(plain, plans.revert_plan(plan).steps, pasted == "back")
        assert planes.data_planes(plain) == {"kube-proxy only"}
        assert not rules(plain, "cali-", "cali40")
        seen = flows(plain, namespace, address)
        assert {**seen, "outside": ALICE} == WORKING
        assert ALICE not in seen["outside"]


@pytest.fixture(scope="module")
def bare(daemon, lab_paths, tmp_path_factory):
    """A cluster that brings its own network, and has none yet."""
    made = support.create_cluster(
        daemon, lab_paths, tmp_path_factory.mktemp("bare"), version="1.36.2", policy="none", plugin="none")
    yield made
    support.delete_cluster(made)


def ready(cluster: TestCluster) -> dict[str, str]:
    """What each node says about being ready."""
    return {n.metadata.name: next(c.message for c in n.status.conditions if c.type == "Ready")
            for n in cluster.core.list_node().items}


def az_in(folder: Path, cluster: TestCluster) -> None:
    """An az with the extension aks-preview, which is not on PyPI: it does what its file says by the lab's API."""
    stub = folder / "az"
    stub.write_text("\n".join((
        f"#!{sys.executable}", "import json, os, sys", "from labkit import Lab",
        f"os.environ['LABKIT_HOME'] = {str(cluster.paths.home)!r}",
        "if sys.argv[1:3] == ['aks', 'update']:",
        "    said = dict(zip(sys.argv[3::2], sys.argv[4::2]))",
        "    config = json.load(open(said['--kube-proxy-config']))",
        "    assert list(config) == ['enabled']",
        "    lab = Lab.open('local')",
        "    lab.azure.switch_kube_proxy(said['--resource-group'], said['--name'], config['enabled'], print)",
        "    lab.close()",
        "else:", "    assert sys.argv[1:] == ['extension', 'add', '--upgrade', '--name', 'aks-preview'], sys.argv")))
    stub.chmod(0o755)


def without_network(cluster: TestCluster) -> bool:
    pods = cluster.core.list_pod_for_all_namespaces().items
    return (all("NetworkPluginNotReady" in message for message in ready(cluster).values())
            and not any(n.spec.unschedulable for n in cluster.core.list_node().items)
            and not any(p.status.pod_ip for p in pods if not p.spec.host_network))


def unwell(lab: Lab) -> list[str]:
    return [str(f) for f in lab.diagnose().findings if f.level != "ok"]


@pytest.mark.parametrize("pasted", [True, False], ids=["pasted", "library"])
def test_the_lane_of_a_cluster_that_brings_its_own_network(bare, tmp_path, monkeypatch, pasted):
    """Not ready; Calico's network in iptables; eBPF; kube-proxy off; and back to no network, with every flow at each
    station. What the first round leaves is what the second begins with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    az_in(tmp_path, bare)
    wait_for(lambda: without_network(bare), "no node has a network")
    with lab_of(bare) as lab:
        plan = lab.enable_ebpf()
        assert [s.id for s in plan.steps] == [*OWN, "proxy-off", "take-over"]
        walk(bare, plan.steps[:2], pasted)
        wait_for(bare.system_ready, "all pods are ready")
        assert set(ready(bare).values()) == {"kubelet is posting ready status"}
        with bare.namespace() as namespace:
            address = serve(bare, namespace)
            pods = bare.core.list_namespaced_pod(namespace).items
            assert all(p.status.pod_ip.startswith("192.168.") for p in pods)
            wait_for(lambda: {**flows(bare, namespace, address), "outside": ALICE} == WORKING, "flows in iptables")
            walk(bare, plan.steps[2:], pasted)
            assert planes.data_planes(bare) == {"Calico eBPF"}
            assert lab.kube.find("daemonsets.apps", "kube-proxy", "kube-system") is None
            wait_for(lambda: flows(bare, namespace, address) == WORKING, "every flow works without kube-proxy")
            wait_for(lambda: not rules(bare, "KUBE-SVC"), "Felix has cleared up after kube-proxy")
            assert {plans.run_step(s).state for s in lab.enable_ebpf().steps} == {plans.State.ALREADY_DONE}
            wait_for(lambda: not unwell(lab), "the doctor finds nothing", interval=1)

            walk(bare, lab.disable_ebpf().steps, pasted)
            if pasted:
                off_ebpf(bare)
            assert planes.data_planes(bare) == {"Calico iptables"}
            wait_for(lambda: {**flows(bare, namespace, address), "outside": ALICE} == WORKING, "flows in iptables")
            assert ALICE not in flows(bare, namespace, address)["outside"]
            wait_for(lambda: not unwell(lab), "the doctor finds nothing", interval=1)
        plan = lab.enable_ebpf()
        if pasted:
            walk(bare, plans.revert_plan(plan).steps[-2:], pasted)
        else:
            undone = plans.revert(plan)  # all of it; of most steps there is nothing left to undo
            assert undone.ok, undone.steps[-1].error
    wait_for(lambda: without_network(bare), "no node has a network")
    assert planes.data_planes(bare) == {"kube-proxy only"}
    assert not rules(bare, "cali-", "cali40")
