"""The system's objects of a new cluster, as AKS has them: pure manifests."""

from .manifests import manifests
from .releases import Release, release_for

__all__ = ["Release", "manifests", "release_for"]
