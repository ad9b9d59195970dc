"""Long-running operations: followed, taken up again by another process, never begun twice, let go."""

import contextlib
import itertools
import stat
import threading
from dataclasses import replace

import pytest
from starlette.responses import JSONResponse

from labkit.azure import following, sdk, steps
from labkit.azure.journal import Journal, Operation
from labkit.errors import AzureError, OperationInterruptedError
from labkit.local.arm import ClusterError
from tests.arm.conftest import SUBSCRIPTION
from tests.arm.wire import error
from tests.azure.conftest import CLUSTER, OPERATION

START = r"/MyCalicoCluster/start$"
CREATE = Operation("create", "CalicoDemoRG", "MyCalicoCluster")


@contextlib.contextmanager
def interrupted(monkeypatch):
    """Somebody interrupts the kernel while the operation inside is waited for."""
    def interrupt(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sdk.Foreground, "to_the_end", interrupt)
        with pytest.raises(OperationInterruptedError) as stopped:
            yield stopped


def begin(azures, settings, monkeypatch):
    """A kernel that begins a creation and is killed as soon as Azure has accepted it."""
    azures.arm.make_group()
    azures.arm.clusters.gate.clear()
    with interrupted(monkeypatch) as stopped:
        azures.open().create_cluster(settings, azures.say)
    return stopped.value


def soon(azures, what, seconds=0.3):
    threading.Timer(seconds, azures.arm.loop.call_soon_threadsafe, [what]).start()


def let_go(azures):
    soon(azures, azures.arm.clusters.gate.set)


def test_a_kernel_that_was_restarted_resumes_and_creates_nothing_twice(azures, settings, monkeypatch):
    begin(azures, settings, monkeypatch)
    file = next(azures.journal.iterdir())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(azures.journal.stat().st_mode) == 0o700
    assert "Bearer" not in file.read_text()
    let_go(azures)
    made = azures.open().create_cluster(settings, azures.say)
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert azures.puts() == 1
    assert "followed again" in azures.text
    assert list(azures.journal.iterdir()) == []


@pytest.mark.parametrize("content", ["{", None])
def test_without_a_usable_file_it_looks_and_follows_all_the_same(azures, settings, monkeypatch, content):
    begin(azures, settings, monkeypatch)
    if content is None:  # a token of another version of the SDK
        Journal(SUBSCRIPTION, azures.journal).remember(CREATE, "gASVnonsense")
    else:
        next(azures.journal.iterdir()).write_text(content)
    let_go(azures)
    azures.open().create_cluster(settings, azures.say)
    assert azures.puts() == 1
    assert "MyCalicoCluster is Creating" in azures.text


def test_a_folder_that_cannot_be_written_is_said_and_no_obstacle(azures, settings):
    azures.journal.write_text("a file is in the way")
    azures.arm.make_group()
    assert azures.open().create_cluster(settings, azures.say)["name"] == "MyCalicoCluster"
    assert "cannot be written" in azures.text


def test_a_lost_answer_is_looked_for_before_anything_is_made(azures, settings):
    """The request got through, each answer to it was cut off: Azure says 409, a creation is in progress."""
    azures.arm.make_group()
    azures.arm.clusters.gate.clear()
    azures.wire.add("PUT", CLUSTER, forward=True, cut=True, on_hit=lambda: let_go(azures))
    made = azures.open().create_cluster(settings, azures.say)
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert "the answer was lost" in azures.text
    assert azures.arm.clusters.calls == [("create", "c1")]


def test_a_proxy_that_answers_502_for_a_request_that_got_through(azures, settings):
    azures.arm.make_group()
    azures.arm.clusters.gate.clear()
    azures.wire.add("PUT", CLUSTER, times=None, forward=True, answer=error(502, "BadGateway"))
    soon(azures, azures.arm.clusters.gate.set, 1.0)
    azures.open().create_cluster(settings, azures.say)
    assert azures.arm.clusters.calls == [("create", "c1")]


def test_a_creation_that_fails_after_a_while_names_its_reason_and_is_tried_again_by_the_next_run(azures, settings):
    azures.arm.make_group()
    azures.arm.clusters.error = ClusterError("no machine was free in the zone", "ZonalAllocationFailed")
    with pytest.raises(AzureError, match="no machine was free") as failed:
        azures.open().create_cluster(settings, azures.say)
    assert failed.value.code == "ZonalAllocationFailed"
    assert list(azures.journal.iterdir()) == []
    azures.arm.clusters.error = None
    assert azures.open().create_cluster(settings, azures.say)["properties"]["provisioningState"] == "Succeeded"


def test_a_cluster_that_somebody_deletes_meanwhile(azures, settings):
    azures.arm.make_group()
    azures.wire.add("GET", CLUSTER, times=None, after=1, answer=error(404, "ResourceNotFound"))
    with pytest.raises(AzureError, match="somebody deleted it") as gone:
        azures.open().create_cluster(settings, azures.say)
    assert "create it anew" in gone.value.fix
    assert list(azures.journal.iterdir()) == []
    azures.wire.faults.clear()
    assert azures.open().create_cluster(settings, azures.say)["properties"]["provisioningState"] == "Succeeded"


