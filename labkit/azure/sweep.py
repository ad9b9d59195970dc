"""What is forgotten in a subscription and may go: what is ours and expired, and nothing else, ever; pure.

A group is deleted with all that is in it, so each doubt keeps it, with the reason. What carries no mark of labkit's
is not even named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labkit.azure import states, tags
from labkit.azure.tags import Mark

_CLUSTER = "microsoft.containerservice/managedclusters"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a resource group.

    Args:
        group: its name.
        delete: whether it may go.
        why: the reason, in words.
        clusters: the clusters that are in it, as far as it was looked at.
    """

    group: str
    delete: bool
    why: str
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What is in a group. None where that could not be read.

    Args:
        resources: everything in it, of whatever kind, with tags.
        locks: the names of the locks on it and in it.
    """

    resources: Sequence[Mapping[str, Any]] | None
    locks: Sequence[str] | None


def by_tags(group: Mapping[str, Any], now: datetime, owner: str) -> Verdict | None:
    """What a group's own tags say of it; None where it has nothing to do with labkit.

    Args:
        group: as Azure lists it.
        now: the time.
        owner: whose groups may go.
    """
    name, mark = str(group.get("name")), tags.read(group.get("tags"))
    if mark is None:
        return None
    if group.get("managedBy") or name.upper().startswith("MC_"):
        # AKS copies a cluster's tags to the group of its machines.
        return Verdict(name, False, "it holds the machines of a cluster, and goes with it")
    if isinstance(mark, str):
        return Verdict(name, False, mark)
    if mark.owner != owner:
        return Verdict(name, False, f"it belongs to {mark.owner}, and you are {owner}")
    if mark.expires > now:
        return Verdict(name, False, f"it expires at {mark.expires:%Y-%m-%d %H:%M %Z}")
    if states.of(group) == "Deleting":
        return Verdict(name, False, "it is being deleted")
    return Verdict(name, True, f"it expired at {mark.expires:%Y-%m-%d %H:%M %Z}")


def by_contents(verdict: Verdict, contents: Contents, now: datetime, owner: str) -> Verdict:
    """The same once it is known what is in the group.

    Args:
        verdict: what its tags say.
        contents: what is in it.
        now: the time.
        owner: whose resources may go.
    """
    def keep(why: str) -> Verdict:
        return Verdict(verdict.group, False, f"{verdict.why}, but {why}", clusters)

    resources = contents.resources or ()
    clusters = tuple(str(r.get("name")) for r in resources if _kind(r) == _CLUSTER)
    if not verdict.delete:
        return Verdict(verdict.group, False, verdict.why, clusters)
    if contents.resources is None:
        return keep("what is in it could not be read")
    if contents.locks is None:
        return keep("whether it is locked could not be read")
    if contents.locks:
        return keep(f"it is locked: {', '.join(contents.locks)}")
    for resource in resources:
        name, mark = resource.get("name"), tags.read(resource.get("tags"))
        if _kind(resource) != _CLUSTER:
            return keep(f"it holds what labkit did not make: {name} ({resource.get('type')})")
        if not isinstance(mark, Mark):
            return keep(f"the cluster {name} is not marked as labkit's" + (f": {mark}" if mark else ""))
        if mark.owner != owner:
            return keep(f"the cluster {name} belongs to {mark.owner}")
        if mark.expires > now:
            return keep(f"the cluster {name} expires at {mark.expires:%Y-%m-%d %H:%M %Z}")
    return Verdict(verdict.group, True, verdict.why, clusters)


def strays(groups: Iterable[Mapping[str, Any]], clusters: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """Clusters that carry our mark in groups that do not: they are named, and kept.

    Args:
        groups: the subscription's groups.
        clusters: the subscription's clusters.
    """
    marked = {str(g.get("name")).lower() for g in groups if tags.read(g.get("tags")) is not None}
    found = []
    for cluster in clusters:
        group = str(cluster.get("id", "")).split("/")[4] if str(cluster.get("id", "")).count("/") > 4 else ""
        if tags.read(cluster.get("tags")) is not None and group.lower() not in marked:
            why = f"the cluster {cluster.get('name')} is marked as labkit's, its group is not: delete it by hand"
            found.append(Verdict(group, False, why, (str(cluster.get("name")),)))
    return found


def orphans(groups: Iterable[Mapping[str, Any]], clusters: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """Groups of machines that carry our mark and whose cluster is gone: they are named, and kept.

    Args:
        groups: the subscription's groups.
        clusters: the subscription's clusters.
    """
    there = {str(cluster.get("id")).lower() for cluster in clusters}
    found = []
    for group in groups:
        name, manager = str(group.get("name")), str(group.get("managedBy") or "").lower()
        if manager and manager not in there and tags.read(group.get("tags")) is not None:
            why = f"it holds machines whose cluster is gone: look at it, and delete it: `az group delete --name {name}`"
            found.append(Verdict(name, False, why))
    return found


def _kind(resource: Mapping[str, Any]) -> str:
    return str(resource.get("type", "")).lower()
