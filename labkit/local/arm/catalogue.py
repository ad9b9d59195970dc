"""What this Azure offers: regions, machine sizes, Kubernetes versions, resource providers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Region:
    """One Azure region."""

    name: str
    display: str
    geography: str
    group: str
    latitude: str
    longitude: str


@dataclass(frozen=True, slots=True)
class VmSize:
    """One machine size, as Microsoft documents it; the lab's nodes share the host's cores."""

    name: str
    family: str
    vcpus: int
    memory_gb: int


@dataclass(frozen=True, slots=True)
class KubernetesVersion:
    """One minor version of Kubernetes with the patch that is offered."""

    minor: str
    patches: tuple[str, ...]
    default: bool = False
    lab_only: bool = False


def _regions(table: str) -> dict[str, Region]:
    rows = (line.split("|") for line in table.strip().splitlines())
    return {row[0].strip(): Region(*(cell.strip() for cell in row)) for row in rows}


REGIONS = _regions("""
    australiaeast | Australia East | Australia | Asia Pacific | -33.86 | 151.2094
    brazilsouth | Brazil South | Brazil | South America | -23.55 | -46.633
    canadacentral | Canada Central | Canada | Canada | 43.653 | -79.383
    canadaeast | Canada East | Canada | Canada | 46.817 | -71.217
    centralindia | Central India | India | Asia Pacific | 18.5822 | 73.9197
    centralus | Central US | United States | US | 41.5908 | -93.6208
    eastasia | East Asia | Asia Pacific | Asia Pacific | 22.267 | 114.188
    eastus | East US | United States | US | 37.3719 | -79.8164
    eastus2 | East US 2 | United States | US | 36.6681 | -78.3889
    francecentral | France Central | France | Europe | 46.3772 | 2.373
    germanywestcentral | Germany West Central | Germany | Europe | 50.110924 | 8.682127
    italynorth | Italy North | Italy | Europe | 45.46888 | 9.18109
    japaneast | Japan East | Japan | Asia Pacific | 35.68 | 139.77
    koreacentral | Korea Central | Korea | Asia Pacific | 37.5665 | 126.978
    northcentralus | North Central US | United States | US | 41.8819 | -87.6278
    northeurope | North Europe | Europe | Europe | 53.3478 | -6.2597
    norwayeast | Norway East | Norway | Europe | 59.913868 | 10.752245
    southafricanorth | South Africa North | South Africa | Africa | -25.73134 | 28.21837
    southcentralus | South Central US | United States | US | 29.4167 | -98.5
    southeastasia | Southeast Asia | Asia Pacific | Asia Pacific | 1.283 | 103.833
    swedencentral | Sweden Central | Sweden | Europe | 60.67488 | 17.14127
    switzerlandnorth | Switzerland North | Switzerland | Europe | 47.451542 | 8.564572
    uaenorth | UAE North | UAE | Middle East | 25.266666 | 55.316666
    uksouth | UK South | United Kingdom | Europe | 50.941 | -0.799
    westcentralus | West Central US | United States | US | 40.89 | -110.234
    westeurope | West Europe | Europe | Europe | 52.3667 | 4.9
    westus | West US | United States | US | 37.783 | -122.417
    westus2 | West US 2 | United States | US | 47.233 | -119.852
    westus3 | West US 3 | United States | US | 33.448376 | -112.074036
""")

VM_SIZES = {size.name.lower(): size for size in (
    VmSize("Standard_D2s_v3", "standardDSv3Family", 2, 8),
    VmSize("Standard_D4s_v3", "standardDSv3Family", 4, 16),
    VmSize("Standard_D8s_v3", "standardDSv3Family", 8, 32),
    VmSize("Standard_D2s_v5", "standardDSv5Family", 2, 8),
    VmSize("Standard_D4s_v5", "standardDSv5Family", 4, 16),
    VmSize("Standard_D8s_v5", "standardDSv5Family", 8, 32),
    VmSize("Standard_D2ds_v5", "standardDDSv5Family", 2, 8),
    VmSize("Standard_D4ds_v5", "standardDDSv5Family", 4, 16),
    VmSize("Standard_D2as_v5", "standardDASv5Family", 2, 8),
    VmSize("Standard_DS2_v2", "standardDSv2Family", 2, 7),
)}
DEFAULT_VM_SIZE = "Standard_D2s_v5"

VERSIONS = (
    KubernetesVersion("1.20", ("1.20.2",), lab_only=True),
    KubernetesVersion("1.35", ("1.35.6",)),
    KubernetesVersion("1.36", ("1.36.2",), default=True),
    KubernetesVersion("1.37", ("1.37.0",)),
)

PROVIDERS: dict[str, tuple[str, ...]] = {
    "Microsoft.Authorization": ("permissions", "roleAssignments"),
    "Microsoft.Compute": ("skus", "locations", "locations/usages"),
    "Microsoft.ContainerService": ("managedClusters", "managedClusters/agentPools", "locations",
                                   "locations/kubernetesVersions", "locations/operations"),
    "Microsoft.ManagedIdentity": (),
    "Microsoft.Network": (),
    "Microsoft.Resources": ("subscriptions", "resourceGroups", "tenants", "locations", "resources"),
}
API_VERSIONS = ("2026-08-01", "2026-05-01", "2025-10-01", "2025-04-01", "2024-11-01", "2021-04-01")
LOCATIONLESS = {"Microsoft.Authorization", "Microsoft.Resources"}


def resolve_version(asked: str | None) -> str | None:
    """The full version for what was asked: "1.36" gives its newest patch, nothing the default."""
    for version in VERSIONS:
        if (asked is None and version.default) or asked == version.minor:
            return version.patches[-1]
        if asked in version.patches:
            return asked
    return None


def kubernetes_versions() -> dict[str, Any]:
    """The body of `GET …/kubernetesVersions`: what Azure no longer offers has no support plan; upgrades has none."""
    values = []
    for version in VERSIONS:
        value: dict[str, Any] = {
            "version": version.minor,
            "capabilities": {"supportPlan": [] if version.lab_only else ["KubernetesOfficial"]},
            "patchVersions": {patch: {"upgrades": []} for patch in version.patches},
        }
        if version.default:
            value["isDefault"] = True
        values.append(value)
    return {"values": values}


def find_region(name: str) -> Region | None:
    """A region by any spelling Azure accepts: "canadaeast", "Canada East"."""
    return REGIONS.get(name.replace(" ", "").lower())