def test_an_interrupt_says_what_goes_on_and_what_to_do(azures, settings, monkeypatch):
    said = begin(azures, settings, monkeypatch)
    assert "goes on in Azure" in said.why
    assert "costs money" in said.why
    for way in ("run the same again", "lab.abort()", "az aks operation-abort", "lab.clean_up()"):
        assert way in said.fix


def test_an_operation_that_cannot_be_asked_about_stays_written_down(azures, settings):
    azures.arm.make_group()
    azures.arm.clusters.gate.clear()
    azures.wire.add("GET", OPERATION, times=None, answer=error(500, "InternalServerError"))
    azures.wire.add("GET", CLUSTER, times=None, after=1, answer=error(500, "InternalServerError"))
    with pytest.raises(AzureError, match="InternalServerError"):
        azures.open().create_cluster(settings, azures.say)
    assert len(list(azures.journal.iterdir())) == 1
    azures.wire.faults.clear()
    let_go(azures)
    azures.open().create_cluster(settings, azures.say)
    assert azures.puts() == 1


def test_states_out_of_order_are_no_end(azures, settings):
    azures.arm.make_group()
    azures.wire.add("GET", OPERATION, times=3, change=lambda body: {**body, "status": "Accepted"})
    azures.wire.add("GET", OPERATION, times=1, change=lambda body: {**body, "status": "InProgress"})
    azures.wire.add("GET", OPERATION, times=1, change=lambda body: {**body, "status": "Updating"})
    made = azures.open().create_cluster(settings, azures.say)
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert len(azures.wire.asked("GET", OPERATION)) == 6


def test_retry_after_is_honoured_and_said(azures, settings):
    azures.arm.make_group()
    azures.wire.add("PUT", CLUSTER, times=2, answer=error(429, "Throttled", flat=True, Retry_After="1"))
    azures.open().create_cluster(settings, azures.say)
    asked = azures.wire.asked("PUT", CLUSTER)
    assert [e.status for e in asked] == [429, 429, 201]
    assert all(later.at - before.at >= 0.95 for before, later in itertools.pairwise(asked))
    assert "Azure answers 429; asked again in 1 s" in azures.text


def test_operations_are_asked_about_as_seldom_as_azure_wishes_and_tell_how_they_stand(azures, settings, monkeypatch):
    azures.arm.make_group()
    monkeypatch.setattr(following, "_HEARTBEAT", 0.5)
    under_way = JSONResponse({"name": "x", "status": "InProgress"}, headers={"Retry-After": "1"})
    azures.wire.add("GET", OPERATION, times=3, answer=under_way)
    azures.open().create_cluster(settings, azures.say)
    asked = azures.wire.asked("GET", OPERATION)
    assert all(later.at - before.at >= 0.95 for before, later in itertools.pairwise(asked[:4]))
    told = [line for line in azures.log if line.startswith("create cluster MyCalicoCluster: InProgress for")]
    assert len(told) >= 3
    assert all("on AKS usually 4 to 10 min" in line for line in told)
    assert "its nodes: nodepool1 Succeeded" in told[-1]


def test_a_deletion_that_was_begun_before_is_followed(azures, settings, monkeypatch):
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(settings, azures.say)
    with interrupted(monkeypatch) as stopped:
        azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert "abort" not in stopped.value.fix
    azures.open().delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is None
    assert len(azures.wire.asked("DELETE", CLUSTER)) == 1


def test_the_answer_to_a_deletion_may_be_lost_too(azures, settings):
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(settings, azures.say)
    azures.wire.add("DELETE", CLUSTER, times=None, forward=True, answer=error(500, "InternalServerError"))
    azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is None
    azures.wire.add("DELETE", "/CalicoDemoRG$", times=None, forward=True, answer=error(502, "BadGateway"))
    azure.delete_group("CalicoDemoRG", azures.say)
    assert azure.group("CalicoDemoRG") is None
    azure.delete_group("CalicoDemoRG", azures.say)  # again: nothing to do


@pytest.mark.parametrize(("times", "forward"), [(1, True), (1, False), (None, True)])
def test_a_deletion_that_is_cut_on_the_wire_is_followed(azures, settings, times, forward):
    """Whether it got through or not, and whether its repetitions are cut, too."""
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(settings, azures.say)
    azures.wire.add("DELETE", CLUSTER, times=times, forward=forward, cut=True)
    azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azures.arm.clusters.calls == [("create", "c1"), ("delete", "c1")]
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is None
    assert list(azures.journal.iterdir()) == []
    azures.wire.add("DELETE", "/CalicoDemoRG$", times=times, forward=forward, cut=True)
    azure.delete_group("CalicoDemoRG", azures.say)
    assert azure.group("CalicoDemoRG") is None


def test_a_deletion_that_never_gets_through_is_an_error_that_names_what_stays(azures, settings):
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(settings, azures.say)
    azures.wire.add("DELETE", CLUSTER, times=None, cut=True)
    with pytest.raises(AzureError, match="does not answer") as lost, steps.naming_what_stays(azure, "CalicoDemoRG"):
        azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert "costing money: MyCalicoCluster" in lost.value.why


