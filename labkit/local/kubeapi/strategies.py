"""What a kind does of its own, as hooks that the machinery calls in a fixed order.

create: default, prepare_create, validate, allocate, (write), stored
update: separate, default, prepare_update, validate, allocate, (write), stored
delete: check_delete, grace_period, prepare_delete, (write), stored or removed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from labkit.local.client import Obj

from .errors import FieldError
from .kinds import Kind

if TYPE_CHECKING:
    from .machinery import Machinery


class Strategy:
    """The rules of a kind that has none of its own: plain data."""

    STATUS_METADATA: ClassVar[tuple[str, ...]] = ("managedFields", "labels", "annotations")
    """What of an object's metadata a write of its status may change too."""

    PROPAGATION: ClassVar[str | None] = None
    """What becomes of an object's dependents where who deletes it does not say: None is in the background."""

    def __init__(self, machinery: Machinery) -> None:
        self.api = machinery

    def loaded(self, obj: Obj) -> None:
        """An object was read from disk at the start."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """Fill in what was left out, in place."""

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """Set what the API owns in a new object; a status is the controllers' to write."""
        if kind.has_status:
            obj.pop("status", None)

    def separate(self, kind: Kind, new: Obj, old: Obj, sub: str | None) -> Obj:
        """The object that an update through `sub` means: each endpoint writes its own part."""
        if sub == "status":
            given = {k: v for k, v in new["metadata"].items() if k in self.STATUS_METADATA}
            out = {**old, "metadata": {**old["metadata"], **given}}
            if "status" in new:
                out["status"] = new["status"]
            else:
                out.pop("status", None)
            return out
        if kind.has_status:
            if "status" in old:
                new["status"] = old["status"]
            else:
                new.pop("status", None)
        return new

    def prepare_update(self, kind: Kind, new: Obj, old: Obj, sub: str | None) -> None:
        """Restore what an update may not touch, in place."""

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """What is wrong with the object, or with its change."""
        return []

    def allocate(self, kind: Kind, new: Obj, old: Obj | None) -> None:
        """Assign what the cluster hands out; raises ApiError when there is none."""

    def stored(self, kind: Kind, new: Obj, old: Obj | None) -> None:
        """The object was written."""

    def removed(self, kind: Kind, last: Obj) -> None:
        """The object is gone."""

    def check_delete(self, kind: Kind, obj: Obj) -> None:
        """Raise ApiError where the object may not be deleted."""

    def grace_period(self, obj: Obj, asked: int | None) -> int:
        """Seconds between the request to delete and the deletion."""
        return 0

    def prepare_delete(self, new: Obj) -> None:
        """Mark an object whose deletion begins, in place."""

    def may_go(self, obj: Obj) -> bool:
        """Whether an object without finalizers that is to be deleted can go now."""
        return True


def strategies_for(machinery: Machinery) -> dict[str, Strategy]:
    """Each resource's strategy, where it has one of its own; "*" is every custom kind's."""
    from .core_kinds import (
        ConfigMapStrategy,
        NamespaceStrategy,
        NodeStrategy,
        SecretStrategy,
    )
    from .custom import CustomStrategy, DefinitionStrategy
    from .disruption import BUDGETS, DisruptionBudgetStrategy
    from .pods import PodStrategy
    from .policies import policy_strategies
    from .services import ServiceStrategy
    from .workloads import workload_strategies

    return {
        "namespaces": NamespaceStrategy(machinery),
        "nodes": NodeStrategy(machinery),
        "configmaps": ConfigMapStrategy(machinery),
        "secrets": SecretStrategy(machinery),
        "pods": PodStrategy(machinery),
        "services": ServiceStrategy(machinery),
        BUDGETS: DisruptionBudgetStrategy(machinery),
        "customresourcedefinitions.apiextensions.k8s.io": DefinitionStrategy(machinery),
        "*": CustomStrategy(machinery),
        **workload_strategies(machinery),
        **policy_strategies(machinery),
    }
