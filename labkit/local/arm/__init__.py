"""Azure Resource Manager, as far as AKS, its SDKs and `az` need it."""

from .app import ArmApp, arm_app
from .clusters import ClusterError, Clusters, ClusterSpec, PoolSpec
from .identity import LabTokens
from .store import ArmStore

__all__ = ["ArmApp", "ArmStore", "ClusterError", "ClusterSpec", "Clusters", "LabTokens", "PoolSpec", "arm_app"]
