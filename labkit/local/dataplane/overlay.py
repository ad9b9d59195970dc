"""The overlay of a cluster whose pods have addresses that the network does not know: VXLAN between nodes.

Each node has a block of pods' addresses. A packet for another node's block goes into the device vxlan.calico and
comes out of that node's. The device is one that takes each packet's destination from its route or, in eBPF mode, from
the program: so the data plane can be switched without the device being made anew. Its hardware address follows from
the node's, so that nobody has to ask.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from labkit.local.dataplane import ebpf_tc
from labkit.local.dataplane.iptables import Iptables
from labkit.local.fabric import survey

DEVICE = "vxlan.calico"
MTU = 1450
_PROTOCOL = 80                                     # Calico's number for routes that Felix has written
_NAT = "cali-nat-outgoing"
_NAT_JUMP = ("POSTROUTING", ("-j", _NAT))


@dataclass(frozen=True)
class Overlay:
    """What one node has to know.

    Args:
        pool: the range of all pods' addresses.
        blocks: block -> name of the node that has it.
        nodes: name -> address of every node.
        node: this node's name.
        masquerade: whether what leaves the pool gets the node's address.
    """

    pool: str
    blocks: Mapping[str, str]
    nodes: Mapping[str, str]
    node: str
    masquerade: bool = True

    @property
    def tunnel(self) -> str:
        """The node's own address in the overlay; "" while it has no block."""
        return next((tunnel_address(block) for block, node in sorted(self.blocks.items()) if node == self.node), "")

    def tunnels(self) -> dict[str, str]:
        """Overlay address -> node's address, of the other nodes."""
        return {tunnel_address(block): self.nodes[node] for block, node in self.blocks.items()
                if node != self.node and node in self.nodes}


def tunnel_address(block: str) -> str:
    """A node's own address in the overlay: the first of its block."""
    return str(ipaddress.ip_network(block).network_address)


def hardware_address(ip: str) -> str:
    """A device's hardware address, made of its node's address."""
    return "66:0a:" + ":".join(f"{byte:02x}" for byte in ipaddress.ip_address(ip).packed)


def routes(overlay: Overlay, vni: int) -> dict[str, str]:
    """What the node's routing table has for the overlay: destination -> the rest of the route. Pure."""
    found = {}
    for block, node in overlay.blocks.items():
        if node == overlay.node:
            found[f"blackhole {block}"] = ""          # an address of the block that no pod has
        elif (ip := overlay.nodes.get(node)) and overlay.tunnel:
            found[block] = (f"encap ip id {vni} dst {ip} via {tunnel_address(block)} dev {DEVICE} onlink "
                            f"src {overlay.tunnel}")
    return found


def neighbours(overlay: Overlay) -> dict[str, str]:
    """Overlay address -> hardware address, of the other nodes. Pure."""
    return {tunnel: hardware_address(ip) for tunnel, ip in overlay.tunnels().items()}


class OverlayRoutes:
    """The device, its routes and the rule that gives pods the node's address outside, of one node's namespace."""

    def __init__(self, iptables: Iptables) -> None:
        self._iptables = iptables
        self._nat_stamp = b""                         # of iptables' table, when our rules were found in it last

    def apply(self, overlay: Overlay, *, vni: int, port: int) -> None:
        """Bring the namespace to this.

        Raises:
            OSError, RuntimeError: the kernel refuses.
        """
        ip = overlay.nodes[overlay.node]
        ebpf_tc.ensure_vxlan(DEVICE, port)
        lines = [f"link set {DEVICE} address {hardware_address(ip)} mtu {MTU} up"]
        if overlay.tunnel:
            lines.append(f"addr replace {overlay.tunnel}/32 dev {DEVICE}")
        lines += [f"neigh replace {tunnel} lladdr {mac} dev {DEVICE} nud permanent"
                  for tunnel, mac in neighbours(overlay).items()]
        wanted = routes(overlay, vni)
        lines += [f"route replace {to} {rest} proto {_PROTOCOL}" for to, rest in wanted.items()]
        lines += [f"route del {to} proto {_PROTOCOL}" for to in sorted(self._there().keys() - wanted.keys())]
        done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True,
                              timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"ip: {done.stderr.strip()}")
        if overlay.masquerade:
            self._iptables.restore(f"*nat\n:{_NAT} - [0:0]\n-A {_NAT} {' '.join(_masquerading(overlay))}\nCOMMIT\n")
            self._iptables.ensure_rule("nat", *_NAT_JUMP)

    def missing(self, overlay: Overlay, vni: int) -> list[str]:
        """What somebody took away or changed by hand, in words; with the device its routes and neighbours go, too."""
        seen = survey.here()
        gone = [] if DEVICE in seen.names else [f"link {DEVICE} was missing"]
        gone += survey.missing(seen, [
            f"link set {DEVICE} up", f"link set {DEVICE} mtu {MTU}",
            *([f"addr replace {overlay.tunnel}/32 dev {DEVICE}"] if overlay.tunnel else [])])
        there, known = self._there(), {ip: mac for ip, device, mac in seen.neighbours if device == DEVICE}
        for to, rest in routes(overlay, vni).items():
            said = rest.partition(" via ")[0] + f" src {overlay.tunnel}" * bool(rest)
            if said.split() != there.get(to):
                gone.append(f"route {to} was {'changed' if to in there else 'missing'}")
        for tunnel, mac in neighbours(overlay).items():
            if known.get(tunnel) != mac:
                gone.append(f"neighbour {tunnel} on {DEVICE} was {'changed' if tunnel in known else 'missing'}")
        return gone + (self._missing_nat(overlay) if overlay.masquerade else [])

    def _missing_nat(self, overlay: Overlay) -> list[str]:
        stamp = self._iptables.stamp("nat")           # cheap: the table is kube-proxy's, too, and may be long
        if stamp == self._nat_stamp:
            return []
        wanted = ((_NAT, _masquerading(overlay)), _NAT_JUMP)
        gone = [f"chain {chain} (nat): 1 rule missing" for chain, rule in wanted
                if not self._iptables.has_rule("nat", chain, rule)]
        self._nat_stamp = b"" if gone else stamp
        return gone

    def _there(self) -> dict[str, list[str]]:
        """Destinations of our routes, with what `routes` says of them, in its order."""
        done = subprocess.run(["ip", "route", "show", "proto", str(_PROTOCOL)], text=True, capture_output=True,
                              timeout=30, check=False)
        found = {}
        for words in map(str.split, done.stdout.splitlines()):
            to = " ".join(words[:2]) if words[0] == "blackhole" else words[0]
            said = dict(pairwise(words))
            found[to] = ["encap", "ip", "id", said["id"], "dst", said["dst"],
                         *(word for key in ("src", "mtu") if key in said for word in (key, said[key]))] \
                if "encap" in said else []
        return found


def _masquerading(overlay: Overlay) -> tuple[str, ...]:
    return "-s", overlay.pool, "!", "-d", overlay.pool, "-j", "MASQUERADE"
