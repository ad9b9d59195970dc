"""What `labkit gc` deletes, and all that looks like it and stays."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from labkit.azure import gc, sweep, tags
from labkit.azure.sweep import Contents
from tests.arm.wire import error

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
OURS = {"labkit-run": "20261126-080000", "owner": "alice", "expires-at": "2026-11-26T16:00:00+00:00"}
LATER = {**OURS, "expires-at": "2026-11-28T00:00:00+00:00"}


def group(name="CalicoDemoRG", marks=OURS, **more):
    return {"name": name, "tags": marks, "properties": {"provisioningState": "Succeeded"}, **more}


def cluster(name="c", marks=OURS):
    return {"name": name, "type": "Microsoft.ContainerService/ManagedClusters", "tags": marks}


def without(key):
    return {k: v for k, v in OURS.items() if k != key}


@pytest.mark.parametrize(("found", "why"), [
    (group(marks={"Labkit-Run" if k == "labkit-run" else k: v for k, v in OURS.items()}), "'Labkit-Run'"),
    (group(marks={**OURS, "owner": "Alice"}), "belongs to Alice"),
    (group(marks={**OURS, "owner": "bob"}), "belongs to bob"),
    (group(marks=without("owner")), "no tag 'owner'"),
    (group(marks={"Owner" if k == "owner" else k: v for k, v in OURS.items()}), "no tag 'owner'"),
    (group(marks=without("expires-at")), "no tag 'expires-at'"),
    (group(marks={**OURS, "expires-at": ""}), "no tag 'expires-at'"),
    (group(marks={**OURS, "expires-at": "tomorrow"}), "is no time"),
    (group(marks={**OURS, "expires-at": "2026-11-26T16:00:00"}), "no time zone"),
    (group(marks={**OURS, "expires-at": "2026-11-26"}), "no time zone"),
    (group(marks=LATER), "it expires at 2026-11-28"),
    (group(marks={**OURS, "expires-at": "2026-11-27T13:30:00+01:00"}), "it expires at"),
    (group("MC_CalicoDemoRG_c_canadaeast"), "machines of a cluster"),
    (group("machines", managedBy="/subscriptions/s/resourceGroups/g/providers/x/managedClusters/c"), "machines"),
    (group(properties={"provisioningState": "Deleting"}), "being deleted"),
])
def test_look_alikes_stay(found, why):
    verdict = sweep.by_tags(found, NOW, "alice")
    assert not verdict.delete
    assert why in verdict.why


@pytest.mark.parametrize("marks", [None, {}, without("labkit-run"), {"labkit": "1"}, {"labkit-run2": "x"}])
def test_what_has_no_mark_is_not_even_named(marks):
    assert sweep.by_tags(group(marks=marks), NOW, "alice") is None


@pytest.mark.parametrize(("contents", "why"), [
    (Contents(None, ()), "could not be read"),
    (Contents([cluster()], None), "locked could not be read"),
    (Contents([cluster()], ["do-not-delete"]), "it is locked: do-not-delete"),
    (Contents([cluster(), {"name": "db", "type": "Microsoft.Sql/servers", "tags": OURS}], ()), "db (Microsoft.Sql"),
    (Contents([cluster(marks=None)], ()), "not marked as labkit's"),
    (Contents([cluster(marks=without("expires-at"))], ()), "no tag 'expires-at'"),
    (Contents([cluster(), cluster("v", LATER)], ()), "the cluster v expires at"),
    (Contents([cluster(marks={**OURS, "owner": "bob"})], ()), "belongs to bob"),
])
def test_a_group_of_ours_with_a_doubt_in_it_stays(contents, why):
    verdict = sweep.by_contents(sweep.by_tags(group(), NOW, "alice"), contents, NOW, "alice")
    assert not verdict.delete
    assert why in verdict.why


@pytest.mark.parametrize("resources", [[], [cluster()], [cluster(), cluster("c-vanilla")]])
def test_what_is_ours_and_expired_goes(resources):
    verdict = sweep.by_contents(sweep.by_tags(group(), NOW, "alice"), Contents(resources, ()), NOW, "alice")
    assert verdict.delete
    assert verdict.clusters == tuple(r["name"] for r in resources)


def test_contents_never_make_a_kept_group_go():
    kept = sweep.by_tags(group(marks=LATER), NOW, "alice")
    assert not sweep.by_contents(kept, Contents([cluster()], ()), NOW, "alice").delete


def test_a_marked_cluster_in_a_group_of_somebody_elses_is_named_and_stays():
    stray = {**cluster(), "id": "/subscriptions/s/resourceGroups/theirs/providers/M/managedClusters/c"}
    inside = {**cluster("d"), "id": "/subscriptions/s/resourcegroups/CALICODEMORG/providers/M/managedClusters/d"}
    (verdict,) = sweep.strays([group(), group("theirs", None)], [stray, inside])
    assert (verdict.group, verdict.delete, verdict.clusters) == ("theirs", False, ("c",))


def test_machines_whose_cluster_is_gone_are_named_and_stay():
    manager = "/subscriptions/s/resourcegroups/CalicoDemoRG/providers/Microsoft.ContainerService/managedClusters/c"
    machines = group("MC_CalicoDemoRG_c_canadaeast", managedBy=manager)
    theirs = group("MC_x_y_z", None, managedBy=manager)
    assert sweep.orphans([machines, theirs], [{"id": manager.upper()}]) == []
    (verdict,) = sweep.orphans([machines, theirs, group()], [])
    assert (verdict.group, verdict.delete) == ("MC_CalicoDemoRG_c_canadaeast", False)
    assert "az group delete --name MC_CalicoDemoRG_c_canadaeast" in verdict.why


def test_own_tags_are_read_back_and_expire(monkeypatch):
    monkeypatch.setenv("LABKIT_OWNER", "alice")
    made = tags.tags(2.0, NOW)
    mark = tags.read(made)
    assert (mark.owner, mark.expires.hour, tags.made_at(made)) == ("alice", 14, NOW)
    listed = [group(marks=dict(made)), group("other", {**made, "owner": "bob"})]
    assert tags.expired(listed, NOW) == []
    assert tags.expired(listed, mark.expires) == ["CalicoDemoRG"]
    monkeypatch.delenv("LABKIT_OWNER")
    monkeypatch.setenv("SUDO_USER", "jovyan")
    assert tags.owner().startswith("jovyan@")


def make(azures, name, marks, settings):
    azure = azures.open()
    azure.create_group(name, "canadaeast", marks)
    azure.create_cluster(settings, azures.say)
    return azure


def test_on_the_wire_only_the_expired_one_goes(azures, settings, monkeypatch):
    from dataclasses import replace
    from types import MappingProxyType

    old = MappingProxyType(OURS)
    azure = make(azures, "old", old, replace(settings, resource_group="old", tags=old))
    azure.create_group("new", "canadaeast", tags.tags())
    azure.create_group("theirs", "canadaeast", {"owner": "alice"})
    azure.create_group("locked", "canadaeast", OURS)
    azures.wire.add("GET", "resourcegroups/locked/providers/microsoft.authorization/locks", times=None,
                    change=lambda body: {"value": [{"name": "keep"}]})
    machines = {"name": "MC_old_gone_canadaeast", "location": "canadaeast", "tags": OURS, "managedBy": "/x/gone"}
    azures.wire.add("GET", r"resourcegroups/?$", change=lambda body: {"value": [*body["value"], machines]})
    before = len(azures.wire.exchanges)
    verdicts = {v.group: v for v in gc.find(azure, "alice")}
    assert {e.method for e in azures.wire.exchanges[before:]} == {"GET"}, "a look changes nothing"
    assert [v.group for v in verdicts.values() if v.delete] == ["old"]
    assert "theirs" not in verdicts
    assert "whose cluster is gone" in verdicts["MC_old_gone_canadaeast"].why
    plan = gc.plan(azure, list(verdicts.values()), "alice")
    (step,) = plan.steps
    assert not step.verify()
    step.apply(azures.say)
    assert step.verify()
    assert {g["name"] for g in azure.groups()} == {"locked", "new", "theirs"}


def test_a_group_that_changed_since_the_question_stays(azures, settings):
    azure = azures.open()
    azure.create_group("old", "canadaeast", OURS)
    plan = gc.plan(azure, gc.find(azure, "alice"), "alice")
    azure.tag_group("old", {"expires-at": "2099-01-01T00:00:00+00:00"})
    with pytest.raises(Exception, match="is kept"):
        plan.steps[0].apply(azures.say)
    assert azure.group("old")["tags"]["owner"] == "alice"


def test_what_cannot_be_read_stays(azures):
    azure = azures.open()
    azure.create_group("old", "canadaeast", OURS)
    azures.wire.add("GET", "authorization/locks", times=None, answer=error(403, "AuthorizationFailed"))
    (verdict,) = gc.find(azure, "alice")
    assert not verdict.delete
    assert "could not be read" in verdict.why


@pytest.fixture
def cli(azures, monkeypatch):
    from labkit import cli_gc, lab

    monkeypatch.setattr(lab.Lab, "open", lambda *_, **__: type("L", (), {"azure": azures.open()})())
    monkeypatch.setenv("LABKIT_OWNER", "alice")
    return lambda *arguments, answer="": CliRunner().invoke(cli_gc.gc, arguments, input=answer)


def test_the_command_lists_by_default_asks_with_delete_and_obeys(azures, cli):
    assert "nothing here" in cli().output
    azure = azures.open()
    azure.create_group("old", "canadaeast", OURS)
    listed = cli()
    assert "expired  old" in listed.output
    assert "Nothing was deleted" in listed.output
    assert "Delete old, and all that is inside?" in cli("--delete", answer="n\n").output
    assert azure.group("old") is not None
    assert cli("--yes").exit_code == 0
    assert azure.group("old") is None


def test_one_that_fails_does_not_keep_the_others(azures, cli):
    azure = azures.open()
    for name in ("a", "b"):
        azure.create_group(name, "canadaeast", OURS)
    azures.wire.add("DELETE", "resourcegroups/a$", times=None, answer=error(409, "ScopeLocked", "it is locked"))
    done = cli("--yes")
    assert done.exit_code == 1
    assert "ScopeLocked" in done.output
    assert azure.group("a") is not None
    assert azure.group("b") is None
