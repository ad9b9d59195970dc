"""Checks of a cluster as Azure Resource Manager has it."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from labkit.azure.refusals import REFUSALS
from labkit.azure.tags import EXPIRY_TAG, expired
from labkit.doctor.rows import Check, Seen, azure_row, check, ok, problem, warning
from labkit.kube import Obj

GROUP = "Azure"
_RESERVED = ("169.254.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "192.0.2.0/24")
_ROWS = {refusal.id: azure_row(refusal) for refusal in REFUSALS}


@dataclass(frozen=True)
class AzureView:
    """What the checks look at.

    Args:
        cluster: the cluster's resource.
        group: its resource group, or None where it is not known.
        now: for what expires.
        helpers: programs that the kubeconfig's users take their token from.
        here: which of these this machine has.
    """

    cluster: Obj
    group: Obj | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    helpers: tuple[str, ...] = ()
    here: frozenset[str] = frozenset()

    @property
    def properties(self) -> Obj:
        """The cluster's properties."""
        return dict(self.cluster.get("properties") or {})

    @property
    def names(self) -> str:
        """The group and the cluster, as options of `az aks`."""
        return f"-g {self.cluster.get('id', '////').split('/')[4]} -n {self.cluster.get('name')}"


def token_helpers(kubeconfig: Mapping[str, Any], cluster: str) -> tuple[str, ...]:
    """The programs that a cluster's users in a kubeconfig take their token from, such as "kubelogin".

    Args:
        kubeconfig: as a dictionary.
        cluster: the cluster's name; other clusters' users are nobody's business.
    """
    users = {context["context"]["user"] for context in kubeconfig.get("contexts") or ()
             if context["name"] in (cluster, f"{cluster}-admin")}
    commands = [((user.get("user") or {}).get("exec") or {}).get("command")
                for user in kubeconfig.get("users") or () if user["name"] in users]
    return tuple(dict.fromkeys(command for command in commands if command))


def installed(helpers: Iterable[str]) -> frozenset[str]:
    """Which of these programs this machine has."""
    return frozenset(helper for helper in {*helpers, "kubelogin"} if shutil.which(helper))


@check("az-state", GROUP, "The cluster's state",
       symptom="nothing answers, or Azure refuses to change the cluster.",
       cause="the cluster is stopped, an operation is under way, or the last one failed.",
       cure="start it; where an operation failed, Azure's activity log says why, and `az aks update` tries again.",
       source="learn.microsoft.com/azure/aks/start-stop-cluster")
def az_state(v: AzureView) -> Seen:
    """Stopped, failed, or busy."""
    state = v.properties.get("provisioningState", "Succeeded")
    power = (v.properties.get("powerState") or {}).get("code", "Running")
    said = f"{v.cluster.get('name')} is {state}, {power}"
    if power == "Stopped":
        return problem(said, f"az aks start {v.names}")
    if state in ("Failed", "Canceled"):
        return problem(said, f"az aks update {v.names} --yes")
    return ok(said) if state == "Succeeded" else warning(said, f"az aks wait {v.names} --updated")


def _local(v: AzureView) -> Seen:
    if not v.properties.get("disableLocalAccounts"):
        return ok("admin credentials are given")
    return warning("disableLocalAccounts is true: there are no admin credentials",
                   f"az aks get-credentials {v.names} --format exec\nkubelogin convert-kubeconfig -l azurecli")


def _kubelogin(v: AzureView) -> Seen:
    needed = {*v.helpers, *(["kubelogin"] if v.properties.get("disableLocalAccounts") else [])}
    if missing := sorted(needed - v.here):
        return problem(f"not on the PATH: {', '.join(missing)}", "az aks install-cli")
    return ok(f"found: {', '.join(sorted(needed))}" if needed else "no kubeconfig asks for it")


def _pod_cidr(v: AzureView) -> Seen:
    network = v.properties.get("networkProfile") or {}
    cidr = network.get("podCidr")
    if (network.get("networkPlugin") or "").lower() != "none":
        return ok("Azure gives pods their addresses")
    if not cidr:
        return problem("the cluster has no CNI of Azure's and no pod CIDR")
    taken = [*_RESERVED, network.get("serviceCidr") or "10.0.0.0/16"]
    pods = ipaddress.ip_network(cidr)
    if bad := [other for other in taken if pods.overlaps(ipaddress.ip_network(other))]:
        return problem(f"the pod CIDR {cidr} overlaps with {', '.join(bad)}")
    return ok(f"pods are in {cidr}")


@check("az-expired", GROUP, "Expiry",
       symptom="it goes on costing money.",
       cause="a group of the course is past the time that its tag expires-at names: somebody forgot it.",
       cure="delete it: lesson 10, or `az group delete`.",
       source="docs/on-aks.md")
def az_expired(v: AzureView) -> Seen:
    """A group of ours that should be gone."""
    group = v.group or {}
    when = (group.get("tags") or {}).get(EXPIRY_TAG)
    if group and expired([group], v.now):
        return warning(f"{group['name']} expired at {when}", f"az group delete --name {group['name']}")
    return ok(f"not before {when}" if when else "the group carries no expiry")


CHECKS: tuple[Check[AzureView], ...] = (
    az_state, Check(_ROWS["az-local"], _local), Check(_ROWS["az-kubelogin"], _kubelogin),
    Check(_ROWS["az-podcidr"], _pod_cidr), az_expired,
)
