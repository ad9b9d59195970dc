from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from labkit.local.client import Obj
from labkit.local.node import catalogue, hooks, kubeletapi, probes, status
from labkit.local.node.environment import (
    ConfigError,
    Place,
    environment,
    etc_files,
    expand,
    resolv_conf,
    resource_value,
)
from labkit.local.node.sandbox import identity
from labkit.local.node.settings import NodeSettings
from labkit.local.node.status import ContainerState, Ended
from labkit.local.node.streams import render

PLACE = Place("10.224.0.5", "10.224.0.4", "node-0")


def pod(**spec: object) -> Obj:
    return {"metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
            "spec": {"containers": [], **spec}}


@pytest.mark.parametrize(("reference", "name"), [
    ("mcr.microsoft.com/oss/calico/node:v3.17.1", "calico/node"), ("docker.io/calico/node@sha256:00", "calico/node"),
    ("k8s.gcr.io/kube-proxy:v1.20.2", "kube-proxy"), ("mcr.microsoft.com/oss/kubernetes/coredns:1.6.6", "coredns"),
    ("registry.k8s.io/e2e-test-images/agnhost:2.47", "agnhost"), ("nginx", "nginx"), ("python:3-alpine", "python"),
    ("localhost:5000/library/busybox:1", "busybox"), ("nicolaka/netshoot", "nicolaka/netshoot"),
    ("docker.io/library/httpd:2.4.38-alpine", "httpd"),
    ("infrabuilder/netbench:server-iperf3", "infrabuilder/netbench"), ("registry.k8s.io/pause:3.9", "pause"),
    ("quay.io/tigera/operator:v1.13.5", "tigera/operator"), ("curlimages/curl:8.8.0", "curlimages/curl"),
])
def test_images_by_their_real_names(reference: str, name: str) -> None:
    image = catalogue.find(reference)
    assert image is not None
    assert image.name == name


def test_unknown_images() -> None:
    assert catalogue.find("example.com/notnginx-at-all:1") is None
    assert catalogue.find("mynginx") is None


def test_command_and_args() -> None:
    image = catalogue.find("agnhost")
    assert image is not None
    assert image.command([], []) == ["agnhost", "pause"]
    assert image.command([], ["netexec"]) == ["agnhost", "netexec"]
    assert image.command(["sh", "-c"], ["x"]) == ["sh", "-c", "x"]


def test_every_image_has_an_nc_that_knows_udp() -> None:
    """Debian's BusyBox is built without `nc -u` and `-z`, which people try first when a service does not answer."""
    for image in catalogue.CATALOGUE:
        script = dict(image.scripts())[f"{catalogue.TOOLS}/nc"]
        assert "nc.openbsd" in script, image.name


@pytest.mark.parametrize("options", ["-T {} -qO-", "-T{} -qO-", "-qT {} -O-", "--timeout={} -qO-", "--timeout {} -q"])
def test_a_busybox_has_a_wget_that_gives_up_when_it_is_told_to(tmp_path: Path, options: str) -> None:
    script = tmp_path / "wget"
    text = dict(catalogue.find("busybox").scripts())[f"{catalogue.TOOLS}/wget"]
    assert text == dict(catalogue.find("agnhost").scripts())[f"{catalogue.TOOLS}/wget"], "it is of Alpine"
    script.write_text(text)

    def wget(limit: str) -> tuple[int, str]:
        done = subprocess.run(["sh", str(script), *options.format(limit).split(), url], capture_output=True, text=True)
        return done.returncode, done.stderr

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never says a word
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a b"
        assert wget("0.1") == (1, "wget: download timed out\n")
    assert wget("60") == (1, "wget: can't connect to remote host (127.0.0.1): Connection refused\n")


