"""Random histories of services and endpoints, taken in step by step: the kernel must say what a small model says."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.local.dataplane.bpfsys import Map
from labkit.local.dataplane.ebpf_mirror import IpSets, Mirror
from labkit.local.dataplane.ebpf_services import ServiceMaps
from labkit.local.dataplane.iptables import Iptables
from labkit.local.dataplane.kubeproxy import ProxyConfig
from labkit.local.dataplane.services import ServiceTable
from labkit.local.fabric import netns
from labkit.local.programs.kube_proxy import Proxier
from tests.dataplane.service_lab import endpoint, port, service, slice_of
from tests.dataplane.service_model import CALLERS, NODE, NODE_IP, NONE, POD_CIDR, REJECT, Cluster, Maps, Rules

pytestmark = pytest.mark.kernel
BOUNDED = settings(max_examples=25, deadline=None, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES, PLACES, PIECES = ("s0", "s1", "s2"), (0, 1, 2, 3), (1, 2)
PORTS = (("t", "TCP"), ("u", "UDP"), ("v", "TCP"))
Step = tuple[Any, ...]


@st.composite
def services(draw: st.DrawFn) -> Step:
    """A service at one of four places: its addresses. One that is deleted leaves its place to others."""
    name, place = draw(st.sampled_from(NAMES)), draw(st.sampled_from(PLACES))
    node_ports = draw(st.booleans())
    # TCP and UDP share port 53; `v` has a port that may change
    numbers = {"t": 53, "u": 53, "v": draw(st.sampled_from((80, 81)))}
    ports = [port(key, numbers[key], protocol, 30000 + 10 * place + i if node_ports else 0)
             for i, (key, protocol) in enumerate(PORTS) if draw(st.booleans()) or key == "t"]
    spec: dict[str, Any] = {
        "externalTrafficPolicy": draw(st.sampled_from(("Cluster", "Local"))),
        "internalTrafficPolicy": draw(st.sampled_from(("Cluster", "Cluster", "Local"))),
        "externalIPs": [f"192.0.2.{200 + place}"] if draw(st.booleans()) else []}
    if draw(st.booleans()):
        spec["loadBalancerSourceRanges"] = draw(st.sampled_from(
            (["203.0.113.0/24"], ["198.51.100.20/32", POD_CIDR])))
    if draw(st.booleans()):
        spec["sessionAffinity"] = "ClientIP"
    lb = (f"192.0.2.{100 + place}",) if draw(st.booleans()) else ()
    return "service", name, place, service(name, f"10.0.3.{place + 1}", *ports, lb=lb, **spec)


@st.composite
def slices(draw: st.DrawFn) -> Step:
    name, piece = draw(st.sampled_from(NAMES)), draw(st.sampled_from(PIECES))
    ends = []
    for host, node in ((5, NODE), (6, NODE), (40, "n2"), (41, "n2")):
        state = draw(st.sampled_from(("absent", "ready", "ready", "not ready", "leaving", "gone")))
        if state != "absent":
            ends.append(endpoint(f"10.224.0.{host}", node, ready=state == "ready",
                                 serving=state in ("ready", "leaving"), terminating=state in ("leaving", "gone")))
    numbers = {"t": ("TCP", 8080 + piece), "u": ("UDP", 8053), "v": ("TCP", draw(st.sampled_from((8090, 8091))))}
    return "slice", name, piece, slice_of(name, numbers, *ends, piece=piece)


HISTORY = st.lists(st.one_of(
    services(), services(), slices(), slices(),
    st.tuples(st.just("delete service"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete slice"), st.sampled_from(NAMES), st.sampled_from(PIECES)),
    st.just(("sync",)), st.just(("sync",))), min_size=6, max_size=24)


class History:
    """Takes the steps that an API would accept, in the model and in the tables alike."""

    def __init__(self, *tables: ServiceTable) -> None:
        self.cluster, self._tables, self._places = Cluster(), tables, dict[str, int]()

    def take(self, step: Step) -> None:
        kind, name = step[0], step[1]
        if kind == "service":
            if step[2] in (place for other, place in self._places.items() if other != name):
                return                                  # its addresses are taken
            if self._places.get(name, step[2]) != step[2]:
                self.take(("delete service", name))     # a cluster IP never changes: it is another service
            self._places[name], self.cluster.services[name] = step[2], step[3]
            self._tell("on_service", "MODIFIED", step[3])
        elif kind == "slice":
            self.cluster.slices[name, step[2]] = step[3]
            self._tell("on_slice", "MODIFIED", step[3])
        elif kind == "delete service" and (gone := self.cluster.services.pop(name, None)):
            del self._places[name]
            self._tell("on_service", "DELETED", gone)
        elif kind == "delete slice" and (gone := self.cluster.slices.pop((name, step[2]), None)):
            self._tell("on_slice", "DELETED", gone)

    def _tell(self, method: str, event: str, obj: Any) -> None:
        for table in self._tables:
            getattr(table, method)(event, obj)

    def check(self, kernel: Rules | Maps, *, outward: bool = False) -> None:
        """Compare. `outward`: a node's own packets to an outside address may go out, as with kube-proxy 1.20.

        It has no rule in OUTPUT for external IPs, and none that refuses a load balancer's address: where such a packet
        comes back in is where it is dealt with.
        """
        places = [(f"10.0.3.{p + 1}", 53, "TCP") for p in PLACES] + [(NODE_IP, 30000 + 10 * p, "TCP") for p in PLACES]
        for ip, number, protocol in [*self.cluster.targets(), *places]:
            for caller in CALLERS:
                got, want = (each.verdict(caller, ip, number, protocol) for each in (kernel, self.cluster))
                out = outward and caller == "node" and ip.startswith("192.0.2.")
                if out and got == NONE and (ip.startswith("192.0.2.2") or want == REJECT):
                    continue
                assert got == want, f"{caller} to {ip}:{number} {protocol}: {set(got)}, not {set(want)}"


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[str, str]]:
    names = tuple(f"labkit-test-{uuid.uuid4().hex[:8]}" for _ in range(2))
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    yield names[0], names[1]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=True)


def clear(space: str) -> None:
    text = "*nat\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n"
    netns.run_inside(space, lambda: subprocess.run(["iptables-legacy-restore"], input=text, text=True, check=True))


def save(space: str, table: str) -> str:
    return netns.run_inside(space, lambda: Iptables("legacy").save(table))


def sorted_chains(saved: str) -> dict[str, list[str]]:
    """Chains with their rules in order; the chains themselves in none, and no counters."""
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith(":"):
            chains[line[1:].split(" ")[0]] = []
        elif line.startswith("-A "):
            chains[line.split(" ")[1]].append(line)
    return chains


@BOUNDED
@given(history=HISTORY)
def test_iptables_hold_what_the_model_says_and_partial_sync_equals_full(
        spaces: tuple[str, str], history: list[Step]) -> None:
    partial, full = spaces
    config = ProxyConfig(NODE, NODE_IP, POD_CIDR)
    proxiers = [Proxier(config, Iptables("legacy"), partial=space == partial) for space in spaces]
    steps = History(*(proxier.table for proxier in proxiers))
    for space, proxier in zip(spaces, proxiers, strict=True):
        clear(space)
        netns.run_inside(space, proxier.sync)
    for step in history:
        if step[0] != "sync":
            steps.take(step)
        elif proxiers[0].dirty:
            netns.run_inside(partial, proxiers[0].sync)
    for space, proxier in zip(spaces, proxiers, strict=True):
        netns.run_inside(space, proxier.sync)
    nat, rules = (save(partial, table) for table in ("nat", "filter"))
    steps.check(Rules(nat, rules), outward=True)
    assert sorted_chains(nat) == sorted_chains(save(full, "nat"))
    assert sorted_chains(rules) == sorted_chains(save(full, "filter"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Map]]:
    mount = tmp_path_factory.mktemp("maps") / "bpf"
    mount.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", mount], check=True)
    sizes = {"fe": ("hash", 8, 20), "be": ("hash", 8, 8), "sets": ("lpm_trie", 12, 4)}
    opened = {}
    for name, (kind, key, value) in sizes.items():
        path: Path = mount / name
        subprocess.run(["bpftool", "map", "create", path, "type", kind, "key", str(key), "value", str(value),
                        "entries", "4096", "name", name, "flags", "1"], check=True)
        opened[name] = Map(path)
    yield opened
    for each in opened.values():
        each.close()
    subprocess.run(["umount", mount], check=True)


@settings(BOUNDED, max_examples=100)
@given(history=HISTORY)
def test_ebpf_maps_hold_what_the_model_says(maps: dict[str, Map], history: list[Step]) -> None:
    for each in maps.values():
        for key in list(each.keys()):
            each.discard(key)

    def agent() -> ServiceMaps:
        return ServiceMaps(Mirror(maps["fe"]), Mirror(maps["be"]), IpSets(Mirror(maps["sets"])), NODE)

    table = ServiceTable()
    steps, planner = History(table), agent()
    planner.apply(())
    for step in history:
        if step[0] != "sync":
            steps.take(step)
        else:
            planner.apply([(key, table.get(key)) for key in sorted(table.changed())])
            steps.check(Maps(*(dict(each.items()) for each in maps.values())))
    planner.apply([(key, table.get(key)) for key in sorted(table.changed())])
    held = [dict(each.items()) for each in maps.values()]
    steps.check(Maps(*held))
    # nothing is left over: an agent that starts anew, on empty maps, writes as many entries
    used = {value[:4] for value in held[0].values()}
    assert {key[:4] for key in held[1]} <= used
    for service_id in used:
        counts = {value[4:6] for value in held[0].values() if value[:4] == service_id}
        assert counts == {sum(key[:4] == service_id for key in held[1]).to_bytes(2, "little")}
    # and one that starts again on these changes nothing
    agent().apply(table.items())
    assert [dict(each.items()) for each in maps.values()][:2] == held[:2]
