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
"""Bytes up to which a legacy table's rules are compared too, not only how many and how long they are: some 1,500
rules, a few milliseconds. In a longer one a rule that was replaced by one of the same length is not noticed."""

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
        if size > DEEP:
            return info
        entries = _get(control, _GET_ENTRIES, struct.pack("=32sI", name, size), _ENTRIES_HEAD + size)
    return hashlib.blake2b(without_counters(entries[_ENTRIES_HEAD:]), digest_size=16).digest()


def entries(stamp: bytes) -> int | None:
    """Of a long legacy table's stamp: how many rules it has, and heads and ends of chains. Pure."""
    return int(struct.unpack_from("=I", stamp, 76)[0]) if len(stamp) == _INFO else None


def without_counters(entries: bytes) -> bytes:
    """The kernel's rules of a table, with what packets change in them set to zero. Pure."""
    cleared, at = bytearray(entries), 0
    while at + 112 <= len(cleared):
        cleared[at + _VOLATILE.start:at + _VOLATILE.stop] = bytes(_VOLATILE.stop - _VOLATILE.start)
        step = struct.unpack_from("=H", cleared, at + _NEXT_OFFSET)[0]
        if step < 112:
            break
        at += step
    return bytes(cleared)


def _get(control: socket.socket, option: int, ask: bytes, size: int) -> bytes:
    # socket.getsockopt gives at most 1,024 bytes, and cannot pass the table's name.
    buffer, length = ctypes.create_string_buffer(ask, size), ctypes.c_uint32(size)
    if _libc.getsockopt(control.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, f"reading an iptables table: {os.strerror(number)}")
    return buffer.raw[:length.value]


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
