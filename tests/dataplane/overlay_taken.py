"""Run in a network namespace of its own: what is taken of an overlay is named, and back once it is applied again."""

from __future__ import annotations

import subprocess

from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.overlay import Overlay, OverlayRoutes

OVERLAY = Overlay("192.168.0.0/16", {"192.168.0.0/26": "n1", "192.168.0.64/26": "n2"},
                  {"n1": "10.224.0.4", "n2": "10.224.0.35"}, "n1", masquerade=False)
TAKEN = {
    "neigh flush dev vxlan.calico nud permanent": ["neighbour 192.168.0.64 on vxlan.calico was missing"],
    "route del 192.168.0.64/26": ["route 192.168.0.64/26 was missing"],
    "route del blackhole 192.168.0.0/26": ["route blackhole 192.168.0.0/26 was missing"],
    "link del vxlan.calico": ["route 192.168.0.64/26 was missing",
                              "neighbour 192.168.0.64 on vxlan.calico was missing"],
}
routes = OverlayRoutes(Iptables())
for command in ("link set lo up", "link add eth0 type veth peer name other", "addr add 10.224.0.4/16 dev eth0",
                "link set other up", "link set eth0 up"):
    subprocess.run(["ip", *command.split()], check=True)
for command in ("", *TAKEN):
    if command:
        subprocess.run(["ip", *command.split()], check=True)
        assert routes.missing(OVERLAY, 4096) == TAKEN[command], (command, routes.missing(OVERLAY, 4096))
    routes.apply(OVERLAY, vni=4096, port=4789)
    assert routes.missing(OVERLAY, 4096) == []
print("back")
