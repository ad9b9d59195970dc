"""What the checks of a cluster look at, read once and at the same moment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from labkit.calico import ClusterFacts, observe
from labkit.calico.facts import CALICO_NAMESPACE, INSTALLATIONS, OPERATOR_NAMESPACE, version_key
from labkit.errors import LabError
from labkit.kube import Kube, Obj

LOG_LINES = 300
_LOGS = 5  # nodes whose logs are read: what is wrong on all shows on these
_WITH_SLAVES = ((3, 25), (3, 29))
"""Versions of Calico that attach to an accelerated NIC's second interface; for them the interfaces are read."""

Log = str | None
"""A log's last lines; None where it could not be read."""
T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """What the checks look at.

    Args:
        facts: the cluster's networking.
        nodes: all nodes.
        pods: all pods; like the following, but for what is being deleted.
        services: all services.
        slices: all endpoint slices.
        policies: all NetworkPolicies.
        network: Installation's spec.calicoNetwork.
        kube_proxy: its DaemonSet, or None.
        proxy_config: what ConfigMaps of kube-system say about kube-proxy, as one text.
        operator_log: tigera-operator's.
        node_logs: calico-node's, by node.
        interfaces: what `calico-node -bpf ifstate dump` prints, by node; only where a check needs it.
        azure: the cluster as Azure Resource Manager has it, or None where it was not asked.
    """

    facts: ClusterFacts
    nodes: tuple[Obj, ...]
    pods: tuple[Obj, ...]
    services: tuple[Obj, ...]
    slices: tuple[Obj, ...]
    policies: tuple[Obj, ...]
    network: Mapping[str, Any]
    kube_proxy: Obj | None
    proxy_config: str
    operator_log: Log
    node_logs: Mapping[str, Log]
    interfaces: Mapping[str, Log]
    azure: Obj | None = None

    @property
    def bpf(self) -> bool:
        """Whether Felix is told to use eBPF."""
        return bool(self.facts.bpf_enabled)

    @property
    def on_azure(self) -> bool:
        """Whether the cluster is AKS, as the operator, Azure or the nodes say."""
        ids = (str(n.get("spec", {}).get("providerID", "")) for n in self.nodes)
        return self.facts.provider == "AKS" or self.azure is not None or any(i.startswith("azure:") for i in ids)

    @property
    def names(self) -> tuple[str, str] | None:
        """The cluster's resource group and its name in Azure, where Azure was asked."""
        return (self.azure["id"].split("/")[4], self.azure["name"]) if self.azure else None

    @property
    def proxy_runs(self) -> bool:
        """Whether kube-proxy should run on nodes."""
        return self.facts.kube_proxy is not None and self.facts.kube_proxy.desired > 0

    def said(self, pattern: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Lines of calico-node's logs that match, each with its node; and the nodes whose log could not be read.

        Args:
            pattern: a regular expression.
        """
        hits = tuple(f"{node}: {line.strip()[:300]}" for node, log in self.node_logs.items()
                     if (line := last_line(pattern, log)))
        return hits, tuple(node for node, log in self.node_logs.items() if log is None)


def last_line(pattern: str, log: Log) -> str:
    """The last line of a log that matches; empty where none does.

    Args:
        pattern: a regular expression.
        log: the text.
    """
    lines = [line for line in (log or "").splitlines() if re.search(pattern, line)]
    return lines[-1] if lines else ""


def take(kube: Kube, azure: Obj | None = None) -> Snapshot:
    """Read what the checks look at, in two rounds of parallel requests: objects, then logs.

    Args:
        kube: the cluster.
        azure: the cluster as Azure Resource Manager has it.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        found = pool.submit(observe, kube)
        nodes, pods, services, slices, policies = (pool.submit(kube.list, resource) for resource in (
            "nodes", "pods", "services", "endpointslices.discovery.k8s.io", "networkpolicies.networking.k8s.io"))
        installation = pool.submit(kube.find, INSTALLATIONS, "default")
        proxy = pool.submit(kube.find, "daemonsets.apps", "kube-proxy", "kube-system")
        configs = pool.submit(kube.list, "configmaps", "kube-system")
        namespaces = pool.submit(kube.list, "namespaces")
        agents = [p for p in pods.result() if p["metadata"]["namespace"] == CALICO_NAMESPACE
                  and (p["metadata"].get("labels") or {}).get("k8s-app") == "calico-node"]
        operators = [p for p in pods.result() if p["metadata"]["namespace"] == OPERATOR_NAMESPACE
                     and not p["metadata"].get("deletionTimestamp")]
        node_logs = {p["spec"].get("nodeName", "?"): pool.submit(_log, kube, p, "calico-node")
                     for p in agents[:_LOGS]}
        operator = pool.submit(_log, kube, operators[-1], None) if operators else None
        facts: ClusterFacts = found.result()
        interfaces: dict[str, Future[Log]] = {}
        if facts.bpf_enabled and _WITH_SLAVES[0] <= version_key(facts.calico_version)[:2] < _WITH_SLAVES[1]:
            interfaces = {p["spec"].get("nodeName", "?"): pool.submit(_interfaces, kube, p) for p in agents[:_LOGS]}
        return Snapshot(
            facts=facts, nodes=tuple(nodes.result()),
            **{name: _staying(found.result(), namespaces.result()) for name, found in (
                ("pods", pods), ("services", services), ("slices", slices), ("policies", policies))},
            network=(installation.result() or {}).get("spec", {}).get("calicoNetwork") or {},
            kube_proxy=proxy.result(), proxy_config=_proxy_config(configs.result()),
            operator_log=operator.result() if operator else None,
            node_logs={node: log.result() for node, log in node_logs.items()},
            interfaces={node: log.result() for node, log in interfaces.items()}, azure=azure)


def _staying(objects: list[Obj], namespaces: list[Obj]) -> tuple[Obj, ...]:
    """What is not being deleted, by itself or with its namespace: nothing is wrong with what shall go."""
    going = {n["metadata"]["name"] for n in namespaces if n["metadata"].get("deletionTimestamp")}
    return tuple(o for o in objects if not o["metadata"].get("deletionTimestamp")
                 and o["metadata"].get("namespace") not in going)


def _log(kube: Kube, pod: Obj, container: str | None) -> Log:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    return _or_none(lambda: kube.logs(name, namespace, container=container, tail=LOG_LINES))


def _interfaces(kube: Kube, pod: Obj) -> Log:
    return _or_none(lambda: kube.exec(pod["metadata"]["name"], CALICO_NAMESPACE, ["calico-node", "-bpf", "ifstate",
                                      "dump"], container="calico-node", timeout=15).stdout)


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except LabError:  # a pod that does not start has no log, and a node that is lost gives none
        return None


def _proxy_config(configs: list[Obj]) -> str:
    return "\n".join(text for c in configs if "kube-proxy" in c["metadata"]["name"]
                     for text in (c.get("data") or {}).values())
