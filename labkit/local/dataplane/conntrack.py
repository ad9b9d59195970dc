"""Kernel connection tracking entries that point at endpoints which are gone.

UDP has no end of a connection: while a client keeps sending, the kernel keeps translating to an address
that nobody has any more. TCP needs none of this, its connections end by themselves. But policy is asked when a
connection begins: whoever gets the address of a pod that went must not get its connections, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence

from labkit.local.dataplane.services import ServicePort


def stale_udp(before: Iterable[ServicePort], after: Iterable[ServicePort]) -> Iterator[tuple[str, ...]]:
    """The `conntrack -D` arguments that follow from a change of a service. Pure."""
    now = {(port.port_name, port.protocol): port for port in after}
    then = {(port.port_name, port.protocol): port for port in before}
    for key in {*now, *then}:
        if key[1] != "UDP":
            continue
        old, new = then.get(key), now.get(key)
        was = {endpoint.ip for endpoint in old.usable()} if old else set()
        has = {endpoint.ip for endpoint in new.usable()} if new else set()
        if old:
            for ip in sorted(was - has):
                for address in (old.cluster_ip, *old.external_ips, *old.lb_ips):
                    yield "-D", "-p", "udp", "--orig-dst", address, "--dst-nat", ip
                if old.node_port:
                    yield "-D", "-p", "udp", "--orig-port-dst", str(old.node_port), "--dst-nat", ip
        if new and has and not was:    # what was sent into the void so far is tracked without translation
            for address in (new.cluster_ip, *new.external_ips, *new.lb_ips):
                yield "-D", "-p", "udp", "--orig-dst", address
            if new.node_port:
                yield "-D", "-p", "udp", "--orig-port-dst", str(new.node_port)


def of_addresses(addresses: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The `conntrack -D` arguments for all connections from and to addresses, as Felix has them. Pure."""
    for ip in sorted(addresses):
        for end in ("--orig-src", "--reply-src"):
            yield "-D", end, ip


def flush(commands: Iterable[tuple[str, ...]], prefix: Sequence[str] = ()) -> None:
    """Run `conntrack` for each; that there is nothing to delete is not an error."""
    for arguments in commands:
        subprocess.run([*prefix, "conntrack", *arguments], capture_output=True, timeout=30, check=False)
