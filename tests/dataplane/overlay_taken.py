"""Run in a network namespace of its own: what is taken of an overlay is named, and back once it is applied again."""

from __future__ import annotations

import subprocess

from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.overlay import Overlay, OverlayRoutes

OVERLAY = Overlay("192.168.0.0/16", {"192.168.0.0/26": "n1", "192.168.0.64/26": "n2"},
                  {"n1": "10.224.0.4", "n2": "10.224.0.35"}, "n1")
PEER = "192.168.0.64"
GONE = ["route 192.168.0.64/26 was missing", f"neighbour {PEER} on vxlan.calico was missing"]
ROUTE = f"192.168.0.64/26 encap ip id 4096 dst 10.224.0.35 via {PEER} dev vxlan.calico onlink proto 80"
TAKEN = {
    f"ip neigh flush dev vxlan.calico nud permanent; ip neigh del {PEER} dev vxlan.calico": GONE[1:],
    f"ip neigh replace {PEER} lladdr 66:0a:00:00:00:01 dev vxlan.calico nud permanent": [
        f"neighbour {PEER} on vxlan.calico was changed"],
    "ip route del 192.168.0.64/26": GONE[:1],
    "ip route replace 192.168.0.64/26 dev eth0 proto 80": ["route 192.168.0.64/26 was changed"],
    f"ip route change {ROUTE} src 192.168.0.0 mtu 900": ["route 192.168.0.64/26 was changed"],
    f"ip route change {ROUTE}": ["route 192.168.0.64/26 was changed"],
    "ip route del blackhole 192.168.0.0/26": ["route blackhole 192.168.0.0/26 was missing"],
    "ip link set vxlan.calico mtu 1300": ["the MTU of vxlan.calico was 1300"],
    "ip link set vxlan.calico down": ["link vxlan.calico was down", *GONE],
    "ip addr flush dev vxlan.calico": ["address 192.168.0.0/32 of vxlan.calico was missing", *GONE],
    "ip link set vxlan.calico down name other.calico": ["link vxlan.calico was missing", *GONE],
    "ip link del vxlan.calico": ["link vxlan.calico was missing", *GONE],
    "iptables-legacy -t nat -F cali-nat-outgoing": ["chain cali-nat-outgoing (nat): 1 rule missing"],
    "iptables-legacy -t nat -D POSTROUTING -j cali-nat-outgoing": ["chain POSTROUTING (nat): 1 rule missing"],
    "iptables-legacy -t nat -F; iptables-legacy -t nat -X": [
        "chain cali-nat-outgoing (nat): 1 rule missing", "chain POSTROUTING (nat): 1 rule missing"],
}
routes = OverlayRoutes(Iptables("legacy"))
for command in ("link set lo up", "link add eth0 type veth peer name other", "addr add 10.224.0.4/16 dev eth0",
                "link set other up", "link set eth0 up"):
    subprocess.run(["ip", *command.split()], check=True)
for command in ("", *TAKEN):
    if command:
        subprocess.run(["sh", "-c", command], check=False, capture_output=True)
        assert routes.missing(OVERLAY, 4096) == TAKEN[command], (command, routes.missing(OVERLAY, 4096))
    routes.apply(OVERLAY, vni=4096, port=4789)
    assert routes.missing(OVERLAY, 4096) == []
print("back")
