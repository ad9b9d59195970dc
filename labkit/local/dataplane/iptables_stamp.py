"""Whether an iptables table changed since it was looked at last, asked of the kernel without a process.

`iptables-save` prints 40,000 rules in some 200 milliseconds; that is too much to ask every few seconds. With the
legacy back end the kernel says in microseconds how many rules a table has and how long they are, so that a rule which
came or went is noticed at any size. With the nft back end it counts the transactions of the namespace.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import struct

DEEP = 1 << 19
"""Bytes up to which a legacy table's rules are compared each time, not only how many and how long they are: some 1,500
rules, a few milliseconds. Those of a longer one are `of_contents`."""

_GET_INFO, _GET_ENTRIES = 64, 65               # linux/netfilter_ipv4/ip_tables.h: IPT_SO_GET_…
_INFO, _ENTRIES_HEAD = 84, 40                  # sizes of struct ipt_getinfo, and of ipt_get_entries before its rules
_NEXT_OFFSET, _VOLATILE = 90, slice(92, 112)   # in struct ipt_entry; comefrom and the counters change by themselves
_NFNL_GET_GENERATION = 10 << 8 | 16            # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_NETLINK_NETFILTER = 12
_libc = ctypes.CDLL(None, use_errno=True)


def of_table(variant: str, table: str) -> bytes:
    """What differs after a change of the table in the caller's namespace.

    With the nft back end it differs after a change of any table there.

    Args:
        variant: "legacy" or "nft".
        table: "filter", "nat" or "mangle".

    Raises:
        OSError: the kernel refuses to say.
    """
    if variant == "nft":
        return _generation()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as control:
        name = table.encode()
        info = _get(control, _GET_INFO, struct.pack("32s", name), _INFO)
        size = struct.unpack_from("=I", info, 80)[0]
        return bytes(info) if size > DEEP else _contents(control, name, size)


def of_contents(table: str) -> bytes:
    """Of a long legacy table, what differs after a rule was replaced, too.

    Some 120 milliseconds of a processor for 10,000 services.

    Raises:
        OSError: the kernel refuses to say.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as control:
        name = table.encode()
        info = _get(control, _GET_INFO, struct.pack("32s", name), _INFO)
        return _contents(control, name, struct.unpack_from("=I", info, 80)[0])


def _contents(control: socket.socket, table: bytes, size: int) -> bytes:
    rules = _get(control, _GET_ENTRIES, struct.pack("=32sI", table, size), _ENTRIES_HEAD + size)[_ENTRIES_HEAD:]
    clear_counters(rules)
    return hashlib.blake2b(rules, digest_size=16).digest()


def entries(stamp: bytes) -> int | None:
    """Of a long legacy table's stamp: how many rules it has, and heads and ends of chains. Pure."""
    return int(struct.unpack_from("=I", stamp, 76)[0]) if len(stamp) == _INFO else None


def clear_counters(rules: memoryview) -> None:
    """Set to zero what packets change in the kernel's rules of a table, in place: they may be many megabytes."""
    at, end, zero = 0, len(rules) - 112, bytes(_VOLATILE.stop - _VOLATILE.start)
    next_offset = struct.Struct("=H").unpack_from
    while at <= end:
        rules[at + _VOLATILE.start:at + _VOLATILE.stop] = zero
        step = next_offset(rules, at + _NEXT_OFFSET)[0]
        if step < 112:
            break
        at += step


def _get(control: socket.socket, option: int, ask: bytes, size: int) -> memoryview:
    # socket.getsockopt gives at most 1,024 bytes, and cannot pass the table's name.
    buffer, length = ctypes.create_string_buffer(ask, size), ctypes.c_uint32(size)
    if _libc.getsockopt(control.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, f"reading an iptables table: {os.strerror(number)}")
    return memoryview(buffer).cast("B")[:length.value]


def _generation() -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.settimeout(10)
        link.send(struct.pack("=IHHIIBBH", 20, _NFNL_GET_GENERATION, 1, 1, 0, socket.AF_UNSPEC, 0, 0))
        reply = link.recv(65536)
    kind = struct.unpack_from("=H", reply, 4)[0]
    if kind == 2:                              # NLMSG_ERROR
        number = -struct.unpack_from("=i", reply, 16)[0]
        raise OSError(number, f"reading nftables' generation: {os.strerror(number)}")
    return reply[24:28]                        # NFTA_GEN_ID, the first attribute
