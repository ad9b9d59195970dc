"""The system's objects of a new cluster, as AKS has them, and Calico's published ones: pure manifests."""

from .calico import PUBLISHED, published
from .manifests import manifests
from .releases import Release, release_for

__all__ = ["PUBLISHED", "Release", "manifests", "published", "release_for"]
