"""The chains by their text, and what they do to packets between namespaces."""

import subprocess
import sys
import uuid

import pytest

from labkit.local.dataplane.calico_iptables import CalicoIptables, _set_lines, build, build_bpf_mode
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.policy import ANY, EndpointPolicy, Rule

ALLOW, DENY = Rule("Allow"), Rule("Deny")


def endpoint(*ingress, egress=(ALLOW,), interface="azv1"):
    return EndpointPolicy(interface, "shop", "web", "10.9.0.2", ingress, egress)


def test_an_endpoint_without_policy_is_let_through_by_its_profile():
    rules = build([endpoint(ALLOW)])
    assert rules.chains["cali-to-wl-dispatch"] == (
        "-o azv1 -g cali-tw-azv1", '-m comment --comment "Unknown interface" -j DROP')
    assert rules.chains["cali-tw-azv1"][0] == "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    assert 'Profile kns.shop allows' in rules.chains["cali-tw-azv1"][-2]
    assert rules.sets == {}


def test_policies_have_chains_of_their_own_that_endpoints_share():
    nets = ("10.9.0.3/32", "10.9.0.4/32")
    rule = Rule("Allow", "TCP", nets, (), ((80, 80), (8000, 8010)), "shop/default.p")
    rules = build([endpoint(rule, DENY), endpoint(rule, DENY, interface="azv2")])
    [policy] = [chain for chain in rules.chains if chain.startswith("cali-pi-")]
    assert len(policy) == 28             # what iptables allows
    [(ipset, members)] = rules.sets.items()
    assert members == nets
    assert len(ipset) == 30
    assert rules.chains[policy][1:] == (
        f"-p tcp -m set --match-set {ipset} src -m multiport --dports 80,8000:8010 "
        "-j MARK --set-xmark 0x10000/0x10000", "-m mark --mark 0x10000/0x10000 -j RETURN")
    for interface in ("azv1", "azv2"):
        assert f"-m mark --mark 0x0/0x20000 -j {policy}" in rules.chains[f"cali-tw-{interface}"]
        assert rules.chains[f"cali-tw-{interface}"][-1].endswith("-j DROP")


def test_egress_matches_destinations_and_left_out_nets():
    rule = Rule("Deny", None, (ANY,), ("203.0.113.0/24",), (), "p")
    rules = build([endpoint(ALLOW, egress=(rule, DENY))])
    [policy] = [chain for chain in rules.chains if chain.startswith("cali-po-")]
    assert rules.chains[policy][1:] == ("! -d 203.0.113.0/24 -j DROP",)


def test_one_net_and_one_exception_fit_into_a_rule():
    """iptables takes one -s in a rule: the exception is a set."""
    rules = build([endpoint(Rule("Allow", None, ("10.0.0.0/8",), ("10.1.0.0/16",), (), "p"), DENY)])
    [(ipset, members)] = rules.sets.items()
    [policy] = [chain for chain in rules.chains if chain.startswith("cali-pi-")]
    assert members == ("10.1.0.0/16",)
    assert rules.chains[policy][1].startswith(f"-s 10.0.0.0/8 -m set ! --match-set {ipset} src -j MARK")


def test_many_ports_are_split_as_multiport_needs():
    rule = Rule("Allow", "UDP", (ANY,), (), tuple((p, p) for p in range(1, 10)), "p")
    rules = build([endpoint(rule, DENY)])
    [policy] = [chain for chain in rules.chains if chain.startswith("cali-pi-")]
    ports = [line.split()[5] for line in rules.chains[policy] if "multiport" in line]
    assert ports == ["1,2,3,4,5,6,7", "8,9"]


# --- packets: a client and a pod either side of a node, in namespaces of the test's own

SERVER = """
import socket, selectors, sys
poll = selectors.DefaultSelector()
for port in (80, 81):
    poll.register(socket.create_server(("", port)), selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        connection, _ = key.fileobj.accept()
        connection.sendall(b"hello")
        connection.close()
"""
CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as s:
        s.settimeout(5)
        sys.exit(0 if s.recv(9) == b"hello" else 2)
except OSError:
    sys.exit(1)
