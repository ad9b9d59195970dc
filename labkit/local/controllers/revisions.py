"""Controller revisions: the templates that daemon sets and stateful sets had, for history and undo."""

from __future__ import annotations

from labkit.local.client import Obj, copy_of

from .objects import annotations_of, controller_uids, hash_of, owner_reference
from .store import Stores

HASH_LABEL = "controller-revision-hash"
RESOURCE = "controllerrevisions.apps"


class Revisions:
    """The controller revisions of some kind of owner."""

    def __init__(self, stores: Stores) -> None:
        self._stores, self._store = stores, stores[RESOURCE]
        self._store.index("controller", controller_uids)

    def current(self, owner: Obj) -> tuple[str, list[Obj]]:
        """(hash of the current template, all revisions, oldest first); makes or renews what is missing."""
        meta = owner["metadata"]
        mine = self._ordered(owner)
        value = hash_of(owner["spec"]["template"])
        name, last = f"{meta['name']}-{value}", max((r["revision"] for r in mine), default=0)
        found = next((r for r in mine if r["metadata"]["name"] == name), None)
        if found is None:
            template = {**copy_of(owner["spec"]["template"]), "$patch": "replace"}
            annotations = {
                k: v
                for k, v in annotations_of(owner).items()
                if k != "kubectl.kubernetes.io/last-applied-configuration"
            }
            labels = {**(owner["spec"]["template"]["metadata"].get("labels") or {}), HASH_LABEL: value}
            self._stores.create(
                RESOURCE,
                {
                    "apiVersion": "apps/v1",
                    "kind": "ControllerRevision",
                    "metadata": {
                        "name": name,
                        "namespace": meta["namespace"],
                        "labels": labels,
                        "annotations": annotations,
                        "ownerReferences": [owner_reference(owner)],
                    },
                    "data": {"spec": {"template": template}},
                    "revision": last + 1,
                },
            )
        elif found["revision"] < last:
            self._stores.patch(RESOURCE, (meta["namespace"], name), {"revision": last + 1})
        else:
            return value, mine
        return value, self._ordered(owner)

    def _ordered(self, owner: Obj) -> list[Obj]:
        return sorted(self._store.by("controller", owner["metadata"]["uid"]), key=lambda r: int(r["revision"]))

    def trim(self, owner: Obj, revisions: list[Obj], in_use: set[str]) -> None:
        """Delete the oldest revisions beyond the owner's history limit that no pod is of."""
        spare = [r for r in revisions[:-1] if r["metadata"]["labels"].get(HASH_LABEL) not in in_use]
        for revision in spare[: max(0, len(spare) - owner["spec"].get("revisionHistoryLimit", 10))]:
            self._stores.delete(RESOURCE, revision)
