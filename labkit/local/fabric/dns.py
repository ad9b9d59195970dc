"""Azure's resolver, the small part of it that a VNet needs: it knows the names of the lab's APIs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord

Lookup = Callable[[str], Sequence[str] | None]
"""A name in lower case, without its final dot, to IPv4 addresses; None where there is no such name."""


def answer(request: bytes, lookup: Lookup) -> bytes | None:
    """The reply to a DNS message; None for what is not one."""
    try:
        query = DNSRecord.parse(request)
    except (DNSError, ValueError, IndexError):
        return None
    reply = query.reply(ra=1, aa=0)
    if query.questions:
        addresses = lookup(str(query.q.qname).rstrip(".").lower())
        if addresses is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif query.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in addresses:
                reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(address), ttl=30))
    return bytes(reply.pack())


class AzureDns:
    """A DNS server, on UDP and TCP, on sockets that were made in the router's namespace.

    Args:
        lookup: what it knows; everything else does not exist.
        address: where to listen, 168.63.129.16 in a VNet.
        port: 53.
    """

    def __init__(self, lookup: Lookup, *, address: str = "168.63.129.16", port: int = 53) -> None:
        self._lookup, self._where = lookup, (address, port)
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, make_socket: Callable[[int, int], socket.socket]) -> None:
        """Listen; `make_socket(family, type)` makes sockets in the right namespace."""
        loop = asyncio.get_running_loop()
        udp, tcp = make_socket(socket.AF_INET, socket.SOCK_DGRAM), make_socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for listening in (udp, tcp):
            listening.setblocking(False)
            listening.bind(self._where)
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._lookup), sock=udp)
        self._server = await asyncio.start_server(self._serve_tcp, sock=tcp)

    def close(self) -> None:
        """Stop listening."""
        if self._transport:
            self._transport.close()
        if self._server:
            self._server.close()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            async with asyncio.timeout(10):
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    reply = answer(await reader.readexactly(length), self._lookup)
                    if reply is None:
                        break
                    writer.write(struct.pack("!H", len(reply)) + reply)
        writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        reply = answer(data, self._lookup)
        if reply is not None:
            self._transport.sendto(reply, address)  # type: ignore[attr-defined]
