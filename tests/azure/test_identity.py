"""Who we are and which Azure: by parameter, by variable, or the usual."""

import pytest
from azure import identity as sdk

from labkit import targets
from labkit.azure import identity
from labkit.errors import TargetError


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("LABKIT_CREDENTIAL", "LABKIT_CLOUD", "AZURE_AUTHORITY_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "arm", "scope", "authority"), [
    (None, "https://management.azure.com", "https://management.azure.com/.default", "login.microsoftonline.com"),
    ("china", "https://management.chinacloudapi.cn", "https://management.chinacloudapi.cn/.default",
     "login.chinacloudapi.cn"),
    ("usgovernment", "https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net/.default",
     "login.microsoftonline.us"),
])
def test_clouds(name, arm, scope, authority, monkeypatch):
    found = identity.cloud(name)
    assert (found.arm_url, found.scope, found.authority) == (arm, scope, authority)
    if name:
        monkeypatch.setenv("LABKIT_CLOUD", name)
        assert identity.cloud() == found


@pytest.mark.parametrize(("name", "kind", "kubelogin"), [
    (None, "DefaultAzureCredential", "azurecli"), ("cli", "AzureCliCredential", "azurecli"),
    ("devicecode", "DeviceCodeCredential", "devicecode"),
])
def test_credentials(name, kind, kubelogin, monkeypatch):
    if name:
        monkeypatch.setenv("LABKIT_CREDENTIAL", name)
    chosen = identity.kind_of()
    make = identity.credential(chosen, identity.cloud())
    made = make()
    assert make() is made, "who types a code types it once"
    assert type(made) is getattr(sdk, kind)
    assert identity.kubelogin(chosen) == kubelogin
    made.close()


def test_a_parameter_beats_the_variable(monkeypatch):
    monkeypatch.setenv("LABKIT_CREDENTIAL", "devicecode")
    assert identity.kind_of("cli") == "cli"


def test_the_target_knows_both():
    target = targets.open_target("aks", subscription="s", credential="devicecode", cloud="usgovernment")
    assert target.arm_url == "https://management.usgovcloudapi.net"
    assert target.scope == "https://management.core.usgovcloudapi.net/.default"
    assert (target.kubelogin, target.billed, target.poll_seconds) == ("devicecode", True, 30.0)


@pytest.mark.parametrize("wrong", [{"credential": "password"}, {"cloud": "moon"}])
def test_what_there_is_not_is_said(wrong):
    with pytest.raises(TargetError, match="There is no") as error:
        targets.open_target("aks", subscription="s", **wrong)
    assert "to Lab.open(), or set LABKIT_C" in error.value.fix


@pytest.mark.parametrize("said", ["parameter", "variable"])
def test_a_student_has_names_of_their_own_in_every_lesson(said, monkeypatch):
    from labkit.lab import Lab

    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "s")
    monkeypatch.setenv("LABKIT_STUDENT", "07" if said == "variable" else "")
    lab = Lab.open("aks", student="07" if said == "parameter" else None)
    assert (lab.settings.name, lab.settings.resource_group) == ("MyCalicoCluster-07", "CalicoDemoRG-07")
    assert lab.settings.context == "MyCalicoCluster-07-admin"
