"""Jobs: pods that should end well, a number of times."""

from __future__ import annotations

from labkit.local.client import ApiError, Obj, timestamp

from .objects import active, age, annotations_of, condition, deleting, is_true, pod_from, ready, saying, with_condition
from .owners import OwnerController
from .queue import Key
from .store import key_of

LONGEST_BACKOFF = 360.0
INDEX = "batch.kubernetes.io/job-completion-index"


def phase_of(pod: Obj) -> str:
    """The pod's phase."""
    return str((pod.get("status") or {}).get("phase", "Pending"))


def is_over(job: Obj) -> bool:
    """Whether the job has completed or failed for good."""
    return is_true(job, "Complete") or is_true(job, "Failed")


def wanted_active(job: Obj, active_count: int, succeeded: int) -> int:
    """How many pods should run now."""
    spec = job["spec"]
    parallel: int = spec.get("parallelism", 1)
    if spec.get("suspend"):
        return 0
    if spec.get("completions") is None:
        # A work queue: the first success says that the work is done; nobody new starts after it.
        return min(active_count, parallel) if succeeded else parallel
    return int(min(parallel, max(0, spec["completions"] - succeeded)))


def index_of(pod: Obj) -> int | None:
    """The completion index of an indexed job's pod."""
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdigit() else None


def intervals(numbers: set[int]) -> str:
    """{0, 1, 2, 5} as "0-2,5"."""
    parts: list[str] = []
    ordered = sorted(numbers)
    start = 0
    for i, number in enumerate(ordered):
        if i + 1 == len(ordered) or ordered[i + 1] != number + 1:
            first = ordered[start]
            parts.append(str(first) if first == number else f"{first}-{number}")
            start = i + 1
    return ",".join(parts)


