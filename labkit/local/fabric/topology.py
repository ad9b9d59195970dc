"""The lab's networks as data: addresses, names and the commands that make them. Pure; no effects.

Every link is a point-to-point veth pair. Both ends know the other's hardware address, as Azure's
fabric and Azure CNI arrange it, so no ARP is ever spoken and a first packet costs what it costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, summarize_address_range

VNET = IPv4Network("10.224.0.0/12")
SUBNET = IPv4Network("10.224.0.0/16")
SUBNET_GATEWAY = "10.224.0.1"
AZURE_RESOLVER = "168.63.129.16"
PUBLIC = IPv4Network("192.0.2.0/24")
GATEWAY = "169.254.1.1"  # next hop of pods and clients; an address that exists nowhere, as in Calico
PODS_PER_NODE = 30

POD_MTU = 1500
OVERLAY_MTU = 1450  # of pods whose packets travel inside VXLAN
NODE_MTU = 1600  # room for VXLAN's 50 bytes

GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"  # Calico's choice for the host's end of a pod's link
FABRIC_MAC = "12:34:56:78:9a:bc"   # what Azure's fabric answers for every neighbour

_FLOW_RULES = 1000     # where the router's rules for remembered connections begin, and their tables
_KNOWN_CLIENTS = {"alice": "203.0.113.10", "bob": "198.51.100.20"}

HARMLESS = (("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1"))
FORWARDING = (
    *HARMLESS,
    ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"), ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/ip_forward", "1"),
)
ROUTER = (
    *FORWARDING, ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv4/conf/all/accept_local", "1"),  # a pod that calls a node's public address: out, and in again
)
POD = (*HARMLESS, ("ipv4/ip_unprivileged_port_start", "0"), ("ipv4/ping_group_range", "0 2147483647"))


def host_interface(namespace: str, pod: str, prefix: str = "azv") -> str:
    """The node's end of a pod's link, named as Azure CNI names it, or as Calico does by the prefix "cali"."""
    return prefix + hashlib.sha1(f"{namespace}.{pod}".encode()).hexdigest()[:11]


def node_address(index: int) -> str:
    """The address of node `index`: Azure gives a node one, and the 30 after it to its pods."""
    return str(SUBNET[4 + (PODS_PER_NODE + 1) * index])


def pod_addresses(index: int) -> tuple[str, ...]:
    """The addresses that pods of node `index` get."""
    first = 5 + (PODS_PER_NODE + 1) * index
    return tuple(str(SUBNET[first + i]) for i in range(PODS_PER_NODE))


def next_client_address(name: str, taken: Sequence[str]) -> str:
    """The address of an outside client: alice's and bob's are fixed, others get the next free one."""
    if name in _KNOWN_CLIENTS:
        return _KNOWN_CLIENTS[name]
    spoken_for = {*taken, *_KNOWN_CLIENTS.values()}
    candidates = (str(IPv4Network("203.0.113.0/24")[i]) for i in range(11, 255))
    return next(address for address in candidates if address not in spoken_for)


def mac_of(address: str) -> str:
    """A hardware address made of an IP address, so that it is known without asking."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def short_link(prefix: str, name: str) -> str:
    """An interface name: the kernel allows 15 characters, so a long one ends in a hash."""
    room = 15 - len(prefix)
    return prefix + (name if len(name) <= room else name[:room - 6] + hashlib.sha1(name.encode()).hexdigest()[:6])


def add_link(near: str, near_mac: str, far: str, far_mac: str, far_netns: str, mtu: int) -> str:
    """Make a veth pair from the namespace that runs this to another."""
    return (f"link add {near} mtu {mtu} address {near_mac} type veth "
            f"peer name {far} mtu {mtu} address {far_mac} netns {far_netns}")


