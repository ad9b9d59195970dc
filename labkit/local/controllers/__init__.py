"""Kubernetes' controllers, in process, through `labkit.local.client.Client` and nothing else."""

from __future__ import annotations

from .manager import Controllers
from .settings import Cloud, ClusterSettings

__all__ = ["Cloud", "ClusterSettings", "Controllers"]
