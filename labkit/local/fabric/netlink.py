"""Reading netlink's answers: what every kind of them has in common."""

from __future__ import annotations

import struct

_KIND = 0x3FFF                                  # the two highest bits of a kind say how an attribute is coded


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message by kind; one that holds others is read by this again."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & _KIND] = data[at + 4:at + length]
        at += -(-length // 4) * 4
    return found
