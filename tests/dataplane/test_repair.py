"""What a learner deletes or changes by hand is back within seconds, traffic flows, and an event says so."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time

import pytest

from labkit.local.dataplane import iptables_guard, iptables_stamp
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.iptables_guard import Guard, count, differences, gist, ours
from labkit.local.dataplane.kubeproxy import CANARY, named, only
from labkit.local.dataplane.repaired import message

from .agents_lab import FRONTEND, Cluster

SERVICE = "10.0.1.1"
ALLOW = {"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy", "metadata": {"name": "some"},
         "spec": {"selector": "app == 'web'", "types": ["Ingress"], "ingress": [
             {"action": "Allow", "source": {"nets": ["10.0.0.0/8", "203.0.113.0/24"]}}]}}
SAVED = """*nat
:PREROUTING ACCEPT [1:2]
:KUBE-SERVICES - [0:0]
:KUBE-EMPTY - [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "x" -j KUBE-SERVICES
-A PREROUTING -j OTHER
-A KUBE-SERVICES -d 10.0.1.1/32 -j KUBE-SVC-X
-A OTHER -m comment --comment "ours, by its comment" -j ACCEPT
COMMIT
"""


def test_of_a_table_only_our_part_counts():
    chains = ours(SAVED, "KUBE-", "ours, by")
    assert chains == {
        "KUBE-SERVICES": ("-d 10.0.1.1/32 -j KUBE-SVC-X",), "KUBE-EMPTY": (),
        "PREROUTING": ('-m comment --comment "x" -j KUBE-SERVICES',),
        "OTHER": ('-m comment --comment "ours, by its comment" -j ACCEPT',)}


def test_what_was_changed_is_said_in_words():
    right = {"A": ("1", "2", "3"), "B": ("1",), "C": ("1", "2"), "D": ()}
    found = {"A": ("1", "9"), "C": ("2", "1"), "D": (), "E": ()}
    assert differences("nat", right, found) == (
        "chain A (nat): 2 rules missing, 1 rule not ours", "chain B (nat) was missing",
        "chain C (nat): rules in another order", "chain E (nat) was not ours")
    assert differences("nat", right, right) == ()
    assert (count(1, "entry"), count(2, "entry"), count(0, "rule")) == ("1 entry", "2 entries", "0 rules")
    assert message(["a", "b", "c", "d", "e"]) == "Put back what was changed by hand: a; b; c; and 2 more"
    assert message(["a"]) == "Put back what was changed by hand: a"


class Table:
    """Stands for iptables: what `save` prints is what the test says is there."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.printed = list(lines), 0

    def stamp(self, table: str) -> bytes:
        return "\n".join(self.lines).encode()

    def contents(self, table: str) -> bytes:
        return self.stamp(table)

    def save(self, table: str) -> str:
        self.printed += 1
        return "\n".join(self.lines)


def guarded(*lines: str) -> tuple[Table, Guard]:
    """A table as we wrote it first, found right."""
    table = Table(*lines)
    guard = Guard(table, "nat", "KUBE-", [("PREROUTING", ("-j", "KUBE-A"))])
    assert guard.wrote("*nat\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-A -d 10.0.0.1/32 -j KUBE-B\n"
                       "-A KUBE-B -j ACCEPT\nCOMMIT\n") == ()
    assert not guard.changed()
    return table, guard


RIGHT = (":KUBE-A - [0:0]", ":KUBE-B - [0:0]", "-A PREROUTING -j KUBE-A", "-A KUBE-A -d 10.0.0.1/32 -j KUBE-B",
         "-A KUBE-B -j ACCEPT")
NEW_B = "*nat\n:KUBE-B - [0:0]\n-A KUBE-B -p tcp -j DNAT --to-destination 10.0.0.2:80\nCOMMIT\n"
WITH_NEW_B = (*RIGHT[:4], "-A KUBE-B -p tcp -m tcp -j DNAT --to-destination 10.0.0.2:80")


@pytest.mark.parametrize(("there", "said"), [
    (WITH_NEW_B, ()),
    ((*WITH_NEW_B[:3], WITH_NEW_B[4]), ("chain KUBE-A (nat): 1 rule missing",)),         # not one that we wrote
    (WITH_NEW_B[:4], ("chain KUBE-B (nat): 1 rule missing",)),                           # one that we wrote
    (RIGHT, ("chain KUBE-B (nat): 1 rule missing, 1 rule not ours",)),                   # a whole table, put back
    ((*WITH_NEW_B[:4], "-A KUBE-B -j DNAT --to-destination 10.9.9.9:80"),
     ("chain KUBE-B (nat): 1 rule missing, 1 rule not ours",)),
    ((*WITH_NEW_B[:2], *WITH_NEW_B[3:]), ("chain PREROUTING (nat): 1 rule missing",)),
])
def test_a_change_between_a_look_and_the_end_of_our_own_writing_is_noticed(there, said):
    table, guard = guarded(*RIGHT)
    assert not guard.changed(compare=False)
    table.lines = list(there)                      # ours and theirs at once: no stamp tells one from the other
    assert guard.wrote(NEW_B) == ()
    assert guard.changed() == bool(said)
    table.lines = list(WITH_NEW_B)
    assert guard.wrote("*nat\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-A -d 10.0.0.1/32 -j KUBE-B\n"
                       + NEW_B.removeprefix("*nat\n:KUBE-B - [0:0]\n")) == said
    assert not guard.changed()


def test_what_is_not_for_us_to_remove_is_no_reason_to_write_for_ever():
    table, guard = guarded(*RIGHT)
    table.lines += ["-A PREROUTING -p udp -j KUBE-A"]
    assert not guard.changed()
    table.lines = [":KUBE-MINE - [0:0]", *table.lines]
    assert guard.changed()
    assert guard.wrote("*nat\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-A -d 10.0.0.1/32 -j KUBE-B\n"
                       "-A KUBE-B -j ACCEPT\nCOMMIT\n") == ("chain KUBE-MINE (nat) was not ours",)
    assert not guard.changed()


def test_of_a_long_table_only_what_is_broken_is_written_again(monkeypatch):
    monkeypatch.setattr(iptables_guard, "LONG", 80)
    every = ("*nat\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A KUBE-A -d 10.0.0.1/32 -j KUBE-B\n-A KUBE-B -j ACCEPT\nCOMMIT\n"
             "*filter\n:KUBE-A - [0:0]\n-A KUBE-A -j DROP\nCOMMIT\n")
    table = Table(*RIGHT)
    guard = Guard(table, "nat", "KUBE-", [("PREROUTING", ("-j", "KUBE-A"))], everything=lambda: every)
    assert guard.wrote(every) == ()
    assert (guard.changed(), guard.broken) == (False, set())
    table.lines = list(RIGHT[:4])
    assert (guard.changed(), guard.broken) == (True, {"KUBE-B"})
    text = only(every, {"nat": guard.broken})
    assert text == "*nat\n:KUBE-B - [0:0]\n-A KUBE-B -j ACCEPT\nCOMMIT\n"
    assert guard.wrote(text) == ("chain KUBE-B (nat): 1 rule missing",)
    assert guard.broken == set()
    assert guard.changed(), "somebody deletes it while it is written"
    table.lines = list(RIGHT)
    assert not guard.changed()
    assert named(every) == {"nat": {"KUBE-A", "KUBE-B"}, "filter": {"KUBE-A"}, "": set()}


def restored(*lines: str) -> str:
    """What iptables-restore is given for these lines."""
    return "".join(f"{line}\n" for line in ("*nat", *lines, "COMMIT"))


def test_a_table_is_printed_only_where_somebody_may_have_changed_it():
    table, guard = guarded(*RIGHT)
    printed = table.printed
    assert not guard.changed()
    table.lines = list(WITH_NEW_B)
    guard.wrote(NEW_B)
    assert not guard.changed(compare=False)
    guard.wrote("")
    assert table.printed == printed
    assert not guard.changed()
    assert table.printed == printed + 1, "what was written before has not been seen yet"
    guard.wrote("")
    assert not guard.changed()
    assert table.printed == printed + 1


def test_a_long_table_is_not_printed_while_it_is_as_long_as_what_was_written(monkeypatch):
    monkeypatch.setattr(iptables_guard, "LONG", 80)
    monkeypatch.setattr(iptables_stamp, "entries", lambda stamp: 2 * stamp.count(b":KUBE") + stamp.count(b"-A "))
    jump, every = RIGHT[2], [*RIGHT[:2], *RIGHT[3:]]
    table = Table(*every, jump)
    guard = Guard(table, "nat", "KUBE-", [("PREROUTING", ("-j", "KUBE-A"))], everything=lambda: restored(*every))
    guard.wrote(restored(*every))
    assert not guard.changed()
    printed = table.printed
    for name in ("KUBE-C", "KUBE-D"):
        more = [f":{name} - [0:0]", f"-A {name} -j ACCEPT"]
        every += more
        table.lines = [*every, jump]
        guard.wrote(restored(*more))
        assert not guard.changed()
    assert table.printed == printed
    every += [":KUBE-E - [0:0]"]
    table.lines = [line for line in (*every, jump) if line != "-A KUBE-B -j ACCEPT"]     # at once with our writing
    guard.wrote(restored(":KUBE-E - [0:0]"))
    assert (guard.changed(), guard.broken) == (True, {"KUBE-B"})


def test_a_jump_that_is_taken_away_again_while_it_is_written_is_missed():
    jumps = [("PREROUTING", ("-j", "KUBE-A")), ("PREROUTING", ("-j", "KUBE-B"))]
    table = Table(*RIGHT[:2], "-A PREROUTING -j KUBE-A", "-A PREROUTING -j KUBE-B")
    guard = Guard(table, "nat", "KUBE-", jumps)
    guard.wrote(restored(*RIGHT[:2]))
    assert not guard.changed()
    table.lines.pop()
    for put_back in (False, True):
        assert guard.changed()
        if put_back:
            table.lines.append("-A PREROUTING -j KUBE-B")
        assert guard.wrote(restored(*RIGHT[:2])) == ("chain PREROUTING (nat): 1 rule missing",)
    assert not guard.changed()


def test_sets_are_compared_whatever_the_order_and_not_read_without_any(monkeypatch):
    there = ["create cali40a hash:ip", "add cali40a 10.0.0.1", "add cali40a 10.0.0.2",
             "create others hash:ip", "add others 10.0.0.3"]
    asked = []

    def run(words, **_):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, "\n".join(there), "")

    monkeypatch.setattr(subprocess, "run", run)
    guard = iptables_guard.SetGuard("cali40", ("nsenter",))
    assert guard.wrote(any_set=False) == ()
    assert not guard.changed()
    assert asked == []
    assert guard.wrote(any_set=True) == ()
    there[1:3], there[4] = there[2:0:-1], "add others 10.0.0.9"
    assert not guard.changed()
    gone = there.pop(1)
    assert guard.changed()
    there.append(gone)
    assert guard.wrote(any_set=True) == ("set cali40a (ipset): 1 member missing",)
    assert not guard.changed()
    assert {tuple(words) for words in asked} == {("nsenter", "ipset", "save")}


