"""What the API says of all that a node's data plane depends on: Felix's half that knows nothing of the kernel."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from labkit.local.client import Obj
from labkit.local.dataplane.felix import FelixConfig
from labkit.local.dataplane.overlay import Overlay
from labkit.local.dataplane.policy_table import PolicyTable
from labkit.local.dataplane.services import OURS, ServiceTable
from labkit.local.programs.events import Events

log = logging.getLogger("felix")

# Resource, kind and API version of what policy is made of. A watch that lost an object while it was away
# knows no more than its name, so these come from here.
_POLICIES = (
    ("networkpolicies.networking.k8s.io", "NetworkPolicy", "networking.k8s.io/v1"),
    ("networkpolicies.crd.projectcalico.org", "NetworkPolicy", "crd.projectcalico.org/v1"),
    ("globalnetworkpolicies.crd.projectcalico.org", "GlobalNetworkPolicy", "crd.projectcalico.org/v1"),
)
_NETWORK_SETS = ("networksets.crd.projectcalico.org", "globalnetworksets.crd.projectcalico.org")


class Datastore:
    """Watched by one thread, which also reads it.

    Args:
        node: this node's name.
        environment: FELIX_* parameters.
    """

    def __init__(self, node: str, environment: Mapping[str, str]) -> None:
        self.node, self._environment = node, environment
        self.services, self.nodes = ServiceTable(), dict[str, str]()
        self.config = FelixConfig.read({}, environment)
        self.policies = PolicyTable(node, self.config.interface_prefix)
        self.pools: dict[str, dict[str, Any]] = {}       # IP pools by name
        self.blocks: dict[str, tuple[str, str]] = {}     # block affinities by name: block and node
        self.routes_dirty = True                         # a node or a block came, went or moved
        self.disturbed_at = 0.0                  # time.monotonic() when a pod on the node's network came or went
        self._specs: dict[str, dict[str, Any]] = {}

    def subscribe(self, events: Events) -> None:
        """Watch everything that the data plane depends on."""
        events.watch("felixconfigurations.crd.projectcalico.org", self._on_config, optional=True)
        events.watch("ippools.crd.projectcalico.org", self._on_pool, optional=True)
        events.watch("blockaffinities.crd.projectcalico.org", self._on_block, optional=True)
        events.watch("nodes", self._on_node)
        events.watch("namespaces", self.policies.on_namespace)
        events.watch("pods", self._on_pod)
        events.watch("services", self.services.on_service, label_selector=OURS)
        events.watch("endpointslices.discovery.k8s.io", self.services.on_slice, label_selector=OURS)
        for resource, kind, version in _POLICIES:
            def on_policy(event: str, obj: Obj, kind: str = kind, version: str = version) -> None:
                self.policies.on_policy(event, {**obj, "kind": kind, "apiVersion": version})
            events.watch(resource, on_policy, optional=not version.startswith("networking"))
        for resource in _NETWORK_SETS:
            events.watch(resource, self.policies.on_network_set, optional=True)

    def _on_config(self, event: str, obj: Obj) -> None:
        name = obj["metadata"]["name"]
        if name not in ("default", f"node.{self.node}"):
            return
        self._specs[name] = {} if event == "DELETED" else dict(obj.get("spec") or {})
        merged = {**self._specs.get("default", {}), **self._specs.get(f"node.{self.node}", {})}
        try:
            config = FelixConfig.read(merged, self._environment)
        except ValueError as error:
            log.error("Failed to parse config parameter %s; keeping the last good configuration", error)
            return
        config = replace(config, vxlan_enabled=self.config.vxlan_enabled)
        if config != self.config:
            log.info("Updated configuration: %s", _difference(self.config, config))
            self.config = config

    def _on_pool(self, event: str, obj: Obj) -> None:
        name = obj["metadata"]["name"]
        if event == "DELETED":
            self.pools.pop(name, None)
        else:
            self.pools[name] = dict(obj.get("spec") or {})
        by_vxlan = any(pool.get("vxlanMode", "Never") != "Never" for pool in self.pools.values())
        if by_vxlan != self.config.vxlan_enabled:
            self.config = replace(self.config, vxlan_enabled=by_vxlan)

    def _on_block(self, event: str, obj: Obj) -> None:
        name, spec = obj["metadata"]["name"], obj.get("spec") or {}
        if event == "DELETED":
            self.blocks.pop(name, None)
        else:
            self.blocks[name] = (spec.get("cidr", ""), spec.get("node", ""))
        self.routes_dirty = True

    @property
    def overlay(self) -> Overlay | None:
        """The overlay that pods are in, if a pool makes one."""
        for pool in self.pools.values():
            if pool.get("vxlanMode", "Never") != "Never":
                return Overlay(pool["cidr"], dict(self.blocks.values()), dict(self.nodes), self.node,
                               bool(pool.get("natOutgoing")))
        return None

    def _on_pod(self, event: str, obj: Obj) -> None:
        self.policies.on_pod(event, obj)
        spec = obj.get("spec") or {}
        if spec.get("nodeName") == self.node and spec.get("hostNetwork"):
            self.disturbed_at = time.monotonic()

    def _on_node(self, event: str, obj: Obj) -> None:
        name = obj["metadata"]["name"]
        addresses = (obj.get("status") or {}).get("addresses") or ()
        ip = next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")
        if event == "DELETED" or not ip:
            self.routes_dirty |= self.nodes.pop(name, None) is not None
        elif self.nodes.get(name) != ip:
            self.nodes[name] = ip
            self.routes_dirty = True


def _difference(old: FelixConfig, new: FelixConfig) -> str:
    names = (name for name in FelixConfig.__dataclass_fields__ if getattr(old, name) != getattr(new, name))
    return ", ".join(f"{name} {getattr(old, name)} -> {getattr(new, name)}" for name in names)
