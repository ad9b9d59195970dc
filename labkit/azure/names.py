"""Names that do not collide: each student of a class has a cluster and a group of their own; pure."""

from __future__ import annotations

from dataclasses import replace

from labkit.azure.settings import ClusterSettings
from labkit.errors import AzureError
from labkit.student import suffix


def for_student(settings: ClusterSettings, student: str) -> ClusterSettings:
    """The settings of a student's own cluster, in a group of its own.

    Args:
        settings: what the class shares.
        student: a number or a name.

    Raises:
        AzureError: the names would be too long for Azure.
    """
    end = suffix(student)
    found = replace(settings, name=f"{settings.name}-{end}", resource_group=f"{settings.resource_group}-{end}")
    longest = node_group(replace(found, name=f"{found.name}-vanilla"))
    if len(longest) > 80:
        raise AzureError(
            f"The names for {student} are too long.",
            f"Azure calls the group of the machines {longest}, and takes 80 letters: it would cut names that then "
            "collide.", "use a shorter cluster, resource_group or student.", code="InvalidParameter")
    return found


def node_group(settings: ClusterSettings) -> str:
    """What Azure calls the group that holds a cluster's machines.

    Args:
        settings: the cluster.
    """
    return f"MC_{settings.resource_group}_{settings.name}_{settings.location}"
