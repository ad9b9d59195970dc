"""A node is emptied before it leaves, as AKS does when a pool shrinks: cordoned, then its pods are asked to go."""

from __future__ import annotations

import asyncio
import logging
import time

from labkit.local.client import ApiError, Client, Obj
from labkit.local.controllers.loadbalancers import EXCLUDED

log = logging.getLogger(__name__)

PATIENCE = 40.0
"""Seconds for the pods to end: more than the 30 that a pod gets by default. AKS waits for half an hour."""


async def drain(client: Client, node: str) -> None:
    """Cordon a node, evict its pods with their own grace period, and wait until they have gone.

    DaemonSets' pods stay: they go with the node. What does not end in time, or what a disruption budget keeps, is
    killed with it too.

    Args:
        client: the cluster's API.
        node: its name.
    """
    try:
        client.patch("nodes", node, {"metadata": {"labels": {EXCLUDED: "true"}}, "spec": {"unschedulable": True}})
    except ApiError as error:
        if error.code == 404:  # somebody has deleted it: its pods go with it
            return
        raise
    deadline = time.monotonic() + PATIENCE
    while (left := _pods_of(client, node)) and time.monotonic() < deadline:
        for pod in left:
            if "deletionTimestamp" not in pod["metadata"]:
                _evict(client, pod)
        await asyncio.sleep(0.1)


def _pods_of(client: Client, node: str) -> list[Obj]:
    return [pod for pod in client.list("pods") if pod["spec"].get("nodeName") == node and not _stays(pod)]


def _stays(pod: Obj) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner["kind"] in ("DaemonSet", "Node") for owner in owners)


def _evict(client: Client, pod: Obj) -> None:
    try:
        client.create("pods/eviction", {"metadata": {"name": pod["metadata"]["name"]}}, pod["metadata"]["namespace"])
    except ApiError as error:
        if error.code not in (404, 429):     # it has gone, or its budget says not yet
            log.warning("pod %s cannot be evicted: %s", pod["metadata"]["name"], error.message)
