"""The Kubernetes API: storage, watch, patch, selectors, discovery, tables, exec."""

from .api import Api
from .auth import User
from .backend import NodeBackend, Process

__all__ = ["Api", "NodeBackend", "Process", "User"]
