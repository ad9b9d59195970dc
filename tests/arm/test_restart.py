"""Operations outlive the daemon."""

import asyncio

from labkit.local.arm import ArmStore
from labkit.local.arm.operations import Operations
from labkit.local.arm.validation import new_cluster
from tests.arm.conftest import SUBSCRIPTION, database
from tests.arm.fakes import FakeClusters
from tests.arm.test_clusters import ARTICLE

ID = (f"/subscriptions/{SUBSCRIPTION}/resourcegroups/rg/providers/"
      "Microsoft.ContainerService/managedClusters/one")


def store_with_cluster(path):
    store = ArmStore(database(path))
    store.put(new_cluster("one", ARTICLE, id=ID, fqdn_id="9388cb76", api_version="2026-08-01"))
    return store


def test_a_creation_that_was_cut_off_is_finished_by_the_next_daemon(tmp_path):
    async def killed() -> str:
        store, clusters = store_with_cluster(tmp_path / "lab.db"), FakeClusters()
        clusters.gate.clear()
        operations = Operations(store, clusters)
        operation = operations.start("create", ID, "canadaeast")
        await asyncio.sleep(0)
        await operations.close()
        return operation.id

    async def restarted(id: str) -> None:
        store, clusters = ArmStore(database(tmp_path / "lab.db")), FakeClusters()
        assert store.operation(id).status == "InProgress"
        operations = Operations(store, clusters)
        operations.resume()
        operations.resume()
        await operations.wait(id, 60)
        assert store.operation(id).status == "Succeeded"
        assert store.get(ID)["properties"]["provisioningState"] == "Succeeded"
        assert clusters.calls == [("create", "c1")]

    asyncio.run(restarted(asyncio.run(killed())))


def test_an_operation_whose_resource_is_gone_fails_honestly(tmp_path):
    async def run() -> None:
        store = ArmStore(database(tmp_path / "lab.db"))
        operation = store.begin("update", ID, "canadaeast")
        operations = Operations(store, FakeClusters())
        operations.resume()
        await operations.wait(operation.id, 60)
        ended = store.operation(operation.id)
        assert (ended.status, ended.code) == ("Failed", "ResourceNotFound")

    asyncio.run(run())


def test_the_fqdn_is_the_articles(tmp_path):
    store = store_with_cluster(tmp_path / "lab.db")
    assert store.get(ID.upper())["properties"]["fqdn"] == (
        "mycalicocl-calicodemorg-03a087-9388cb76.hcp.canadaeast.azmk8s.io")
