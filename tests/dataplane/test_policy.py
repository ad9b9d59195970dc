import pytest

from labkit.local.dataplane.policy import ANY, EndpointPolicy, Rule, verdict
from labkit.local.dataplane.policy_table import PolicyTable

ALICE, BOB = "203.0.113.10", "198.51.100.20"


def pod(name, ip, namespace="shop", node="n1", ports=(), phase="Running", host=False, **labels):
    containers = [{"ports": [{"name": n, "containerPort": p} for n, p in ports]}]
    return {"metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"nodeName": node, "containers": containers, "hostNetwork": host},
            "status": {"podIP": ip, "phase": phase}}


def knp(name="p", namespace="shop", **spec):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def calico(name="p", namespace="", **spec):
    kind = "NetworkPolicy" if namespace else "GlobalNetworkPolicy"
    return {"apiVersion": "crd.projectcalico.org/v1", "kind": kind,
            "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}, "spec": spec}


@pytest.fixture
def table():
    table = PolicyTable("n1")
    table.on_namespace("ADDED", {"metadata": {"name": "shop", "labels": {"team": "a"}}})
    table.on_namespace("ADDED", {"metadata": {"name": "other", "labels": {"team": "b"}}})
    table.on_pod("ADDED", pod("web", "10.224.0.5", app="web", ports=[("http", 8080)]))
    table.on_pod("ADDED", pod("cart", "10.224.0.6", app="cart"))
    table.on_pod("ADDED", pod("far", "10.224.0.40", node="n2", app="cart"))
    table.on_pod("ADDED", pod("spy", "10.224.0.41", namespace="other", node="n2", app="cart"))
    return table


def ask(table, name="web", direction="ingress"):
    [endpoint] = [e for e in table.endpoints().values() if e.pod == name]
    rules = getattr(endpoint, direction)
    return lambda ip, port=8080, protocol="TCP": verdict(rules, protocol, ip, port)


def test_without_policy_everything_is_allowed_and_only_local_pods_are_listed(table):
    endpoints = table.endpoints()
    assert {e.pod for e in endpoints.values()} == {"web", "cart"}
    assert all(e.ingress == e.egress == (Rule("Allow"),) for e in endpoints.values())
    assert next(iter(endpoints)).startswith("azv")
    assert len(next(iter(endpoints))) == 14
    assert table.remote_pods() == {"10.224.0.40": "n2", "10.224.0.41": "n2"}


def test_a_policy_denies_by_default_only_what_it_selects_and_only_its_direction(table):
    table.on_policy("ADDED", knp(podSelector={"matchLabels": {"app": "web"}}))
    assert ask(table)(ALICE) == "Deny"
    assert ask(table, direction="egress")(ALICE) == "Allow"
    assert ask(table, "cart")(ALICE) == "Allow"
    table.on_policy("DELETED", knp(podSelector={"matchLabels": {"app": "web"}}))
    assert ask(table)(ALICE) == "Allow"


@pytest.mark.parametrize(("peer", "allowed"), [
    ({"podSelector": {"matchLabels": {"app": "cart"}}}, {"10.224.0.6", "10.224.0.40"}),
    ({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}},
     {"10.224.0.6", "10.224.0.40"}),
    ({"namespaceSelector": {"matchLabels": {"team": "b"}}}, {"10.224.0.41"}),
    ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "cart"}}},
     {"10.224.0.6", "10.224.0.40", "10.224.0.41"}),
    ({"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.64/26"]}}, {ALICE}),
    ({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.10/32"]}},
     {"10.224.0.6", "10.224.0.40", "10.224.0.41", BOB, "203.0.113.70"}),
])
def test_kubernetes_peers(table, peer, allowed):
    table.on_policy("ADDED", knp(podSelector={}, ingress=[{"from": [peer]}]))
    everyone = {"10.224.0.6", "10.224.0.40", "10.224.0.41", ALICE, BOB, "203.0.113.70"}
    decide = ask(table)
    assert {ip for ip in everyone if decide(ip) == "Allow"} == allowed