def test_of_a_rule_the_words_that_the_kernel_uses_too_are_compared():
    for ours_, kernels in (
        ('-m comment --comment "a/b:c cluster IP" -m tcp -p tcp -d 10.0.0.1/32 --dport 80 -j KUBE-SVC-A',
         '-d 10.0.0.1/32 -p tcp -m comment --comment "a/b:c cluster IP" -m tcp --dport 80 -j KUBE-SVC-A'),
        ("-d 10.1.2.3/8 -j DROP", "-d 10.0.0.0/8 -j DROP"),
        ("-d 10.1.2.3 -j DROP", "-d 10.1.2.3/32 -j DROP"),
    ):
        assert gist(ours_) == gist(kernels)
    assert gist("-d 10.0.0.1/32 -j KUBE-SVC-A") != gist("-d 10.0.0.2/32 -j KUBE-SVC-A")


def test_packets_do_not_change_a_stamp():
    def entry(counter: int, rule: bytes, step: int) -> bytes:
        head = bytes(88) + (112).to_bytes(2, "little") + step.to_bytes(2, "little") + counter.to_bytes(4, "little")
        return (head + counter.to_bytes(16, "little") + rule).ljust(step, b"\0")

    quiet, busy = (entry(n, b"one", 152) + entry(n, b"two", 144) for n in (0, 77))
    assert quiet != busy

    def cleared(rules: bytes) -> bytes:
        iptables_stamp.clear_counters(memoryview(there := bytearray(rules)))
        return bytes(there)

    assert cleared(quiet) == cleared(busy)
    assert cleared(busy) != cleared(busy.replace(b"two", b"too"))


