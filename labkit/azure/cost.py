"""What a cluster costs: an estimate with its rates, their sources and their spread, never a bill; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from labkit.azure import rates, sizes, states, tags
from labkit.azure.rates import SPREAD, Rate
from labkit.azure.settings import ClusterSettings


@dataclass(frozen=True)
class Item:
    """A line of an estimate.

    Args:
        what: such as "2 disks of 128 GiB".
        per_hour: in US dollars.
        rate: what it was reckoned with.
        machines: whether it ends while the cluster is stopped.
    """

    what: str
    per_hour: float
    rate: Rate
    machines: bool = False


@dataclass(frozen=True)
class Cost:
    """An estimate in US dollars."""

    items: tuple[Item, ...]
    note: str = ""

    @property
    def per_hour(self) -> float:
        """What an hour costs."""
        return sum(item.per_hour for item in self.items)

    @property
    def per_hour_stopped(self) -> float:
        """What an hour costs while the cluster is stopped: the machines are not paid for, all else is."""
        return sum(item.per_hour for item in self.items if not item.machines)

    def for_hours(self, hours: float) -> str:
        """In words, such as "about $0.56 (0.45 to 0.67) for 2 h"."""
        total = self.per_hour * hours
        low, high = total * (1 - SPREAD), total * (1 + SPREAD)
        return f"about ${total:.2f} ({low:.2f} to {high:.2f}) for {hours:g} h"

    def __str__(self) -> str:
        lines = [f"about ${self.per_hour:.2f} an hour, right within {SPREAD:.0%}:"]
        lines += [f"  ${item.per_hour:.3f}  {item.what}: {item.rate.source} (read {item.rate.read})"
                  for item in self.items]
        return "\n".join(lines + ([f"  {self.note}"] if self.note else []))


@dataclass(frozen=True)
class Meter:
    """What clusters have cost since they were made.

    Args:
        name: the cluster.
        since: when it was made; None where nothing says.
        until: the time of the look.
        cost: its rates.
        stopped: whether it is stopped now.
        expires: when its tag says that it may go, as it is written; "" where it has none.
    """

    name: str
    since: datetime | None
    until: datetime
    cost: Cost
    stopped: bool = False
    expires: str = ""

    @property
    def hours(self) -> float:
        """Hours since it was made."""
        return max(0.0, (self.until - self.since).total_seconds() / 3600) if self.since else 0.0

    @property
    def dollars(self) -> float:
        """What it has cost, had it run all the time."""
        return self.hours * self.cost.per_hour

    def __str__(self) -> str:
        now = self.cost.per_hour_stopped if self.stopped else self.cost.per_hour
        state = "stopped: its machines are not paid for, the rest is" if self.stopped else "running"
        spent = (f"about ${self.dollars:.2f} in {self.hours:.1f} h" + (" at most" if self.stopped else "")
                 if self.since else "since when is not known")
        expires = f"; expires {self.expires}" if self.expires else "; nothing says when it expires"
        return f"{self.name} ({state}): ${now:.2f} an hour, {spent}{expires}"


def estimate(settings: ClusterSettings) -> Cost:
    """What a cluster of these settings costs while it runs, with one service that has a public address.

    Args:
        settings: the cluster.
    """
    return _cost([{"count": settings.node_count, "vmSize": settings.node_vm_size}])


def meter(cluster: Mapping[str, Any], now: datetime | None = None) -> Meter:
    """What a cluster has cost so far, by what Azure says of it.

    Args:
        cluster: the resource.
        now: the time; None means the clock's.
    """
    properties, marks = cluster.get("properties") or {}, cluster.get("tags") or {}
    tier = str((cluster.get("sku") or {}).get("tier") or "Free")
    return Meter(str(cluster.get("name")), _made(cluster), now or datetime.now(UTC),
                 _cost(properties.get("agentPoolProfiles") or [], tier), states.power(cluster) == "Stopped",
                 str(marks.get(tags.EXPIRY_TAG) or ""))


def report(clusters: Sequence[Mapping[str, Any]], settings: ClusterSettings, *, billed: bool) -> str:
    """What clusters have cost since they were made, and the rates, in words.

    Args:
        clusters: the resources.
        settings: what the rates are for where there is no cluster.
        billed: whether they cost money where they are.
    """
    lines = [] if billed else ["Here it costs nothing. On Azure it would be:"]
    lines += [str(meter(cluster)) for cluster in clusters] or ["There is no cluster: nothing is paid for."]
    rated = meter(clusters[0]).cost if clusters else estimate(settings)
    return "\n".join([*lines, f"Rates of one cluster, {rated}"])


def _cost(pools: Sequence[Mapping[str, Any]], tier: str = "Free") -> Cost:
    machines, unknown, nodes, addresses = [], [], 0, 2  # one address to go out by, one for a service
    for pool in pools:
        count, size = int(pool.get("count") or 0), str(pool.get("vmSize") or "")
        vcpus = sizes.vcpus(size)
        if vcpus is None:
            unknown.append(size or "of the nodes")
        each = vcpus or 2
        machines.append(Item(f"{count} nodes of {each} vCPUs", count * each * rates.VCPU.per_hour, rates.VCPU,
                             machines=True))
        nodes += count
        addresses += count if pool.get("enableNodePublicIP") else 0
    control_plane = [Item("control plane, Free tier", rates.CONTROL_PLANE.per_hour, rates.CONTROL_PLANE)]
    notes = [f"The size {', '.join(unknown)} is not known here: two vCPUs are assumed."] if unknown else []
    if tier != "Free":
        control_plane = []
        notes.append(f"Its control plane is in the tier {tier}: that costs money, too, and is not in this.")
    return Cost((
        *machines,
        Item(f"{nodes} disks of 128 GiB", nodes * rates.DISK.per_hour, rates.DISK),
        Item("load balancer", rates.LOAD_BALANCER.per_hour, rates.LOAD_BALANCER),
        Item(f"{addresses} public addresses", addresses * rates.PUBLIC_IP.per_hour, rates.PUBLIC_IP),
        *control_plane,
    ), " ".join(notes))


def _made(cluster: Mapping[str, Any]) -> datetime | None:
    """When a cluster was made: Azure's own word where it says one, else the run tag's."""
    written = (cluster.get("systemData") or {}).get("createdAt")
    try:
        return datetime.fromisoformat(str(written)) if written else tags.made_at(cluster.get("tags"))
    except ValueError:
        return tags.made_at(cluster.get("tags"))
