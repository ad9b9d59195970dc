"""What the Kubernetes documentation promises of services, as a small model; and what a kernel's rules and maps say.

`Cluster.verdict` is the model. `Rules` reads `iptables-save`, `Maps` reads the eBPF maps: both give what the kernel
would do with the first packet of a connection, for every choice that it could make. None uses labkit's planners.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from socket import inet_aton, inet_ntoa
from typing import Any

Obj = dict[str, Any]
NODE, NODE_IP, OTHER_IP, POD_CIDR = "n1", "10.224.0.4", "10.224.0.35", "10.224.0.0/16"
CALLERS = {"pod": "10.224.0.9", "node": NODE_IP, "alice": "203.0.113.10", "bob": "198.51.100.20"}
Verdict = frozenset[str]                # "ip:port" of the back ends, or one word
REJECT, DROP, NONE = frozenset({"reject"}), frozenset({"drop"}), frozenset({"not a service"})


@dataclass
class Cluster:
    """Services and endpoint slices, by name, as the API has them."""

    services: dict[str, Obj] = field(default_factory=dict)
    slices: dict[tuple[str, int], Obj] = field(default_factory=dict)

    def targets(self) -> Iterator[tuple[str, int, str]]:
        """Every address, port and protocol that the test's services can have: used, or not."""
        for obj in self.services.values():
            for port in obj["spec"]["ports"]:
                for ip in _addresses(obj):
                    yield ip, port["port"], port["protocol"]
                if port.get("nodePort"):
                    yield NODE_IP, port["nodePort"], port["protocol"]

    def verdict(self, caller: str, ip: str, number: int, protocol: str) -> Verdict:
        for name, obj in self.services.items():
            spec = obj["spec"]
            for port in spec["ports"]:
                if port["protocol"] != protocol:
                    continue
                if port["port"] == number and ip in _addresses(obj):
                    return self._for(name, obj, port, caller, ip)
                if port.get("nodePort") == number and ip == NODE_IP:
                    return self._for(name, obj, port, caller, ip)
        return NONE

    def _for(self, name: str, obj: Obj, port: Obj, caller: str, ip: str) -> Verdict:
        spec, source = obj["spec"], ip_address(CALLERS[caller])
        everywhere = self._usable(name, port, lambda endpoint: True)
        if not everywhere:
            return REJECT
        is_lb = ip in _lb(obj)
        ranges = spec.get("loadBalancerSourceRanges") or ()
        if is_lb and ranges and not any(source in ip_network(net) for net in ranges):
            return DROP
        inside = caller in ("pod", "node")
        if ip == spec["clusterIP"]:
            local = spec.get("internalTrafficPolicy") == "Local"
        else:                           # a caller inside is not sent out and in again
            local = spec.get("externalTrafficPolicy") == "Local" and not inside
        if not local:
            return everywhere
        return self._usable(name, port, lambda endpoint: endpoint["nodeName"] == NODE) or DROP

    def _usable(self, name: str, port: Obj, where: Any) -> Verdict:
        """Ready endpoints; where there are none, those that shut down but still serve."""
        found: dict[str, tuple[bool, bool]] = {}
        for (service, _), piece in self.slices.items():
            if service != name:
                continue
            for number in (p["port"] for p in piece["ports"]
                           if (p["name"], p["protocol"]) == (port["name"], port["protocol"])):
                for endpoint in filter(where, piece["endpoints"]):
                    conditions, key = endpoint["conditions"], f"{endpoint['addresses'][0]}:{number}"
                    known = found.get(key, (False, False))
                    found[key] = (known[0] or conditions["ready"],
                                  known[1] or (conditions["serving"] and conditions["terminating"]))
        return (frozenset(key for key, (ready, _) in found.items() if ready)
                or frozenset(key for key, (_, leaving) in found.items() if leaving))


def _lb(obj: Obj) -> list[str]:
    return [entry["ip"] for entry in obj["status"]["loadBalancer"]["ingress"]]


def _addresses(obj: Obj) -> list[str]:
    return [obj["spec"]["clusterIP"], *obj["spec"].get("externalIPs", ()), *_lb(obj)]