def test_kubernetes_ports_are_of_their_protocol_named_or_ranges(table):
    table.on_policy("ADDED", knp(podSelector={}, ingress=[{"ports": [
        {"port": "http"}, {"port": 53, "protocol": "UDP"}, {"port": 9000, "endPort": 9010}]}]))
    decide = ask(table)
    assert decide(ALICE, 8080) == "Allow"
    assert decide(ALICE, 8080, "UDP") == "Deny"
    assert decide(ALICE, 53, "UDP") == "Allow"
    assert decide(ALICE, 53) == "Deny"
    assert [decide(ALICE, port) for port in (8999, 9000, 9010, 9011)] == ["Deny", "Allow", "Allow", "Deny"]
    assert ask(table, "cart")(ALICE, 8080) == "Deny"       # it has no port of that name


def test_named_ports_of_egress_are_those_of_the_peers(table):
    table.on_pod("ADDED", pod("web2", "10.224.0.42", node="n2", app="web", ports=[("http", 9090)]))
    table.on_policy("ADDED", knp(podSelector={"matchLabels": {"app": "cart"}}, policyTypes=["Egress"],
                                 egress=[{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                                          "ports": [{"port": "http"}]}]))
    decide = ask(table, "cart", "egress")
    assert (decide("10.224.0.5", 8080), decide("10.224.0.42", 9090)) == ("Allow", "Allow")
    assert (decide("10.224.0.5", 9090), decide("10.224.0.42", 8080)) == ("Deny", "Deny")


def test_calico_policies_go_by_order_and_the_first_match_decides(table):
    table.on_policy("ADDED", calico("late", selector="all()", order=20, types=["Ingress"],
                                    ingress=[{"action": "Allow"}]))
    table.on_policy("ADDED", calico("early", selector="app == 'web'", order=10, types=["Ingress"], ingress=[
        {"action": "Deny", "source": {"nets": ["203.0.113.0/24"]}}, {"action": "Log"}]))
    assert ask(table)(ALICE) == "Deny"
    assert ask(table)(BOB) == "Allow"
    assert ask(table, "cart")(ALICE) == "Allow"


@pytest.mark.parametrize("first", ["allow", "deny"])
def test_policies_of_one_order_go_by_their_names(table, first):
    """Whichever came first."""
    deny = calico("b", selector="all()", order=5, types=["Ingress"], ingress=[{"action": "Deny"}])
    allow = calico("a", selector="all()", order=5, types=["Ingress"], ingress=[{"action": "Allow"}])
    for policy in (allow, deny) if first == "allow" else (deny, allow):
        table.on_policy("ADDED", policy)
    assert ask(table)(ALICE) == "Allow"


def test_calico_selectors_of_namespaced_policies_stay_in_their_namespace(table):
    rule = {"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'cart'"},
            "destination": {"ports": [8080, "9000:9001"]}}
    table.on_policy("ADDED", calico(namespace="shop", selector="app == 'web'", ingress=[rule]))
    decide = ask(table)
    assert [decide(ip) for ip in ("10.224.0.40", "10.224.0.41")] == ["Allow", "Deny"]
    assert (decide("10.224.0.40", 9001), decide("10.224.0.40", 9002)) == ("Allow", "Deny")
    wider = {**rule, "source": {"selector": "app == 'cart'", "namespaceSelector": "team == 'b'"}}
    table.on_policy("MODIFIED", calico(namespace="shop", selector="app == 'web'", ingress=[wider]))
    decide = ask(table)
    assert [decide(ip) for ip in ("10.224.0.40", "10.224.0.41")] == ["Deny", "Allow"]


def test_network_sets_are_selected_like_pods(table):
    table.on_network_set("ADDED", {"metadata": {"name": "blocked", "labels": {"list": "bad"}},
                                   "spec": {"nets": ["203.0.113.0/24"]}})
    table.on_policy("ADDED", calico(selector="all()", types=["Ingress"], ingress=[
        {"action": "Deny", "source": {"selector": "list == 'bad'"}}, {"action": "Pass"}]))
    assert (ask(table)(ALICE), ask(table)(BOB)) == ("Deny", "Allow")


def test_a_network_set_that_makes_no_sense_is_named(table):
    table.on_network_set("ADDED", {"metadata": {"name": "blocked", "labels": {"list": "bad"}},
                                   "spec": {"nets": ["203.0.113.0/24", "203.0.113.300"]}})
    table.on_policy("ADDED", calico(selector="all()", types=["Ingress"], ingress=[
        {"action": "Deny", "source": {"selector": "list == 'bad'"}}, {"action": "Pass"}]))
    assert ask(table)(ALICE) == "Allow"
    assert [text for text in table.warnings if "blocked is ignored" in text and "203.0.113.300" in text]


