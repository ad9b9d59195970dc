"""`calico-node -bpf …` prints what Calico's command prints: every line, by the statements in felix/cmd/calico-bpf."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from labkit.local.dataplane import ebpf_cli
from labkit.local.dataplane import ebpf_cli_conntrack as conntrack
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane.policy import Rule
from labkit.local.fabric import netns
from tests.dataplane.ebpf_lab import CLUSTER_IP, FRONTEND, EbpfLab, ebpf_lab

pytestmark = pytest.mark.kernel
IP = r"\d+(?:\.\d+){3}"
END, NET, AGO = rf"{IP}:\d+", rf"{IP}/\d+", r"(?:\d+h)?(?:\d+m)?[0-9.]+(?:ns|µs|ms|s)"
NETS = rf"{{{NET}(?:, {NET})*}}"
STATE = "(CLOSED|RESET|ESTABLISHED|SYN-SENT)"
KEY = rf"ConntrackKey{{proto=\d+ {END} <-> {END}}}"
LEG = "{Bytes:\\d+ Packets:\\d+ Seqno:0 " + "".join(rf"{name}:(?:true|false) " for name in (
    "SynSeen", "AckSeen", "FinSeen", "RstSeen", "Approved", "Opener", "Workload")) + r"Ifindex:\d+}"
MAC = r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
SETS = r"((not_)?(src|dst)_ip_set_ids:<0x[0-9a-f]+> )+"
FRONT = rf"{IP} port \d+ proto \d+ id \d+ count"
FORMS = {
    "nat dump": (
        rf"{FRONT} \d+ local \d+( flags (external|internal)-local)?( src {NET})?", rf"{FRONT} -1 local 0",
        rf"\t\d+:\d+\t {END}"),
    "v3.31.2 nat dump": (
        rf"{FRONT} \d+ local \d+( flags (external|internal)-local)?", rf"{FRONT} -1 local 0", rf"\t\d+:\d+\t {END}"),
    "nat aff": (rf"client (netns \d+|{IP}) svc proto \d+ {END} -> {END} ts {AGO}", ""),
    "v3.31.2 nat aff": (
        rf"AffinityKey{{ClientIP:(netns \d+|{IP}) FrontEndAffinityKey{{Proto:6 Addr:{IP} Port:\d+}}}} "
        rf"AffinityValue{{Timestamp:\d+,Backend:NATBackendValue{{Addr:{IP} Port:\d+}}}}", ""),
    "conntrack dump": (
        rf"TCP {END} -> {END} (-> {END} )?(external client, service forwarded to/from {IP} )? Active ago {AGO} {STATE}",
        rf"(UDP|ICMP|UNKNOWN) {END} -> {END} (-> {END} )?(external client, service forwarded to/from {IP} )?"
        rf" Active ago {AGO}"),
    "conntrack dump --raw": (
        rf"{KEY} -> Entry{{Type:1, LastSeen:\d+, Flags: <none> REVKey: {KEY} NATSPort: 0}} Active ago {AGO}",
        rf"{KEY} -> Entry{{Type:[02], LastSeen:\d+, Flags: (<none>|0x[0-9a-f]+( [\w-]+)+) Data: {{A2B:{LEG} B2A:{LEG} "
        rf"OrigDst:{IP} OrigSrc:{IP} OrigPort:\d+ OrigSPort:0 TunIP:{IP}}}}} Active ago {AGO}( {STATE})?"),
    "routes dump": (rf"(?=.{{15,}}:) *{NET}: (local|remote) (host|workload idx \d+|workload nh {IP})",),
    "ifstate dump": tuple(
        rf"(?=.{{5}} :) *\d+ : {{flags: {kind},v4Ready, XDPPolicyV4: -1, IngressPolicyV4: {policy}, EgressPolicyV4: "
        rf"{policy}, XDPPolicyV6: -1, IngressPolicyV6: -1, EgressPolicyV6: -1, IngressFilter: -1, EgressFilter: -1, "
        rf"name: {name}}}" for kind, policy, name in (
            ("workload", r"\d+", r"azv\w{11}"), ("host", "-1", "eth0"), ("vxlan", "-1", r"vxlan\.calico"))),
    "counters dump": (
        r"\+-{10}\+-{32}\+-{9}\+-{8}\+-{5}\+",
        r"\| CATEGORY \|              TYPE              \| INGRESS \| EGRESS \| XDP \|",
        r"\| (Accepted|Dropped |Other   | {8}) \| (?=.{30} \|)\w[^|]+ \| +\d+ \| +\d+ \| N/A \|",
        r"\| (Accepted|Dropped |Other   | {8}) \| (?=.{30} \|)\w[^|]+ \| N/A     \| N/A    \| N/A \|",
        r"dumped [\w.]+ counters\."),
    "conntrack stats": (
        r"Conntrack map size: \d+", r"Total (connections|entries): \d+", r"NAT connections: \d+", "",
        r"(TCP|UDP|Others) : \d+", r"TCP (Established|Closed|Reset|Syn-sent): \d+"),
    "nat dump --group-by-service": (
        rf"{FRONT} \d+ local \d+( flags (external|internal)-local)?( src {NET})?", rf"{FRONT} -1 local 0",
        rf"\t\d+:\d+\t {END}"),
    "arp dump": (rf"dev (?=.{{4}}: ) *\d+: (?=.{{15}} : ) *{IP} : {MAC} -> {MAC}",),
    "ipsets dump": (r"IP set 0x[0-9a-f]+", f"   {NET}", ""),
    "policy dump a1 all": (
        r"IfaceName: azv\w{11}", "Hook: tc (ingress|egress)", "  Tier: default",
        r"    (End )?Policy: (KubernetesNetworkPolicy default/\w+|GlobalNetworkPolicy \w+) 0",
        r"      Rule: [\w/]+  Action: (allow|deny)",
        rf"      IP sets: (!?(src|dst)={NETS} ?)+", r"      Hit count: \d+",
        r"  End Tier: default  \(action: deny\)"),
    "v3.31.2 policy dump a1 all": (
        r"IfaceName: azv\w{11}", "Hook: tc (ingress|egress)", "Error: ", "Policy Info:", "// Start of tier default",
        r"// (Start|End) of policy (default/knp\.default\.\w+|default\.\w+)", r"// IPSets " + SETS, r"// count = \d+",
        r'// Start of rule action:"(allow|deny)"( protocol:{name:"tcp"})?( dst_ports:{first:\d+ last:\d+})*'
        r'( (src|dst)_ip_set_ids:"s:\w+")?( not_src_ip_set_ids:"s:\w+")? rule_id:"\w+"',
        r"// End of rule \w+", "// End of tier default: deny"),
}

OBJECTS = {
    "nat dump": "frontend backends",
    "nat dump --group-by-service": "id frontends backends",
    "nat aff": "client_ip proto addr port backend timestamp",
    "conntrack dump": "type proto src dst orig_dst? tunnel_ip? orig_src_port? flags active_ago tcp_state?",
    "conntrack dump --raw": "proto addr_a port_a addr_b port_b type flags active_ago tcp_state? rev_proto? rev_addr_a? "
                            "rev_port_a? rev_addr_b? rev_port_b?",
    "conntrack stats": "map_size total_connections total_entries nat_connections tcp udp others tcp_established "
                       "tcp_closed tcp_reset tcp_syn_sent",
    "counters dump --iface=eth0": "interface counters",
    "arp dump": "ifindex ip src_mac dst_mac",
    "routes dump": "dest flags ifindex? next_hop?",
    "ifstate dump": "ifindex name flags ingress_policy_v4 egress_policy_v4 xdp_policy_v4 ingress_policy_v6 "
                    "egress_policy_v6 xdp_policy_v6 tc_ingress_filter tc_egress_filter",
    "ipsets dump": "set_id members",
}
"""The fields of Calico's structures in their order; those with a question mark are left out where they are empty."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> EbpfLab:
    """With something of every kind in its maps."""
    with ebpf_lab(tmp_path_factory.mktemp("ebpf") / "lab") as lab:
        lab.serve("a1", "b1")
        subprocess.run(["ip", "-n", lab.nodes["node1"].netns, "link", "add", "spare", "type", "veth"], check=True,
                       timeout=60)
        alice = f"{lab.alice.address}/32"
        lab.policy("a1", egress=(
            Rule("Allow", None, (f"{lab.pods['b1'].ip}/32",), policy="default.out"),), ingress=(
            Rule("Allow", "TCP", (alice, "10.224.0.0/16"), ("10.224.0.99/32",), ((8080, 8080), (1, 9)),
                 "default/knp.default.web"),))
        lab.up(lab.service("a1", affinity_seconds=60, lb_source_ranges=(alice,), external_policy="Local"),
               lab.service("b1", protocol="UDP"))
        assert lab.ask(lab.alice.netns, "tcp", FRONTEND, 80)["server"] == "a1"
        assert lab.ask(lab.alice.netns, "udp", FRONTEND, 80)["server"] == "b1"
        assert lab.from_pod("a2", "tcp", CLUSTER_IP, 80)["server"] == "a1"
        yield lab


