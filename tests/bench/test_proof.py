"""Whether a flow took the path that its arm is named after; the texts are of the local lab's data planes."""

from types import SimpleNamespace

import pytest

from labkit.bench.proof import Look, Rules, Traffic, Verdict, Witness, all_of, judge, parse_rules, serves

RULES = """*filter
[105:28978] -A FORWARD -j cali-FORWARD
[42:{bytes}] -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
[9:999999999999] -A INPUT -j KUBE-FIREWALL
*nat
[0:0] -A KUBE-SERVICES ! -s 10.224.0.0/16 -d 10.0.36.246/32 -p tcp -m tcp --dport 5201 -j KUBE-MARK-MASQ
[{new}:300] -A KUBE-SERVICES -d 10.0.36.246/32 -p tcp -m comment --comment "labkit-bench/server:iperf-tcp cluster IP" \
-m tcp --dport 5201 -j KUBE-SVC-HZHB45PWJO2ASETE
[3:228] -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
"""
SERVICE = "10.0.36.246"
TRACKED = "TCP 10.224.0.7:32776 -> 10.224.0.38:5201  Active ago 149.8ms RESET\nUDP 1.1.1.1:5 -> 2.2.2.2:6"
FRONTENDS = f"{SERVICE} port 5201 proto 6 id 4 count 1 local 0\n\t4:0\t 10.224.0.38:5201"


def rules(size, new):
    return parse_rules(RULES.format(bytes=size, new=new))


def traffic(service="", ports=(32776,)):
    return Traffic(1_000_000, "tcp", "10.224.0.7", ports, "10.224.0.38", service, 5201)


def test_rules_are_read_by_chain():
    assert rules(50_000, 5) == Rules(50_000, {f"{SERVICE} tcp 5201": 5})


@pytest.mark.parametrize(("size", "new", "service", "state"), [
    (1_100_000, 0, "", "proven"),
    (1_100_000, 2, SERVICE, "proven"),
    (1_100_000, 0, SERVICE, "refuted"),          # it went to the service past kube-proxy's rule
    (40_000, 2, SERVICE, "refuted"),             # its packets went past netfilter
    (1_100_000, 2, "10.0.0.99", "refuted"),      # nobody has a rule for it, and netfilter translated nothing
    (-40_000, 2, SERVICE, "not proven"),         # the counters began anew
])
@pytest.mark.parametrize("plane", ["vanilla", "iptables"])
def test_rules_must_have_counted_the_bytes_and_the_connections(plane, size, new, service, state):
    before, after = Look(rules(50_000, 1)), Look(rules(50_000 + size, 1 + new), "")
    assert judge(plane, traffic(service), before, after).state == state


TRANSLATED = (f"tcp 6 119 TIME_WAIT src=10.224.0.7 dst={SERVICE} sport=32776 dport=5201 src=10.224.0.38 dst=10.224.0.7 "
              "sport=5201 dport=32776 [ASSURED] use=1")


@pytest.mark.parametrize(("connections", "before", "state"), [
    (TRANSLATED, 0, "proven"),
    (TRANSLATED.replace("32776", "32777"), 0, "refuted"),                 # somebody else's
    (TRANSLATED.replace("src=10.224.0.38", f"src={SERVICE}"), 0, "refuted"),
    ("", 5, "not proven"),                                                # it had counted five, and began anew
    (None, 0, "not proven"),
])
def test_a_rule_that_was_written_anew_counts_from_zero_so_the_table_is_asked(connections, before, state):
    found = judge("iptables", traffic(SERVICE), Look(rules(0, before)), Look(rules(1_100_000, 0), connections))
    assert found.state == state


@pytest.mark.parametrize(("connections", "state"), [(TRANSLATED, "proven"), ("", "refuted"), (None, "not proven")])
def test_without_a_rule_for_the_service_its_table_is_asked_as_in_kube_proxys_other_modes(connections, state):
    before = Rules(0, {f"{SERVICE} tcp 5201": 3})
    assert judge("iptables", traffic(SERVICE), Look(before), Look(Rules(1_100_000, {}), connections)).state == state


def test_what_agents_do_not_show_proves_nothing_and_says_why():
    verdict = judge("iptables", traffic(), Look(rules(0, 0)), Look(why="`iptables-save -c`: not found"))
    assert verdict.state == "not proven"
    assert "not found" in verdict.evidence[0]


@pytest.mark.parametrize(("taken", "translated", "state"), [
    (10, 0, "proven"), (5, 0, "proven"), (0, 9, "proven"),
    (4, 3, "not proven"),                                                 # some went another way, or were forgotten
    (0, 0, "refuted"),
])
def test_of_many_connections_at_least_half_must_have_been_translated(taken, translated, state):
    lines = "\n".join(TRANSLATED.replace("32776", str(40_000 + n)) for n in range(translated))
    many = traffic(SERVICE, tuple(range(40_000, 40_010)))
    assert judge("vanilla", many, Look(rules(0, 0)), Look(rules(1_100_000, taken), lines)).state == state


