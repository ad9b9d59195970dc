"""A reference model of policy, for tests: from the objects straight to a verdict, and nothing shared with labkit.

It is written from the documentation: https://kubernetes.io/docs/concepts/services-networking/network-policies/ and
https://docs.tigera.io/calico/latest/reference/resources/networkpolicy (order, the rules' meaning, the selector
language). It is slow and plain: it looks at every object for every connection, and compiles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True)
class Connection:
    """A connection as the policies at its ends see it."""

    client: str
    server: str
    port: int
    protocol: str


class Model:
    """The objects of a cluster, asked about connections between addresses."""

    def __init__(self, objects: Iterable[Obj]) -> None:
        self.objects = list(objects)
        self.pods = {obj["status"]["podIP"]: obj for obj in self.objects if obj["kind"] == "Pod"}
        self.namespaces = {obj["metadata"]["name"]: obj for obj in self.objects if obj["kind"] == "Namespace"}
        self.policies = [obj for obj in self.objects if obj["kind"] in ("NetworkPolicy", "GlobalNetworkPolicy")]

    def allows(self, c: Connection) -> bool:
        """Whether the connection is let out of the client and into the server."""
        return all(self.end_allows(c, end) for end in ("Egress", "Ingress"))

    def end_allows(self, c: Connection, direction: str) -> bool:
        """Whether the policies of one end let it pass: Egress asks the client's, Ingress the server's."""
        pod = self.pods.get(c.client if direction == "Egress" else c.server)
        if pod is None:
            return True
        mine = [policy for policy in self.policies if direction in _types(policy) and self._applies(policy, pod)]
        if not mine:
            return True
        for policy in sorted(mine, key=lambda policy: (_order(policy), _sort_name(policy))):
            for rule in policy["spec"].get(direction.lower()) or []:
                action = (self._kubernetes_action(policy, rule, c, direction) if _is_kubernetes(policy)
                          else self._calico_action(policy, rule, c))
                if action == "Pass":
                    return True             # the default tier is the last one, and then come the profiles
                if action in ("Allow", "Deny"):
                    return action == "Allow"
        return False

    def _applies(self, policy: Obj, pod: Obj) -> bool:
        spec, space = policy["spec"], policy["metadata"].get("namespace")
        if space and space != pod["metadata"]["namespace"]:
            return False
        if _is_kubernetes(policy):
            return _label_selector(spec.get("podSelector") or {}, pod["metadata"]["labels"])
        return (_calico_selector(spec.get("selector") or "all()", self._labels(pod))
                and _calico_selector(spec.get("namespaceSelector") or "all()", self._space_labels(pod)))

    # --- Kubernetes

    def _kubernetes_action(self, policy: Obj, rule: Obj, c: Connection, direction: str) -> str:
        other = c.server if direction == "Egress" else c.client
        peers, ports = rule.get("to" if direction == "Egress" else "from") or [], rule.get("ports") or []
        namespace = policy["metadata"]["namespace"]
        if peers and not any(self._peer(peer, other, namespace) for peer in peers):
            return ""
        if ports and not any(self._port(port, c) for port in ports):
            return ""
        return "Allow"

    def _peer(self, peer: Obj, other: str, namespace: str) -> bool:
        if block := peer.get("ipBlock"):
            return _in(other, [block["cidr"]]) and not _in(other, block.get("except") or [])
        pod = self.pods.get(other)
        if pod is None:
            return False
        if "podSelector" in peer and not _label_selector(peer["podSelector"], pod["metadata"]["labels"]):
            return False
        if "namespaceSelector" not in peer:
            return pod["metadata"]["namespace"] == namespace
        labels = self.namespaces[pod["metadata"]["namespace"]]["metadata"]["labels"]
        return _label_selector(peer["namespaceSelector"], labels)

    def _port(self, port: Obj, c: Connection) -> bool:
        if port.get("protocol", "TCP") != c.protocol:
            return False
        wanted = port.get("port")
        if wanted is None:
            return True
        if isinstance(wanted, str):
            return (wanted, c.protocol, c.port) in self._named(c.server)
        return wanted <= c.port <= port.get("endPort", wanted)

    def _named(self, ip: str) -> set[tuple[str, str, int]]:
        containers = self.pods[ip]["spec"]["containers"] if ip in self.pods else []
        return {(port["name"], port.get("protocol", "TCP"), port["containerPort"])
                for container in containers for port in container["ports"]}

    # --- Calico

    def _calico_action(self, policy: Obj, rule: Obj, c: Connection) -> str:
        if rule.get("protocol") not in (None, c.protocol):
            return ""
        namespace = policy["metadata"].get("namespace", "")
        source, destination = rule.get("source") or {}, rule.get("destination") or {}
        if not self._entity(source, c.client, namespace) or not self._entity(destination, c.server, namespace):
            return ""
        if "ports" in destination and not any(self._calico_port(p, c) for p in destination["ports"]):
            return ""
        if any(self._calico_port(p, c) for p in destination.get("notPorts") or []):
            return ""
        return str(rule["action"])

    def _entity(self, entity: Obj, ip: str, namespace: str) -> bool:
        if "nets" in entity and not _in(ip, entity["nets"]):
            return False
        if _in(ip, entity.get("notNets") or []):
            return False
        chosen = [key for key in ("selector", "notSelector", "namespaceSelector") if entity.get(key)]
        things = self._things(ip)
        if (left_out := entity.get("notSelector")) and any(
                _calico_selector(left_out, self._labels(thing)) for thing in things):
            return False
        if not chosen or (chosen == ["notSelector"] and not namespace):
            return True
        return any(self._chosen(entity, thing, namespace) for thing in things)

    def _chosen(self, entity: Obj, thing: Obj, namespace: str) -> bool:
        where, home = entity.get("namespaceSelector"), thing["metadata"].get("namespace", "")
        if where == "global()":
            inside = not home
        elif where:
            inside = _calico_selector(where, self._space_labels(thing))
        else:
            inside = not namespace or home == namespace
        return inside and _calico_selector(entity.get("selector") or "all()", self._labels(thing))

    def _things(self, ip: str) -> list[Obj]:
        """The pods and network sets that an address belongs to."""
        sets = [obj for obj in self.objects if obj["kind"].endswith("NetworkSet") and _in(ip, obj["spec"]["nets"])]
        return sets + ([self.pods[ip]] if ip in self.pods else [])

    def _labels(self, thing: Obj) -> dict[str, str]:
        space = thing["metadata"].get("namespace")
        return thing["metadata"].get("labels", {}) | ({"projectcalico.org/namespace": space} if space else {})

    def _space_labels(self, thing: Obj) -> dict[str, str] | None:
        """The labels of something's namespace; None where it has none, which is what all() is not."""
        space = thing["metadata"].get("namespace")
        return {**self.namespaces[space]["metadata"]["labels"], "projectcalico.org/name": space} if space else None

    @staticmethod
    def _calico_port(port: int | str, c: Connection) -> bool:
        low, _, high = str(port).partition(":")
        return int(low) <= c.port <= int(high or low)


