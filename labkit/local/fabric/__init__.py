"""The virtual network: namespaces, links, addresses and routes."""

from labkit.local.fabric.fabric import Fabric, NodeNet, OutsideClient, PodNet, Vnet
from labkit.local.fabric.netns import NetworkError
from labkit.local.fabric.topology import AZURE_RESOLVER, host_interface

__all__ = ["AZURE_RESOLVER", "Fabric", "NetworkError", "NodeNet", "OutsideClient", "PodNet", "Vnet", "host_interface"]
