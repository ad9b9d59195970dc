"""What the controllers ask of the world around the API: the cluster's settings and its cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ClusterSettings:
    """How the controllers of one cluster behave. Times are seconds, with Kubernetes' own defaults.

    Args:
        version: the cluster's Kubernetes version; a few messages changed their wording over time.
        addon_manager: whether changes to add-ons' objects are taken back, as on today's AKS.
        addon_interval: how often add-ons are compared with their manifests.
        ca_pem: the cluster's CA, published in each namespace as ConfigMap kube-root-ca.crt.
        node_grace: how long a node may be silent before its Ready condition is Unknown.
        node_check: how often silence is looked for.
        orphan_grace: how long a pod outlives the Node object that it ran on.
        event_ttl: how long Events are kept.
        probe_interval: how often a load balancer asks a node whether it is well; 5 s, as AKS sets it.
        backoff: the first delay before a failed job's pod is replaced; it doubles, up to six minutes.
    """

    version: str = "v1.20.2"
    addon_manager: bool = False
    addon_interval: float = 60
    ca_pem: str | None = None
    node_grace: float = 40
    node_check: float = 5
    orphan_grace: float = 5
    event_ttl: float = 3600
    probe_interval: float = 5
    backoff: float = 10

    @property
    def minor(self) -> int:
        """20 for v1.20.2."""
        return int(self.version.lstrip("v").split(".")[1])


class Cloud(Protocol):
    """What the load-balancer controller asks of the fabric.

    `allocate_public_ip` and `release_public_ip` are called on the event loop and should only keep books.
    `set_frontend` and `remove_frontend` change the kernel, so they are called one at a time from a worker
    thread; both are idempotent. `probe` is awaited on the event loop.
    """

    def allocate_public_ip(self, name: str, wish: str | None = None) -> str:
        """A public address for `name`, kept until it is released, over restarts too.

        Raises:
            Exception: none is left, or the one wished for cannot be had; the text reaches the user.
        """

    def release_public_ip(self, ip: str) -> None:
        """Give an address back."""

    def set_frontend(self, ip: str, node_ips: Sequence[str], *, by_client: bool = False,
                     ports: Mapping[tuple[str, int], Sequence[str]] | None = None) -> None:
        """Send what arrives for `ip` to these nodes, connection by connection, or client by client.

        Args:
            ip: the frontend.
            node_ips: its nodes.
            by_client: spread by the client's address alone.
            ports: protocol and number of the ports whose nodes are others, to those.
        """

    def remove_frontend(self, ip: str) -> None:
        """Send what arrives for `ip` nowhere."""

    async def probe(self, node_ip: str, port: int, path: str | None) -> bool | None:
        """Whether a node's port is answered, by HTTP where there is a path; False: with a no, None: not at all."""
