"""All clusters of the lab: the `Clusters` that Azure Resource Manager asks to build and to take down."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from labkit.local.arm.clusters import ClusterError, ClusterSpec, PoolSpec
from labkit.local.client import ApiError
from labkit.local.controllers.objects import is_true
from labkit.local.server.cluster import Cluster, Surroundings
from labkit.local.server.kubeconfig import kubeconfig
from labkit.local.server.nodepool import NodePlace, place

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS clusters (key TEXT PRIMARY KEY, spec TEXT NOT NULL, running INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cluster_nodes (
    cluster TEXT NOT NULL, name TEXT NOT NULL, pool TEXT NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (cluster, name));
"""
_READY_TIMEOUT = 60.0  # seconds until the system's pods must be ready; two or three on an idle machine


class ClusterManager:
    """Builds clusters, and rebuilds them when the daemon starts again.

    Args:
        around: what clusters share.
        proxy: the loopback port as http://127.0.0.1:PORT, for kubeconfigs.
    """

    def __init__(self, around: Surroundings, proxy: str) -> None:
        self._around, self._proxy = around, proxy
        self._database: sqlite3.Connection = around.database
        self._database.executescript(_SCHEMA)
        self._clusters: dict[str, Cluster] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def restore(self) -> None:
        """Bring back the clusters that ran when the daemon ended."""
        rows = self._database.execute("SELECT spec, running FROM clusters ORDER BY key").fetchall()
        for text, running in rows:
            spec = _spec_from_json(text)
            self._clusters[spec.key] = cluster = Cluster(spec, self._around)
            await cluster.start(self._places(spec.key) if running else [])

    async def create(self, spec: ClusterSpec) -> str:
        """Build the cluster, or finish building it; returns once its nodes are ready."""
        async with self._lock(spec.key):
            self._save(spec, running=True)
            places = place(f"{spec.resource_group}/{spec.name}", spec.pools, self._places(spec.key))
            self._keep(spec.key, places)
            cluster = self._clusters.setdefault(spec.key, Cluster(spec, self._around))
            try:
                await cluster.start(places)
                await self._nodes_ready(cluster, places)
            except (OSError, ApiError, RuntimeError) as error:
                log.exception("cluster %s could not be built", spec.key)
                raise ClusterError(
                    f"The local lab could not build the cluster: {error}. Delete it, and look into the daemon's log."
                ) from error
            return cluster.outbound_address

    async def scale(self, key: str, pool: PoolSpec) -> None:
        """Give a pool as many nodes as it asks for."""
        async with self._lock(key):
            cluster = self._cluster(key)
            pools = {p.name: p for p in cluster.spec.pools}
            was = pools.get(pool.name)
            pools[pool.name] = pool
            before = self._places(key)
            cluster.spec = spec = replace(cluster.spec, pools=tuple(pools.values()))
            places = place(f"{spec.resource_group}/{spec.name}", spec.pools, before)
            # Nodes that leave take their time. A daemon that is killed meanwhile must know of them.
            self._save(spec, running=True)
            self._keep(key, {*places, *before})
            if was:
                cluster.mark_nodes(pool, was)
            await cluster.set_nodes(places)
            cluster.spec = spec = replace(spec, pools=tuple(p for p in spec.pools if p.count))
            self._save(spec, running=True)
            self._keep(key, places)
            await self._nodes_ready(cluster, places)

    async def set_kube_proxy(self, key: str, enabled: bool) -> None:
        """Run kube-proxy on the nodes, or take it away."""
        async with self._lock(key):
            cluster = self._cluster(key)
            if cluster.spec.kube_proxy != enabled:
                cluster.spec = replace(cluster.spec, kube_proxy=enabled)
                self._save(cluster.spec, running=True)
            cluster.apply_kube_proxy()

    async def stop(self, key: str) -> None:
        """Take the nodes away and keep the objects."""
        async with self._lock(key):
            cluster = self._cluster(key)
            self._save(cluster.spec, running=False)
            await cluster.set_nodes([])

    async def start(self, key: str) -> None:
        """Bring a stopped cluster's nodes back."""
        async with self._lock(key):
            cluster = self._cluster(key)
            self._save(cluster.spec, running=True)
            places = self._places(key)
            await cluster.set_nodes(places)
            await self._nodes_ready(cluster, places)

    async def delete(self, key: str) -> None:
        """Take the cluster down with all that belongs to it; unknown keys are fine."""
        async with self._lock(key):
            if cluster := self._clusters.pop(key, None):
                await cluster.delete()
            with self._database:
                self._database.execute("BEGIN")
                for table, column in (("clusters", "key"), ("cluster_nodes", "cluster")):
                    self._database.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))
        self._locks.pop(key, None)

    def kubeconfig(self, key: str, *, admin: bool) -> bytes:
        """A kubeconfig file; KeyError where the cluster's API is not there yet."""
        cluster = self._clusters[key]
        spec = cluster.spec
        return kubeconfig(
            cluster=spec.name,
            resource_group=spec.resource_group,
            fqdn=spec.fqdn,
            admin=admin,
            ca_pem=self._around.ca_pem,
            token=cluster.token(admin=admin),
            proxy=self._proxy,
        )

    def describe(self) -> list[dict[str, Any]]:
        """The clusters' part of `labkit status`."""
        return [self._clusters[key].describe() for key in sorted(self._clusters)]

    async def close(self) -> None:
        """Stop serving; pods and the network stay for the next daemon."""
        await asyncio.gather(*(c.stop() for c in self._clusters.values()), return_exceptions=True)

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    def _cluster(self, key: str) -> Cluster:
        if key not in self._clusters:
            raise ClusterError(
                f"The lab has no cluster {key} any more. Delete it in Resource Manager and create it again."
            )
        return self._clusters[key]

    async def _nodes_ready(self, cluster: Cluster, places: list[NodePlace]) -> None:
        """Wait until the nodes are ready, as AKS does before it answers Succeeded.

        Nodes of a cluster that brings its own network are not ready before somebody has brought it.
        """
        if cluster.spec.network_plugin == "none":
            return
        wanted = {p.name for p in places}
        async with asyncio.timeout(_READY_TIMEOUT):
            while wanted - _ready_nodes(cluster):
                await asyncio.sleep(0.02)

    def _save(self, spec: ClusterSpec, *, running: bool) -> None:
        self._database.execute("INSERT OR REPLACE INTO clusters VALUES (?, ?, ?)",
                               (spec.key, json.dumps(asdict(spec)), int(running)))

    def _places(self, key: str) -> list[NodePlace]:
        rows = self._database.execute(
            "SELECT slot, name, pool FROM cluster_nodes WHERE cluster = ? ORDER BY slot", (key,)
        )
        return [NodePlace(*row) for row in rows]

    def _keep(self, key: str, places: Iterable[NodePlace]) -> None:
        """Write down which nodes a cluster has."""
        with self._database:
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM cluster_nodes WHERE cluster = ?", (key,))
            self._database.executemany(
                "INSERT INTO cluster_nodes VALUES (?, ?, ?, ?)", [(key, p.name, p.pool, p.slot) for p in places]
            )


def _ready_nodes(cluster: Cluster) -> set[str]:
    return {node["metadata"]["name"] for node in cluster.api.list("nodes") if is_true(node, "Ready")}


def _spec_from_json(text: str) -> ClusterSpec:
    data = json.loads(text)
    pools = tuple(PoolSpec(**{**p, "taints": tuple(p["taints"])}) for p in data.pop("pools"))
    known = {f.name for f in dataclasses.fields(ClusterSpec)}
    return ClusterSpec(pools=pools, **{k: v for k, v in data.items() if k in known})
