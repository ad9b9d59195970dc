"""What a learner reads when something is wrong: on the wire, through the library, at the command line."""

from __future__ import annotations

import copy
import dataclasses
import http.client
import os
import ssl
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import pytest

from labkit import errors
from labkit.kube import Kube, kubeconfig
from labkit.lab import Lab
from labkit.sourceip import outside
from labkit.targets import LocalIdentity, local_from
from tests.e2e.support import LabCredential, pod, wait_for

pytestmark = pytest.mark.kernel


@pytest.fixture
def environment(daemon):
    """Opening a lab sets this process's environment; tests give it back."""
    with mock.patch.dict(os.environ):
        yield daemon


@pytest.fixture
def lab(environment, cluster):
    return Lab.open(cluster=cluster.name, resource_group=cluster.group)


@pytest.fixture
def token(daemon):
    return LabCredential(daemon).get_token("").token


def request(daemon, method, path, *, body=None, token=None, kind="application/json", host=None):
    """One request on the lab's port; with `host` to a cluster's API, by the proxy as kubectl goes."""
    trusted = ssl.create_default_context(cafile=daemon.ca_file)
    connection = http.client.HTTPSConnection("localhost", daemon.port, context=trusted, timeout=60)
    if host:
        connection.set_tunnel(host, 443)
        connection.host = "127.0.0.1"
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return SimpleNamespace(status=answer.status, headers=answer.headers, text=answer.read().decode())
    finally:
        connection.close()


def command(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "labkit.cli", *words],
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2)
    return done.stderr


def complete(error):
    """Every error says what happened, why, and what to do next."""
    assert error.what
    assert error.why
    assert error.fix
    return str(error)


# Azure


def test_an_unknown_cluster_is_named_with_the_way_to_make_it(environment, cluster):
    unknown = Lab.open(cluster="nowhere", resource_group=cluster.group)
    assert not unknown.exists()
    with pytest.raises(errors.AzureNotFoundError) as caught:
        _ = unknown.kube
    assert caught.value.code == "ResourceNotFound"
    assert "Microsoft.ContainerService/managedClusters/nowhere" in complete(caught.value)
    assert "lab.create_cluster()" in caught.value.fix


def test_an_unknown_group_is_named(environment):
    with pytest.raises(errors.AzureNotFoundError, match="Resource group 'nobody' could not be found") as caught:
        _ = Lab.open(resource_group="nobody").kube
    assert "lab.create_cluster()" in complete(caught.value)


def test_a_wrong_region_comes_with_those_that_there_are(environment):
    with pytest.raises(errors.AzureError) as caught:
        Lab.open(location="atlantis").create_cluster()
    assert caught.value.code == "LocationNotAvailableForResourceType"
    assert "'atlantis'" in complete(caught.value)
    assert "canadaeast" in caught.value.why
    assert "az account list-locations" in caught.value.fix
    with pytest.raises(errors.AzureError, match="atlantis") as caught:
        Lab.open().azure.create_group("rg-atlantis", "atlantis", {})
    assert "az account list-locations" in complete(caught.value)


def test_an_unsupported_version_comes_with_those_that_there_are(lab):
    with pytest.raises(errors.AzureError) as caught:
        Lab.open(kubernetes_version="1.2.3").create_cluster()
    assert caught.value.what == "Kubernetes 1.2.3 is not offered in canadaeast."
    assert "1.20.2" in complete(caught.value)


def test_azure_itself_refuses_an_unsupported_version(daemon, cluster, token):
    body = b"""{"location": "canadaeast", "identity": {"type": "SystemAssigned"}, "properties": {
        "kubernetesVersion": "1.2.3", "dnsPrefix": "x", "agentPoolProfiles": [
        {"name": "nodepool1", "count": 1, "vmSize": "Standard_D2s_v3", "mode": "System"}]}}"""
    answer = request(
        daemon, "PUT", f"{group(daemon, cluster.group)}/providers/Microsoft.ContainerService/managedClusters/old"
        "?api-version=2024-09-01", body=body, token=token)  # fmt: skip
    assert answer.status == 400
    assert "K8sVersionNotSupported" in answer.text
    assert "1.2.3" in answer.text


def group(daemon, name):
    return f"/subscriptions/{daemon.subscription}/resourceGroups/{name}"


@pytest.mark.parametrize("body", [b"{not json", b"[1]", b"\xff\xfe", b'"words"'])
def test_azure_says_that_a_body_is_not_json(daemon, token, body):
    answer = request(daemon, "PUT", group(daemon, "x") + "?api-version=2021-04-01", body=body, token=token)
    assert answer.status == 400
    assert '"code":"InvalidRequestContent"' in answer.text
    assert "could not be deserialized" in answer.text
    assert answer.headers["x-ms-error-code"] == "InvalidRequestContent"


@pytest.mark.parametrize(
    ("credential", "code"), [(None, "AuthenticationFailed"), ("wrong", "InvalidAuthenticationToken")]
)
def test_azure_does_not_talk_to_strangers(daemon, credential, code):
    answer = request(daemon, "GET", group(daemon, "x") + "?api-version=2021-04-01", token=credential)
    assert answer.status == 401
    assert f'"code":"{code}"' in answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer authorization_uri=")


