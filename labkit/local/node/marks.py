"""Labels and taints that an agent pool gives its nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labkit.local.client import Obj


def taint(written: str) -> Obj:
    """A node's taint, from the way in which Azure and kubectl write it.

    Args:
        written: such as "dedicated=lab:NoSchedule"; the value may be left out.
    """
    name, _, effect = written.rpartition(":")
    key, _, value = name.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}


def changes(node: Obj, old: tuple[Mapping[str, str], Iterable[str]],
            new: tuple[Mapping[str, str], Iterable[str]]) -> Obj:
    """The merge patch that brings a node from its pool's old labels and taints to the new ones.

    What others have put on the node stays.

    Args:
        node: the node as it is.
        old: the labels and taints that its pool had.
        new: those that it shall have.
    """
    labels: dict[str, str | None] = {key: None for key in old[0] if key not in new[0]}
    labels |= new[0]
    before, after = [taint(t) for t in old[1]], [taint(t) for t in new[1]]
    has = node.get("spec", {}).get("taints") or []
    places = [(t["key"], t["effect"]) for t in (*before, *after)]
    wanted = [t for t in has if (t["key"], t["effect"]) not in places] + after
    have = node["metadata"].get("labels") or {}
    patch: Obj = {}
    if different := {key: value for key, value in labels.items() if have.get(key) != value}:
        patch["metadata"] = {"labels": different}
    if wanted != has:
        patch["spec"] = {"taints": wanted or None}
    return patch
