"""What the preflight asks of a subscription, and what the doctor says when Azure refuses."""

import importlib.metadata
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from labkit import machine
from labkit.azure import ClusterSettings
from labkit.azure.tags import tags
from labkit.azure.versions import Version
from labkit.doctor import diagnose, explain, preflight
from labkit.doctor.azure_checks import AzureView, az_expired, token_helpers
from labkit.doctor.preflight import PROVIDERS, forgotten, providers, quota, size
from labkit.errors import AzureError, UnreachableError
from tests.doctor.world import FakeKube, cluster

SETTINGS = ClusterSettings()
D2S = "Standard_D2s_v3"


def sku(name, *restrictions, vcpus=2, family="standardDSv3Family"):
    return {"name": name, "family": family, "restrictions": [{"type": kind} for kind in restrictions],
            "capabilities": [{"name": "vCPUs", "value": str(vcpus)}]}


NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)


def group(**tags_):
    return {"name": "rg", "tags": tags_}


OURS = dict(tags(now=NOW))


@pytest.mark.parametrize(("seen", "level", "evidence", "command"), [
    (providers(dict.fromkeys(PROVIDERS, "Registered")), "ok", "ContainerService", ""),
    (providers({"Microsoft.Network": "NotRegistered", "Microsoft.Compute": "Registered"}), "warning",
     "Microsoft.Network is NotRegistered", "az provider register --wait --namespace Microsoft.Network"),
    (size({D2S: sku(D2S)}, SETTINGS), "ok", D2S, ""),
    (size({D2S: sku(D2S, "Zone")}, SETTINGS), "ok", D2S, ""),
    (size({D2S: sku(D2S, "Location"), "Standard_D2s_v5": sku("Standard_D2s_v5")}, SETTINGS), "warning",
     "Standard_D2s_v5 will be used", ""),
    (size({}, SETTINGS), "problem", "not offered", "az vm list-skus --location canadaeast"),
    (quota({"cores": (0, 10), "StandardDSv3Family": (0, 10)}, {D2S: sku(D2S)}, SETTINGS), "ok", "10 of 10", ""),
    (quota({"cores": (6, 10), "standardDSv3Family": (0, 10)}, {D2S: sku(D2S)}, SETTINGS), "warning", "4 of 10",
     "az vm list-usage"),
    (quota({"cores": (0, 10), "standardDSv3Family": (0, 3)}, {D2S: sku(D2S)}, SETTINGS), "problem", "3 of 3",
     "az vm list-usage"),
    (quota({"cores": (0, 10)}, {D2S: sku(D2S, vcpus=8)}, SETTINGS), "problem", "need 16 vCPUs", "az vm list-usage"),
    (quota({}, {}, SETTINGS), "unknown", "no quota", ""),
    (forgotten([group(**OURS)], NOW), "ok", "no group", ""),
    (forgotten([group(**OURS)], NOW + timedelta(days=2)), "warning", "rg", "az group delete --name rg"),
    (forgotten([group(owner="me")], NOW), "ok", "no group", ""),
    (az_expired.look(AzureView({}, group(**OURS), NOW)), "ok", "not before", ""),
    (az_expired.look(AzureView({}, group(**OURS), NOW + timedelta(days=2))), "warning", "rg", "az group delete"),
    (az_expired.look(AzureView({}, group(), NOW)), "ok", "no expiry", ""),
])
def test_what_is_read_of_a_subscription(seen, level, evidence, command):
    assert seen.level == level
    assert evidence in seen.evidence
    assert command in seen.command
    assert bool(seen.command) == bool(command)


class FakeAzure:
    """A subscription that allows everything, but for what a test gives it."""

    subscription = "s"

    def __init__(self, **answers):
        self._answers = answers

    def _answer(self, name, usual):
        found = self._answers.get(name, usual)
        if isinstance(found, Exception):
            raise found
        return found

    def groups(self, tag=None):
        return self._answer("groups", [])

    def registered(self, provider):
        return self._answer("registered", "Registered")

    def versions(self, location):
        return self._answer("versions", (Version("1.36.2"),))

    def usages(self, location):
        return self._answer("usages", {"cores": (0, 100)})

    def sizes(self, location):
        return self._answer("sizes", {D2S: sku(D2S)})

    def cluster(self, group, name):
        usual = {"name": name, "properties": {}, "id": f"/subscriptions/s/resourceGroups/{group}"}
        return self._answer("cluster", usual)

    def group(self, name):
        return {"name": name}


def refused(code, message="", status=None):
    return AzureError("Asking: Azure refused.", f"{code}: {message}", "", code=code, status=status)


TARGET = SimpleNamespace(name="aks")


