"""Deployments: replica sets that replace each other."""

from __future__ import annotations

from labkit.local.client import ApiError, Obj, copy_of, timestamp

from . import rollout
from .base import Context
from .objects import (
    age,
    annotations_of,
    condition,
    controller_of,
    deleting,
    finished,
    hash_of,
    owner_key,
    owner_reference,
    saying,
    with_condition,
)
from .owners import OwnerController
from .queue import Key
from .rollout import Scale, replicas_of
from .store import key_of

OWN_ANNOTATIONS = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        rollout.REVISION,
        rollout.REVISION_HISTORY,
        rollout.DESIRED,
        rollout.MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)


class Deployments(OwnerController):
    """Makes the replica set of the current template and moves the replicas over to it."""

    component = "deployment-controller"
    kind, resource, owned = "Deployment", "deployments.apps", "replicasets.apps"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = self.stores["pods"]
        self.pods.subscribe(self._on_pod)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        """A pod is gone: a deployment of strategy Recreate may wait for that."""
        if new is None and old is not None and (key := owner_key(old, "ReplicaSet")):
            parent = self.children.get(key)
            if parent is not None:
                self.enqueue(owner_key(parent, self.kind))

    def reconcile(self, key: Key) -> None:
        """Move one step along the way from the old replica sets to the new."""
        deployment = self.owners.get(key)
        if deployment is None:
            return
        sets = rollout.oldest_first(self.claim(deployment))
        new = next((rs for rs in sets if rollout.same_template(deployment, rs)), None)
        old = [rs for rs in sets if rs is not new]
        if not deleting(deployment):
            if deployment["spec"].get("paused"):
                new, old = self._scale(deployment, new, old)
                self._trim(deployment, old)
            elif any(
                annotations_of(rs).get(rollout.DESIRED, "") != str(replicas_of(deployment))
                for rs in sets
                if replicas_of(rs)
            ):
                new, old = self._scale(deployment, new, old)
            else:
                deployment, new, old = self._roll(deployment, new, old)
        self._sync_status(deployment, new, [*old, *([new] if new else [])])

    # Rolling

    def _roll(self, deployment: Obj, new: Obj | None, old: list[Obj]) -> tuple[Obj, Obj | None, list[Obj]]:
        if rollout.recreates(deployment):
            old = [self._apply(deployment, Scale(rs, 0)) if replicas_of(rs) else rs for rs in old]
            if any(map(self._runs, old)):
                return deployment, new, old
            deployment, new = self._ensure_new(deployment, new, old)
            if replicas_of(new) != replicas_of(deployment):
                new = self._apply(deployment, Scale(new, replicas_of(deployment)))
        else:
            deployment, new = self._ensure_new(deployment, new, old)
            for step in rollout.plan_new(deployment, new, old):
                new = self._apply(deployment, step)
            changed = {
                step.replica_set["metadata"]["uid"]: self._apply(deployment, step)
                for step in rollout.plan_old(deployment, new, old)
            }
            old = [changed.get(rs["metadata"]["uid"], rs) for rs in old]
        if rollout.complete(deployment, rollout.count(deployment, new, [*old, new])):
            self._trim(deployment, old)
        return deployment, new, old

    def _runs(self, replica_set: Obj) -> bool:
        return not all(map(finished, self.pods.by("controller", replica_set["metadata"]["uid"])))

    def _scale(self, deployment: Obj, new: Obj | None, old: list[Obj]) -> tuple[Obj | None, list[Obj]]:
        plan = {step.replica_set["metadata"]["uid"]: step for step in rollout.plan_scale(deployment, new, old)}

        def scaled(replica_set: Obj) -> Obj:
            step = plan.get(replica_set["metadata"]["uid"])
            return self._apply(deployment, step or Scale(replica_set, replicas_of(replica_set)))

        return (scaled(new) if new else None), [scaled(rs) for rs in old]

    def _apply(self, deployment: Obj, step: Scale) -> Obj:
        replica_set, surge = step.replica_set, rollout.limits(deployment)[0]
        annotations = {
            rollout.DESIRED: str(replicas_of(deployment)),
            rollout.MAXIMUM: str(replicas_of(deployment) + surge),
        }
        before = replicas_of(replica_set)
        if before == step.replicas and annotations.items() <= annotations_of(replica_set).items():
            return replica_set
        updated = self.stores.patch(
            self.owned,
            key_of(replica_set),
            {"metadata": {"annotations": annotations}, "spec": {"replicas": step.replicas}},
        )
        if before != step.replicas:
            self._say_scaled(deployment, updated, before)
        return updated

    def _say_scaled(self, deployment: Obj, replica_set: Obj, before: int) -> None:
        to = replicas_of(replica_set)
        text = f"Scaled {'up' if to > before else 'down'} replica set {replica_set['metadata']['name']} to {to}"
        if self.settings.minor >= 27:
            text += f" from {before}"
        self.events.normal(deployment, "ScalingReplicaSet", text)

    # The new replica set

    def _ensure_new(self, deployment: Obj, new: Obj | None, old: list[Obj]) -> tuple[Obj, Obj]:
        revision = max(map(rollout.revision_of, old), default=0) + 1
        if new is None:
            deployment, new = self._create(deployment, old, revision)
        else:
            new = self._annotate(deployment, new, revision)
        said = annotations_of(new)[rollout.REVISION]
        if annotations_of(deployment).get(rollout.REVISION) != said:
            deployment = self.stores.patch(
                self.resource, key_of(deployment), {"metadata": {"annotations": {rollout.REVISION: said}}}
            )
        return deployment, new

    def _inherited(self, deployment: Obj) -> dict[str, str]:
        return {k: v for k, v in annotations_of(deployment).items() if k not in OWN_ANNOTATIONS}

    def _annotate(self, deployment: Obj, new: Obj, revision: int) -> Obj:
        have, want = annotations_of(new), self._inherited(deployment)
        before = rollout.revision_of(new)
        if before < revision:
            want[rollout.REVISION] = str(revision)
            if before:
                history = have.get(rollout.REVISION_HISTORY)
                want[rollout.REVISION_HISTORY] = f"{history},{before}" if history else str(before)
        if want.items() <= have.items():
            return new
        return self.stores.patch(self.owned, key_of(new), {"metadata": {"annotations": want}})

    def _create(self, deployment: Obj, old: list[Obj], revision: int) -> tuple[Obj, Obj]:
        meta, spec = deployment["metadata"], deployment["spec"]
        collisions = (deployment.get("status") or {}).get("collisionCount", 0)
        value = hash_of([spec["template"], collisions])
        template = copy_of(spec["template"])
        template["metadata"] = {
            **(template.get("metadata") or {}),
            "labels": rollout.with_hash(template["metadata"].get("labels"), value),
        }
        selector = copy_of(spec["selector"])
        selector["matchLabels"] = rollout.with_hash(selector.get("matchLabels"), value)
        wanted, surge = replicas_of(deployment), rollout.limits(deployment)[0]
        room = max(0, wanted + surge - sum(map(replicas_of, old)))
        body: Obj = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{meta['name']}-{value}",
                "namespace": meta["namespace"],
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner_reference(deployment)],
                "annotations": {
                    **self._inherited(deployment),
                    rollout.REVISION: str(revision),
                    rollout.DESIRED: str(wanted),
                    rollout.MAXIMUM: str(wanted + surge),
                },
            },
            "spec": {
                "replicas": wanted if rollout.recreates(deployment) else min(wanted, room),
                "selector": selector,
                "template": template,
            },
        }
        if spec.get("minReadySeconds"):
            body["spec"]["minReadySeconds"] = spec["minReadySeconds"]
        try:
            new = self.stores.create(self.owned, body)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                self._note_collision(deployment, body["metadata"]["name"], collisions)
            raise
        if replicas_of(new):
            self._say_scaled(deployment, new, 0)
        return deployment, new

    def _note_collision(self, deployment: Obj, name: str, collisions: int) -> None:
        """The name is taken by a set that is not ours: count, and the retry hashes to another name."""
        other = self.children.get((deployment["metadata"]["namespace"], name))
        reference = controller_of(other) if other else None
        if other and not (reference and reference["uid"] == deployment["metadata"]["uid"]):
            self.stores.update_status(
                self.resource,
                deployment,
                {**(deployment.get("status") or {}), "collisionCount": collisions + 1},
            )

    def _trim(self, deployment: Obj, old: list[Obj]) -> None:
        keep = deployment["spec"].get("revisionHistoryLimit", 10)
        idle = [
            rs
            for rs in old
            if not replicas_of(rs) and not (rs.get("status") or {}).get("replicas") and not deleting(rs)
        ]
        idle.sort(key=rollout.revision_of)
        for replica_set in idle[: max(0, len(idle) - keep)]:
            self.stores.delete(self.owned, replica_set)

    # Status

    def _sync_status(self, deployment: Obj, new: Obj | None, sets: list[Obj]) -> None:
        old_status = deployment.get("status") or {}
        status = rollout.count(deployment, new, sets)
        if old_status.get("collisionCount"):
            status["collisionCount"] = old_status["collisionCount"]
        conditions = with_condition(old_status.get("conditions"), availability(deployment, status))
        item = progress(deployment, new, old_status, status, moved=self._moved(deployment, new))
        if item:
            conditions = with_condition(conditions, item)
        failure = next((c for rs in sets if (c := condition(rs, "ReplicaFailure"))), None)
        conditions = [c for c in conditions if c["type"] != "ReplicaFailure"]
        if failure:
            conditions = with_condition(conditions, failure)
        status["conditions"] = [{**c, "lastUpdateTime": c.get("lastUpdateTime") or timestamp()} for c in conditions]
        self.stores.update_status(self.resource, deployment, status)
        limit = deployment["spec"].get("progressDeadlineSeconds", 600)
        if item and item["reason"] not in (
            "NewReplicaSetAvailable",
            "ProgressDeadlineExceeded",
            "DeploymentPaused",
        ):
            self.enqueue_after(key_of(deployment), limit + 1)

    def _moved(self, deployment: Obj, new: Obj | None) -> bool:
        """Whether the replica set of this rollout is another than the last one the status spoke of."""
        item = condition(deployment, "Progressing")
        return bool(new and item and f'"{new["metadata"]["name"]}"' not in item.get("message", ""))


