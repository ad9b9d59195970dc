"""The plans around clusters, over the wire: what is said before, what is left after, and who gets in."""

import json
import stat
from dataclasses import replace
from types import MappingProxyType

import pytest
import yaml

from labkit import plan as plans
from labkit.azure import ClusterSettings, names, steps
from labkit.azure.tags import tags
from labkit.errors import AzureError, KubeconfigError
from tests.arm.fakes import FakeClusters
from tests.arm.wire import error
from tests.azure.conftest import CLUSTER, OPERATION

GROUP = "resourcegroups/CalicoDemoRG$"


class Configs(FakeClusters):
    """Clusters whose credentials are kubeconfigs."""

    calls_kubelogin = False

    def kubeconfig(self, key, *, admin):
        name = self.specs[key].name
        user = {"token": f"{name} {admin}"}
        if self.calls_kubelogin and not admin:
            user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "kubelogin",
                             "args": ["get-token", "--login", "devicecode", "--server-id", "x"]}}
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": name, "users": [{"name": "u", "user": user}],
            "clusters": [{"name": name, "cluster": {"server": "https://c.example"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}}]}).encode()


@pytest.fixture
def configs(azures):
    azures.arm.clusters.__class__ = Configs
    return azures.arm.clusters


def run(plan):
    return plans.run(plan)


def create(azures, settings):
    azure = azures.open()
    run(steps.create(azure, settings)).raise_for_failure()
    return azure


def test_the_plan_says_beforehand_what_is_made_what_it_costs_and_when_it_expires(azures):
    note = steps.create(azures.open(), ClusterSettings(tags=tags(3)), "1.36.2").note
    for said in ("CalicoDemoRG", "MyCalicoCluster", "canadaeast", "1.36.2", "2 × Standard_D2s_v3", "$0.28 an hour",
                 "Free tier", "labkit gc", tags(3)["expires-at"][:13]):
        assert said in note


def test_everything_that_is_made_carries_run_owner_and_expiry(azures):
    azure = create(azures, ClusterSettings())
    made = [azure.group("CalicoDemoRG"), azure.cluster("CalicoDemoRG", "MyCalicoCluster")]
    for resource in made:
        assert set(resource["tags"]) == {"labkit-run", "owner", "expires-at"}
    assert made[1]["sku"]["tier"] == "Free"


def test_creating_beside_an_expired_lab_of_ours_is_refused_and_the_cure_is_named(azures):
    azure = azures.open()
    azure.create_group("forgotten", "canadaeast", tags(-1))
    azure.create_group("theirs", "canadaeast", {**tags(-1), "owner": "bob"})
    result = run(steps.create(azure, ClusterSettings()))
    assert not result.ok
    assert "forgotten" in str(result["group"].error)
    assert "theirs" not in str(result["group"].error)
    assert "labkit gc --delete" in result["group"].error.fix
    assert azure.group("CalicoDemoRG") is None


def test_our_own_group_of_an_earlier_day_is_used_again_and_its_time_begins_anew(azures):
    azure = azures.open()
    azure.create_group("CalicoDemoRG", "canadaeast", {**tags(-1), "cost-center": "7"})
    run(steps.create(azure, ClusterSettings(tags=tags(5)))).raise_for_failure()
    group = azure.group("CalicoDemoRG")
    assert group["tags"]["expires-at"] == tags(5)["expires-at"] or group["tags"]["expires-at"] > tags(4)["expires-at"]
    assert group["tags"]["cost-center"] == "7"


def test_a_group_of_somebody_elses_is_used_as_it_is_and_never_deleted(azures, settings):
    azure = azures.open()
    azure.create_group("CalicoDemoRG", "canadaeast", {"team": "x"})
    run(steps.create(azure, settings)).raise_for_failure()
    assert azure.group("CalicoDemoRG")["tags"] == {"team": "x"}
    result = run(steps.delete(azure, (settings,), None))
    assert "is not labkit's" in str(result["group"].error)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is None, "what is ours in it goes"
    assert azure.group("CalicoDemoRG") is not None


@pytest.mark.parametrize(("marks", "words"), [
    ({}, "does not carry the tag labkit-run"),
    ({"labkit-run": "20261127-090000", "owner": "bob"}, "LABKIT_OWNER=bob"),
])
def test_a_cluster_of_somebody_elses_is_never_deleted(azures, settings, marks, words):
    """Two people with the default names in one subscription; or one who made the cluster with the article's az."""
    azure = azures.open()
    azure.create_group("CalicoDemoRG", "canadaeast", marks)
    azure.create_cluster(replace(settings, tags=MappingProxyType(marks)), azures.say)
    for plan, step in ((steps.delete(azure, (settings,), None), "cluster-MyCalicoCluster"),
                       (plans.revert_plan(steps.create(azure, settings)), "undo-cluster")):
        assert words in str(run(plan)[step].error)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is not None
    assert azure.group("CalicoDemoRG") is not None


def test_whose_cluster_it_is_may_be_oneself_on_another_machine(azures, settings, monkeypatch):
    azure = azures.open()
    with monkeypatch.context() as there:
        there.setenv("LABKIT_OWNER", "me@laptop")
        run(steps.create(azure, ClusterSettings())).raise_for_failure()
    assert not run(steps.delete(azure, (settings,), None)).ok
    monkeypatch.setenv("LABKIT_OWNER", "me@laptop")
    run(steps.delete(azure, (settings,), None)).raise_for_failure()
    assert azure.groups() == []


