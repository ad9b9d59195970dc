from __future__ import annotations

from labkit.local.client import Obj
from labkit.local.controllers.jobs import intervals, wanted_active

from .world import World

JOBS = "jobs.batch"


def job(world: World) -> Obj:
    return world.api.get(JOBS, "web", "default")


def run(world: World, **spec: object) -> None:
    template = {
        "metadata": {"labels": {"app": "work"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "busybox"}]},
    }
    world.workload(JOBS, "Job", template=template, **spec)


def is_so(world: World, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in job(world).get("status", {}).get("conditions", ()))


def test_a_job_runs_its_completions_no_more_than_parallel_at_a_time(world: World) -> None:
    async def body(world: World) -> None:
        run(world, completions=5, parallelism=2)
        most = 0
        while job(world).get("status", {}).get("succeeded", 0) < 5:
            busy = [pod for pod in world.pods("work") if pod["status"].get("phase") == "Running"]
            most = max(most, len(busy))
            for pod in busy:
                end(world, pod, "Succeeded")
            await world.settle()
        assert is_so(world, "Complete")
        assert most == 2
        assert len(world.pods("work")) == 5
        assert job(world)["status"]["completionTime"]
        assert "active" not in job(world)["status"]

    world.run(body)


def end(world: World, pod: Obj, phase: str) -> None:
    fresh = world.api.get("pods", pod["metadata"]["name"], "default")
    world.api.update("pods", {**fresh, "status": {**fresh["status"], "phase": phase}}, subresource="status")


def test_a_failing_job_is_retried_until_its_limit(world: World) -> None:
    world.kubelets.end = {"work": "Failed"}

    async def body(world: World) -> None:
        run(world, backoffLimit=2)
        await world.until(lambda: is_so(world, "Failed"))
        assert job(world)["status"]["failed"] == 3
        assert len(world.pods("work")) == 3
        (event,) = world.events("BackoffLimitExceeded")
        assert event["message"] == "Job has reached the specified backoff limit"

    world.run(body)


def test_a_job_that_takes_too_long_fails_and_its_pods_go(world: World) -> None:
    async def body(world: World) -> None:
        run(world, activeDeadlineSeconds=1)
        await world.until(lambda: is_so(world, "Failed"))
        assert job(world)["status"]["conditions"][-1]["reason"] == "DeadlineExceeded"
        await world.until(lambda: not world.pods("work"))

    world.run(body)


def test_a_finished_job_goes_with_its_pods_when_its_time_is_up(world: World) -> None:
    world.kubelets.end = {"work": "Succeeded"}

    async def body(world: World) -> None:
        run(world, ttlSecondsAfterFinished=1)
        await world.until(lambda: is_so(world, "Complete"))
        await world.until(lambda: not world.api.list(JOBS) and not world.pods("work"))

    world.run(body)


def test_an_indexed_job_gives_each_pod_its_number(world: World) -> None:
    world.kubelets.end = {"work": "Succeeded"}

    async def body(world: World) -> None:
        run(world, completions=3, parallelism=3, completionMode="Indexed")
        await world.until(lambda: is_so(world, "Complete"))
        assert job(world)["status"]["completedIndexes"] == "0-2"
        numbers = sorted(entry["value"] for pod in world.pods("work") for entry in pod["spec"]["containers"][0]["env"])
        assert numbers == ["0", "1", "2"]

    world.run(body)


def test_how_many_pods_a_job_wants() -> None:
    assert wanted_active({"spec": {"parallelism": 3, "completions": 4}}, 0, 2) == 2
    assert wanted_active({"spec": {"parallelism": 3}}, 2, 1) == 2
    assert wanted_active({"spec": {"parallelism": 3}}, 0, 0) == 3
    assert wanted_active({"spec": {"parallelism": 3, "suspend": True}}, 3, 0) == 0
    assert intervals({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"


def test_a_job_adopts_its_orphans_and_leaves_them_to_who_does_not_say_what_becomes_of_them(world: World) -> None:
    """By the API a job's pods are orphaned, unless the request says otherwise, as kubectl's does."""
    async def body(world: World) -> None:
        run(world)
        await world.until(lambda: len(world.pods("work")) == 1)
        (pod,) = world.pods("work")
        world.api.patch("pods", pod["metadata"]["name"], {"metadata": {"ownerReferences": None}}, "default")
        await world.until(lambda: bool(world.pods("work")[0]["metadata"].get("ownerReferences")))
        assert len(world.pods("work")) == 1
        world.api.delete(JOBS, "web", "default")
        await world.until(lambda: not world.api.list(JOBS))
        await world.settle()
        assert not world.pods("work")[0]["metadata"].get("ownerReferences")

    world.run(body)