def availability(deployment: Obj, status: Obj) -> Obj:
    """The Available condition."""
    minimum = replicas_of(deployment) - rollout.limits(deployment)[1]
    if status.get("availableReplicas", 0) >= minimum:
        return saying("Available", True, "MinimumReplicasAvailable", "Deployment has minimum availability.")
    return saying("Available", False, "MinimumReplicasUnavailable",
                  "Deployment does not have minimum availability.")


def progress(deployment: Obj, new: Obj | None, old_status: Obj, status: Obj, *, moved: bool) -> Obj | None:
    """The Progressing condition, or None to leave it as it is."""
    if "progressDeadlineSeconds" in deployment["spec"] and deployment["spec"]["progressDeadlineSeconds"] is None:
        return None
    current = condition(deployment, "Progressing")
    name = f'ReplicaSet "{new["metadata"]["name"]}"' if new else f'Deployment "{deployment["metadata"]["name"]}"'

    def said(true: bool, reason: str, message: str) -> Obj:
        return {**saying("Progressing", true, reason, message), "lastUpdateTime": timestamp()}

    if deployment["spec"].get("paused"):
        if current and current["reason"] == "DeploymentPaused":
            return current
        return {**said(False, "DeploymentPaused", "Deployment is paused"), "status": "Unknown"}
    if new and rollout.complete(deployment, status):
        text = f"{name} has successfully progressed."
        if current and current["message"] == text:
            return current
        return said(True, "NewReplicaSetAvailable", text)
    if current is None or current["reason"] == "DeploymentPaused":
        return said(True, "NewReplicaSetCreated",
                    f"Created new replica set {name[11:]}" if new else f"{name} is progressing.")
    if rollout.progressing(old_status, status) or moved:
        # A new update time, also where nothing else changed, restarts the deadline.
        return said(True, "ReplicaSetUpdated", f"{name} is progressing.")
    done = current["reason"] == "NewReplicaSetAvailable"
    limit = deployment["spec"].get("progressDeadlineSeconds", 600)
    if not done and age(current.get("lastUpdateTime")) > limit:
        return said(False, "ProgressDeadlineExceeded", f"{name} has timed out progressing.")
    return current
