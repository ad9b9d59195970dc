"""Which custom kinds there are now; garbage collection and namespaces must know."""

from __future__ import annotations

from collections.abc import Callable

from labkit.local.client import Obj

from .objects import is_true
from .store import Stores

CRDS = "customresourcedefinitions.apiextensions.k8s.io"


def served(crd: Obj) -> bool:
    """Whether objects of the definition can be listed: its Established condition, while it exists."""
    return is_true(crd, "Established")


def resource_of(crd: Obj) -> str:
    """The resource that a definition defines; that is its name."""
    return str(crd["metadata"]["name"])


def kind_of(crd: Obj) -> tuple[str, str]:
    """(group, kind)."""
    return crd["spec"]["group"], crd["spec"]["names"]["kind"]


def on_customs(stores: Stores, appeared: Callable[[Obj], None], vanished: Callable[[Obj], None]) -> None:
    """Call `appeared` when a definition begins to be served, and `vanished` when it is gone."""

    def subscriber(old: Obj | None, new: Obj | None) -> None:
        before, after = old is not None and served(old), new is not None and served(new)
        if new is not None and after and not before:
            appeared(new)
        elif old is not None and before and not after:
            vanished(old)

    stores[CRDS].subscribe(subscriber)
