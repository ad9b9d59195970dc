"""The table of policy cases: objects as a learner applies them, and who reaches whom because of them.

Pods a1 (app=web) and a2 (app=cart) are on node1, b1 (app=web) on node2, all in the namespace shop (team=a);
b2 (app=cart) is on node2 in other (team=b). Alice and Bob come by the load balancer: its port 8080 leads to a1,
on the node that they come in by, and 8081 to b1, on the other one; a1>lb is a pod that reaches itself through its
own service; svc-a1 is its cluster IP, and svc-b1:8081 that of b1's port 8080. What is left out is port 8080 of TCP.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.dataplane.policy_lab import Obj, calico_policy, network_policy

ALICE, BOB = "203.0.113.10/32", "198.51.100.20/32"
WEB, CART = {"matchLabels": {"app": "web"}}, {"matchLabels": {"app": "cart"}}
TEAM_A, TEAM_B = {"matchLabels": {"team": "a"}}, {"matchLabels": {"team": "b"}}
ANYONE = {"action": "Allow"}


@dataclass(frozen=True)
class Case:
    """One row: with these objects, these connections are answered and those are not, on both data planes.

    `ebpf` and `iptables` hold what only the one or the other lets through.
    """

    name: str
    objects: tuple[Obj, ...]
    allowed: str
    denied: str
    ebpf: str = ""
    iptables: str = ""


def to_web(*ingress: Obj, name: str = "p", **spec: object) -> Obj:
    """Kubernetes: what may reach the pods app=web of shop."""
    return network_policy(name, podSelector=WEB, policyTypes=["Ingress"], ingress=list(ingress), **spec)


def calico(*ingress: Obj, name: str = "p", selector: str = "app == 'web'", namespace: str = "", **spec: object) -> Obj:
    """Calico: the rules for connections to what the selector selects."""
    return calico_policy(name, namespace, selector=selector, types=["Ingress"], ingress=list(ingress), **spec)


def allow(protocol: str | None = None, *, ports: list[object] | None = None, **source: object) -> Obj:
    """Calico: a rule that allows a source."""
    rule: Obj = {"action": "Allow", "source": source}
    if protocol:
        rule["protocol"] = protocol
    if ports:
        rule["destination"] = {"ports": ports}
    return rule


def deny(**source: object) -> Obj:
    """Calico: a rule that denies a source."""
    return {"action": "Deny", "source": source}


def network_set(*nets: str, name: str = "s", namespace: str = "", **labels: str) -> Obj:
    """Calico's NetworkSet, or without a namespace a GlobalNetworkSet."""
    return {"apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkSet" if namespace else "GlobalNetworkSet",
            "metadata": {"name": name, "labels": labels, **({"namespace": namespace} if namespace else {})},
            "spec": {"nets": list(nets)}}