def test_deleting_sees_that_cluster_group_and_machines_are_gone(azures, settings):
    azure = create(azures, settings)
    plan = steps.delete(azure, (settings, settings.vanilla()), None)
    step = plan["cluster-MyCalicoCluster"]
    assert not step.verify()
    azures.wire.add("GET", r"resourcegroups/?$", times=1, change=lambda body: {"value": [
        {"id": "x", "name": "MC_other_name", "location": "canadaeast", "managedBy":
         "/subscriptions/S/resourceGroups/calicodemorg/providers/Microsoft.ContainerService/managedClusters/mycalicocluster"}]})
    azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert "not its machines: MC_other_name" in step.verify().text
    assert step.verify()
    result = run(plan)
    result.raise_for_failure()
    assert "is gone" in result["group"].evidence.text
    assert azure.groups() == []


def test_a_deletion_that_fails_names_what_goes_on_costing_money(azures, settings):
    azure = create(azures, settings)
    azures.wire.add("DELETE", CLUSTER, times=None, answer=error(409, "ScopeLocked", "the scope is locked"))
    result = run(steps.delete(azure, (settings,), None))
    why = result["cluster-MyCalicoCluster"].error.why
    assert "ScopeLocked" in why
    assert "Still there, and costing money: MyCalicoCluster (running): $0.28 an hour" in why
    assert "MC_CalicoDemoRG_MyCalicoCluster_canadaeast" in why


def test_a_creation_that_fails_names_what_is_there_all_the_same(azures, settings):
    azures.wire.add("GET", OPERATION, times=None, change=lambda body: {
        **body, "status": "Failed", "error": {"code": "OutOfZones", "message": "no zone has room"}})
    result = run(steps.create(azures.open(), settings))
    assert "no zone has room" in result["cluster"].error.why
    assert "costing money: MyCalicoCluster" in result["cluster"].error.why
    assert "lab.clean_up()" in result["cluster"].error.fix


def test_a_stopped_cluster_is_started_not_made(azures, settings):
    azure = create(azures, settings)
    azures.arm.aks().managed_clusters.begin_stop("CalicoDemoRG", "MyCalicoCluster").result(60)
    run(steps.create(azure, settings)).raise_for_failure()
    assert azures.puts() == 1
    assert azures.arm.clusters.calls[-1] == ("start", "c1")


def test_abort_is_a_plan_that_looks_first(azures, settings):
    azure = create(azures, settings)
    assert run(steps.abort(azure, settings))["abort"].state == "already done"


def test_credentials_are_merged_backed_up_and_private(azures, settings, configs, tmp_path):
    azure, path = create(azures, settings), tmp_path / "kube" / "config"
    run(steps.get_credentials(azure, settings, path)).raise_for_failure()
    found = yaml.safe_load(path.read_text())
    assert (found["current-context"], found["users"][0]["user"]) == (
        "MyCalicoCluster-admin", {"token": "MyCalicoCluster True"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    run(steps.get_credentials(azure, settings, path, admin=False)).raise_for_failure()
    found = yaml.safe_load(path.read_text())
    assert [c["name"] for c in found["contexts"]] == ["MyCalicoCluster-admin", "MyCalicoCluster"]
    assert len(list(path.parent.glob("config.*.backup"))) == 1
    assert list(path.parent.glob("*.lock")) == []


def put_program(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_without_local_accounts_kubelogin_says_who_you_are(azures, settings, configs, tmp_path, monkeypatch):
    azure = create(azures, settings)
    configs.calls_kubelogin = True
    azures.wire.add("POST", "listclusteradmincredential", times=None, answer=error(
        400, "BadRequest", "Getting static credential is not allowed because this cluster is set to disable local "
        "accounts.", flat=True))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    plan = steps.get_credentials(azure, settings, tmp_path / "config")
    missing = run(plan)["credentials"].error
    assert "kubelogin is missing" in str(missing)
    assert "az aks install-cli" in missing.fix
    assert not (tmp_path / "config").exists()
    put_program(tmp_path / "bin", "kubelogin", "echo \"unknown command\" >&2; exit 1")
    assert "another program of that name" in str(run(plan)["credentials"].error)
    put_program(tmp_path / "bin", "kubelogin", "exit 0")
    result = run(plan)
    result.raise_for_failure()
    user = yaml.safe_load((tmp_path / "config").read_text())["users"][0]["user"]
    assert user["exec"]["args"] == ["get-token", "--login", "azurecli", "--server-id", "x"]
    assert "comes from kubelogin" in " ".join(result["credentials"].log)


def test_another_refusal_of_credentials_is_said_as_it_is(azures, settings):
    azure = create(azures, settings)
    azures.wire.add("POST", "listclusteradmincredential", times=None, answer=error(403, "AuthorizationFailed"))
    with pytest.raises(AzureError, match="AuthorizationFailed") as refused:
        steps.credentials(azure, settings)
    assert "Cluster Admin Role" in refused.value.fix


def test_a_kubeconfig_that_cannot_be_read_stays_as_it_is(azures, settings, configs, tmp_path):
    azure, path = create(azures, settings), tmp_path / "config"
    path.write_text("a: b: c")
    result = run(steps.get_credentials(azure, settings, path))
    assert isinstance(result["credentials"].error.__cause__, KubeconfigError)
    assert path.read_text() == "a: b: c"


def test_students_have_groups_of_their_own(azures, settings):
    azure = azures.open()
    for student in ("01", "02"):
        run(steps.create(azure, replace(names.for_student(settings, student),
                                        tags=MappingProxyType(dict(tags()))))).raise_for_failure()
    assert {g["name"] for g in azure.groups() if not g.get("managedBy")} == {"CalicoDemoRG-01", "CalicoDemoRG-02"}
