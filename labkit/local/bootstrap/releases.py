"""Which Calico comes with which Kubernetes: AKS decides, not the user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """What AKS installs beside one minor version of Kubernetes.

    Args:
        operator: the operator's version; the operator knows which Calico is its own.
        coredns: the tag of AKS's coredns image.
    """

    operator: str
    coredns: str


_ARTICLE = Release(operator="v1.13.5", coredns="1.6.6")
_BY_MINOR = {
    35: Release(operator="v1.38.8", coredns="v1.12.1-8"),
    36: Release(operator="v1.40.2", coredns="v1.13.1-2"),
    37: Release(operator="v1.40.2", coredns="v1.13.1-2"),
}


def release_for(minor: int) -> Release:
    """The release for a minor version of Kubernetes; the newest one for what is newer still."""
    if minor < min(_BY_MINOR):
        return _ARTICLE
    return _BY_MINOR[min(minor, max(_BY_MINOR))]