def _is_kubernetes(policy: Obj) -> bool:
    return bool(policy["apiVersion"].startswith("networking.k8s.io/"))


def _types(policy: Obj) -> list[str]:
    spec = policy["spec"]
    if not _is_kubernetes(policy):
        return spec.get("types") or ["Ingress", "Egress"]
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _order(policy: Obj) -> float:
    if _is_kubernetes(policy):
        return 1000
    order = policy["spec"].get("order")
    return math.inf if order is None else order


def _sort_name(policy: Obj) -> str:
    """Policies of one order go by the name that Calico keeps them by."""
    space, name = policy["metadata"].get("namespace"), policy["metadata"]["name"]
    tiered = f"knp.default.{name}" if _is_kubernetes(policy) else f"default.{name}"
    return f"{space}/{tiered}" if space else tiered


def _in(ip: str, nets: Iterable[str]) -> bool:
    return any(ip_address(ip) in ip_network(net) for net in nets)


def _label_selector(selector: Obj, labels: dict[str, str]) -> bool:
    tests: dict[str, Callable[[str, list[str]], bool]] = {
        "In": lambda key, values: key in labels and labels[key] in values,
        "NotIn": lambda key, values: key not in labels or labels[key] not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    wanted, terms = selector.get("matchLabels") or {}, selector.get("matchExpressions") or []
    return (all(labels.get(key) == value for key, value in wanted.items())
            and all(tests[term["operator"]](term["key"], term.get("values", [])) for term in terms))


def _calico_selector(text: str, labels: dict[str, str] | None) -> bool:
    """The few forms that the property tests draw, joined by && alone. Labels of None: in no namespace."""
    for term in text.split(" && "):
        word, _, value = term.partition(" == ")
        if term == "all()":
            good = labels is not None
        elif term.startswith("has("):
            good = term[4:-1] in (labels or {})
        elif value:
            good = (labels or {}).get(word) == value.strip("'")
        elif " in {" in term:
            key, _, members = term.partition(" in {")
            good = (labels or {}).get(key) in [m.strip(" '") for m in members.rstrip("}").split(",")]
        else:
            key, _, value = term.partition(" != ")
            assert value, f"the model does not know {term!r}"
            good = (labels or {}).get(key) != value.strip("'")
        if not good:
            return False
    return True
