"""Which nodes a cluster shall have: names and places in the network, from its agent pools."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labkit.local.arm.clusters import PoolSpec


@dataclass(frozen=True, order=True)
class NodePlace:
    """One node.

    Args:
        slot: its index in the VNet, from which its addresses follow.
        name: as AKS names nodes of a scale set.
        pool: its agent pool.
    """

    slot: int
    name: str
    pool: str


def node_name(cluster_id: str, pool: str, ordinal: int) -> str:
    """aks-<pool>-<8 digits>-vmss<ordinal in base 36>; the digits are the cluster's own."""
    digits = int(hashlib.sha256(cluster_id.encode()).hexdigest(), 16) % 10**8
    return f"aks-{pool}-{digits:08d}-vmss{_base36(ordinal):0>6}"


def place(cluster_id: str, pools: Iterable[PoolSpec], existing: Sequence[NodePlace]) -> list[NodePlace]:
    """The nodes that the pools ask for.

    Nodes that are there keep their place; a pool that shrinks loses its highest ordinals, as a scale
    set does; a slot that became free is used again.
    """
    kept: list[NodePlace] = []
    wanted: list[tuple[str, str]] = []
    by_name = {node.name: node for node in existing}
    for pool in pools:
        for ordinal in range(pool.count):
            name = node_name(cluster_id, pool.name, ordinal)
            if name in by_name:
                kept.append(by_name[name])
            else:
                wanted.append((name, pool.name))
    taken = {node.slot for node in kept}
    free = (slot for slot in range(len(kept) + len(wanted)) if slot not in taken)
    return sorted(
        [*kept, *(NodePlace(slot, name, pool) for (name, pool), slot in zip(wanted, free, strict=False))]
    )


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number or not text:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
    return text