def test_a_rule_that_leaves_everybody_out_is_none(table):
    table.on_policy("ADDED", calico(selector="app == 'web'", types=["Ingress"], ingress=[
        {"action": "Allow", "source": {"notNets": ["10.0.0.0/8", "0.0.0.0/0"]}}]))
    assert [e.ingress for e in table.endpoints().values() if e.pod == "web"] == [(Rule("Deny"),)]


def test_not_nets_not_selector_and_not_ports(table):
    table.on_policy("ADDED", calico(selector="app == 'web'", ingress=[
        {"action": "Allow", "protocol": "TCP",
         "source": {"notNets": ["203.0.113.0/24"], "notSelector": "app == 'cart'"},
         "destination": {"notPorts": [22, "8000:8001"]}}]))
    decide = ask(table)
    assert [decide(ip) for ip in (ALICE, "10.224.0.6", BOB)] == ["Deny", "Deny", "Allow"]
    assert [decide(BOB, port) for port in (22, 8000, 8002)] == ["Deny", "Deny", "Allow"]


@pytest.mark.parametrize("own", [
    {"selector": "app == 'web'"}, {"notSelector": "app == 'cart'"}, {"nets": ["10.224.0.4/31"]},
    {"notNets": ["10.224.0.6/32"]}], ids=lambda own: next(iter(own)))
def test_the_selected_pods_own_side_of_a_rule_counts(table, own):
    table.on_policy("ADDED", calico(selector="all()", types=["Ingress"], ingress=[
        {"action": "Allow", "destination": own}]))
    assert (ask(table)(ALICE), ask(table, "cart")(ALICE)) == ("Allow", "Deny")


def test_what_is_not_supported_fails_closed_and_says_so(table):
    table.on_policy("ADDED", calico(selector="all()", types=["Ingress"], ingress=[
        {"action": "Allow", "http": {"methods": ["GET"]}}]))
    assert ask(table)(ALICE) == "Deny"
    assert table.warnings == ["policy default.p: http is not supported here; the rule fails closed"]


@pytest.mark.parametrize(("rule", "what"), [
    ({"notProtocol": "TCP"}, "notProtocol"),
    ({"protocol": "ICMP", "icmp": {"type": 8}}, "icmp"),
    ({"source": {"services": {"name": "s"}}}, "services"),
    ({"source": {"serviceAccounts": {"selector": "a == 'b'"}}}, "serviceAccounts.selector"),
    ({"protocol": "TCP", "source": {"ports": [80]}}, "source.ports"),
    ({"protocol": "TCP", "destination": {"notPorts": ["http"]}}, "a name in destination.notPorts"),
])
def test_a_rule_with_more_to_it_allows_nothing_and_denies_more(table, rule, what):
    said = f"policy default.p: {what} is not supported here; the rule fails closed"
    for action, rest in (("Allow", []), ("Pass", []), ("Deny", [{"action": "Allow"}])):
        protocol = rule.get("protocol", "UDP")
        rules = [{"action": action, **rule}, *rest]
        table.on_policy("ADDED", calico(selector="all()", types=["Ingress"], ingress=rules))
        source = "10.224.0.6"
        assert ask(table)(source, 8080, protocol) == "Deny", action
        assert table.warnings == [said]
        table.warnings.clear()


def test_sctp_is_matched_without_its_ports_alone(table):
    table.on_policy("ADDED", knp(podSelector={}, ingress=[{"ports": [{"protocol": "SCTP", "port": 7}]}]))
    assert (ask(table)(ALICE, 7, "SCTP"), ask(table)(ALICE, 7)) == ("Deny", "Deny")
    assert table.warnings == ["policy shop/knp.default.p: ports of SCTP are not supported here, as in Calico's eBPF"
                              " data plane; the rule fails closed"]
    table.on_policy("MODIFIED", knp(podSelector={}, ingress=[{"ports": [{"protocol": "SCTP"}]}]))
    assert (ask(table)(ALICE, 7, "SCTP"), ask(table)(ALICE, 7)) == ("Allow", "Deny")