def test_variables() -> None:
    assert expand("$(A)-$(B)-$$(A)-$A", {"A": "1"}) == "1-$(B)-$(A)-$A"
    config = {"kind": "ConfigMap", "data": {"one": "1"}}
    container = {"envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}],
                 "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}
    found = environment(pod(), container, PLACE, lambda resource, name: config)
    assert found == {"P_one": "1", "N": "web"}
    with pytest.raises(ConfigError, match='configmap "c" not found'):
        environment(pod(), container, PLACE, lambda resource, name: None)


@pytest.mark.parametrize(("resource", "divisor", "value"), [
    ("limits.cpu", None, "1"), ("limits.cpu", "0", "1"), ("limits.cpu", "1m", "250"), ("requests.cpu", "1m", "0"),
    ("limits.memory", "1Mi", "96"), ("limits.memory", "1", "100000000"), ("requests.memory", "1Ki", "65536"),
    ("limits.ephemeral-storage", "1Gi", "2"),           # the container has no limit: what the node has
])
def test_limits_as_the_downward_api_gives_them(resource: str, divisor: str | None, value: str) -> None:
    container = {"resources": {"limits": {"cpu": "250m", "memory": "100M"}, "requests": {"memory": "64Mi"}}}
    reference = {"resource": resource, **({"divisor": divisor} if divisor else {})}
    assert resource_value(reference, container, {"ephemeral-storage": "2Gi", "cpu": "8"}) == value


def test_hooks_say_what_went_wrong_and_judge_no_answer() -> None:
    asked: list[str] = []

    async def command(argv: list[str], seconds: float) -> tuple[int, str]:
        asked.append(f"{argv} {seconds}")
        return len(argv) - 1, "no\n"

    async def plain_socket() -> socket.socket:
        return socket.socket()

    async def scenario() -> list[str]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readline()).decode().strip())
            writer.write(b"HTTP/1.1 500 Oh\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = probes.Target("127.0.0.1", {"web": port}, command, plain_socket)
        get = {"path": "/bye", "port": "web"}
        async with server:
            found = [await hooks.run(hook, "c", "p_default(u)", target, 3) for hook in (
                {"exec": {"command": ["ok"]}}, {"exec": {"command": ["ls", "x"]}}, {"httpGet": get},
                {"sleep": {"seconds": 0}}, {"tcpSocket": {"port": 1}})]
        return [*found, await hooks.run({"httpGet": get}, "c", "p_default(u)", target, 3)]

    fine, failed, got, slept, invalid, refused = asyncio.run(scenario())
    assert (fine, got, slept) == ("", "", "")
    assert failed == ('Exec lifecycle hook ([ls x]) for Container "c" in Pod "p_default(u)" failed - error: command'
                      ' \'ls x\' exited with 1: no\n, message: "no\\n"')
    assert invalid == "Cannot run handler: invalid handler: tcpSocket"  # Kubernetes' API takes it, no kubelet runs it
    assert refused.startswith('Http lifecycle hook (/bye) for Container "c"')
    assert re.search(r'Get "http://127.0.0.1:\d+/bye": dial tcp 127.0.0.1:\d+: connect: connection refused', refused)
    assert asked == ["['ok'] 3", "['ls', 'x'] 3", "GET /bye HTTP/1.1"]


@pytest.mark.parametrize(("spec", "server", "searches"), [
    ({}, "10.0.0.10", True), ({"hostNetwork": True}, "168.63.129.16", False),
    ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, "10.0.0.10", True),
    ({"dnsPolicy": "Default"}, "168.63.129.16", False),
    ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}, "1.1.1.1", False),
])
def test_dns_policies(spec: Obj, server: str, searches: bool) -> None:
    text = resolv_conf(pod(**spec), NodeSettings())
    assert text.startswith(f"nameserver {server}\n")
    assert ("search shop.svc.cluster.local" in text) == searches


def test_hosts_names_the_pod() -> None:
    assert "10.224.0.5\tweb\n" in etc_files(pod(), PLACE, NodeSettings())["hosts"]


def test_capabilities() -> None:
    plain = identity(pod(), {})
    assert plain.capabilities is not None
    assert 12 not in plain.capabilities, "NET_ADMIN is not a container's by default"
    added = identity(pod(), {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}})
    assert added.capabilities == (12,)
    assert identity(pod(), {"securityContext": {"privileged": True}}).capabilities is None


def ended(code: int) -> ContainerState:
    return ContainerState("c", "i").terminated(Ended(code, 0, 1.0, 2.0))


RUNNING = ContainerState("c", "i").running(1.0, "id")


@pytest.mark.parametrize(("policy", "init", "main", "expected"), [
    ("Always", [], [ContainerState("c", "i")], "Pending"), ("Always", [], [RUNNING], "Running"),
    ("Always", [], [ended(0)], "Running"), ("Never", [], [ended(0)], "Succeeded"),
    ("Never", [], [ended(0), ended(1)], "Failed"), ("Never", [], [ended(0), RUNNING], "Running"),
    ("OnFailure", [], [ended(1)], "Running"), ("OnFailure", [], [ended(0)], "Succeeded"),
    ("Never", [ended(1)], [ContainerState("c", "i")], "Failed"),
    ("Always", [RUNNING], [ContainerState("c", "i")], "Pending"),
    ("Always", [], [ended(1).waiting("CrashLoopBackOff")], "Running"),
])
def test_phases(policy: str, init: list[ContainerState], main: list[ContainerState], expected: str) -> None:
    assert status.phase(policy, init, main) == expected


def test_backoff_doubles_to_five_minutes_and_is_forgotten() -> None:
    waits = [status.backoff(previous, 1.0) for previous in (0, 10, 20, 160, 300)]
    assert waits == [10, 20, 40, 300, 300]
    assert status.backoff(300, 601) == 10


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    before = [{"type": "Ready", "status": "False", "lastTransitionTime": "2021-01-01T00:00:00Z"}]
    now = {c["type"]: c for c in status.conditions(pod(), "Running", True, [RUNNING], before)}
    assert now["Ready"]["lastTransitionTime"] == "2021-01-01T00:00:00Z"
    assert now["Ready"]["message"] == "containers with unready status: [c]"
    assert now["Initialized"]["status"] == "True"


def test_log_lines_are_shown_without_their_frame() -> None:
    line = b"2026-11-23T23:34:27.846983671Z stdout F a line of text"
    assert render(line, False) == b"a line of text\n"
    assert render(line, True) == b"2026-11-23T23:34:27.846983671Z a line of text\n"
    assert render(line.replace(b" F ", b" P "), False) == b"a line of text"


def test_a_working_set_leaves_out_files_that_can_go(tmp_path):
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 4000\ninactive_file 3000\nactive_file 1000\n")
    assert kubeletapi.memory_bytes(tmp_path) == 2000
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert kubeletapi.memory_bytes(tmp_path) > 1 << 20, "where the kernel keeps no account, what the processes hold"
