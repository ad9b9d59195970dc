"""Find forgotten labs in a subscription, and delete them once somebody has said so."""

from __future__ import annotations

from datetime import UTC, datetime

from labkit.azure import sweep, tags
from labkit.azure.arm import Azure
from labkit.azure.sweep import Contents, Verdict
from labkit.errors import AzureError
from labkit.plan import Evidence, Log, Plan, Step


def find(azure: Azure, owner: str | None = None, now: datetime | None = None) -> list[Verdict]:
    """All groups that have to do with labkit, and what may become of each. Changes nothing.

    Args:
        azure: the subscription.
        owner: whose may go; None means ours.
        now: the time; None means the clock's.
    """
    now, owner = now or datetime.now(UTC), owner or tags.owner()
    groups = azure.groups()
    verdicts = [v for group in groups if (v := sweep.by_tags(group, now, owner)) is not None]
    clusters = azure.clusters()
    alone = sweep.orphans(groups, clusters)
    found = [sweep.by_contents(v, _contents(azure, v.group), now, owner) if v.delete else v
             for v in verdicts if v.group not in {orphan.group for orphan in alone}]
    return found + alone + sweep.strays(groups, clusters)


def plan(azure: Azure, verdicts: list[Verdict], owner: str | None = None) -> Plan:
    """The plan that deletes what `find` has found to be ours and expired.

    Args:
        azure: the subscription.
        verdicts: what was found.
        owner: whose may go; None means ours.
    """
    return Plan("gc", "Delete forgotten labs", tuple(_step(azure, v, owner) for v in verdicts if v.delete))


def _step(azure: Azure, verdict: Verdict, owner: str | None) -> Step:
    name = verdict.group

    def apply(log: Log) -> None:
        # Minutes may have passed since the question: it is looked at once more.
        again = next((v for v in find(azure, owner) if v.group == name), None)
        if again is None or not again.delete:
            raise AzureError(f"The group {name} is kept.", again.why if again else "it is not labkit's any more.",
                             "look again: `labkit gc`.", code="NotOurs")
        for cluster in again.clusters:
            azure.delete_cluster(name, cluster, log)
        azure.delete_group(name, log)

    return Step(
        id=f"group-{name}", title=f"Delete the group {name}" + (f" with {', '.join(verdict.clusters)}"
                                                                if verdict.clusters else ""),
        why=f"It is ours, and {verdict.why}.", without="it goes on costing money.",
        command=f"az group delete --resource-group {name} --yes", apply=apply,
        verify=lambda: gone(azure, name), timeout=60)


def gone(azure: Azure, group: str) -> Evidence:
    """Whether a group is gone, and with it the groups of the machines of its clusters.

    Args:
        azure: the subscription.
        group: its name.
    """
    inside = f"/resourcegroups/{group}/providers/".lower()
    left = [str(g["name"]) for g in azure.groups()
            if str(g["name"]).lower() == group.lower() or inside in str(g.get("managedBy") or "").lower()]
    if left:
        return Evidence(False, f"still there: {', '.join(left)}")
    return Evidence(True, f"the group {group} is gone, and the groups of its machines are")


def _contents(azure: Azure, group: str) -> Contents:
    resources: list[dict[str, object]] | None = None
    locks: list[str] | None = None
    try:
        resources = azure.contents(group)
        locks = azure.locks(group)
    except AzureError:
        pass  # what could not be read is in doubt, and doubt keeps
    return Contents(resources, locks)