@pytest.mark.parametrize(("spec", "words"), [
    ({"doNotTrack": True}, "policy default.p: doNotTrack is for host endpoints, and there are none here; the policy"
     " selects no pods"),
    ({"preDNAT": True}, "policy default.p: preDNAT is for host endpoints, and there are none here; the policy selects"
     " no pods"),
    ({"serviceAccountSelector": "a == 'b'"}, "policy p is ignored: serviceAccountSelector is not supported here"),
    ({"ingress": [{"action": "Deny", "destination": {"ports": [80]}}]},
     "policy p is ignored: rules with numeric port or port range must set protocol to TCP or UDP or SCTP"),
    ({"ingress": [{"action": "Deny", "protocol": "ICMP", "destination": {"ports": [80]}}]},
     "policy p is ignored: rules that specify ports must set protocol to TCP or UDP or SCTP"),
    ({"ingress": [{"action": "Deny", "protocol": "XYZ"}]}, "policy p is ignored: unknown protocol 'XYZ'"),
    ({"ingress": [{"action": "deny"}]}, "policy p is ignored: unknown action 'deny'"),
    ({"ingress": [{"action": "Deny", "source": {"namespaceSelector": "global() || has(a)"}}]},
     "policy p is ignored: global() cannot be combined with other selectors"),
])
def test_what_felix_leaves_out_it_names(table, spec, words):
    table.on_policy("ADDED", calico(selector="all()", types=["Ingress"], **spec))
    assert table.warnings == [words]
    assert ask(table)(ALICE, 80, "ICMP") == "Allow"


def test_without_types_a_policy_is_about_both_directions_and_says_so(table):
    table.on_policy("ADDED", calico(selector="all()", ingress=[{"action": "Allow"}]))
    assert (ask(table)(ALICE), ask(table, direction="egress")(ALICE)) == ("Allow", "Deny")
    assert table.warnings == ["policy default.p: types is not set, so it is about Ingress and Egress both"]


def test_a_policy_that_makes_no_sense_is_named(table):
    table.on_policy("ADDED", calico(selector="app = 'web'", types=["Ingress"]))
    assert table.warnings == [
        "policy p is ignored: invalid selector \"app = 'web'\": unexpected \"= 'web'\""]
    assert ask(table)(ALICE) == "Allow"


def test_a_change_is_noticed_only_where_it_matters(table):
    table.endpoints()
    table.on_pod("MODIFIED", pod("web", "10.224.0.5", app="web", ports=[("http", 8080)]))
    assert not table.dirty
    table.on_pod("MODIFIED", pod("web", "10.224.0.5", app="web", ports=[("http", 8080)], phase="Succeeded"))
    assert table.dirty
    assert {e.pod for e in table.endpoints().values()} == {"cart"}


def test_every_change_that_means_something_is_noticed(table):
    """By the labels of a namespace or a pod, a policy, a network set: what comes and what goes."""
    things = {"namespace": {"metadata": {"name": "other", "labels": {"team": "c"}}},
              "pod": pod("spy", "10.224.0.41", namespace="other", node="n2", app="web"), "policy": knp(),
              "network_set": {"metadata": {"name": "office"}, "spec": {"nets": ["203.0.113.0/24"]}}}
    for name, obj in things.items():
        for event in ("MODIFIED", "DELETED"):
            table.endpoints()
            getattr(table, f"on_{name}")(event, obj)
            assert table.dirty, (name, event)


def test_without_logs_the_verdicts_stay():
    rules = (Rule("Log"), Rule("Allow", "TCP"), Rule("Log"), Rule("Deny"))
    endpoint = EndpointPolicy("azv1", "shop", "web", "10.224.0.5", rules, (Rule("Log"), Rule("Allow")))
    assert endpoint.without_logs().ingress == (Rule("Allow", "TCP"), Rule("Deny"))
    assert endpoint.without_logs().egress == (Rule("Allow"),)


def test_an_empty_selection_matches_nobody(table):
    nobody = {"podSelector": {"matchLabels": {"a": "b"}}}
    table.on_policy("ADDED", knp(podSelector={}, ingress=[{"from": [nobody]}]))
    [endpoint] = [e for e in table.endpoints().values() if e.pod == "web"]
    assert endpoint.ingress == (Rule("Deny"),)
    assert Rule("Allow").nets == (ANY,)