KUBERNETES = [
    Case("no policy", (),
         "a2>a1 b1>a1 b2>a1/udp node1>a1 node2>a1 alice>lb bob>lb:8081 a1>node1 b1>node1 a1>lb a1>lb/udp", ""),
    Case("default deny of ingress", (network_policy(podSelector={}, policyTypes=["Ingress"]),),
         "a1>b2 node1>a1 node2>b1 a1>node1 node1>a1/udp",
         "a2>a1 b1>a1 b2>a1/udp node2>a1 node1>b1 alice>lb bob>lb:8081 a1>lb a1>lb/udp"),
    Case("default deny of egress", (network_policy(podSelector={}, policyTypes=["Egress"]),),
         "b2>a1 node1>a1 alice>lb alice>lb:8081/udp", "a2>a1 a1>b1/udp a1>b2 a1>node1 b1>node1 a1>lb"),
    Case("default deny of both", (network_policy(podSelector={}, policyTypes=["Ingress", "Egress"]),),
         "node1>a1 node2>b1", "a2>a1 b1>a1 a1>b2 b2>b1 alice>lb a1>node1"),
    Case("types are worked out from the rules",
         (network_policy(podSelector=WEB, egress=[{"to": [{"podSelector": CART}]}]),),
         "a1>a2 b1>a2", "a2>a1 a1>b1 a1>b2 alice>lb"),
    Case("allow all", (network_policy(podSelector={}, policyTypes=["Ingress"]), to_web({}, name="q")),
         "a2>a1 b2>a1/udp alice>lb bob>lb:8081 node2>a1", "a1>a2 node2>a2"),
    Case("a pod selector means the policy's own namespace", (to_web({"from": [{"podSelector": CART}]}),),
         "a2>a1 a2>b1 a2>a1/udp a2>a1:8081", "b1>a1 b2>a1 node2>a1 alice>lb"),
    Case("a namespace selector", (to_web({"from": [{"namespaceSelector": TEAM_B}]}),),
         "b2>a1 b2>b1", "a2>a1 b1>a1 alice>lb"),
    Case("every namespace", (to_web({"from": [{"namespaceSelector": {}}]}),),
         "b2>a1 a2>a1 a1>b1", "alice>lb node2>a1 node1>b1"),
    Case("both selectors in one peer are an AND",
         (to_web({"from": [{"namespaceSelector": TEAM_A, "podSelector": CART}]}),),
         "a2>a1 a2>b1", "b1>a1 b2>a1 alice>lb"),
    Case("two peers are an OR", (to_web({"from": [{"namespaceSelector": TEAM_B}, {"podSelector": WEB}]}),),
         "b2>a1 b1>a1 a1>b1", "a2>a1 a2>b1 alice>lb"),
    Case("expressions",
         (to_web({"from": [{"namespaceSelector": {"matchExpressions": [
             {"key": "team", "operator": "In", "values": ["b", "c"]}]}, "podSelector": {"matchExpressions": [
                 {"key": "app", "operator": "Exists"}, {"key": "old", "operator": "DoesNotExist"},
                 {"key": "app", "operator": "NotIn", "values": ["web"]}]}}]}),),
         "b2>a1", "a2>a1 b1>a1 alice>lb"),
    Case("a block with exceptions",
         (to_web({"from": [{"ipBlock": {"cidr": "10.224.0.0/16", "except": ["10.224.0.32/27"]}}]}),),
         "a2>a1 a2>b1", "b1>a1 b2>a1 alice>lb"),
    Case("a block with several exceptions",
         (to_web({"from": [{"ipBlock": {"cidr": "0.0.0.0/0",
                                        "except": [ALICE, "10.224.0.6/32", "10.224.0.37/32"]}}]}),),
         "b1>a1 a1>b1 bob>lb node2>a1", "a2>a1 b2>a1 b2>b1 alice>lb"),
    Case("a block of IPv6 is nobody here", (to_web({"from": [{"ipBlock": {"cidr": "::/0"}}]}),),
         "node1>a1", "a2>a1 alice>lb"),
    Case("an empty list of peers is everybody, and one of ports every port", (to_web({"from": [], "ports": []}),),
         "a2>a1 a2>a1:8081/udp b2>b1 alice>lb node2>a1", ""),
    Case("an empty list of egress rules makes no egress policy", (network_policy(podSelector=WEB, egress=[]),),
         "a1>a2 a1>b2 a1>node1", "a2>a1 alice>lb"),
    Case("policies of different types do not mix",
         (to_web({"from": [{"podSelector": CART}]}),
          network_policy("q", podSelector=WEB, policyTypes=["Egress"], egress=[
              {"to": [{"namespaceSelector": TEAM_B}]}])),
         "a2>a1 a2>b1 a1>b2 b1>b2", "b1>a1 b2>a1 a1>a2 a1>b1 alice>lb"),
    Case("egress means the pod behind a service, and its port",
         (network_policy(podSelector=CART, policyTypes=["Egress"], egress=[
             {"to": [{"podSelector": {}}], "ports": [{"port": 8080}]}]),),
         "a2>svc-a1 a2>svc-b1:8081 a2>a1", "a2>a1:8081 a2>b1:8081 a2>b2"),
    Case("and not the service's own address",
         (network_policy(podSelector=CART, policyTypes=["Egress"], egress=[
             {"to": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]}]),),
         "b2>svc-a1 b1>svc-a1", "a2>svc-a1 a2>svc-b1:8081 a2>a1"),
    Case("ports by number, and of their protocol",
         (to_web({"ports": [{"port": 8080}, {"protocol": "UDP", "port": 8081}]}),),
         "a2>a1 a2>a1:8081/udp b2>b1 alice>lb", "a2>a1/udp a2>a1:8081 b2>b1:8081 alice>lb/udp"),
    Case("a protocol with every port", (to_web({"ports": [{"protocol": "UDP"}]}),),
         "a2>a1/udp a2>a1:8081/udp alice>lb/udp", "a2>a1 a2>a1:8081 alice>lb"),
    Case("ports by name", (to_web({"ports": [{"port": "admin"}, {"port": "dns", "protocol": "UDP"}]}),),
         "a2>a1:8081 b2>b1:8081/udp", "a2>a1 a2>a1/udp alice>lb"),
    Case("names are of a protocol", (to_web({"ports": [{"port": "dns"}, {"port": "http", "protocol": "UDP"}]}),),
         "node1>a1", "a2>a1 a2>a1/udp a2>a1:8081 a2>a1:8081/udp"),
    Case("a range of ports", (to_web({"ports": [{"port": 8070, "endPort": 8080}]}),),
         "a2>a1 alice>lb", "a2>a1:8081 a2>a1/udp"),
    Case("egress by the name of the peer's port",
         (network_policy(podSelector=CART, policyTypes=["Egress"], egress=[
             {"to": [{"podSelector": WEB}], "ports": [{"port": "http"}]}]),),
         "a2>a1 a2>b1 b2>a1:8081", "a2>a1:8081 a2>a1/udp a2>b2 a2>node1"),
    Case("peers and ports of one rule are an AND",
         (to_web({"from": [{"podSelector": CART}], "ports": [{"port": 8080}]}),),
         "a2>a1 a2>b1", "a2>a1:8081 b1>a1 alice>lb"),
    Case("policies add up",
         (to_web({"from": [{"podSelector": CART}]}),
          to_web({"ports": [{"port": 8081}]}, name="q"),
          network_policy("r", podSelector={}, policyTypes=["Ingress"])),
         "a2>a1 a2>a1:8081 b2>a1:8081 a1>b1:8081", "b2>a1 b1>a1 b1>a2 alice>lb"),
    Case("both ends must let it pass",
         (to_web({"from": [{"podSelector": {}}]}),
          network_policy("q", podSelector=CART, policyTypes=["Egress"], egress=[{"to": [{"podSelector": CART}]}])),
         "b1>a1 a1>b1", "a2>a1 a2>b1 b2>a1"),
    Case("SCTP opens nothing else", (to_web({"ports": [{"protocol": "SCTP", "port": 8080}, {"protocol": "SCTP"}]}),),
         "node1>a1", "a2>a1 a2>a1/udp a2>a1:8081 alice>lb"),
    Case("network sets are no pods",
         (network_set("203.0.113.0/24", namespace="shop", app="cart"),
          to_web({"from": [{"podSelector": {}}, {"namespaceSelector": {}}]})),
         "a2>a1 b2>a1", "alice>lb"),
]