def test_a_subscription_that_is_ready():
    report = preflight(TARGET, FakeAzure(), SETTINGS)
    assert report.ok
    assert {f.level for f in report.findings if f.group == "Azure"} == {"ok"}
    assert report["az-version"].evidence == "1.36.2 can be created in canadaeast"
    assert {"az-rp", "az-sku", "az-quota", "az-expired", "azure", "kubectl"} <= {f.id for f in report.findings}
    assert "kernel" not in report, "on Azure this machine's kernel does not matter"


@pytest.mark.parametrize(("answers", "row", "level"), [
    ({"groups": refused("InvalidAuthenticationToken", status=401)}, "az-login", "problem"),
    ({"groups": refused("Unreachable")}, "azure", "problem"),
    ({"registered": "NotRegistered"}, "az-rp", "warning"),
    ({"versions": ()}, "az-version", "problem"),
    ({"versions": refused("LocationNotAvailableForResourceType", status=400)}, "az-location", "problem"),
    ({"usages": refused("AuthorizationFailed", status=403)}, "az-quota", "unknown"),
    ({"sizes": refused("InternalServerError", status=500)}, "az-sku", "unknown"),
])
def test_what_azure_refuses_is_a_finding(answers, row, level):
    report = preflight(TARGET, FakeAzure(**answers), SETTINGS)
    assert report[row].level == level
    assert report.ok is (level != "problem")


def test_an_error_is_explained_by_its_row_else_by_itself():
    found = explain(refused("QuotaExceeded", "Total Regional Cores quota"))
    assert (found.id, found.level) == ("az-quota", "problem")
    assert "Total Regional Cores" in found.evidence
    assert found.source
    assert explain(refused("Whatever", "?")).id == "azure"


def never():
    raise UnreachableError("The API server does not answer.", "timed out", "look")


def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)


def locked():
    raise refused("BadRequest", "Getting static credential is not allowed because this cluster is set to disable "
                  "local accounts.", 400)


def test_a_cluster_that_cannot_be_reached_is_diagnosed_all_the_same():
    stopped = {"name": "c", "id": "/subscriptions/s/resourceGroups/g",
               "properties": {"powerState": {"code": "Stopped"}}}
    report = diagnose(never, FakeAzure(cluster=stopped), SETTINGS)
    assert report["az-state"].level == report["reach"].level == "problem"
    local = diagnose(locked, FakeAzure(), SETTINGS)
    assert local["az-local"].level == "problem"
    assert len([f for f in local.findings if f.id == "az-local"]) == 1
    refusing = diagnose(lambda: cluster(), FakeAzure(cluster=refused("AuthorizationFailed", status=403)), SETTINGS)
    assert refusing["az-rbac"].level == "problem"
    assert refusing["nodes"].level == "ok"


def test_a_cluster_that_is_well():
    report = diagnose(lambda: cluster(), FakeAzure(), SETTINGS)
    assert report.ok
    assert report["reach"].level == "ok"
    assert [str(f) for f in report.findings if f.level != "ok"] == []
    kube = FakeKube()
    assert diagnose(lambda: kube)["nodes"].level == "problem"


LOCAL = SimpleNamespace(name="local")
NEED = machine.Need("conntrack", "conntrack", "conntrack-tools", "conntrack-tools", "lab")


@pytest.mark.parametrize(("change", "row", "level", "evidence"), [
    (("labkit.machine.missing", lambda purpose: (NEED,) if purpose == "lab" else ()), "tools", "problem", "conntrack"),
    (("labkit.machine.missing", lambda purpose: (NEED,) if purpose == "ebpf" else ()), "compiler", "warning",
     "conntrack"),
    (("platform.release", lambda: "5.4.0-150-generic"), "kernel", "problem", "5.4.0"),
    (("platform.system", lambda: "Darwin"), "kernel", "problem", "Darwin"),
    (("shutil.which", lambda name, **_: None), "kubectl", "warning", "not found"),
    (("sys.version_info", (3, 10, 1)), "python", "problem", ""),
    (("importlib.metadata.version", absent), "packages", "problem", "kubernetes"),
])
def test_what_this_machine_lacks(monkeypatch, change, row, level, evidence):
    monkeypatch.setattr(*change)
    found = preflight(LOCAL, None, SETTINGS)[row]
    assert found.level == level
    assert evidence in found.evidence


def test_this_machine_is_well():
    assert preflight(LOCAL, None, SETTINGS).ok


def test_helpers_of_other_clusters_are_nobodys_business():
    def user(name, command):
        return {"name": name, "user": {"exec": {"command": command}}}

    config = {"users": [user("a", "kubelogin"), user("b", "aws"), {"name": "c", "user": {"token": "t"}}],
              "contexts": [{"name": "mine", "context": {"user": "a"}}, {"name": "other", "context": {"user": "b"}},
                           {"name": "mine-admin", "context": {"user": "c"}}]}
    assert token_helpers(config, "mine") == ("kubelogin",)
    assert token_helpers(config, "none") == ()
