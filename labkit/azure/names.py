"""Names that do not collide: each student of a class has a cluster and a group of their own; pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import replace

from labkit.azure.settings import ClusterSettings
from labkit.errors import AzureError

STUDENT = "LABKIT_STUDENT"
"""The environment variable that says whose lab this is."""
_LIMIT = 10  # letters of a student's part; the whole must fit into MC_<group>_<cluster>_<location>, 80 letters


def suffix(student: str) -> str:
    """What a student's resources are called after: small letters, digits and hyphens.

    Names that differ only in what Azure does not take (accents, spaces) get a few digits that keep them apart.

    Args:
        student: a number or a name.

    Raises:
        AzureError: nothing of it can be used.
    """
    student = student.strip()
    plain = unicodedata.normalize("NFKD", student).encode("ascii", "ignore").decode().lower()
    tidy = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not student:
        raise AzureError("A student needs a name or a number.", "it is empty.", "pass student=\"07\", for example.",
                         code="InvalidParameter")
    if tidy == student.lower() and len(tidy) <= _LIMIT:
        return tidy
    digits = hashlib.sha256(student.lower().encode()).hexdigest()[:4]
    return f"{tidy[:_LIMIT - 5].strip('-')}-{digits}".strip("-")


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
