"""What Azure charges, as data: each rate with where it is from and when it was read.

Nobody has read these off a bill. All are for East US, Linux, pay as you go, in US dollars; regions differ, and
prices change. The calculator is right: https://azure.microsoft.com/pricing/calculator/
"""

from __future__ import annotations

from dataclasses import dataclass

SPREAD = 0.2
"""Take an estimate as right within a fifth."""
_MONTH = 730.0  # hours, as Azure counts them


@dataclass(frozen=True)
class Rate:
    """A price.

    Args:
        per_hour: in US dollars.
        source: where the number is from.
        read: when it was read.
    """

    per_hour: float
    source: str
    read: str


_GOLDEN = "infracost, testdata/kubernetes_cluster_test.golden"
VCPU = Rate(0.096 / 2, "a price table in a public repository: Standard_D2s_v3 at $0.096 an hour, taken for each size "
                       "of the D series by its vCPUs", "2026-11-23")
DISK = Rate(19.71 / _MONTH, f"{_GOLDEN}: a 128 GiB Premium disk (P10) at $19.71 a month", "2026-11-23")
LOAD_BALANCER = Rate(0.025, "c3x.dev/resources/azure/azurerm_lb: Standard, the first five rules; traffic is extra, and "
                            "so is each rule from the sixth on ($0.01)", "2026-11-27")
PUBLIC_IP = Rate(0.005, "Microsoft's retail price API on 2026-10-16, as quoted in the wiki of ChiefGyk3D/"
                        f"Clouds-Against-Humanity: Standard, static; {_GOLDEN} says $0.0036", "2026-11-27")
CONTROL_PLANE = Rate(0.0, "learn.microsoft.com/azure/aks/free-standard-pricing-tiers: the Free tier costs nothing",
                     "2026-11-23")
