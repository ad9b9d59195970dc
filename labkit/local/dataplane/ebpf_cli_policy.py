"""`calico-node -bpf policy dump`: the rules of an interface, in the order in which the programs ask them.

Felix compiles a policy into a program and writes remarks beside the instructions; the command prints some of them, with
`--asm` all, and the instructions. Here rules are entries of a map that every program reads, so there are only remarks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.dataplane import policy_names

Sets = Mapping[int, Sequence[str]]
"""The members of IP sets, by id."""


@dataclass(frozen=True)
class Rule:
    """A rule as the map has it, with the name of its policy and how often it was hit."""

    policy: str
    action: str
    protocol: str
    nets: int
    not_nets: int
    id: int
    ports: tuple[str, ...]
    hits: int

    @classmethod
    def read(cls, raw: bytes, policy: str, hits: Mapping[int, int]) -> Rule:
        """From a value of cali_policy."""
        action, protocol, count, nets, not_nets, number, *flat = struct.unpack(f"=BBBxIII{2 * maps.MAX_PORTS}H", raw)
        ranges = [flat[i:i + 2] for i in range(0, 2 * count, 2)]
        return cls(policy, {maps.RULE_ALLOW: "allow", maps.RULE_LOG: "log"}.get(action, "deny"),
                   maps.PROTOCOL_NAMES.get(protocol, str(protocol)).lower() if protocol else "", nets, not_nets, number,
                   tuple(str(low) if low == high else f"{low}-{high}" for low, high in ranges), hits.get(number, 0))

    def proto(self, end: str) -> str:
        """The rule as Go prints the message that Felix gets of it."""
        ports = [port.partition("-") for port in self.ports]
        return " ".join([
            f'action:"{self.action}"',
            *([f'protocol:{{{"number:" if self.protocol.isdecimal() else "name:"}'
               f'{self.protocol if self.protocol.isdecimal() else _quoted(self.protocol)}}}'] if self.protocol else []),
            *(f"dst_ports:{{first:{first} last:{last or first}}}" for first, _, last in ports),
            *([f'{end}_ip_set_ids:"{_name(self.nets)}"'] if self.nets else []),
            *([f'not_{end}_ip_set_ids:"{_name(self.not_nets)}"'] if self.not_nets else []),
            f'rule_id:"{self.id:08x}"'])

    def sets(self, end: str) -> str:
        """The IP sets that it names."""
        named = ((f"{end}_ip_set_ids", self.nets), (f"not_{end}_ip_set_ids", self.not_nets))
        return "".join(f"{field}:<{number:#x}> " for field, number in named if number)

    def conditions(self, end: str) -> Iterator[str]:
        """What a packet must be like, each as the reason to go on to the next rule."""
        side = {"src": "source", "dst": "dest"}[end]
        if self.protocol:
            yield f"If protocol != {self.protocol}, skip to next rule"
        if self.nets:
            yield f"If {side} doesn't match ipset {_name(self.nets)} ({self.nets:#x}), skip to next rule"
        if self.not_nets:
            yield f"If {side} matches ipset {_name(self.not_nets)} ({self.not_nets:#x}), skip to next rule"
        if self.ports:
            yield f"If dest port is not within any of {{{','.join(self.ports)}}}, skip to next rule"


def remarks(rules: Sequence[Rule], end: str, *, kinds: bool) -> Iterator[str]:
    """What Felix writes beside a list's instructions. Pure.

    Args:
        rules: the list.
        end: "src" where the far end is the source, else "dst".
        kinds: name policies by their kind, as since v3.32.
    """
    yield "Start of tier default"
    for number, (name, group) in enumerate(groupby(rules, key=lambda rule: rule.policy)):
        if not name:                             # the verdict at the end
            continue
        kind, called = policy_names.shown(name)
        title, of = (f"{kind} {called} {number}", f"{called} ") if kinds else (f"policy {name}", "")
        yield f"Start of {title}"
        for rule in group:
            yield f"Start of rule {of}{rule.proto(end)}"
            if sets := rule.sets(end):
                yield f"IPSets {sets}"
            yield f"Rule MatchID: {rule.id}"
            yield from rule.conditions(end)
            yield f"End of rule {of}{rule.id:08x}"
        yield f"End of {title}"
    yield "End of tier default: deny"


def as_remarks(rules: Sequence[Rule], end: str, *, everything: bool) -> Iterator[str]:
    """A list as Calico prints it before v3.32. Pure."""
    hits = {rule.id: rule.hits for rule in rules}
    yield "Error: "
    yield "Policy Info:"
    for remark in remarks(rules, end, kinds=False) if rules else ():
        if remark.startswith("Rule MatchID: "):
            yield f"// count = {hits[int(remark.rpartition(' ')[2])]}"
        elif everything or any(part in remark for part in ("Start of", "End of", "IPSets")):
            yield f"// {remark}"


def as_tree(rules: Sequence[Rule], end: str, sets: Sets, *, everything: bool) -> Iterator[str]:
    """A list as Calico prints it since v3.32. Pure."""
    hits = {rule.id: rule.hits for rule in rules}
    for remark in remarks(rules, end, kinds=True) if rules else ():
        first, _, rest = remark.partition(" of ")
        subject, _, named = rest.partition(" ")
        match first, subject:
            case "Start", "tier":
                yield f"  Tier: {named}"
            case "End", "tier":
                yield "  End Tier: {}  (action: {})".format(*named.split(": "))
            case "Start", "rule":
                called, action = named.split(" ")[:2]
                yield f"      Rule: {called}  Action: {action.split(chr(34))[1]}"
            case "End", "rule":
                pass
            case "Start", _:
                yield f"    Policy: {rest}"
            case "End", _:
                yield f"    End Policy: {rest}"
            case _ if remark.startswith("Rule MatchID: "):
                yield f"      Hit count: {hits[int(remark.rpartition(' ')[2])]}"
            case _ if remark.startswith("IPSets "):
                yield f"      IP sets: {_members(remark.removeprefix('IPSets '), sets)}"
            case _ if everything:
                yield f"      // {remark}"


def _members(remark: str, sets: Sets) -> str:
    words = []
    for word in remark.split():
        field, _, number = word.rstrip(">").partition(":<")
        members = sets.get(int(number, 16))
        sign, end = "!" * field.startswith("not_"), field.removeprefix("not_")[:3]
        words.append(f"{sign}{end}={{{', '.join(sorted(members))}}}" if members else f"{sign}{end}={number}")
    return " ".join(words)


def _name(ip_set: int) -> str:
    """Felix's name of an IP set, whose number in the map is another."""
    return f"s:{ip_set:x}"


def _quoted(text: str) -> str:
    return f'"{text}"'
