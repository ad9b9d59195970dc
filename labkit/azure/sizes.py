"""Which VM size to try next when one is refused; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labkit.azure.settings import SIZE_FALLBACKS
from labkit.errors import AzureError

_VCPUS = re.compile(r"Standard_D[A-Z]?(\d+)", re.IGNORECASE)
_FAMILY_QUOTA = re.compile(r"vcpu quota .* for family ", re.IGNORECASE)
_AVAILABLE = re.compile(r"available VM sizes are '?([^')]*)'?", re.IGNORECASE)


def vcpus(size: str) -> int | None:
    """How many vCPUs a size of the D series has, by its name; None for other series.

    Args:
        size: such as "Standard_D2s_v3".
    """
    found = _VCPUS.match(size)
    return int(found.group(1)) if found else None


def refused(error: AzureError) -> bool:
    """Whether Azure refused because of the size: not for this subscription, or no quota for its family.

    A quota that all families share is none: another size would be refused like this one.

    Args:
        error: the refusal.
    """
    return ("VMSizeNotSupported" in error.code or "SkuNotAvailable" in error.code
            or "not allowed in your subscription" in error.why or bool(_FAMILY_QUOTA.search(error.why)))


def after_refusal(error: AzureError, tried: Sequence[str]) -> str | None:
    """The size to try next; None where the error is about something else, or nothing is left.

    Args:
        error: the refusal; where it lists what is available, only that is tried.
        tried: what was refused already.
    """
    if not refused(error) or error.status == 200:  # 200: the cluster is there, and its size is fixed
        return None
    listed = _AVAILABLE.search(error.why)
    available = {size.strip().lower() for size in listed.group(1).split(",")} if listed else None
    before = {size.lower() for size in tried}
    for size in SIZE_FALLBACKS:
        if size.lower() not in before and (available is None or size.lower() in available):
            return size
    return None