def test_a_wrong_azure_token_reads_well_in_the_library(environment):
    lab = Lab.open()
    stranger = SimpleNamespace(get_token=lambda *_, **__: SimpleNamespace(token="wrong", expires_on=2**31))
    lab.target = dataclasses.replace(lab.target, credential=lambda: stranger)
    with pytest.raises(errors.AzureError, match="does not accept who we are") as caught:
        lab.azure.groups()
    assert caught.value.status == 401
    assert "sudo labkit up" in complete(caught.value)


def test_a_wrong_identity_header_is_told_where_the_right_one_is(daemon):
    answer = request(daemon, "GET", "/msi/token?resource=x&api-version=2019-08-01")
    assert answer.status == 401
    assert "labkit env" in answer.text
    with pytest.raises(errors.LabNotRunningError) as caught:
        LocalIdentity(daemon.identity_endpoint, "wrong", daemon.ca_bundle).get_token("x/.default")
    assert "labkit up" in complete(caught.value)


# Kubernetes


@pytest.mark.parametrize("body", [b"{not json", b"[1]", b"\xff\xfe"])
def test_kubernetes_says_that_a_body_is_not_json(daemon, lab, body):
    token = kubeconfig.parse(lab.azure.credentials(lab.settings.resource_group, lab.settings.name))
    answer = request(
        daemon, "POST", "/api/v1/namespaces/default/configmaps", body=body,
        token=token["users"][0]["user"]["token"], host=lab.kube.host.removeprefix("https://").partition(":")[0],
    )  # fmt: skip
    assert answer.status == 400
    assert '"kind":"Status"' in answer.text
    assert '"reason":"BadRequest"' in answer.text
    assert '"code":400' in answer.text


@pytest.mark.parametrize("user", [{}, {"token": "wrong"}, {"username": "admin", "password": "admin"}])
def test_kubernetes_does_not_talk_to_strangers(lab, user):
    found = lab.azure.credentials(lab.settings.resource_group, lab.settings.name)
    config = copy.deepcopy(kubeconfig.parse(found))
    config["users"][0]["user"] = user
    with pytest.raises(errors.ForbiddenError, match="Unauthorized") as caught:
        Kube(config).list("pods")
    assert caught.value.code == 401
    assert "lab.get_credentials()" in complete(caught.value)


def test_what_the_api_has_not_is_named(lab):
    with pytest.raises(errors.NotFoundError, match='pods "nobody" not found'):
        lab.kube.get("pods", "nobody", "default")
    with pytest.raises(errors.NotFoundError, match="does not serve unicorns") as caught:
        lab.kube.list("unicorns")
    assert "kubectl api-resources" in complete(caught.value)
    with pytest.raises(errors.ExecError) as failed:
        lab.kube.exec("nobody", "default", ["true"])
    assert 'pods "nobody" not found' in complete(failed.value)
    assert "{" not in failed.value.why, "a sentence, not a body"


def test_a_wrong_field_is_named(lab):
    with pytest.raises(errors.InvalidError, match=r"spec.ports\[0\].port: Invalid value: 99999") as caught:
        lab.kube.create(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far"}, "spec": {"ports": [{"port": 99999}]}}
        )
    assert "field" in complete(caught.value)


def test_an_unknown_image_is_told_which_there_are(lab, cluster, namespace):
    cluster.apply(pod("typo", namespace, image="registry.example/agnhots:9"))

    def refused():
        for status in cluster.core.read_namespaced_pod("typo", namespace).status.container_statuses or ():
            if status.state.waiting.reason in ("ErrImagePull", "ImagePullBackOff"):
                return status.state.waiting.message
        return None

    assert "registry.example/agnhots:9" in wait_for(refused, "the image is refused")
    events = cluster.kubectl("describe", "pod", "typo", "-n", namespace)
    assert "infrabuilder/netbench" in events, "the catalogue is named"
    finding = lab.diagnose()["wrong-image"]
    assert finding.level == "problem"
    assert "registry.example/agnhots:9" in finding.evidence
    assert f"kubectl describe pod -n {namespace} typo" in finding.command


# Outside clients


def proxy(daemon, authorization, target="203.0.113.10:80"):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("CONNECT", target, headers={"Proxy-Authorization": authorization} if authorization else {})
    answer = connection.getresponse()
    said = answer.status, answer.headers.get("Proxy-Authenticate"), answer.read().decode()
    connection.close()
    return said


@pytest.mark.parametrize("authorization", [None, "Basic !!!", "Bearer x", "Basic YWxpY2U6d3Jvbmc="])
def test_the_proxy_of_outside_clients_asks_who_is_there(daemon, authorization):
    status, challenge, text = proxy(daemon, authorization)
    assert status == 407
    assert challenge.startswith("Basic realm=")
    assert "client:token" in text


