"""What the agent reads of the node's interfaces for the programs."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest

ASK = """
import socket
from labkit.local.dataplane import ebpf_tc
print(ebpf_tc.gateway(socket.if_nametoindex("uplink")))
"""


@pytest.fixture
def node() -> Iterator[Callable[..., str]]:
    """Runs a command in a namespace whose uplink has one router."""
    name = f"labkit-test-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)

    def run(*words: str) -> str:
        return subprocess.run(["ip", "netns", "exec", name, *words], check=True, text=True, capture_output=True).stdout

    for line in ("link add uplink type veth peer name far", "link set uplink up", "link set far up",
                 "addr add 10.9.0.4/32 dev uplink", "route add 10.9.0.1 dev uplink scope link",
                 "route add default via 10.9.0.1", "route add 10.9.0.0/16 via 10.9.0.1"):
        run("ip", *line.split())
    yield run
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.kernel
@pytest.mark.parametrize(("route", "found"), [
    ("", "10.9.0.1"),
    ("10.8.0.0/16 via 10.9.0.1", "10.9.0.1"),
    ("10.9.0.0/24 dev uplink", "0.0.0.0"),          # neighbours of its own
    ("10.9.0.2/32 dev uplink", "0.0.0.0"),
    ("10.8.0.0/16 via 10.9.0.9 dev uplink onlink", "0.0.0.0"),
])
def test_the_gateway_is_one_that_every_route_of_the_uplink_names(node, route, found):
    if route:
        node("ip", "route", "add", *route.split())
    assert node(sys.executable, "-c", ASK).strip() == found
