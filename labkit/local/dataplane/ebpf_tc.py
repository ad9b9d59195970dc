"""Attaches programs to an interface's traffic control hooks, and makes the VXLAN device: netlink, by hand.

What `tc qdisc add dev X clsact` and `tc filter replace dev X ingress … bpf direct-action` do, without a
process for each: a switch of data planes attaches to every pod's interface.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess

INGRESS, EGRESS = 0xFFF2, 0xFFF3                # minor numbers of clsact's two hooks
_CLSACT = 0xFFFF0000
_NEWQDISC, _DELQDISC, _NEWTFILTER = 36, 37, 44
_REQUEST, _ACK, _EXCL, _CREATE = 1, 4, 0x200, 0x400
_KIND, _OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS = 1, 2, 6, 7, 8
_DIRECT_ACTION = 1
_ETH_P_ALL = socket.htons(3)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _request(message: int, flags: int, payload: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(10)
        link.send(struct.pack("=IHHII", 16 + len(payload), message, _REQUEST | _ACK | flags, 1, 0) + payload)
        reply = link.recv(65536)
    code = -struct.unpack_from("=i", reply, 16)[0]
    if code:
        raise OSError(code, os.strerror(code))


def _tcmsg(ifindex: int, handle: int, parent: int, info: int) -> bytes:
    return struct.pack("=BxxxiIII", 0, ifindex, handle, parent, info)


def attach(ifindex: int, hook: int, program: int, name: str) -> None:
    """Attach a program to a hook, in place of the one that we attached there before: no packet slips by.

    Raises:
        OSError: the interface is gone (ENODEV).
    """
    qdisc = _tcmsg(ifindex, _CLSACT, 0xFFFFFFF1, 0) + _attribute(_KIND, b"clsact\0")
    try:
        _request(_NEWQDISC, _CREATE | _EXCL, qdisc)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    options = (_attribute(_BPF_FD, struct.pack("=I", program)) + _attribute(_BPF_NAME, name.encode() + b"\0")
               + _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION)))
    _request(_NEWTFILTER, _CREATE, _tcmsg(ifindex, 1, _CLSACT | hook, 1 << 16 | _ETH_P_ALL)
             + _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options))


def detach(ifindex: int) -> None:
    """Remove our programs from both hooks of an interface; an interface without any is fine."""
    try:
        _request(_DELQDISC, 0, _tcmsg(ifindex, _CLSACT, 0xFFFFFFF1, 0))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise


def ensure_vxlan(name: str, port: int) -> int:
    """The VXLAN device that takes each packet's destination from its program. Returns its ifindex."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        # `external`: no peer of its own. Packets between nodes carry 50 bytes more, and the links allow it.
        _ip("link", "add", name, "type", "vxlan", "external", "dstport", str(port))
        _ip("link", "set", name, "up")
        return socket.if_nametoindex(name)


def remove_link(name: str) -> None:
    """Delete a device, if it is there."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return
    _ip("link", "del", name)


def _ip(*arguments: str) -> None:
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    if run.returncode:
        raise OSError(errno.EIO, f"ip {' '.join(arguments)}: {run.stderr.strip()}")
