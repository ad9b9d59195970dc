"""What a cluster costs by the hour: an estimate with its sources' spread, never a bill."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.azure.settings import ClusterSettings

_VCPU_HOUR = 0.048  # Dsv3 and its successors, Linux, East US, in USD: 0.096 for two vCPUs
_DISK_HOUR = 19.71 / 730  # a 128 GiB Premium disk
_LOAD_BALANCER_HOUR = 0.025  # standard, up to five rules; traffic is extra
_PUBLIC_IP_HOUR = 0.005
SPREAD = 0.2
"""Prices differ by region and change; take the estimate as right within a fifth."""


@dataclass(frozen=True)
class Cost:
    """An estimate in US dollars."""

    per_hour: float
    items: tuple[tuple[str, float], ...]

    def for_hours(self, hours: float) -> str:
        """In words, such as "about $0.56 (0.45 to 0.67) for 2 h"."""
        total = self.per_hour * hours
        low, high = total * (1 - SPREAD), total * (1 + SPREAD)
        return f"about ${total:.2f} ({low:.2f} to {high:.2f}) for {hours:g} h"


def estimate(settings: ClusterSettings) -> Cost:
    """What a cluster of these settings costs while it runs.

    Args:
        settings: the cluster; its size is taken to have two vCPUs, as all sizes of the course do.
    """
    items = (
        (f"{settings.node_count} nodes of 2 vCPUs", settings.node_count * 2 * _VCPU_HOUR),
        (f"{settings.node_count} disks of 128 GiB", settings.node_count * _DISK_HOUR),
        ("load balancer", _LOAD_BALANCER_HOUR),
        ("2 public addresses", 2 * _PUBLIC_IP_HOUR),
        ("control plane, Free tier", 0.0),
    )
    return Cost(sum(price for _, price in items), items)
