"""What `labkit env` prints: a shell of someone who works on Azure, too, ends up at the lab."""

import json
import subprocess
from pathlib import Path

import pytest

from labkit.local.server.environment import script
from labkit.local.server.lifecycle import DaemonInfo

INFO = DaemonInfo(
    url="https://localhost:10443", port=10443, pid=1, ca_file="/x/ca.pem", ca_bundle="/x/ca bundle.pem",
    subscription="9b155166-b7cf-5fdb-9ad9-6c26462b4236", tenant="d902f987-a223-535d-9208-63f0e0b9b7d9",
    identity_endpoint="https://localhost:10443/msi/token", identity_header="secret", client_token="t", clients=[])


@pytest.fixture
def shell(tmp_path):
    """Evaluate what `labkit env` prints in a shell with these tools on its PATH, and return what came of it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "env").symlink_to("/usr/bin/env")
    calls = tmp_path / "calls"

    def run(*tools: str, setup: tuple[str, ...] = (), **environ: str):
        for tool in tools:
            path = folder / tool
            path.write_text(f'#!/bin/sh\necho "{tool} $*" >>{calls}\n')
            path.chmod(0o755)
        binaries = tmp_path / "venv"
        binaries.mkdir(exist_ok=True)
        for tool in setup:
            (binaries / tool).touch(mode=0o755)
        environ = {"PATH": str(folder), **environ}
        lines = "\n".join(script(INFO, tmp_path / "home", environ, binaries))
        done = subprocess.run(["/bin/sh", "-c", f"{lines}\nenv"], env=environ, capture_output=True, text=True,
                              check=True)
        got = dict(line.split("=", 1) for line in done.stdout.splitlines())
        asked = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return got, asked, done.stderr

    return run


def logged_in(home: Path, url: str = INFO.url) -> None:
    azure = home / "azure"
    azure.mkdir(parents=True, exist_ok=True)
    (azure / "clouds.config").write_text(f"[labkit]\nendpoint_resource_manager = {url}\n")
    (azure / "config").write_text("[cloud]\nname = labkit\n")
    profile = {"subscriptions": [{"id": INFO.subscription}]}
    (azure / "azureProfile.json").write_text(json.dumps(profile), encoding="utf-8-sig")


def test_az_is_told_of_the_lab_once(shell, tmp_path):
    _, asked, complaints = shell("az", "kubectl")
    assert [" ".join(call.split()[1:3]) for call in asked] == ["cloud register", "cloud set", "login --identity"]
    assert complaints == ""
    logged_in(tmp_path / "home")
    assert shell("az", "kubectl")[1] == []


def test_a_lab_that_moved_to_another_port_is_told_to_az_anew(shell, tmp_path):
    logged_in(tmp_path / "home", "https://localhost:4711")
    asked = shell("az", "kubectl")[1]
    assert "az cloud unregister --name labkit --only-show-errors" in asked
    assert any("register" in call and INFO.url in call for call in asked)
    assert asked[-1].startswith("az login --identity")


def test_damaged_files_of_az_are_no_login(shell, tmp_path):
    logged_in(tmp_path / "home")
    (tmp_path / "home" / "azure" / "azureProfile.json").write_text("{")
    assert shell("az", "kubectl")[1]


def test_without_az_it_says_so_and_all_else_works(shell):
    got, _, complaints = shell("kubectl")
    assert "pip install azure-cli" in complaints
    assert got["LABKIT_ARM_URL"] == INFO.url


def test_kubectl_of_the_set_up_is_found_where_there_is_no_other(shell, tmp_path):
    got, _, _ = shell("az", setup=("kubectl",))
    assert got["PATH"].endswith(f":{tmp_path / 'venv'}")
    assert "venv" not in shell("az", "kubectl", setup=("kubectl",))[0]["PATH"]


def test_a_proxy_of_the_shell_does_not_lead_to_the_lab(shell):
    got, _, _ = shell("az", "kubectl", HTTPS_PROXY="http://proxy:3128", no_proxy="intra.example, localhost")
    assert got["NO_PROXY"] == got["no_proxy"] == "intra.example,localhost,127.0.0.1"
    again, _, _ = shell("az", "kubectl", NO_PROXY=got["NO_PROXY"], no_proxy=got["no_proxy"])
    assert again["NO_PROXY"] == got["NO_PROXY"]


def test_neither_a_service_principal_nor_the_public_cloud_is_asked(shell):
    got, _, _ = shell("az", "kubectl", AZURE_CLIENT_ID="me", AZURE_CLIENT_SECRET="hush")
    assert got["AZURE_TOKEN_CREDENTIALS"] == "ManagedIdentityCredential"
    assert got["AZURE_CORE_INSTANCE_DISCOVERY"] == "false"


def test_a_kubeconfig_of_the_shells_stays(shell, tmp_path):
    assert shell("az", "kubectl", KUBECONFIG="/mine")[0]["KUBECONFIG"] == "/mine"
    assert shell("az", "kubectl")[0]["KUBECONFIG"] == str(tmp_path / "home" / "kubeconfig")