def leaf(address: str) -> list[str]:
    """Inside a pod or an outside client: one address, and everything by way of a fixed neighbour."""
    return [
        "link set lo up",
        f"addr replace {address}/32 dev eth0",
        "link set eth0 up",
        f"neigh replace {GATEWAY} lladdr {GATEWAY_MAC} dev eth0 nud permanent",
        f"route replace {GATEWAY} dev eth0 scope link",
        f"route replace default via {GATEWAY} dev eth0",
    ]


def towards_leaf(link: str, address: str) -> list[str]:
    """On the other side of a leaf's link: how to reach it."""
    return [
        f"link set {link} up",
        f"neigh replace {address} lladdr {mac_of(address)} dev {link} nud permanent",
        f"route replace {address}/32 dev {link} scope link",
    ]


def router_uplink(outbound_ip: str) -> list[str]:
    """In a VNet's router: its own addresses and the way to the internet."""
    return [
        "link set lo up",
        f"addr replace {SUBNET_GATEWAY}/32 dev lo",
        f"addr replace {AZURE_RESOLVER}/32 dev lo",
        *leaf(outbound_ip)[1:],
        f"route replace unreachable {VNET} metric 4096",  # an address that no node has
    ]


def around_itself(outbound_ip: str) -> tuple[str, ...]:
    """In the router, once: what a node answers to the outbound address goes out, and in again.

    It is how a pod's connection to a node's public address comes back: what left by source NAT came in by the other,
    and each of the two is undone on a way of its own. The rule has to come before the one for local addresses.
    """
    return (f"rule add pref 1 from {VNET} to {outbound_ip} lookup main",
            "rule add pref 2 lookup local", "rule del pref 0 lookup local")


def node_link(index: int) -> str:
    """The router's interface towards a node."""
    return f"node{index}"


def towards_node(index: int) -> list[str]:
    """In the router: how to reach a node and the addresses of its pods."""
    link, ip = node_link(index), node_address(index)
    pods = pod_addresses(index)
    blocks = summarize_address_range(IPv4Address(pods[0]), IPv4Address(pods[-1]))
    return [*towards_leaf(link, ip), *(f"route replace {block} via {ip} dev {link} onlink" for block in blocks)]


def node_uplink(index: int) -> list[str]:
    """In a node: its address, and the VNet's gateway as next hop.

    Only what stays in the VNet may use the link's full size: it carries the tunnels between nodes.
    """
    ip = node_address(index)
    return [
        "link set lo up",
        f"addr replace {ip}/{SUBNET.prefixlen} dev eth0 noprefixroute",
        "link set eth0 up",
        f"neigh replace {SUBNET_GATEWAY} lladdr {FABRIC_MAC} dev eth0 nud permanent",
        f"route replace {SUBNET_GATEWAY} dev eth0 scope link src {ip}",
        f"route replace {SUBNET} via {SUBNET_GATEWAY} dev eth0 src {ip}",
        f"route replace default via {SUBNET_GATEWAY} dev eth0 src {ip} mtu {POD_MTU}",
    ]


def frontend_route(ip: str, node_ips: Sequence[str], links: Sequence[str]) -> str:
    """In the router: a load balancer's frontend, new connections spread over nodes by a hash.

    Without a healthy node Azure drops what arrives, silently; so does a blackhole.
    """
    if not node_ips:
        return f"route replace blackhole {ip}/32 metric 10"
    hops = " ".join(f"nexthop via {node} dev {link} onlink" for node, link in zip(node_ips, links, strict=True))
    return f"route replace {ip}/32 metric 10 {hops}"