CALICO = [
    Case("the lowest order is asked first",
         (calico(deny(nets=[ALICE]), name="z", order=10), calico(ANYONE, name="a", order=20)),
         "bob>lb a2>a1", "alice>lb"),
    Case("and the first match decides",
         (calico(deny(nets=[ALICE]), name="a", order=20), calico(ANYONE, name="z", order=10)),
         "bob>lb alice>lb a2>a1", ""),
    Case("without an order it comes last", (calico(deny(), name="a"), calico(ANYONE, name="z", order=1e6)),
         "a2>a1 alice>lb", ""),
    Case("the name breaks a tie", (calico(ANYONE, name="b", order=5), calico(deny(), name="a", order=5)),
         "node1>a1", "a2>a1 alice>lb"),
    Case("at 1000 Calico's names come before Kubernetes'", (to_web({}), calico(deny(), namespace="shop", order=1000)),
         "node1>a1", "a2>a1 alice>lb"),
    Case("a network set may hold a pod's address",
         (network_set("10.224.0.5/32", list="x"),
          calico({"action": "Allow", "destination": {"selector": "has(list)"}}, allow(selector="has(list)"))),
         "a2>a1 a1>b1", "a2>b1 b2>b1"),
    Case("Kubernetes' policies have order 1000",
         (to_web({}),
          calico(deny(nets=[ALICE]), order=1001, name="late"),
          calico(deny(selector="app == 'cart'"), order=999, name="early")),
         "alice>lb b1>a1", "a2>a1 b2>a1"),
    Case("what no rule matches is denied", (calico(allow("TCP", ports=[8081]), order=1),),
         "a2>a1:8081", "a2>a1 a2>a1/udp alice>lb"),
    Case("Log goes on to the next rule", (calico({"action": "Log"}, allow(selector="app == 'cart'")),),
         "a2>a1 b2>a1", "b1>a1 alice>lb"),
    Case("Pass goes to the profile, which allows",
         (calico(deny(selector="app == 'cart'"), {"action": "Pass"}, order=1), calico(deny(), order=2, name="q")),
         "b1>a1 alice>lb", "a2>a1 b2>a1"),
    Case("a namespaced policy selects in its namespace", (calico(selector="", namespace="other"),),
         "a2>a1 b1>a1 b2>a1", "a1>b2 b1>b2"),
    Case("and so do its rules", (calico(allow(selector="app == 'cart'"), namespace="shop"),),
         "a2>a1 a2>b1", "b2>a1 b1>a1 alice>lb"),
    Case("unless they say otherwise",
         (calico(allow(selector="app == 'cart'", namespaceSelector="team == 'b'"), namespace="shop"),),
         "b2>a1 b2>b1", "a2>a1 b1>a1"),
    Case("notSelector keeps to the namespace too", (calico(allow(notSelector="app == 'cart'"), namespace="shop"),),
         "b1>a1 a1>b1", "a2>a1 b2>a1 alice>lb"),
    Case("a global notSelector does not", (calico(allow(notSelector="app == 'cart'")),),
         "b1>a1 alice>lb", "a2>a1 b2>a1"),
    Case("a global policy of some namespaces", (calico(selector="all()", namespaceSelector="team != 'a'"),),
         "a2>a1 b2>a1", "a1>b2 b1>b2"),
    Case("all() in a namespaceSelector is every namespace",
         (network_set("203.0.113.0/24"), calico(allow(namespaceSelector="all()"))),
         "a2>a1 b2>a1", "alice>lb"),
    Case("global() is what is in none",
         (network_set("203.0.113.0/24", list="x"),
          network_set("198.51.100.0/24", name="t"),
          calico(allow(namespaceSelector="global()", selector="has(list)"))),
         "alice>lb", "bob>lb a2>a1 b2>a1"),
    Case("nobody is left when all are left out", (calico(allow(notNets=["0.0.0.0/0"])),),
         "node1>a1", "a2>a1 alice>lb"),
    Case("and what denies nobody denies nobody", (calico(deny(notNets=["0.0.0.0/0"]), ANYONE),),
         "a2>a1 alice>lb", ""),
    Case("an order may be a fraction, and below nothing",
         (calico(ANYONE, order=0), calico(deny(nets=[ALICE]), name="y", order=-0.5),
          calico(deny(nets=[BOB]), name="z", order=0.5)),
         "bob>lb a2>a1", "alice>lb"),
    Case("a network set of both families",
         (network_set("2001:db8::/32", "203.0.113.10/24", list="x"), calico(deny(selector="has(list)"), ANYONE)),
         "bob>lb a2>a1", "alice>lb"),
    Case("network sets are selected by their labels",
         (network_set("203.0.113.0/24", list="bad"), calico(deny(selector="list == 'bad'"), ANYONE)),
         "bob>lb a2>a1", "alice>lb"),
    Case("a namespace's network set",
         (network_set("203.0.113.0/24", namespace="shop", app="friend"),
          calico(allow(selector="app == 'friend'"), namespace="shop")),
         "alice>lb", "bob>lb a2>a1"),
    Case("selectors",
         (calico(allow(selector="app in {'cart', 'x'} && !(app starts with 'w')"),
                 allow(selector="app contains 'eb' && projectcalico.org/namespace == 'other'")),),
         "a2>a1 b2>a1", "b1>a1 alice>lb"),
    Case("nets without nets", (calico(allow(nets=["10.224.0.0/16"], notNets=["10.224.0.32/27", "10.224.0.4"])),),
         "a2>a1 a2>b1", "b2>a1 b1>a1 node1>b1 alice>lb"),
    Case("ports, ranges and left-out ports",
         (calico({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["8000:8100"], "notPorts": [8081]}},
                 allow("UDP", ports=["8081:8082"])),),
         "a2>a1 a2>a1:8081/udp", "a2>a1:8081 a2>a1/udp"),
    Case("ports and left-out ports are asked both",
         (calico({"action": "Allow", "protocol": "TCP", "destination": {"ports": [8080], "notPorts": [22]}}),),
         "a2>a1 alice>lb", "a2>a1:8081 a2>a1/udp"),
    Case("a named port without a protocol is of its own", (calico(allow(ports=["admin"])),),
         "a2>a1:8081 b2>b1:8081", "a2>a1:8081/udp a2>a1"),
    Case("protocols by number", (calico(allow("17")),),
         "a2>a1/udp alice>lb/udp", "a2>a1 alice>lb"),
    Case("a rule about IPv6 lets nobody in", (calico({"action": "Allow", "ipVersion": 6}, allow("ICMPv6")),),
         "node1>a1", "a2>a1 alice>lb"),
    Case("the selected pods' own side",
         (calico({"action": "Allow", "destination": {"selector": "app == 'web'"}}, selector="all()"),),
         "a2>a1 b2>b1", "a1>a2 b1>b2"),
    Case("service accounts by name", (calico(allow(serviceAccounts={"names": ["default"]})),),
         "a2>a1 b2>a1", "alice>lb"),
    Case("no service account of that name", (calico(allow(serviceAccounts={"names": ["robot"]})),),
         "node1>a1", "a2>a1 b2>a1 alice>lb"),
    Case("egress",
         (calico_policy(selector="app == 'cart'", types=["Egress"], egress=[
             {"action": "Deny", "destination": {"selector": "app == 'web'", "namespaceSelector": "team == 'a'"}},
             {"action": "Allow", "protocol": "UDP"}]),),
         "a2>b2/udp a1>a2 b2>a2/udp", "a2>a1 a2>a1/udp a2>b2 b2>b1"),
    Case("no types: both directions", (calico_policy(selector="app == 'web'", ingress=[ANYONE]),),
         "a2>a1 alice>lb", "a1>a2 b1>b2 a1>node1"),
    Case("doNotTrack is for host endpoints alone", (calico(deny(), doNotTrack=True, applyOnForward=True),),
         "a2>a1 alice>lb", ""),
    Case("a selector that is none is ignored", (calico(deny(), selector="app = 'web'"),),
         "a2>a1 alice>lb", ""),
]

LOAD_BALANCER = [
    # What the course is about. Behind a load balancer with externalTrafficPolicy Cluster, kube-proxy replaces the
    # client's address where the packet goes on to another node: the policy there sees a node. On the node that the
    # client came in by, the address is replaced after the policy was asked. eBPF keeps it all the way.
    Case("Kubernetes: allow one outside address", (to_web({"from": [{"ipBlock": {"cidr": ALICE}}]}),),
         "alice>lb alice>lb/udp", "bob>lb bob>lb:8081 bob>lb:8081/udp a2>a1", ebpf="alice>lb:8081 alice>lb:8081/udp"),
    Case("Calico: deny one outside address", (calico(deny(nets=[ALICE]), ANYONE),),
         "bob>lb bob>lb:8081 a2>a1", "alice>lb alice>lb/udp", iptables="alice>lb:8081 alice>lb:8081/udp"),
    Case("allow the node's address", (to_web({"from": [{"ipBlock": {"cidr": "10.224.0.4/32"}}]}),),
         "node1>b1 node1>a1", "alice>lb a2>a1 b2>b1", iptables="alice>lb:8081 bob>lb:8081"),
]

CASES = KUBERNETES + CALICO + LOAD_BALANCER