def test_a_deletion_that_was_taken_and_fails_is_no_success(azures, settings):
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(settings, azures.say)
    clusters = azures.arm.clusters
    clusters.gate.clear()
    clusters.delete = lambda key: refuse_at_the_gate(clusters)
    azures.wire.add("DELETE", CLUSTER, times=None, forward=True, cut=True)
    soon(azures, clusters.gate.set, 1.5)
    with pytest.raises(AzureError, match="does not answer"):
        azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert "MyCalicoCluster is Deleting" in azures.text
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster")["properties"]["provisioningState"] == "Failed"


async def refuse_at_the_gate(clusters):
    await clusters.gate.wait()
    raise ClusterError("the machines do not go")


def byo(azures, settings):
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(replace(settings, network_plugin="none", network_policy="none"), azures.say)
    return azure


async def wait_for_the_gate(clusters, key, enabled):
    await clusters.gate.wait()
    clusters.kube_proxy[key] = enabled


def test_the_switch_of_kube_proxy_is_taken_up_by_a_kernel_that_was_restarted(azures, settings, monkeypatch):
    azure, clusters = byo(azures, settings), azures.arm.clusters
    clusters.gate.clear()
    clusters.set_kube_proxy = lambda key, enabled: wait_for_the_gate(clusters, key, enabled)
    with interrupted(monkeypatch):
        azure.switch_kube_proxy("CalicoDemoRG", "MyCalicoCluster", False, azures.say)
    let_go(azures)
    azures.open().switch_kube_proxy("CalicoDemoRG", "MyCalicoCluster", False, azures.say)
    assert "followed again" in azures.text
    assert clusters.kube_proxy == {"c1": False}
    create, switch = (e for e in azures.wire.asked("PUT", CLUSTER))
    assert create.body["properties"]["networkProfile"].get("kubeProxyConfig") is None
    assert switch.body["properties"]["networkProfile"]["kubeProxyConfig"] == {"enabled": False}
    assert switch.body["tags"] == dict(settings.tags)
    assert "nodeImageVersion" not in switch.body["properties"]["agentPoolProfiles"][0]
    assert list(azures.journal.iterdir()) == []


def test_a_switch_whose_answer_is_lost_is_followed_and_somebody_elses_change_is_not_taken_for_it(azures, settings):
    azure, clusters = byo(azures, settings), azures.arm.clusters
    clusters.gate.clear()
    clusters.set_kube_proxy = lambda key, enabled: wait_for_the_gate(clusters, key, enabled)
    fault = azures.wire.add("PUT", CLUSTER, forward=True, cut=True, on_hit=lambda: let_go(azures))
    azure.switch_kube_proxy("CalicoDemoRG", "MyCalicoCluster", False, azures.say)
    assert "the answer was lost" in azures.text
    assert (fault.hits, clusters.kube_proxy) == (1, {"c1": False})
    azures.wire.add("GET", CLUSTER, times=3, change=lambda body: {
        **body, "properties": {**body["properties"], "provisioningState": "Upgrading"}})
    azures.wire.add("PUT", CLUSTER, answer=error(409, "OperationNotAllowed", "in progress upgrade", flat=True))
    with pytest.raises(AzureError, match="in progress upgrade"):
        azure.switch_kube_proxy("CalicoDemoRG", "MyCalicoCluster", True, azures.say)


def test_what_an_earlier_operation_left_written_down_is_not_taken_for_a_new_one(azures, settings, monkeypatch):
    azures.arm.make_group()
    azure = azures.open()
    azure.create_cluster(settings, azures.say)
    clusters = azures.arm.aks().managed_clusters                                     # somebody else
    clusters.begin_stop("CalicoDemoRG", "MyCalicoCluster").result(60)
    with interrupted(monkeypatch):
        azure.start_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azure._rest("CalicoDemoRG", "MyCalicoCluster", azures.say)["properties"]["powerState"]["code"] == "Running"
    clusters.begin_stop("CalicoDemoRG", "MyCalicoCluster").result(60)
    azure.start_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster")["properties"]["powerState"]["code"] == "Running"
    assert len(azures.wire.asked("POST", START)) == 2


def test_a_creation_is_aborted_and_deleted(azures, settings, monkeypatch):
    begin(azures, settings, monkeypatch)
    azure = azures.open()
    azure.abort("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster")["properties"]["provisioningState"] == "Canceled"
    assert list(azures.journal.iterdir()) == []
    azure.abort("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert "cannot be aborted any more" in azures.text
    azure.abort("CalicoDemoRG", "none", azures.say)
    azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is None


def test_deleting_in_the_middle_of_a_creation_aborts_it_first(azures, settings, monkeypatch):
    begin(azures, settings, monkeypatch)
    azure = azures.open()
    azure.delete_cluster("CalicoDemoRG", "MyCalicoCluster", azures.say)
    assert "aborted first" in azures.text
    assert azure.cluster("CalicoDemoRG", "MyCalicoCluster") is None