def choice(ip: str, nodes: Sequence[int], ports: Mapping[tuple[str, int], Sequence[int]], *, by_client: bool) -> str:
    """In the router's nftables: what a frontend's rules say beyond its route.

    A TCP connection keeps the node that the router remembers, also when that gets no new ones, or when none is left; a
    UDP flow goes elsewhere (https://learn.microsoft.com/azure/load-balancer/load-balancer-custom-probe-overview, "Probe
    down behavior"). By the client's address alone is what Azure calls the distribution SourceIP, and AKS sets for a
    service with session affinity.

    Args:
        ip: the frontend.
        nodes: indexes of its nodes; the hash of the frontend's route chooses among them.
        ports: protocol and number of ports whose nodes are others, to those.
        by_client: a client's new connections go to one node.
    """
    chain = f"ip labkit_flows to_{ip.replace('.', '_')}"
    rules = ["meta l4proto tcp meta mark != 0 return"]
    for (protocol, port), own in [*ports.items(), (("", 0), nodes)]:
        match = f"{protocol.lower()} dport {port} " if port else ""
        if own:
            rules.append(f"{match}meta mark {{ {', '.join(str(index + 1) for index in own)} }} return")
        if own and (port or by_client):
            marks = ", ".join(f"{place} : {index + 1}" for place, index in enumerate(own))
            of = "ip saddr" if by_client else f"ip saddr . {protocol.lower()} sport . ip daddr"
            # Without a seed the kernel draws one each time.
            rules.append(f"{match}meta mark set jhash {of} mod {len(own)} seed 0x1 map {{ {marks} }} return")
        else:
            rules.append(f"{match}drop" if port else "meta mark set 0")
    return "".join([f"add chain {chain}\nflush chain {chain}\n", *(f"add rule {chain} {rule}\n" for rule in rules),
                    f"add {_entry(ip)}"])


def no_choice(ip: str) -> str:
    """In the router's nftables: a frontend that is gone."""
    chain = f"chain ip labkit_flows to_{ip.replace('.', '_')}\n"
    return f"add {chain}add {_entry(ip)}delete {_entry(ip)}delete {chain}"


def _entry(ip: str) -> str:
    return f"element ip labkit_flows frontends {{ {ip} : goto to_{ip.replace('.', '_')} }}\n"


NODE_PUBLICS = "ip labkit node_of"
"""The router's map from nodes' public addresses to their own."""
REPORTS = "destination-unreachable, time-exceeded, parameter-problem"
"""ICMP's errors, which quote the packet that they are about."""


def router_rules(outbound_ip: str) -> str:
    """The router's nftables: nodes' public addresses, one to one; source NAT for what else leaves; reports.

    Loading them again keeps what the maps hold. Connections between the VNet and the outside are tracked, so what an
    ICMP error quotes is translated too. A frontend's are not: its reply may come from another node than its request
    went to. What a node sends back unchanged (a client's packet for a frontend that the node does not serve) is
    dropped, or it would circle between the two, and so is what the internet sends for nobody. A node's report about a
    frontend's packet leaves by the outbound address: nobody outside is to see the node's own.
    """
    return f"""
table ip labkit {{
  map node_of {{ type ipv4_addr : ipv4_addr; }}
  map public_of {{ type ipv4_addr : ipv4_addr; }}
  set publics {{ type ipv4_addr; }}
  chain reports {{ }}
  chain untracked {{ type filter hook prerouting priority raw; }}
  chain inbound {{ type nat hook prerouting priority dstnat; }}
  chain returned {{ type filter hook forward priority filter; }}
  chain outbound {{ type nat hook postrouting priority srcnat; }}
}}
flush chain ip labkit untracked
flush chain ip labkit inbound
flush chain ip labkit returned
flush chain ip labkit outbound
table ip labkit {{
  chain untracked {{
    ip saddr {VNET} ip daddr != {VNET} accept
    ip daddr {outbound_ip} accept
    iifname "eth0" ip daddr @publics accept
    iifname "eth0" icmp type {{ {REPORTS} }} ip daddr != {VNET} goto reports
    notrack
  }}
  chain inbound {{
    iifname "eth0" dnat to ip daddr map @node_of
  }}
  chain returned {{
    ct state established accept
    iifname "eth0" oifname "eth0" drop
    ip saddr != {VNET} iifname "node*" oifname "node*" drop
    ct state invalid icmp type {{ {REPORTS} }} ip saddr {VNET} oifname "eth0" ip saddr set {outbound_ip}
  }}
  chain outbound {{
    ip saddr {VNET} oifname "eth0" snat to ip saddr map @public_of
    ip saddr {VNET} oifname "eth0" snat to {outbound_ip}
  }}
}}
"""