class Rules:
    """iptables-save of the tables nat and filter."""

    def __init__(self, nat: str, rules: str) -> None:
        self._tables = {"nat": _chains(nat), "filter": _chains(rules)}

    def verdict(self, caller: str, ip: str, number: int, protocol: str) -> Verdict:
        packet = {"src": CALLERS[caller], "dst": ip, "port": number, "proto": protocol.lower()}
        out = caller == "node"
        results = set()
        for end, mark in self._walk("nat", "OUTPUT" if out else "PREROUTING", packet, 0):
            if end.startswith("DNAT "):
                results.add(end[5:])
                continue
            ends = {("", mark)}
            for chain in (["OUTPUT"] if out else []) + (["INPUT"] if ip == NODE_IP else [] if out else ["FORWARD"]):
                ends = {after for end, mark in ends
                        for after in ([(end, mark)] if end in ("REJECT", "DROP")
                                      else self._walk("filter", chain, packet, mark))}
            results |= {{"REJECT": "reject", "DROP": "drop"}.get(final, "not a service") for final, _ in ends}
        return frozenset(results)

    def _walk(self, table: str, chain: str, packet: Mapping[str, Any], mark: int) -> Iterator[tuple[str, int]]:
        """Every end that a packet may come to: a verdict or "" for the end of the chain, and its mark."""
        paths = {mark}
        for rule in self._tables[table].get(chain, ()):
            after: set[int] = set()
            for mark in paths:
                match = _matches(rule, packet, mark)
                if match is not True:                   # it does not, or may not
                    after.add(mark)
                if match is False:
                    continue
                target = rule.get("-j", "")
                if target == "MARK":
                    after.add(mark | int(rule.get("--set-xmark", "0/0").split("/")[0], 16))
                elif target == "DNAT":
                    yield f"DNAT {rule['--to-destination']}", mark
                elif target in ("REJECT", "DROP", "ACCEPT"):
                    yield target, mark
                elif target == "RETURN":
                    yield "", mark
                elif target in self._tables[table]:
                    for end, marked in self._walk(table, target, packet, mark):
                        if end:
                            yield end, marked
                        else:
                            after.add(marked)
            paths = after
        for mark in paths:
            yield "", mark


def _chains(saved: str) -> dict[str, list[dict[str, str]]]:
    chains: dict[str, list[dict[str, str]]] = {}
    for line in saved.splitlines():
        if line.startswith(":"):
            chains[line[1:].split(" ")[0]] = []
        elif line.startswith("-A "):
            words, rule, negated = shlex.split(line), {}, False
            for i, word in enumerate(words):
                if word == "!":
                    negated = True
                elif word.startswith("-"):
                    value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("-") else ""
                    rule["!" * negated + word + ("=" + value if word == "-m" else "")] = value
                    negated = False
            chains[words[1]].append(rule)
    return chains


def _matches(rule: Mapping[str, str], packet: Mapping[str, Any], mark: int) -> bool | None:
    """Whether a rule matches the first packet of a connection; None where chance decides."""
    local = {NODE_IP, "127.0.0.1"}
    for key, value in rule.items():
        wrong = False
        match key.lstrip("!"):
            case "-d":
                wrong = ip_address(packet["dst"]) not in ip_network(value)
            case "-s":
                wrong = ip_address(packet["src"]) not in ip_network(value)
            case "-p":
                wrong = packet["proto"] != value
            case "--dport":
                wrong = packet["port"] != int(value)
            case "--dst-type":
                wrong = packet["dst"] not in local
            case "--src-type":
                wrong = packet["src"] not in local
            case "--mark":
                want, mask = (int(part, 16) for part in (value + "/0xffffffff").split("/")[:2])
                wrong = mark & mask != want
            case "--rcheck":
                wrong = True                            # nobody was here before
            case "--ctstate":
                wrong = "NEW" not in value
        if wrong != key.startswith("!"):
            return False
    return None if "--probability" in rule else True


class Maps:
    """The maps' content, read as the programs read it."""

    def __init__(self, frontends: Mapping[bytes, bytes], backends: Mapping[bytes, bytes],
                 ip_sets: Mapping[bytes, bytes]) -> None:
        self._frontends, self._backends = frontends, backends
        self._sets = [(struct.unpack_from("=I", key, 4)[0],
                       ip_network((key[8:12], struct.unpack_from("=I", key)[0] - 32))) for key in ip_sets]

    def verdict(self, caller: str, ip: str, number: int, protocol: str) -> Verdict:
        end = struct.pack(">HBB", number, {"TCP": 6, "UDP": 17}[protocol], 0)
        value = self._frontends.get(inet_aton(ip) + end)
        if value is None and ip in (NODE_IP, OTHER_IP):
            value = self._frontends.get(bytes([255] * 4) + end)
        if value is None:
            return NONE
        service, count, local, _, flags, ranges = struct.unpack("=IHHIII", value)
        source = ip_address(CALLERS[caller])
        if flags & 4 and count and not any(ranges == each and source in net for each, net in self._sets):
            return DROP
        outside = caller in ("alice", "bob")
        first = 0
        if flags & (1 if outside else 2):
            last = local
        else:
            last, first = count, local if flags & 8 else 0
        found = [self._backends.get(struct.pack("=II", service, index)) for index in range(first, last)]
        assert None not in found, "a frontend promises more backends than there are"
        return frozenset(_end(value) for value in found if value) or (REJECT if count == 0 else DROP)


def _end(value: bytes) -> str:
    return f"{inet_ntoa(value[:4])}:{struct.unpack('>H', value[4:6])[0]}"
