"""The policies of a cluster and the pods that they speak of, kept up to date from watch events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any

from labkit.local.dataplane.policy import ANY, EndpointPolicy, Rule, host_interface
from labkit.local.dataplane.policy_rules import (
    NAMESPACE_NAME,
    ORCHESTRATOR,
    SERVICE_ACCOUNT,
    ParsedPolicy,
    ParsedRule,
    Peer,
    Selects,
    Subject,
    parse_policy,
    plain_nets,
)

Obj = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """What policy needs to know of a pod in the pod network."""

    namespace: str
    name: str
    ip: str
    node: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, str, int], ...]      # name, protocol, number
    service_account: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class _NetworkSet:
    namespace: str
    labels: tuple[tuple[str, str], ...]
    nets: tuple[str, ...]


class PolicyTable:
    """From watch events to one `EndpointPolicy` for each pod of a node. Give it one thread.

    Args:
        node: the node whose pods it is about.
        interface_prefix: what the pods' host interfaces start with.
    """

    def __init__(self, node: str, interface_prefix: str = "azv") -> None:
        self.node, self.prefix = node, interface_prefix
        self.pods: dict[tuple[str, str], Pod] = {}
        self.warnings: list[str] = []
        self._namespaces: dict[str, dict[str, str]] = {}
        self._sets: dict[tuple[str, str], _NetworkSet] = {}
        self._policies: dict[tuple[str, str, str, str], ParsedPolicy] = {}
        self._subjects: dict[Pod | _NetworkSet, Subject] = {}
        self.dirty = True

    # --- watch events

    def on_pod(self, event: str, obj: Obj) -> None:
        """Take a pod; one on the host's network or that has finished is no endpoint."""
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        pod = None if event == "DELETED" else _pod(obj)
        if pod != self.pods.get(key):
            self._put(self.pods, key, pod)

    def on_namespace(self, event: str, obj: Obj) -> None:
        """Take a namespace, for its labels."""
        name = obj["metadata"]["name"]
        labels = None
        if event != "DELETED":
            labels = {**(obj["metadata"].get("labels") or {}), NAMESPACE_NAME: name}
        if labels != self._namespaces.get(name):
            self._put(self._namespaces, name, labels)

    def on_network_set(self, event: str, obj: Obj) -> None:
        """Take Calico's NetworkSet or GlobalNetworkSet."""
        meta = obj["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        parsed = None
        if event != "DELETED":
            try:
                nets = plain_nets((obj.get("spec") or {}).get("nets") or ())
                parsed = _NetworkSet(key[0], _frozen(meta.get("labels")), nets)
            except ValueError as error:
                self.warnings.append(f"network set {meta['name']} is ignored: {error}")
        self._put(self._sets, key, parsed)

    def on_policy(self, event: str, obj: Obj) -> None:
        """Take a NetworkPolicy (of either API) or a GlobalNetworkPolicy."""
        meta, group = obj["metadata"], obj.get("apiVersion", "").partition("/")[0]
        key = (group, obj.get("kind", ""), meta.get("namespace", ""), meta["name"])
        parsed = None
        if event != "DELETED":
            try:
                parsed = parse_policy(obj)
                self.warnings += parsed.warnings
            except (ValueError, KeyError, TypeError) as error:
                self.warnings.append(f"policy {meta['name']} is ignored: {error}")
        self._put(self._policies, key, parsed)

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if value is not None:
            table[key] = value
        elif key in table:
            del table[key]
        self.dirty = True

    # --- results

    def local_pods(self) -> dict[str, str]:
        """Address to host interface, of the pods on this node that have an address."""
        mine = (pod for pod in self.pods.values() if pod.node == self.node and pod.ip)
        return {pod.ip: self._interface(pod) for pod in mine}

    def owners(self) -> dict[str, str]:
        """Address to uid, of the pods on this node that have an address."""
        return {pod.ip: pod.uid for pod in self.pods.values() if pod.node == self.node and pod.ip}

    def remote_pods(self) -> dict[str, str]:
        """Address to node name, of the pods on other nodes."""
        return {pod.ip: pod.node for pod in self.pods.values() if pod.node not in (self.node, "") and pod.ip}

    def endpoints(self) -> dict[str, EndpointPolicy]:
        """The rules of every pod on this node, by host interface."""
        self.dirty = False
        self._subjects = {}
        policies = sorted(self._policies.values(), key=lambda policy: (policy.order, policy.name))
        memo: dict[tuple[int, str], list[Rule]] = {}
        result = {}
        for pod in self.pods.values():
            if pod.node != self.node:
                continue
            subject = self._subject(pod)
            mine = [policy for policy in policies if policy.selects(subject)]
            result[self._interface(pod)] = EndpointPolicy(
                self._interface(pod), pod.namespace, pod.name, pod.ip,
                self._rules(pod, "ingress", mine, memo), self._rules(pod, "egress", mine, memo))
        return result

    def _interface(self, pod: Pod) -> str:
        return host_interface(pod.namespace, pod.name, self.prefix)

    def _subject(self, thing: Pod | _NetworkSet) -> Subject:
        found = self._subjects.get(thing)
        if found is None:
            labels = dict(thing.labels)
            spaces: Mapping[str, str] = {}
            if thing.namespace:
                labels["projectcalico.org/namespace"] = thing.namespace
                spaces = self._namespaces.get(thing.namespace) or {NAMESPACE_NAME: thing.namespace}
            if isinstance(thing, Pod):
                labels[ORCHESTRATOR] = "k8s"
                labels[SERVICE_ACCOUNT] = thing.service_account
            found = Subject(thing.namespace, labels, spaces)
            self._subjects[thing] = found
        return found

    def _rules(self, pod: Pod, direction: str, policies: list[ParsedPolicy],
               memo: dict[tuple[int, str], list[Rule]]) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        selected = False
        for policy in policies:
            parsed: tuple[ParsedRule, ...] | None = getattr(policy, direction)
            if parsed is None:
                continue
            selected = True
            for rule in parsed:
                if not self._own_side_matches(rule.own, pod):
                    continue
                if rule.has_names and direction == "ingress":
                    for one in _by_protocol(rule):
                        rules += self._resolve(one, policy.name, _named_on(pod, one))
                elif rule.has_names:
                    for one in _by_protocol(rule):
                        rules += self._resolve_named_egress(one, policy.name)
                else:
                    key = (id(rule), direction)      # the same for every pod that the policy selects
                    if key not in memo:
                        memo[key] = list(self._resolve(rule, policy.name, _numbers(rule)))
                    rules += memo[key]
        rules.append(Rule("Deny") if selected else Rule("Allow"))
        return tuple(rules)

    def _own_side_matches(self, own: Peer, pod: Pod) -> bool:
        if own == Peer():
            return True
        return (
            (own.selects is None or self._is_selected(pod, own.selects))
            and (own.not_selects is None or not self._is_selected(pod, own.not_selects))
            and (own.nets == (ANY,) or bool(_intersection(own.nets, _net(pod))))
            and not _intersection(own.not_nets, _net(pod))
        )

    def _is_selected(self, pod: Pod, selects: Selects) -> bool:
        """Whether a rule means the pod: by its labels, or by a network set that holds its address."""
        return selects(self._subject(pod)) or any(
            _intersection(one.nets, _net(pod)) for one in self._sets.values() if selects(self._subject(one)))

    def _resolve(self, rule: ParsedRule, policy: str, ports: tuple[tuple[int, int], ...]) -> Iterator[Rule]:
        if rule.ports and not ports:
            return
        nets = rule.peer.nets
        if rule.peer.selects:
            nets = _intersection(nets, tuple(self._selected(rule.peer.selects)))
        yield from self._rule(rule, policy, nets, ports)

    def _rule(self, rule: ParsedRule, policy: str, nets: tuple[str, ...],
              ports: tuple[tuple[int, int], ...]) -> Iterator[Rule]:
        """The rule, unless it matches nobody."""
        peer = rule.peer
        not_nets = peer.not_nets + (tuple(self._selected(peer.not_selects)) if peer.not_selects else ())
        if nets and ANY not in not_nets:
            yield Rule(rule.action, rule.protocol, nets, not_nets, ports, policy)

    def _resolve_named_egress(self, rule: ParsedRule, policy: str) -> Iterator[Rule]:
        """A named port is a different number on different pods: one rule for each number."""
        yield from self._resolve(rule, policy, _numbers(rule))
        by_ports: dict[tuple[tuple[int, int], ...], list[str]] = {}
        for pod in self.pods.values():
            chosen = rule.peer.selects is None or rule.peer.selects(self._subject(pod))
            if pod.ip and chosen and (ports := _named_on(pod, rule)):
                by_ports.setdefault(ports, []).extend(_net(pod))
        for ports, pods in sorted(by_ports.items()):
            yield from self._rule(rule, policy, _intersection(rule.peer.nets, tuple(sorted(pods))), ports)

    def _selected(self, selects: Selects) -> list[str]:
        nets = {f"{pod.ip}/32" for pod in self.pods.values() if pod.ip and selects(self._subject(pod))}
        for network_set in self._sets.values():
            if selects(self._subject(network_set)):
                nets.update(network_set.nets)
        return sorted(nets)


def _pod(obj: Obj) -> Pod | None:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    ports = tuple((port["name"], port.get("protocol") or "TCP", port["containerPort"])
                  for container in spec.get("containers") or ()
                  for port in container.get("ports") or () if port.get("name"))
    return Pod(meta["namespace"], meta["name"], status.get("podIP") or "", spec.get("nodeName") or "",
               _frozen(meta.get("labels")), ports, spec.get("serviceAccountName") or "default", meta.get("uid", ""))


def _frozen(labels: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((labels or {}).items()))


def _net(pod: Pod) -> tuple[str, ...]:
    return (f"{pod.ip}/32",) if pod.ip else ()


def _numbers(rule: ParsedRule) -> tuple[tuple[int, int], ...]:
    return tuple(port for port in rule.ports if isinstance(port, tuple))


def _by_protocol(rule: ParsedRule) -> list[ParsedRule]:
    """A name says the protocol too: a rule that leaves it open is one rule for each."""
    return [rule] if rule.protocol else [replace(rule, protocol=protocol) for protocol in ("TCP", "UDP")]


def _named_on(pod: Pod, rule: ParsedRule) -> tuple[tuple[int, int], ...]:
    wanted = {port for port in rule.ports if isinstance(port, str)}
    return _numbers(rule) + tuple((number, number) for name, protocol, number in pod.ports
                                  if name in wanted and protocol == rule.protocol)


def _intersection(nets: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    if nets == (ANY,):
        return others
    if others == (ANY,):
        return nets
    found = set()
    parsed = [IPv4Network(net, strict=False) for net in nets]
    for other in (IPv4Network(net, strict=False) for net in others):
        for net in parsed:
            if other.subnet_of(net):
                found.add(str(other))
            elif net.subnet_of(other):
                found.add(str(net))
    return tuple(sorted(found))