FLOWS = f"""
table ip labkit_flows {{
  map marks {{ type ifname : mark; }}
  map flows {{
    type ipv4_addr . inet_service . ipv4_addr . inet_service : mark; flags dynamic, timeout; timeout 4m; size 65535;
  }}
  map frontends {{ type ipv4_addr : verdict; }}
  chain recall {{ type filter hook prerouting priority raw - 1; }}
  chain remember {{ type filter hook forward priority filter; }}
}}
flush chain ip labkit_flows recall
flush chain ip labkit_flows remember
table ip labkit_flows {{
  chain recall {{
    iifname "eth0" meta l4proto {{ tcp, udp }} meta mark set ip saddr . th sport . ip daddr . th dport map @flows
    iifname "eth0" ip daddr vmap @frontends
  }}
  chain remember {{
    iifname "eth0" oifname "node*" ip daddr != {VNET} meta l4proto {{ tcp, udp }} meta mark set oifname map @marks \
      update @flows {{ ip saddr . th sport . ip daddr . th dport : meta mark }}
  }}
}}
"""
"""The router's memory of connections from outside, four minutes after their last packet as in Azure's load balancer
(https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset): the hash alone would send a connection on
to another node when others come or go, and when Linux hashes a packet that it sends again to another value. It is a
table of its own so that loading it again keeps what the maps hold; TCP and UDP may share an entry."""


def remembered_route(index: int) -> tuple[list[str], list[str], str]:
    """In the router: what leads a remembered connection to its node, as long as the node is there.

    A node that takes no new connections, for it is being drained, keeps those that it has.

    Returns:
        What takes the rule of a former node of this number away, `ip` commands, and an nftables script.
    """
    link, ip, mark = node_link(index), node_address(index), index + 1
    rule = f"rule del pref {_FLOW_RULES + mark}"
    commands = [f"rule add pref {_FLOW_RULES + mark} iif eth0 fwmark {mark} lookup {_FLOW_RULES + mark}",
                f"route replace default via {ip} dev {link} onlink table {_FLOW_RULES + mark}"]
    return [rule], commands, f'add element ip labkit_flows marks {{ "{link}" : {mark} }}\n'


def reports_to(links: Mapping[str, str]) -> str:
    """Who gets an ICMP error that somebody outside has about a frontend's connection: every node.

    The kernel's hash knows the error's own addresses, not those of the packet that it quotes, so it would lead it
    to any node; and only the connection's node has a use for it. Else path MTU discovery would end here.

    Args:
        links: node address to the router's interface towards it.
    """
    copies = "".join(f'add rule ip labkit reports dup to {ip} device "{link}"\n' for ip, link in links.items())
    return f"flush chain ip labkit reports\n{copies}" + "add rule ip labkit reports drop\n" * bool(links)


def node_publics(addresses: Mapping[str, str]) -> str:
    """Fill the maps, in one transaction.

    Args:
        addresses: public address to node address.
    """
    script = "flush map ip labkit node_of\nflush map ip labkit public_of\nflush set ip labkit publics\n"
    if addresses:
        inward = ", ".join(f"{public} : {node}" for public, node in addresses.items())
        outward = ", ".join(f"{node} : {public}" for public, node in addresses.items())
        script += f"add element ip labkit node_of {{ {inward} }}\n"
        script += f"add element ip labkit public_of {{ {outward} }}\n"
        script += f"add element ip labkit publics {{ {', '.join(addresses)} }}\n"
    return script
