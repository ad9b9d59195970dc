"""`calico-node -bpf …` prints what Calico's command prints: every line, by the statements in felix/cmd/calico-bpf."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.local.dataplane import ebpf_cli
from labkit.local.dataplane.policy import Rule
from labkit.local.fabric import netns
from tests.dataplane.ebpf_lab import CLUSTER_IP, FRONTEND, EbpfLab, ebpf_lab

pytestmark = pytest.mark.kernel
IP = r"\d+(?:\.\d+){3}"
END, NET, AGO = rf"{IP}:\d+", rf"{IP}/\d+", r"[0-9.]+(?:ns|µs|ms|s)"
NETS = rf"{{{NET}(?:,{NET})*}}"
FORMS = {
    "nat dump": (
        rf"{IP} port \d+ proto \d+ id \d+ count \d+ local \d+( flags (external|internal)-local)?( src {NET})?",
        rf"{IP} port \d+ proto \d+ id \d+ count -1 local 0",
        rf"\t\d+:\d+\t {END}"),
    "nat aff": (rf"client (netns \d+|{IP}) svc proto \d+ {END} -> {END} ts {AGO}", ""),
    "conntrack dump": (
        rf"TCP {END} -> {END} (-> {END} )?(external client, service forwarded to/from {IP} )? Active ago {AGO} "
        "(CLOSED|RESET|ESTABLISHED|SYN-SENT)",
        rf"(UDP|ICMP|Proto-\d+) {END} -> {END} (-> {END} )?(external client, service forwarded to/from {IP} )?"
        rf" Active ago {AGO}"),
    "routes dump": (rf"(?=.{{15,}}:) *{NET}: (local|remote) (host|workload idx \d+|workload nh {IP})",),
    "ifstate dump": (
        r"(?=.{5} :) *\d+ : {flags: workload,ready, XDPPolicyV4: -1, IngressPolicyV4: \d+, EgressPolicyV4: \d+, "
        r"XDPPolicyV6: -1, IngressPolicyV6: -1, EgressPolicyV6: -1, IngressFilter: -1, EgressFilter: -1, "
        r"name: azv\w{11}}",),
    "counters dump": (
        r"\+-{10}\+-+\+-{9}\+-{8}\+-{5}\+", r"\| CATEGORY \| TYPE +\| INGRESS \| EGRESS \| XDP \|",
        r"\| (Accepted|Dropped |Other   | {8}) \| \w[^|]+ \| +\d+ \| +\d+ \| N/A \|",
        r"dumped [\w.]+ counters\."),
    "ipsets dump": (r"IP set 0x[0-9a-f]+", f"   {NET}", ""),
    "policy dump a1 all": (
        r"IfaceName: azv\w{11}", "Hook: tc (ingress|egress)", "  Tier: default",
        r"    (End )?Policy: (KubernetesNetworkPolicy default/\w+|GlobalNetworkPolicy \w+) 0",
        r"      Rule: [\w/]+  Action: (allow|deny)", r"  End Tier: default  \(action: deny\)",
        rf"      Match: (proto=\w+)?( ?src={NETS})?( ?!src={NETS})?( ?dst={NETS})?( ?dports={{[\d,-]+}})?"),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> EbpfLab:
    """With something of every kind in its maps."""
    with ebpf_lab(tmp_path_factory.mktemp("ebpf") / "lab") as lab:
        lab.serve("a1", "b1")
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
    words = [lab.pods[word].host_interface if word in lab.pods else word for word in command.split()]
    bpffs: Path = lab.paths.bpffs / "c1" / "node1"
    assert netns.run_inside(lab.nodes["node1"].netns, lambda: ebpf_cli.main(words, bpffs)) == code
    said = capsys.readouterr()
    return said.err if code else said.out


@pytest.mark.parametrize("command", FORMS)
def test_every_line_has_calicos_form(lab: EbpfLab, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = dump(lab, command, capsys).removesuffix("\n").split("\n")
    for form in FORMS[command]:
        assert any(re.fullmatch(form, line) for line in lines), form
    assert [line for line in lines if not any(re.fullmatch(form, line) for form in FORMS[command])] == []


@pytest.mark.parametrize(("command", "shown"), [
    ("nat dump", r"192.0.2.77 port 80 proto 6 id \d+ count 1 local 1 flags external-local src 203.0.113.10/32\n"
                 r"\t\d+:0\t 10.224.0.5:8080\n192.0.2.77 port 80 proto 6 id \d+ count -1 local 0\n"),
    ("nat aff", r"client 203.0.113.10 svc proto 6 "),
    ("nat aff", r"client netns \d+ svc proto 6 "),
    ("conntrack dump", r"TCP 203.0.113.10:\d+ -> 192.0.2.77:80 -> 10.224.0.5:8080  Active ago \S+ CLOSED\n"),
    ("conntrack dump", r"UDP 203.0.113.10:\d+ -> 192.0.2.77:80 external client, service forwarded to/from 10.224"),
    ("routes dump", r"  10.224.0.4/32: local host\n"),
    ("routes dump", r" 10.224.0.36/32: remote workload nh 10.224.0.35\n"),
    ("counters dump", r"(?s)\| Accepted \| by policy .*\| Dropped  \| TTL .*\|          \| by policy .*dumped eth0 c"),
    ("counters dump --iface=eth0", r"(?s)\A\+-.*\+\ndumped eth0 counters.\n\Z"),
    ("policy dump a1 ingress", r"\AIfaceName: azv\w+\nHook: tc egress\n  Tier: default\n"
                               r"    Policy: KubernetesNetworkPolicy default/web 0\n"
                               r"      Rule: default/web  Action: allow\n"
                               r"      Match: proto=tcp src={10.224.0.0/16,203.0.113.10/32} !src={10.224.0.99/32} "
                               r"dports={8080,1-9}\n    End Policy: KubernetesNetworkPolicy default/web 0\n"
                               r"  End Tier: default  \(action: deny\)\n\Z"),
    ("policy dump a1 egress", r"Hook: tc ingress\n  Tier: default\n    Policy: GlobalNetworkPolicy out 0\n"
                              r"      Rule: out  Action: allow\n      Match: dst={10.224.0.36/32}\n"),
    ("policy dump a1 xdp", r"\A\Z"),
])
def test_what_it_shows(lab: EbpfLab, command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(shown, dump(lab, command, capsys))


def test_what_it_does_not_know_it_says(lab: EbpfLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert "policy dump <interface> <hook>" in dump(lab, "policy dump a1 sideways", capsys, code=2)
    assert "no policy of 'eth7'" in dump(lab, "policy dump eth7 all", capsys, code=1)
