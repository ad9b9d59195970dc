"""Nodes: a small kubelet with its sandboxes, image catalogue, probes and logs."""

from labkit.local.node.kubelet import Kubelet
from labkit.local.node.nodes import Nodes
from labkit.local.node.settings import NodeSettings

__all__ = ["Kubelet", "NodeSettings", "Nodes"]