def test_with_nft_all_tables_are_read_once(monkeypatch):
    iptables, stamps, calls = Iptables("nft"), [b"1"], []
    tables = {"nat": "*nat\n:A - [0:0]\n-A A -m comment --comment COMMIT\nCOMMIT\n",
              "filter": "*filter\n:B - [0:0]\nCOMMIT\n"}

    def call(argv):
        calls.append(argv)
        return subprocess.CompletedProcess(argv, 0, "# by nft\n" + "# and\n".join(tables.values()))
    monkeypatch.setitem(iptables.__dict__, "variant", "nft")
    monkeypatch.setattr(iptables, "stamp", lambda _: stamps[-1])
    monkeypatch.setattr(iptables, "_call", call)
    assert [iptables.save(table) for table in ("filter", "nat")] == [tables["filter"], tables["nat"]]
    assert calls == [["iptables-nft-save"]]
    assert iptables.save("nat") == tables["nat"]
    stamps.append(b"2")
    assert iptables.save("filter") == tables["filter"]
    assert len(calls) == 3


@pytest.mark.kernel
@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_the_kernel_tells_whether_a_table_changed(variant):
    """In a namespace of its own, which ends with the process."""
    script = f"""
import subprocess
from labkit.local.dataplane import iptables_stamp
def change(*words): subprocess.run(["iptables-{variant}", *words], check=True)
def stamp(): return iptables_stamp.of_table("{variant}", "filter")
seen = [stamp()]
for words in (("-N", "A"), ("-A", "A", "-p", "tcp", "-j", "RETURN"), ("-R", "A", "1", "-p", "udp", "-j", "RETURN"),
              ("-F", "A")):
    change(*words)
    seen.append(stamp())
    assert stamp() == seen[-1]
print(len(set(seen)))
"""
    done = subprocess.run(["unshare", "-n", "python", "-c", script], capture_output=True, text=True, check=True)
    # Legacy: after the flush the table is what it was before the rule; nft counts transactions.
    assert done.stdout.split() == ["4" if variant == "legacy" else "5"]


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("how", [("25", "2"), ("25", "3", "long")])
def test_what_is_broken_at_any_moment_of_a_write_comes_back(how):
    done = subprocess.run(["unshare", "-n", "python", "-m", "tests.dataplane.break_at_random", *how],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 10


# --- agents in their nodes


class Hands:
    """A learner at work on the first node."""

    def __init__(self, lab: Cluster) -> None:
        self.lab = lab

    def run(self, *argv: str) -> str:
        enter = ["nsenter", f"--net=/run/netns/{self.lab.nodes[0].netns}"]
        return subprocess.run([*enter, *argv], capture_output=True, text=True, check=True).stdout

    def iptables(self, *argv: str) -> None:
        self.run("iptables-legacy", "-w", *argv)

    def rule(self, table: str, start: str, contains: str = "") -> list[str]:
        """The words of a rule, to delete it: the first that starts so and contains this."""
        lines = self.lab.rules(0, table).splitlines()
        line = next(line for line in lines if line.startswith(f"-A {start}") and contains in line)
        return shlex.split(line.removeprefix("-A "))

    def delete_rule(self, table: str, start: str, contains: str = "") -> None:
        self.iptables("-t", table, "-D", *self.rule(table, start, contains))

    def map(self, name: str) -> list[dict[str, list[str]]]:
        return json.loads(self.run("bpftool", "-j", "map", "dump", "pinned", self.pin(name)))

    def pin(self, name: str) -> str:
        return str(self.lab.paths.bpffs / "c1" / self.lab.nodes[0].name / "maps" / name)

    def delete_entries(self, name: str, number: int = 1 << 20) -> None:
        for entry in self.map(name)[:number]:
            self.run("bpftool", "map", "delete", "pinned", self.pin(name), "key", *entry["key"])

    def ip_set(self) -> str:
        return self.run("ipset", "list", "-n").split()[0]

    def azv(self, pod: str) -> str:
        return self.lab.pods[pod][0].host_interface

    def cgroup(self) -> str:
        return str(self.lab.paths.cgroup / "c1" / self.lab.nodes[0].name)

    def detach(self, name: str) -> None:
        shown = json.loads(self.run("bpftool", "-j", "cgroup", "show", self.cgroup()))
        program = next(p for p in shown if p["name"] == name)
        self.run("bpftool", "cgroup", "detach", self.cgroup(), program["attach_type"], "id", str(program["id"]))

    def programs_at(self, dev: str, hook: str) -> list[str]:
        enter = ["nsenter", f"--net=/run/netns/{self.lab.nodes[0].netns}"]
        shown = subprocess.run([*enter, "tc", "filter", "show", "dev", dev, hook], capture_output=True, text=True,
                               check=False).stdout           # without the device there is nothing to show
        return re.findall(r"handle 0x\d+ (\w+) direct-action", shown)

    def state(self, *, maps: bool = True) -> dict[str, object]:
        """All that agents keep in the node, but for what packets change, and numbers that the kernel chose."""
        rules = [line.split(" [")[0] for table in ("nat", "filter", "mangle")
                 for line in self.lab.rules(0, table).splitlines() if not line.startswith("#")]
        sets = sorted(self.run("ipset", "list", "-o", "save").splitlines())
        state: dict[str, object] = {"rules": rules, "sets": [s for s in sets if s.startswith("add")]}
        for dev in ("eth0", self.azv("web1"), "vxlan.calico"):
            state[dev] = [self.programs_at(dev, hook) for hook in ("ingress", "egress")]
        state["cgroup"] = sorted(re.findall("cali_[a-z]+4", self.run("bpftool", "cgroup", "show", self.cgroup())))
        folder = self.lab.paths.bpffs / "c1" / self.lab.nodes[0].name
        # Not by rglob: an agent may take folders away meanwhile. What ends in _rodata is loaded with the programs.
        state["pins"] = sorted(f"{where}/{name}".removeprefix(f"{folder}/") for where, _, names in os.walk(folder)
                               for name in names if "_" in name and not name.endswith("_rodata"))
        if maps and (folder / "maps").exists():
            for name in ("cali_v4_nat_fe", "cali_v4_nat_be", "cali_v4_routes", "cali_policy", "cali_iface",
                         "cali_v4_ip_sets"):
                state[name] = sorted(map(str, self.map(name)))
        return state


def in_sync(lab: Cluster, mode: str) -> None:
    """Wait for Felix on both nodes: the cases ask back ends on either."""
    assert lab.until(lambda: all(f"in sync ({mode}" in lab.log("calico_node", node) for node in ("n1", "n2"))), (
        lab.log("calico_node"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Cluster(tmp_path_factory.mktemp("repair") / "home")
    lab.call("create", "globalnetworkpolicies.crd.projectcalico.org", ALLOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_REPAIR_PERIOD", "0.3")
        yield lab
    lab.close()


@pytest.fixture(scope="module")
def iptables(lab):
    """Both agents, on iptables."""
    lab.start_agent("kube_proxy")
    assert lab.until(lambda: all(CANARY in lab.rules(node, "filter") for node in (0, 1))), lab.log("kube_proxy")
    lab.start_agent("calico_node")
    in_sync(lab, "iptables")
    yield Hands(lab)
    lab.stop_agent("kube_proxy")
    lab.stop_agent("calico_node")


@pytest.fixture(scope="module")
def ebpf(lab):
    """Felix, on eBPF, and no kube-proxy. It follows the iptables cases: a module's tests run in their order."""
    for program in ("kube_proxy", "calico_node"):
        lab.stop_agent(program)
    lab.bpf(True)
    lab.start_agent("calico_node")
    in_sync(lab, "bpf")
    yield Hands(lab)
    lab.stop_agent("calico_node")


def events(lab: Cluster) -> dict[str, int]:
    """"component: message" to count, of the first node."""
    found = lab.call("list", "events", "default")
    return {f"{e['source']['component']}: {e['message']}": e["count"] for e in found
            if e["involvedObject"]["name"] == "n1" and e["reason"] == "DataPlaneRepaired" and e["type"] == "Warning"}


def changed(before: dict[str, object], after: dict[str, object]) -> str:
    return "\n".join(f"{key}\n{value}\n{after.get(key)}" for key, value in before.items() if after.get(key) != value)


def breaks_and_heals(hands: Hands, break_it, component: str, words: str) -> None:
    lab = hands.lab
    before, said = hands.state(), events(lab)
    break_it(hands)
    assert lab.until(lambda: hands.state() == before), (
        changed(before, hands.state()), lab.log("calico_node")[-999:])

    def told() -> list[str]:
        now = events(lab)
        return [text for text, times in now.items() if times > said.get(text, 0)]
    assert lab.until(lambda: any(text.startswith(f"{component}: ") and words in text for text in told())), told()
    for who, ip in (("cli", SERVICE), ("alice", FRONTEND)):
        assert lab.until(lambda who=who, ip=ip: lab.ask(who, "tcp", ip, 80, patience=2)[0].startswith("web")), who


IPTABLES = {
    "a rule of KUBE-SERVICES": (
        lambda h: h.delete_rule("nat", "KUBE-SERVICES", "10.0.1.1/32 -p tcp"), "kube-proxy",
        "chain KUBE-SERVICES (nat): 1 rule missing"),
    "the rules of an endpoint": (
        lambda h: h.iptables("-t", "nat", "-F", h.rule("nat", "KUBE-SEP-")[0]), "kube-proxy", "(nat): 2 rules missing"),
    "the way in": (
        lambda h: h.delete_rule("nat", "PREROUTING", "KUBE-SERVICES"), "kube-proxy",
        "chain PREROUTING (nat): 1 rule missing"),
    "a chain that is there to be missed": (
        lambda h: h.iptables("-t", "mangle", "-X", CANARY), "kube-proxy", f"chain {CANARY} (mangle) was missing"),
    "a rule that leads elsewhere": (
        lambda h: h.iptables("-t", "nat", "-R", h.rule("nat", "KUBE-SEP-")[0], "2", "-p", "tcp", "-j", "DNAT",
                             "--to-destination", "10.9.9.9:9"), "kube-proxy", "1 rule missing, 1 rule not ours"),
    "a rule that is not ours": (
        lambda h: h.iptables("-t", "nat", "-I", "KUBE-SERVICES", "-d", SERVICE, "-j", "RETURN"), "kube-proxy",
        "chain KUBE-SERVICES (nat): 1 rule not ours"),
    "a whole table": (
        lambda h: (h.iptables("-t", "nat", "-F"), h.iptables("-t", "nat", "-X")), "kube-proxy", "more"),
    "a rule of a policy": (
        lambda h: h.delete_rule("filter", "cali-pi-_", "match-set"), "calico-node", "(filter): 1 rule missing"),
    "Calico's way in": (
        lambda h: h.iptables("-D", "FORWARD", "-j", "cali-FORWARD"), "calico-node",
        "chain FORWARD (filter): 1 rule missing"),
    "the members of an IP set": (
        lambda h: h.run("ipset", "flush", h.ip_set()), "calico-node", "2 members missing"),
    "a member that is not ours": (
        lambda h: h.run("ipset", "add", h.ip_set(), "198.51.100.0/24"), "calico-node",
        "1 member not ours"),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", IPTABLES)
def test_rules_that_were_changed_by_hand_come_back(iptables, case):
    breaks_and_heals(iptables, *IPTABLES[case])


@pytest.mark.kernel
def test_the_same_again_is_counted(iptables):
    lab = iptables.lab
    text = "kube-proxy: Put back what was changed by hand: chain KUBE-SERVICES (nat): 1 rule missing"
    before = events(lab).get(text, 0)
    for _ in range(2):
        breaks_and_heals(iptables, *IPTABLES["a rule of KUBE-SERVICES"])
    assert lab.until(lambda: events(lab)[text] == before + 2), events(lab)


EBPF = {
    "the uplink's programs": (
        lambda h: h.run("tc", "qdisc", "del", "dev", "eth0", "clsact"), "was not attached to eth0"),
    "a pod's program": (
        lambda h: h.run("tc", "filter", "del", "dev", h.azv("web1"), "ingress"),
        "program from_workload was not attached"),
    "another qdisc in the place of ours": (
        lambda h: (h.run("tc", "qdisc", "del", "dev", h.azv("web1"), "clsact"),
                   h.run("tc", "qdisc", "add", "dev", h.azv("web1"), "ingress")),
        "program to_workload was not attached"),
    "a program at connect": (
        lambda h: h.detach("cali_connect4"), "program cali_connect4 was not attached to the node's cgroup"),
    "the tunnel": (lambda h: h.run("ip", "link", "del", "vxlan.calico"), "link vxlan.calico was missing"),
    "the tunnel, down": (lambda h: h.run("ip", "link", "set", "vxlan.calico", "down"), "link vxlan.calico was down"),
    "frontends": (lambda h: h.delete_entries("cali_v4_nat_fe"), "map cali_v4_nat_fe: "),
    "backends": (lambda h: h.delete_entries("cali_v4_nat_be", 1), "map cali_v4_nat_be: 1 entry missing or changed"),
    "routes": (lambda h: h.delete_entries("cali_v4_routes"), "map cali_v4_routes: "),
    "rules of policies": (lambda h: h.delete_entries("cali_policy", 2), "map cali_policy: "),
    "interfaces": (lambda h: h.delete_entries("cali_iface"), "map cali_iface: "),
    "members of IP sets": (lambda h: h.delete_entries("cali_v4_ip_sets", 1), "map cali_v4_ip_sets: 1 entry missing"),
    "the configuration": (
        lambda h: h.run("bpftool", "map", "update", "pinned", h.pin("cali_config"), "key", "0", "0", "0", "0", "value",
                        *("0" for _ in h.map("cali_config")[0]["value"])), "map cali_config was changed"),
    "names in the bpffs": (
        lambda h: subprocess.run(["rm", "-r", *h.lab.paths.bpffs.glob("c1/n1/*")], check=True),
        "pin of from_workload was missing"),
    "what is left in iptables": (lambda h: h.iptables("-F", "cali-FORWARD"), "chain cali-FORWARD (filter): "),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", EBPF)
def test_programs_and_maps_that_were_changed_by_hand_come_back(ebpf, case):
    break_it, words = EBPF[case]
    breaks_and_heals(ebpf, break_it, "calico-node", words)


# --- agents that die


def kill(lab: Cluster, *programs: str) -> None:
    for key in [key for key in lab.agents if key[0] in programs]:
        agent = lab.agents.pop(key)
        agent.kill()
        agent.wait(60)


def kernel(hands: Hands) -> dict[str, object]:
    """What must be the same wherever an agent died.

    Not the maps, whose ids a new agent may give anew, nor who comes first in FORWARD: Felix looks at that when a pod
    on the node's network comes, and there are none here.
    """
    state = hands.state(maps=False)
    return {**state, "rules": sorted(state["rules"])}


@pytest.mark.kernel
def test_agents_that_die_in_the_middle_of_a_switch_converge(ebpf):
    lab = ebpf.lab
    on_ebpf = kernel(ebpf)
    on_iptables: dict[str, object] = {}
    for delay in (1.0, 0.1):           # the first lets a switch end: that is what the others are held to
        lab.start_agent("kube_proxy")
        lab.bpf(False)
        time.sleep(delay)
        kill(lab, "calico_node", "kube_proxy")
        for program in ("kube_proxy", "calico_node"):
            lab.start_agent(program)
        if not on_iptables:
            assert lab.until(lambda: CANARY in lab.rules(0, "filter") and "cali-tw-azv" in lab.rules(0, "filter"))
            assert lab.until(lambda: kernel(ebpf)["pins"] == [])
            on_iptables = kernel(ebpf)
            assert on_iptables["cgroup"] == []
        assert lab.until(lambda right=on_iptables: kernel(ebpf) == right), changed(on_iptables, kernel(ebpf))
        # The other node's agents died, too: their connections come when they have converged.
        assert lab.until(lambda: lab.ask("cli", "tcp", SERVICE, 80)[0].startswith("web"))

        kill(lab, "kube_proxy")
        lab.bpf(True)
        time.sleep(delay)
        kill(lab, "calico_node")
        lab.start_agent("calico_node")
        assert lab.until(lambda: kernel(ebpf) == on_ebpf), (changed(on_ebpf, kernel(ebpf)), lab.log("calico_node"))
        assert lab.until(lambda: lab.ask("alice", "tcp", FRONTEND, 80)[0].startswith("web"))


@pytest.mark.kernel
def test_kube_proxy_does_not_write_what_felix_removed_on_purpose(ebpf):
    """Both run at once, as when a learner forgets to patch kube-proxy away: no tug-of-war, and no event about it."""
    lab = ebpf.lab
    said = events(lab)
    lab.start_agent("kube_proxy")
    try:
        assert lab.until(lambda: CANARY in lab.rules(0, "filter"))
        assert lab.until(lambda: CANARY not in lab.rules(0, "nat") + lab.rules(0, "filter")), "Felix cleans up"
        assert not lab.until(lambda: CANARY in lab.rules(0, "filter"), 2), "six looks of kube-proxy"
        assert {text for text in events(lab).keys() - said.keys() if text.startswith("kube-proxy")} == set()
    finally:
        lab.stop_agent("kube_proxy")
