"""Addresses of a node's pods in a cluster that brings its own network: what Calico's CNI plugin does on a node.

A node has a block of the pool to itself, written down as a BlockAffinity, and gives its pods addresses of it.
"""

from __future__ import annotations

import ipaddress
from itertools import islice

from labkit.local.client import ApiError, Client, Obj

POOLS, AFFINITIES = "ippools.crd.projectcalico.org", "blockaffinities.crd.projectcalico.org"
NOT_READY = ("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
             "message:Network plugin returns error: cni plugin not initialized")
"""What a kubelet says of itself while nobody has installed a CNI plugin on its node."""


class NetworkNotReadyError(OSError):
    """A pod cannot have a network yet: there is no CNI plugin, or it has no addresses to give."""


def addresses(client: Client, node: str, count: int) -> tuple[str, ...]:
    """The addresses for a node's pods; the first of the block is the node's own, in the overlay.

    Args:
        client: the cluster's API.
        node: the node's name.
        count: how many at most.

    Raises:
        NetworkNotReadyError: there is no pool, or no block of it is left.
    """
    return tuple(str(ip) for ip in islice(ipaddress.ip_network(block_of(client, node)), 1, count + 1))


def block_of(client: Client, node: str) -> str:
    """The node's block; one is claimed where it has none.

    Raises:
        NetworkNotReadyError: there is no pool, or no block of it is left.
    """
    try:
        taken = {str(a["spec"]["cidr"]): str(a["spec"]["node"]) for a in client.list(AFFINITIES)}
        pools = client.list(POOLS)
    except ApiError as error:
        raise NetworkNotReadyError(f"Calico's kinds are not there: {error.message}") from error
    if mine := next((block for block, owner in sorted(taken.items()) if owner == node), ""):
        return mine
    for pool in pools:
        blocks = ipaddress.ip_network(pool["spec"]["cidr"]).subnets(new_prefix=int(pool["spec"].get("blockSize", 26)))
        if free := next((str(block) for block in blocks if str(block) not in taken), ""):
            client.create(AFFINITIES, affinity(node, free))
            return free
    raise NetworkNotReadyError("no configured Calico pools")


def affinity(node: str, block: str) -> Obj:
    """The object that says that a block is a node's."""
    name = f"{node}-{block.replace('.', '-').replace('/', '-')}"
    return {"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": {"name": name},
            "spec": {"cidr": block, "node": node, "state": "confirmed", "deleted": "false"}}
