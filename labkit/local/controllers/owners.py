"""What controllers that own pods, or replica sets, have in common."""

from __future__ import annotations

from labkit.local.client import ApiError, Obj
from labkit.local.kubeapi.selectors import selects

from .base import Context, Controller
from .objects import controller_of, controller_uids, deleting, labels_of, owner_key, owner_reference
from .store import key_of


class OwnerController(Controller):
    """A controller whose objects own others: `kind` in `resource` owns objects of `owned`."""

    kind = ""
    resource = ""
    owned = "pods"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.owners, self.children = self.stores[self.resource], self.stores[self.owned]
        self.owners.index("namespace", lambda obj: (obj["metadata"]["namespace"],))
        self.children.index("controller", controller_uids)
        self.owners.subscribe(self.on_object)
        self.children.subscribe(self.on_child)

    def on_child(self, old: Obj | None, new: Obj | None) -> None:
        """Subscriber: reconcile the owner, or whoever may adopt an orphan."""
        child = new or old
        assert child is not None
        reference = controller_of(child)
        if reference:
            self.enqueue(owner_key(child, self.kind))
        elif new is not None and not deleting(new):
            for owner in self.owners.by("namespace", child["metadata"]["namespace"]):
                if selects(self.selector(owner), labels_of(child)):
                    self.enqueue(key_of(owner))

    def selector(self, owner: Obj) -> Obj | None:
        """Which objects it owns, as a label selector."""
        selector: Obj | None = owner["spec"].get("selector")
        return selector

    def claim(self, owner: Obj) -> list[Obj]:
        """The objects that the owner controls, orphans adopted, and what it no longer selects released."""
        selector, mine = self.selector(owner), []
        for child in self.children.by("controller", owner["metadata"]["uid"]):
            if selects(selector, labels_of(child)):
                mine.append(child)
            elif not deleting(child) and not deleting(owner):
                self._set_owners(
                    child,
                    [r for r in child["metadata"]["ownerReferences"] if r["uid"] != owner["metadata"]["uid"]],
                )
        if not deleting(owner):
            for child in self.children.by("controller", "orphan/" + owner["metadata"]["namespace"]):
                if not deleting(child) and selects(selector, labels_of(child)):
                    mine.append(
                        self._set_owners(
                            child, [*(child["metadata"].get("ownerReferences") or ()), owner_reference(owner)]
                        )
                    )
        return mine

    def _set_owners(self, child: Obj, references: list[Obj]) -> Obj:
        return self.stores.patch_metadata(self.owned, child, {"ownerReferences": references or None})

    def create_pod(self, owner: Obj, pod: Obj) -> Obj:
        """Create a pod and say so; a refusal is an event of the owner and is raised."""
        try:
            created = self.stores.create("pods", pod)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                self.events.warning(owner, "FailedCreate", f"Error creating: {error}")
            raise
        self.events.normal(owner, "SuccessfulCreate", f"Created pod: {created['metadata']['name']}")
        return created

    def delete_pod(self, owner: Obj, pod: Obj) -> None:
        """Delete a pod and say so."""
        if self.stores.delete("pods", pod):
            self.events.normal(owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