def test_an_outside_client_whose_token_is_old_is_not_taken_for_a_denial(lab):
    alice = lab.target.client("alice")
    stale = dataclasses.replace(alice, proxy_url=f"http://alice:old@127.0.0.1:{lab.azure._url.rpartition(':')[2]}")
    with pytest.raises(errors.TargetError, match="does not let us connect as alice") as caught:
        outside.get(stale, "203.0.113.10", 80, "/")
    assert "Lab.open()" in complete(caught.value)
    with pytest.raises(errors.TargetError, match="no outside client 'mallory'") as caught:
        lab.target.client("mallory")
    assert "alice, bob" in complete(caught.value)


# No lab


def test_without_a_lab_the_library_says_how_to_start_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("LABKIT_TARGET", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.LabNotRunningError) as caught:
        Lab.open()
    assert "sudo labkit up" in complete(caught.value)


def test_a_lab_that_went_away_is_missed_by_name(environment, cluster):
    described = dataclasses.asdict(environment) | {"home": os.environ["LABKIT_HOME"]}
    gone = described | {"url": "https://localhost:1", "port": 1, "identity_endpoint": "https://localhost:1/msi/token"}
    with pytest.raises(errors.LabNotRunningError, match="does not answer") as caught:
        Lab(local_from(gone), Lab.open().settings).exists()
    assert "sudo labkit up" in complete(caught.value)
    found = Lab.open(cluster=cluster.name, resource_group=cluster.group)
    config = kubeconfig.parse(found.azure.credentials(cluster.group, cluster.name))
    config["clusters"][0]["cluster"]["proxy-url"] = "http://127.0.0.1:1"
    with pytest.raises(errors.UnreachableError, match="does not answer") as unreachable:
        Kube(config).version()
    assert "labkit status" in complete(unreachable.value)


def test_an_incomplete_daemon_file_is_told_to_restart():
    with pytest.raises(errors.TargetError, match="not complete") as caught:
        local_from({"port": 1})
    assert "labkit up" in complete(caught.value)


# The command line: words, never a traceback


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "99"], ["no notebook '99'", "00 to 10"]),
        (["run", "03", "-p", "nonsense", "1"], ["no notebook has a parameter 'nonsense'", "target"]),
        (["run", "03", "-p", "target"], ["requires 2 arguments"]),
        (["run", "00", "-o", "/proc/none"], ["/proc/none", "what to do"]),
        (["up", "--port", "x"], ["--port", "'x'"]),
        (["up", "--port", "70000"], ["70000"]),
        (["doctor", "--target", "moon"], ["'moon'", "local"]),
        (["doctor", "--cluster", "a b"], ["'a b' is not a name for a cluster"]),
        (["fly"], ["no such command 'fly'"]),
        (["client", "alice"], ["missing argument"]),
    ],
)
def test_the_command_line_answers_nonsense_in_words(tmp_path, words, said):
    seen = command(*words, LABKIT_HOME=str(tmp_path / "home")).lower()
    for part in said:
        assert part in seen
    assert not (tmp_path / "home").exists(), "no lab was started for nonsense"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["doctor", "--all"], 1, ["✓ Python:", "Programs of the local lab", "✗ Local lab: not running", "labkit up"]),
        (["gc"], 0, ["not running", "labkit gc --target aks"]),
        (["plan"], 1, ["not running", "sudo labkit up"]),
    ],
)
def test_who_only_looks_starts_no_lab(tmp_path, monkeypatch, words, code, said):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LABKIT_TARGET", raising=False)
    done = subprocess.run([sys.executable, "-m", "labkit.cli", *words], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60, check=False)
    assert done.returncode == code
    for part in said:
        assert part in done.stdout
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["doctor"], {"LABKIT_TARGET": "moon"}, ["no target 'moon'", "local, aks, kind"]),
        (["up"], {"LABKIT_PORT": "abc"}, ["LABKIT_PORT is 'abc'", "mend or unset"]),
        (["up", "--port", "0"], {"LABKIT_HOME": "/dev/null/lab"}, ["/dev/null/lab", "LABKIT_HOME"]),
        (["up", "--port", "0"], {"LABKIT_HOME": "/proc/lab"}, ["/proc/lab", "LABKIT_HOME"]),
        (["up", "--port", "0"], {"LABKIT_HOME": "/tmp/" + "x" * 300}, ["too long", "LABKIT_HOME"]),
        (["classroom", "create", "07"], {"LABKIT_HOME": "/dev/null/lab", "LABKIT_PORT": "0"},
         ["does not start", "set LABKIT_HOME"]),
        (["doctor"], {"LABKIT_TARGET": "kind", "KUBECONFIG": "/nowhere"}, ["/nowhere has no context"]),
        (["doctor"], {"LABKIT_TARGET": "aks", "PATH": "/nowhere"}, ["No Azure subscription", "az login"]),
    ],
)
def test_the_command_line_answers_a_wrong_environment_in_words(tmp_path, words, environment, said):
    environment.setdefault("LABKIT_HOME", str(tmp_path / "home"))
    with mock.patch.dict(os.environ):
        os.environ.pop("AZURE_SUBSCRIPTION_ID", None)
        seen = command(*words, **environment)
    for part in said:
        assert part in seen
