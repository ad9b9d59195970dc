"""What hypothesis draws for policies: small clusters in which rules often meet the pods that there are."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.dataplane.policy_cases import network_set
from tests.dataplane.policy_lab import LABELS, Obj, calico_policy, network_policy

APPS, TEAMS = ("web", "cart", "db"), ("a", "b")
NETS = ("10.224.0.0/16", "10.224.0.0/27", "10.224.0.32/27", "10.224.0.5/32", "10.224.0.4/32", "10.224.0.36/32",
        "0.0.0.0/0", "203.0.113.0/24", "203.0.113.10/32")


def one_of(*choices: Any) -> st.SearchStrategy[Any]:
    """One of some plain values."""
    return st.sampled_from(choices)


def labels(key: str, values: tuple[str, ...]) -> st.SearchStrategy[dict[str, str]]:
    """A label or none."""
    return st.one_of(st.just({}), one_of(*values).map(lambda value: {key: value}))


def kubernetes_selector(key: str, values: tuple[str, ...]) -> st.SearchStrategy[Obj]:
    """A LabelSelector."""
    expression = st.one_of(
        st.fixed_dictionaries({"key": st.just(key), "operator": one_of("In", "NotIn"),
                               "values": st.lists(one_of(*values), min_size=1, max_size=2, unique=True)}),
        st.fixed_dictionaries({"key": st.just(key), "operator": one_of("Exists", "DoesNotExist")}))
    return st.one_of(st.just({}), one_of(*values).map(lambda value: {"matchLabels": {key: value}}),
                     st.lists(expression, min_size=1, max_size=2).map(lambda terms: {"matchExpressions": terms}))


def _block(nets: tuple[str, list[str]]) -> Obj:
    return {"ipBlock": {"cidr": nets[0], "except": nets[1]}}


PODS, SPACES = kubernetes_selector("app", APPS), kubernetes_selector("team", TEAMS)
PEERS = st.one_of(
    st.fixed_dictionaries({"podSelector": PODS}), st.fixed_dictionaries({"namespaceSelector": SPACES}),
    st.fixed_dictionaries({"podSelector": PODS, "namespaceSelector": SPACES}),
    st.tuples(one_of(*NETS), st.lists(one_of(*NETS[1:]), max_size=2, unique=True)).map(_block))
PORTS = st.one_of(
    one_of("TCP", "UDP", "SCTP").map(lambda protocol: {"protocol": protocol}),
    one_of("http", "admin", "dns").map(lambda name: {"port": name}),
    one_of({"protocol": "UDP", "port": "dns"}, {"port": 8080}, {"port": 8081}, {"protocol": "UDP", "port": 8081},
           {"protocol": "UDP", "port": 8080, "endPort": 8081}, {"port": 1, "endPort": 8080}))
RULES = {direction: st.lists(st.fixed_dictionaries({}, optional={
    peers: st.lists(PEERS, max_size=2), "ports": st.lists(PORTS, max_size=2)}), max_size=2)
    for direction, peers in (("ingress", "from"), ("egress", "to"))}
KUBERNETES = st.builds(
    network_policy, one_of("p", "q"), one_of("shop", "other"), podSelector=PODS, ingress=RULES["ingress"],
    egress=RULES["egress"], policyTypes=one_of(["Ingress"], ["Egress"], ["Ingress", "Egress"], []))


def calico_selector(key: str, values: tuple[str, ...]) -> st.SearchStrategy[str]:
    """A selector in the forms that the model reads."""
    value = one_of(*values)
    term = st.one_of(value.map(lambda v: f"{key} == '{v}'"), value.map(lambda v: f"{key} != '{v}'"),
                     value.map(lambda v: f"{key} in {{'{v}', 'x'}}"), one_of(f"has({key})", "all()"))
    return st.lists(term, min_size=1, max_size=2).map(" && ".join)


APP_TEXT, TEAM_TEXT = calico_selector("app", APPS), calico_selector("team", TEAMS)
ENTITIES = st.fixed_dictionaries({}, optional={
    "selector": APP_TEXT, "notSelector": APP_TEXT, "namespaceSelector": st.one_of(TEAM_TEXT, st.just("global()")),
    "nets": st.lists(one_of(*NETS), min_size=1, max_size=2, unique=True),
    "notNets": st.lists(one_of(*NETS[1:]), min_size=1, max_size=2, unique=True)})
CALICO_PORTS = st.fixed_dictionaries({}, optional={
    "ports": st.lists(one_of(8080, 8081, "8080:8081", "1:8080"), min_size=1, max_size=2),
    "notPorts": st.lists(one_of(8080, 8081, "8081:9000"), min_size=1, max_size=1)})


@st.composite
def calico_rules(draw: st.DrawFn) -> Obj:
    """A rule; ports only where the protocol has them, as Calico asks."""
    rule: Obj = {"action": draw(one_of("Allow", "Allow", "Deny", "Deny", "Pass", "Log"))}
    # Most rules have few conditions, or nothing would ever match.
    for end in draw(one_of((), ("source",), ("source",), ("destination",), ("source", "destination"))):
        rule[end] = draw(ENTITIES)
    if protocol := draw(one_of(None, "TCP", "UDP", "ICMP")):
        rule["protocol"] = protocol
        if protocol != "ICMP":
            rule["destination"] = rule.get("destination", {}) | draw(CALICO_PORTS)
    return rule


@st.composite
def calico_policies(draw: st.DrawFn) -> Obj:
    """A policy of Calico, global or not."""
    namespace = draw(one_of("", "", "shop", "other"))
    spec: Obj = {"selector": draw(st.one_of(st.just("all()"), APP_TEXT)), "order": draw(one_of(None, 1, 1000)),
                 "types": draw(one_of(["Ingress"], ["Egress"], ["Ingress", "Egress"], []))}
    if not namespace and draw(st.booleans()):
        spec["namespaceSelector"] = draw(TEAM_TEXT)
    rules = st.lists(calico_rules(), max_size=3)
    return calico_policy(draw(one_of("p", "q")), namespace, ingress=draw(rules), egress=draw(rules), **spec)


POLICIES = st.one_of(KUBERNETES, calico_policies())
SETS = st.builds(lambda nets, name, space, found: network_set(*nets, name=name, namespace=space, **found),
                 st.lists(one_of(*NETS), min_size=1, max_size=2, unique=True), one_of("s", "t"),
                 one_of("", "shop", "other"), labels("app", APPS))
CLUSTERS = st.tuples(
    st.lists(POLICIES, min_size=1, max_size=3), st.lists(SETS, max_size=1),
    st.fixed_dictionaries({pod: labels("app", APPS) for pod in LABELS}),
    st.fixed_dictionaries({space: labels("team", TEAMS) for space in ("other", "shop")}))
CHANGES = st.one_of(
    POLICIES.map(lambda obj: ("put", obj)), POLICIES.map(lambda obj: ("put", obj)),
    SETS.map(lambda obj: ("put", obj)),
    st.tuples(st.just("delete one"), st.integers(0, 9)),
    st.tuples(st.just("relabel"), st.tuples(one_of(*LABELS), labels("app", APPS))),
    st.tuples(st.just("relabel namespace"), st.tuples(one_of("other", "shop"), labels("team", TEAMS))),
    st.tuples(st.just("pod goes"), one_of(*LABELS)))
# Now and then a change comes while no agent is there to see it.
STEPS = st.tuples(one_of("sync", "sync", "sync", "sync", "restart"), CHANGES)