def dump(lab: EbpfLab, command: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What a command prints; before it the version of Calico that the lab says it is, if not the newest."""
    words = [lab.pods[word].host_interface if word in lab.pods else word for word in command.split()]
    bpffs: Path = lab.paths.bpffs / "c1" / "node1"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CALICO_VERSION", raising=False)
        if words[0].startswith("v3."):
            patch.setenv("CALICO_VERSION", words.pop(0))
        assert netns.run_inside(lab.nodes["node1"].netns, lambda: ebpf_cli.main(words, bpffs)) == code
    said = capsys.readouterr()
    return said.err if code else said.out


@pytest.mark.parametrize("command", FORMS)
def test_every_line_has_calicos_form(lab: EbpfLab, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = dump(lab, command, capsys).removesuffix("\n").split("\n")
    for form in FORMS[command]:
        assert any(re.fullmatch(form, line) for line in lines), form
    assert [line for line in lines if not any(re.fullmatch(form, line) for form in FORMS[command])] == []


@pytest.mark.parametrize("command", OBJECTS)
def test_json_has_calicos_fields(lab: EbpfLab, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(dump(lab, f"--json {command}", capsys))
    for each in said if isinstance(said, list) else [said]:
        known = OBJECTS[command].split()
        assert list(each) == [word.rstrip("?") for word in known if word.rstrip("?") in each or word[-1] != "?"]
    assert said


def test_json_says_what_the_lines_say(lab: EbpfLab, capsys: pytest.CaptureFixture[str]) -> None:
    def look(command: str) -> list[dict]:
        return json.loads(dump(lab, f"{command} -j", capsys))

    fronts = [each for each in look("nat dump") if each["frontend"]["addr"] == "192.0.2.77"
              and each["frontend"]["proto"] == 6]
    assert [(each["frontend"]["count"], each["frontend"].get("src_cidr"), each["backends"]) for each in fronts] == [
        (1, "203.0.113.10/32", [{"addr": "10.224.0.5", "port": 8080}]), (-1, None, None)]
    [group] = look("nat dump --group-by-service 192.0.2.77 80 tcp")
    assert {each["addr"] for each in group["frontends"]} == {"192.0.2.77", CLUSTER_IP, "255.255.255.255"}
    found = look("conntrack dump")
    asked = next(each for each in found if each.get("orig_dst") == "192.0.2.77:80" and each["proto"] == "TCP")
    assert (asked["type"], asked["dst"], asked["flags"], asked["tcp_state"]) == (
        "nat", "10.224.0.5:8080", ["B-A"], "CLOSED")
    raw = look("conntrack dump --raw")
    there = next(each for each in raw if each["type"] == "nat-forward" and each["addr_b"] == "192.0.2.77")
    back = {name.removeprefix("rev_"): value for name, value in there.items() if name.startswith("rev_")}
    assert any(back.items() <= each.items() and each["type"] == "nat-reverse" for each in raw)
    counted = look("conntrack stats")
    assert (counted["total_connections"], counted["total_entries"], counted["map_size"]) == (
        len(found), len(raw), 65536)
    assert counted["udp"] == sum(each["proto"] == "UDP" for each in found)
    assert [each["ip"] for each in look("arp dump")] == [lab.nodes["node2"].ip]


def test_json_came_with_v3_31_5(lab: EbpfLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --json" in dump(lab, "v3.31.2 nat dump --json", capsys, code=2)
    assert "received 1" in dump(lab, "nat dump 10.0.7.7", capsys, code=2)
    assert "frontend 10.9.9.9:1 proto 6 not found" in dump(lab, "nat dump 10.9.9.9 1 tcp", capsys, code=1)
    assert json.loads(dump(lab, "v3.31.5 nat dump --json", capsys))


@pytest.mark.parametrize(("command", "shown"), [
    ("nat dump", r"192.0.2.77 port 80 proto 6 id \d+ count 1 local 1 flags external-local src 203.0.113.10/32\n"
                 r"\t\d+:0\t 10.224.0.5:8080\n192.0.2.77 port 80 proto 6 id \d+ count -1 local 0\n"),
    ("nat dump", r"255.255.255.255 port 30077 proto 6 "),
    ("nat aff", r"client 203.0.113.10 svc proto 6 "),
    ("nat aff", r"client netns \d+ svc proto 6 "),
    ("conntrack dump", r"TCP 203.0.113.10:\d+ -> 192.0.2.77:80 -> 10.224.0.5:8080  Active ago \S+ CLOSED\n"),
    ("conntrack dump", r"UDP 203.0.113.10:\d+ -> 192.0.2.77:80 external client, service forwarded to/from 10.224"),
    ("conntrack dump --raw", r"y{proto=6 203.0.113.10:(\d+) <-> 192.0.2.77:80} -> Entry{Type:1, .* REVKey: "
                             r"ConntrackKey{proto=6 10.224.0.5:8080 <-> 203.0.113.10:\1} "),
    ("conntrack dump --raw", r"y{proto=6 10.224.0.5:8080 <-> 203.0.113.10:\d+} -> Entry{Type:2, .* Flags: 0x100 B-A "
                             r"Data: {A2B:{Bytes:[1-9].* Opener:false Workload:true Ifindex:[1-9]\d*} "
                             r"B2A:{Bytes:[1-9].* SynSeen:true AckSeen:true FinSeen:true RstSeen:false Approved:true "
                             r"Opener:true Workload:false Ifindex:0} OrigDst:192.0.2.77 OrigSrc:0.0.0.0 OrigPort:80 "
                             r"OrigSPort:0 TunIP:0.0.0.0}} Active ago \S+ CLOSED\n"),
    ("conntrack dump --raw", r"Flags: 0x4 np-fwd Data: .* TunIP:10.224.0.35}}"),
    ("routes dump", r"  10.224.0.4/32: local host\n"),
    ("routes dump", r" 10.224.0.36/32: remote workload nh 10.224.0.35\n"),
    ("counters dump", r"(?s)\| Accepted \| by policy .*\| Dropped  \| TTL .*\|          \| by policy .*dumped eth0 c"),
    ("counters dump --iface=eth0", r"(?s)\A\+-.*\+\ndumped eth0 counters.\n\Z"),
    ("policy dump a1 ingress", r"\AIfaceName: azv\w+\nHook: tc egress\n  Tier: default\n"
                               r"    Policy: KubernetesNetworkPolicy default/web 0\n"
                               r"      Rule: default/web  Action: allow\n"
                               r"      IP sets: src={10.224.0.0/16, 203.0.113.10/32} !src={10.224.0.99/32}\n"
                               r"      Hit count: 2\n    End Policy: KubernetesNetworkPolicy default/web 0\n"
                               r"  End Tier: default  \(action: deny\)\n\Z"),
    ("policy dump a1 ingress -a", r"Hit count: 2\n      // If protocol != tcp, skip to next rule\n"
                                  r"      // If source doesn't match ipset s:(\w+) \(0x\1\), skip to next rule\n"
                                  r"      // If source matches ipset s:(\w+) \(0x\2\), skip to next rule\n"
                                  r"      // If dest port is not within any of {8080,1-9}, skip to next rule\n"),
    ("v3.30.4 policy dump a1 ingress", r'dst_ports:{first:8080 last:8080} dst_ports:{first:1 last:9} src_ip'),
    ("policy dump a1 egress", r"Hook: tc ingress\n  Tier: default\n    Policy: GlobalNetworkPolicy out 0\n"
                              r"      Rule: out  Action: allow\n      IP sets: dst={10.224.0.36/32}\n"),
    ("policy dump a1 xdp", r"\A\Z"),
])
def test_what_it_shows(lab: EbpfLab, command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(shown, dump(lab, command, capsys))


def test_what_it_does_not_know_it_says(lab: EbpfLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'ingress', 'egress', 'xdp'" in dump(lab, "policy dump a1 sideways", capsys, code=2)
    assert "no policy of 'eth7'" in dump(lab, "policy dump eth7 all", capsys, code=1)
    assert "No such interface: eth7" in dump(lab, "counters dump --iface eth7", capsys, code=1)


@pytest.mark.parametrize(("asked", "to", "shown"), [
    (("203.0.113.10", "192.0.2.77", 44444, 80), ("203.0.113.10", "10.224.0.5", 20001, 8080),
     "TCP 203.0.113.10:20001 -> 192.0.2.77:80 -> 10.224.0.5:8080 source port changed from 44444 "),
    (("10.224.0.4", "10.224.0.36", 44444, 8080), ("10.224.0.4", "10.224.0.36", 20001, 8080),
     "TCP 10.224.0.4:20001 -> 10.224.0.36:8080 source port changed from 44444 "),
    (("10.224.0.5", "10.0.7.7", 44444, 80), ("10.224.0.4", "10.224.0.5", 44444, 8080),
     "TCP 10.224.0.5:44444 -> 10.0.7.7:80 -> 10.224.0.5:8080 "),
    (("10.224.0.6", "10.224.0.5", 44444, 8080), ("10.224.0.6", "10.224.0.5", 44444, 8080),
     "TCP 10.224.0.6:44444 -> 10.224.0.5:8080 "),
], ids=["another port", "another port, directly", "itself", "directly"])
def test_two_entries_are_one_connection(
        asked: tuple[str, str, int, int], to: tuple[str, str, int, int], shown: str) -> None:
    flow, there = maps.Flow(*asked, 6), maps.Flow(*to, 6)
    entries = {key: maps.Connection(way, maps.PATH_STACK, maps.TCP_ACK | maps.TCP_SYN, bytes(4), 1, 1, 1, 60)
               for key, way in ((flow, there), (there.reversed(), flow.reversed()))}
    for order in (entries, dict(reversed(entries.items()))):
        [tracked] = conntrack.connections(order)
        assert list(conntrack.lines(tracked, 8)) == [f"{shown} Active ago 7ns ESTABLISHED"]
        last = list(conntrack.raw_lines(tracked, 8))[-1]
        assert ("host-psnat" in last, f"OrigSPort:{44444 if 'changed' in shown else 0} " in last) == (
            "changed" in shown, True)


@pytest.mark.parametrize(("nanoseconds", "shown"), [
    (0, "0s"), (7, "7ns"), (1500, "1.5µs"), (2_000_000, "2ms"), (999_999_999, "999.999999ms"), (1_000_000_000, "1s"),
    (12_345_678_901, "12.345678901s"), (60_000_000_000, "1m0s"), (3_600_000_000_000, "1h0m0s"),
    (7_325_000_000_001, "2h2m5.000000001s"),
])
def test_durations_are_gos(nanoseconds: int, shown: str) -> None:
    assert conntrack.duration(nanoseconds) == shown
