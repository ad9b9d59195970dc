"""Clusters as the planner sees them, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.calico.facts import ClusterFacts, DaemonSetFacts, NetworkProfile

CALICO_OF = {"v1.13.5": "v3.17.2", "v1.34.7": "v3.28.2", "v1.36.7": "v3.29.3", "v1.38.8": "v3.30.4",
             "v1.40.2": "v3.31.2", "v1.42.3": "v3.32.1"}
AZURE = NetworkProfile(plugin="azure", policy="none", dataplane="azure")
MANAGED = replace(AZURE, policy="calico")
BYO = NetworkProfile(plugin="none", policy="none", pod_cidr="192.168.0.0/16")


def daemon_set(*words: str, managed: bool = False, image: str = "") -> DaemonSetFacts:
    return DaemonSetFacts(2, 2, True, {}, {}, image, managed, words)


VANILLA = ClusterFacts(
    version="v1.36.2", nodes=("a", "b"), api_host="api.example", api_port=443, operator_version=None,
    calico_version=None, provider="", node_address={}, endpoint=None, bpf_enabled=None,
    bpf_annotation=None, felix={}, felix_group=None, kube_proxy=daemon_set("--proxy-mode=iptables", managed=True),
    calico_node=None, conditions=(), network=AZURE)


def with_operator(operator: str, /, **more: Any) -> ClusterFacts:
    """A cluster with this operator and the Calico that it installs."""
    calico = CALICO_OF[operator]
    facts = replace(VANILLA, operator_version=operator, calico_version=calico, provider="AKS", installed=True,
                    felix_group="crd.projectcalico.org",
                    calico_node=daemon_set(image=f"calico/node:{calico}"))
    return replace(facts, **more)


def managed(operator: str, /, **more: Any) -> ClusterFacts:
    """A cluster as AKS makes it for `--network-policy calico`."""
    return with_operator(operator, **{"managed": True, "network": MANAGED,
                                     "node_address": {"canReach": "1.1.1.1"}, **more})


ARTICLE = managed("v1.13.5", version="v1.20.2", node_address={})