class Jobs(OwnerController):
    """Runs a job's pods, replaces those that fail, more slowly each time, and says how it ended."""

    component = "job-controller"
    kind, resource = "Job", "jobs.batch"

    def reconcile(self, key: Key) -> None:
        """Start what is missing, count what has ended, and say when it is over."""
        job = self.owners.get(key)
        if job is None or deleting(job):
            return
        if is_over(job):
            self._expire(job)
            return
        status = dict(job.get("status") or {})
        spec = job["spec"]
        pods = self.claim(job)
        if not status.get("startTime") and not spec.get("suspend"):
            status["startTime"] = timestamp()
        running = [pod for pod in pods if active(pod)]
        failed = [pod for pod in pods if phase_of(pod) == "Failed" or (deleting(pod) and phase_of(pod) != "Succeeded")]
        succeeded = self._succeeded(job, pods)
        ending = self._ending(job, status, running, failed, succeeded)
        if ending:
            for pod in running:
                self.delete_pod(job, pod)
            if ending["type"] == "Failed":
                failed, running = failed + running, []
                self.events.warning(job, ending["reason"], ending["message"])
            else:
                running = []
                status["completionTime"] = timestamp()
                self.events.normal(job, "Completed", "Job completed")
            status["conditions"] = with_condition(status.get("conditions"), {**ending, "lastProbeTime": timestamp()})
        else:
            running = self._manage(job, pods, running, failed, succeeded)
            if spec.get("activeDeadlineSeconds") is not None and status.get("startTime"):
                left = spec["activeDeadlineSeconds"] - age(status["startTime"])
                self.enqueue_after(key, max(0.05, left + 0.05))
            self._note_suspension(job, status)
        self._count(job, status, running, failed, succeeded)
        updated = self.stores.update_status(self.resource, job, status)
        if ending:
            self._expire(updated)

    def _succeeded(self, job: Obj, pods: list[Obj]) -> int:
        good = [pod for pod in pods if phase_of(pod) == "Succeeded"]
        if job["spec"].get("completionMode") == "Indexed":
            return len({index_of(pod) for pod in good})
        return len(good)

    def _ending(self, job: Obj, status: Obj, running: list[Obj], failed: list[Obj], succeeded: int) -> Obj | None:
        spec, completions = job["spec"], job["spec"].get("completions")
        limit, retries = spec.get("backoffLimit", 6), 0
        if spec["template"]["spec"].get("restartPolicy") == "OnFailure":
            retries = sum(
                c.get("restartCount", 0)
                for pod in running
                for c in (pod.get("status") or {}).get("containerStatuses") or ()
            )
        if len(failed) > limit or (retries and retries >= max(limit, 1)):
            return saying("Failed", True, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and status.get("startTime") and age(status["startTime"]) >= deadline:
            return saying("Failed", True, "DeadlineExceeded", "Job was active longer than specified deadline")
        done = (succeeded >= completions) if completions is not None else (succeeded > 0 and not running)
        return {"type": "Complete", "status": "True"} if done else None

    def _manage(self, job: Obj, pods: list[Obj], running: list[Obj], failed: list[Obj], succeeded: int) -> list[Obj]:
        difference = wanted_active(job, len(running), succeeded) - len(running)
        if difference < 0:
            doomed = sorted(
                running,
                key=lambda pod: (
                    ready(pod),
                    phase_of(pod) == "Running",
                    pod["metadata"]["creationTimestamp"],
                ),
            )[:-difference]
            for pod in doomed:
                self.delete_pod(job, pod)
            return [pod for pod in running if pod not in doomed]
        if difference > 0:
            wait = self._backoff(failed, pods)
            if wait > 0:
                self.enqueue_after(key_of(job), wait)
                return running
            taken = {index_of(pod) for pod in pods if active(pod) or phase_of(pod) == "Succeeded"}
            for _ in range(difference):
                pod = self._pod(job, taken)
                try:
                    running = [*running, self.create_pod(job, pod)]
                except ApiError as error:
                    if error.code not in (403, 422):
                        raise
                    break
        return running

    def _backoff(self, failed: list[Obj], pods: list[Obj]) -> float:
        """Seconds until a failed pod may be replaced: 10, 20, 40 … after the last failure."""
        since = [pod for pod in failed if phase_of(pod) == "Failed"]
        if not since:
            return 0
        latest = min(map(_ended, since))
        good = min((_ended(pod) for pod in pods if phase_of(pod) == "Succeeded"), default=float("inf"))
        streak = sum(_ended(pod) < good for pod in since)
        if not streak:
            return 0
        return float(min(self.settings.backoff * 2 ** (streak - 1), LONGEST_BACKOFF)) - latest

    def _pod(self, job: Obj, taken: set[int | None]) -> Obj:
        meta = job["metadata"]
        labels = {"controller-uid": meta["uid"], "job-name": meta["name"]}
        if self.settings.minor >= 27:
            labels |= {f"batch.kubernetes.io/{name}": value for name, value in labels.items()}
        pod = pod_from(job["spec"]["template"], job, labels=labels)
        if job["spec"].get("completionMode") == "Indexed":
            index = next(i for i in range(job["spec"]["completions"]) if i not in taken)
            taken.add(index)
            pod["metadata"]["generateName"] = f"{meta['name']}-{index}-"
            pod["metadata"]["annotations"] = {**annotations_of(pod), INDEX: str(index)}
            pod["spec"].setdefault("hostname", f"{meta['name']}-{index}")
            for container in pod["spec"]["containers"]:
                container["env"] = [
                    *(container.get("env") or ()),
                    {"name": "JOB_COMPLETION_INDEX", "value": str(index)},
                ]
        return pod

    def _note_suspension(self, job: Obj, status: Obj) -> None:
        suspended, known = bool(job["spec"].get("suspend")), condition(job, "Suspended")
        if not suspended and known is None:
            return
        text = ("JobSuspended", "Job suspended") if suspended else ("JobResumed", "Job resumed")
        status["conditions"] = with_condition(status.get("conditions"), saying("Suspended", suspended, *text))
        if suspended:
            status.pop("startTime", None)

    def _count(self, job: Obj, status: Obj, running: list[Obj], failed: list[Obj], succeeded: int) -> None:
        numbers = {"active": len(running), "succeeded": succeeded, "failed": len(failed)}
        if self.settings.minor >= 24:
            numbers["ready"] = sum(map(ready, running))
        for field, number in numbers.items():
            status.pop(field, None)
            if number or field == "ready":
                status[field] = number
        if job["spec"].get("completionMode") == "Indexed":
            status["completedIndexes"] = intervals(
                {
                    index
                    for pod in self.claim(job)
                    if phase_of(pod) == "Succeeded" and (index := index_of(pod)) is not None
                }
            )

    def _expire(self, job: Obj) -> None:
        """Delete a job that is over when its time to live is."""
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        ended = condition(job, "Complete") or condition(job, "Failed")
        if ttl is None or ended is None:
            return
        left = ttl - age(ended["lastTransitionTime"])
        if left > 0:
            self.enqueue_after(key_of(job), left + 0.05)
        else:
            self.stores.delete(self.resource, job, propagation="Foreground")


def _ended(pod: Obj) -> float:
    """Seconds since the pod's last container ended."""
    ends = [
        state["terminated"]["finishedAt"]
        for status in (pod.get("status") or {}).get("containerStatuses") or ()
        if (state := status.get("state") or {}).get("terminated", {}).get("finishedAt")
    ]
    return age(max(ends)) if ends else age(pod["metadata"]["creationTimestamp"])