@pytest.mark.parametrize(("tracked", "state"), [(10, "proven"), (4, "not proven"), (0, "refuted")])
def test_of_many_connections_ebpf_must_have_tracked_half_at_the_servers_own_port(tracked, state):
    table = "\n".join(f"TCP 10.224.0.7:{40_000 + n} -> 10.224.0.38:8080  Active ago 1ms CLOSED" for n in range(tracked))
    many = Traffic(600, "tcp", "10.224.0.7", tuple(range(40_000, 40_010)), "10.224.0.38", SERVICE, 5201, 8080)
    found = judge("ebpf", many, Look(rules(0, 0)), Look(rules(0, 0), table, FRONTENDS))
    assert found.state == state
    assert tracked == 0 or f"{tracked} of 10 connections" in found.evidence[0]


def test_connections_to_several_services_are_as_good_as_the_worst():
    good, bad = Verdict("proven", ("rule a",)), Verdict("refuted", ("no rule b",))
    assert all_of([good, bad, good]) == bad
    assert all_of([good, Verdict("not proven", ("?",))]).state == "not proven"
    assert all_of([good, Verdict("proven", ("rule a", "rule c"))]) == Verdict("proven", ("rule a", "rule c"))


class Agents:
    """A node's kube-proxy pod, whose counters move on each time that it is asked."""

    def __init__(self, *counts):
        self.counts, self.asked = list(counts), []

    def list(self, *_, label_selector):
        pod = {"metadata": {"name": "kube-proxy-1"}, "spec": {"nodeName": "n0"}, "status": {"phase": "Running"}}
        return [pod] if label_selector == "component=kube-proxy" else []

    def exec(self, pod, namespace, words, **_):
        self.asked.append(" ".join(words))
        text = RULES.format(bytes=50_000 + 100 * len(self.asked), new=self.counts.pop(0)) if "save" in words[0] else ""
        return SimpleNamespace(exit_code=0, stdout=text, stderr="")


@pytest.mark.parametrize(("counts", "state"), [((7, 8), "proven"), ((7, 7), "refuted")])
def test_what_is_judged_is_what_the_counters_moved_since_the_last_time(counts, state):
    agents = Agents(*counts)
    witness = Witness(agents, "n0", "vanilla", SERVICE, 5201)
    assert witness.testify(Traffic(60, "tcp", "10.224.0.7", (1,), "10.224.0.38", SERVICE, 5201)).state == state
    assert agents.asked == ["iptables-save -c", "iptables-save -c", f"conntrack -L -d {SERVICE}"]


@pytest.mark.parametrize(("look", "service", "state"), [
    (Look(rules(0, 0), TRACKED, FRONTENDS), "", "proven"),
    (Look(rules(0, 0), TRACKED, FRONTENDS), SERVICE, "proven"),
    (Look(None, TRACKED, FRONTENDS), SERVICE, "proven"),
    (Look(rules(0, 0), TRACKED, ""), SERVICE, "refuted"),                 # eBPF does not know the service
    (Look(rules(0, 0), "UDP 1.1.1.1:5 -> 2.2.2.2:6", FRONTENDS), "", "refuted"),
    (Look(rules(0, 2), TRACKED, FRONTENDS), SERVICE, "refuted"),          # kube-proxy's rule took it
    (Look(rules(0, 0), None, None, "no calico-node runs"), "", "not proven"),
])
def test_ebpf_must_have_tracked_the_connection(look, service, state):
    assert judge("ebpf", traffic(service), Look(rules(0, 0)), look).state == state


def test_a_port_is_a_whole_number_in_the_table():
    """3277 is not the connection from 32776."""
    assert judge("ebpf", traffic(ports=(3277,)), Look(), Look(None, TRACKED, FRONTENDS)).state == "refuted"


def test_what_kube_proxy_took_is_not_ebpfs_though_no_map_is_there_to_say_so():
    missing = Look(rules(0, 1), why="the eBPF maps do not exist")
    assert judge("ebpf", traffic(SERVICE), Look(rules(0, 0)), missing).state == "refuted"
    assert judge("ebpf", traffic(SERVICE), Look(rules(0, 1)), missing).state == "not proven"
    assert judge("ebpf", traffic(), Look(rules(0, 0)), missing).state == "not proven"


def test_of_a_cluster_of_somebody_elses_nothing_is_claimed():
    assert judge("cluster", traffic(), Look(), Look()).state == "not proven"


@pytest.mark.parametrize(("plane", "look", "there"), [
    ("ebpf", Look(frontends=FRONTENDS), True), ("ebpf", Look(frontends=""), False), ("ebpf", Look(), True),
    ("iptables", Look(rules(0, 0)), True), ("iptables", Look(Rules(0, {"10.0.0.10 udp 53": 1})), False),
    ("iptables", Look(), True),
])
def test_a_block_waits_until_the_service_is_in_the_tables(plane, look, there):
    assert serves(plane, look, SERVICE, 5201) is there
