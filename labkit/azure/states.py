"""What a cluster's resource says of its state; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.errors import AzureError, AzureNotFoundError

BUSY = frozenset({"Creating", "Updating", "Upgrading", "Starting", "Stopping", "Deleting", "Scaling", "Migrating",
                  "Canceling", "Cancelling", "Accepted", "Provisioning", "ReconcilingClusterETCDCertificates",
                  "RotatingClusterCertificates"})
"""States that Azure is working to leave."""


def of(resource: Mapping[str, Any] | None) -> str | None:
    """The provisioning state of a cluster or a group; None where there is none.

    Args:
        resource: what Azure says of it.
    """
    if resource is None:
        return None
    return str((resource.get("properties") or {}).get("provisioningState") or "Succeeded")


def power(cluster: Mapping[str, Any] | None) -> str:
    """"Running" or "Stopped".

    Args:
        cluster: what Azure says of it.
    """
    properties = (cluster or {}).get("properties") or {}
    return str((properties.get("powerState") or {}).get("code") or "Running")


def describe(cluster: Mapping[str, Any] | None) -> str:
    """How far a cluster is: its own state, and its pools'.

    Args:
        cluster: what Azure says of it.
    """
    if cluster is None:
        return "the cluster is not listed"
    pools = (cluster.get("properties") or {}).get("agentPoolProfiles") or []
    each = ", ".join(f"{pool.get('name')} {pool.get('provisioningState')}" for pool in pools)
    return f"the cluster is {of(cluster)}" + (f", its nodes: {each}" if each else "")


def deleted_meanwhile(name: str) -> AzureError:
    """The error about a cluster that went away while its operation was followed.

    Args:
        name: the cluster.
    """
    return AzureNotFoundError(
        f"The cluster {name} is gone: somebody deleted it while it was being made.",
        "Azure does not find it any more; the activity log says who it was: `az monitor activity-log list`.",
        "run the same again to create it anew.", code="DeletedMeanwhile", status=404)


def failed(cluster: Mapping[str, Any]) -> AzureError:
    """The error about a cluster that came to rest in another state than Succeeded.

    Args:
        cluster: what Azure says of it.
    """
    name = cluster.get("name")
    return AzureError(
        f"The cluster {name} is {of(cluster)}.",
        "the operation on it ended so; the activity log says why: `az monitor activity-log list`.",
        "run the same again: Azure tries once more and says what it refuses; or delete it with "
        "`lab.run(lab.clean_up())`.", code=f"ProvisioningState{of(cluster)}")
