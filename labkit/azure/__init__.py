"""Azure through its SDKs: resource groups, clusters, versions, credentials, cost."""

from labkit.azure.arm import Azure
from labkit.azure.settings import ClusterSettings

__all__ = ["Azure", "ClusterSettings"]