"""


class Network:
    """client 203.0.113.10 – node – pod 10.9.0.2 behind azv1."""

    def __init__(self, tag: str) -> None:
        self.names = {name: f"labkit-test-{tag}-{name}" for name in ("client", "node", "pod")}
        for name in self.names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
        node, client, pod = self.names["node"], self.names["client"], self.names["pod"]
        for batch, where in (
            (f"link add azv1 type veth peer name eth0 netns {pod}\n"
             f"link add eth0 type veth peer name eth0 netns {client}\n"
             "link set lo up\nlink set azv1 up\nlink set eth0 up\naddr add 10.9.0.1/24 dev azv1\n"
             "addr add 203.0.113.1/24 dev eth0\n", node),
            ("link set eth0 up\naddr add 10.9.0.2/24 dev eth0\nroute add default via 10.9.0.1\n", pod),
            ("link set eth0 up\naddr add 203.0.113.10/24 dev eth0\naddr add 203.0.113.11/24 dev eth0\n"
             "route add default via 203.0.113.1\n", client),
        ):
            subprocess.run(["ip", "-n", where, "-b", "-"], input=batch, text=True, check=True)
        self.run("node", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.server = subprocess.Popen(["ip", "netns", "exec", pod, sys.executable, "-c", SERVER],
                                       stdout=subprocess.PIPE)
        assert self.server.stdout.readline() == b"ready\n"

    def run(self, where: str, *argv: str) -> int:
        return subprocess.run(["ip", "netns", "exec", self.names[where], *argv], timeout=120).returncode

    def reaches(self, where: str, port: int, patience: float = 20) -> bool:
        return self.run(where, sys.executable, "-c", CLIENT, "10.9.0.2", str(port), str(patience)) == 0

    def close(self) -> None:
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def network():
    network = Network(uuid.uuid4().hex[:8])
    yield network
    network.close()


@pytest.mark.kernel
@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_packets_get_the_verdict_of_the_rules(network, variant):
    prefix = ("ip", "netns", "exec", network.names["node"])
    iptables = Iptables(variant, prefix)
    calico = CalicoIptables(iptables, prefix)

    def sets() -> list[str]:
        return subprocess.check_output([*prefix, "ipset", "list", "-n"], text=True).split()

    assert network.reaches("client", 80)
    calico.apply(build([endpoint(DENY)]))
    assert not network.reaches("client", 80, patience=0.4)
    assert network.reaches("node", 80)                       # a node reaches its own pods

    pair = ("203.0.113.10/32", "203.0.113.12/32")
    calico.apply(build([endpoint(Rule("Allow", "TCP", pair, (), ((80, 80),), "p"), DENY)]))
    assert (network.reaches("client", 80), network.reaches("client", 81, patience=0.4)) == (True, False)

    other = ("203.0.113.11/32", "203.0.113.12/32")
    assert calico.apply(build([endpoint(Rule("Deny", None, pair, (), (), "q"), ALLOW)]))
    assert not network.reaches("client", 80, patience=0.4)
    calico.apply(build([endpoint(Rule("Deny", None, other, (), (), "q"), ALLOW)]))
    assert network.reaches("client", 80)
    assert not calico.apply(build([endpoint(Rule("Deny", None, other, (), (), "q"), ALLOW)]))

    calico.apply(build([]))                                  # a pod that Felix does not know
    assert not network.reaches("client", 80, patience=0.4)
    assert sets() == [], "one that no rule names is destroyed"

    calico.apply(build([endpoint(Rule("Deny", None, pair, (), (), "q"), ALLOW)]))
    subprocess.run([*prefix, "ipset", "flush"], check=True)
    again = CalicoIptables(iptables, prefix)                 # a new process adopts what is there, and trusts none of it
    again.apply(build([endpoint(Rule("Deny", None, pair, (), (), "q"), ALLOW)]))
    assert not network.reaches("client", 80, patience=0.4)
    again.apply(build([endpoint(Rule("Allow", None, other, (), (), "r"), DENY, egress=(DENY,))]))
    assert not network.reaches("client", 80, patience=0.4)
    again.apply(build_bpf_mode([]))                          # nor one whose programs are still to come
    assert not network.reaches("client", 80, patience=0.4)
    again.apply(build_bpf_mode(["azv1"]))
    assert network.reaches("client", 80)
    again.remove()
    assert "cali" not in iptables.save("filter")
    assert sets() == []


@pytest.mark.kernel
@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_policies_come_before_what_another_program_puts_first(network, variant):
    prefix = ("ip", "netns", "exec", network.names["node"])
    iptables = Iptables(variant, prefix)
    calico = CalicoIptables(iptables, prefix)
    calico.apply(build([endpoint(DENY)]))
    assert not calico.hook()
    iptables.ensure_rule("filter", "FORWARD", ("-j", "ACCEPT"))          # as kube-proxy does when it starts
    assert network.reaches("client", 80)
    assert calico.hook()
    assert not network.reaches("client", 80, patience=0.4)
    assert iptables.save("filter").count("-A FORWARD -j cali-FORWARD") == 1


@pytest.mark.kernel
def test_connections_that_exist_go_on_when_a_policy_comes(network):
    prefix = ("ip", "netns", "exec", network.names["node"])
    calico = CalicoIptables(Iptables(None, prefix), prefix)
    calico.apply(build([endpoint(ALLOW)]))
    listen = ("import socket; s = socket.create_server(('', 90)); print('ready', flush=True);"
              "c, _ = s.accept(); c.sendall(c.recv(9)); c.sendall(c.recv(9))")
    talk = ("import socket, sys; c = socket.create_connection(('10.9.0.2', 90), timeout=60);"
            "c.sendall(b'one'); print(c.recv(9), flush=True); sys.stdin.readline();"
            "c.sendall(b'two'); print(c.recv(9), flush=True)")
    start = ["ip", "netns", "exec"]
    server = subprocess.Popen([*start, network.names["pod"], sys.executable, "-c", listen],
                              stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    client = subprocess.Popen([*start, network.names["client"], sys.executable, "-c", talk],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"b'one'\n"
        calico.apply(build([endpoint(DENY)]))
        assert not network.reaches("client", 80, patience=0.4)
        out, _ = client.communicate(b"\n", timeout=60)
        assert out == b"b'two'\n"
    finally:
        for process in (server, client):
            process.kill()
            process.communicate()


def test_ipv4_only_sets_hold_everything_in_two_halves():
    rules = build([endpoint(Rule("Deny", None, ("0.0.0.0/0", "10.0.0.0/8"), (), (), "p"), ALLOW)])
    [(name, nets)] = rules.sets.items()
    assert _set_lines(name, nets)[2:] == [
        f"add {name} {net} -exist" for net in ("0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8")]
