"""Attaches programs to an interface's traffic control hooks, and makes the VXLAN device: netlink, by hand.

What `tc qdisc add dev X clsact` and `tc filter replace dev X ingress … bpf direct-action` do, without a
process for each: a switch of data planes attaches to every pod's interface.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
from pathlib import Path

from labkit.local.fabric.netlink import attributes

INGRESS, EGRESS = 0xFFF2, 0xFFF3                # minor numbers of clsact's two hooks
_CLSACT = 0xFFFF0000
_NEWQDISC, _DELQDISC, _NEWTFILTER, _GETTFILTER = 36, 37, 44, 46
_NLMSG_ERROR = 2
_REQUEST, _ACK, _CREATE = 1, 4, 0x400
_KIND, _OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 1, 2, 6, 7, 8, 11
_DIRECT_ACTION = 1
_GET_FLAGS, _UP = 0x8913, 1                     # ioctl SIOCGIFFLAGS, IFF_UP
_SIOCGIFMTU = 0x8921
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
        _request(_NEWQDISC, _CREATE, qdisc)              # one that is there stays
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        detach(ifindex)                                  # ingress, in clsact's place: it has no egress hook
        _request(_NEWQDISC, _CREATE, qdisc)
    options = (_attribute(_BPF_FD, struct.pack("=I", program)) + _attribute(_BPF_NAME, name.encode() + b"\0")
               + _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION)))
    _request(_NEWTFILTER, _CREATE, _tcmsg(ifindex, 1, _CLSACT | hook, 1 << 16 | _ETH_P_ALL)
             + _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options))


def attached(ifindex: int, hook: int) -> int:
    """The kernel's id of the program that `attach` attached to a hook; 0 where there is none any more."""
    payload = _tcmsg(ifindex, 1, _CLSACT | hook, 1 << 16 | _ETH_P_ALL) + _attribute(_KIND, b"bpf\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(10)
        link.send(struct.pack("=IHHII", 16 + len(payload), _GETTFILTER, _REQUEST, 1, 0) + payload)
        reply = link.recv(65536)
    size, message = struct.unpack_from("=IH", reply)
    if message == _NLMSG_ERROR:
        return 0
    options = attributes(attributes(reply[36:size]).get(_OPTIONS, b""))       # 36: two headers
    return int.from_bytes(options.get(_BPF_ID, b""), "little")


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
        # The kernel makes no second device of this kind, so one that somebody gave another name is ours.
        shown = json.loads(_ip("-j", "-d", "link", "show", "type", "vxlan") or "[]")
        kinds = {link["ifname"]: link["linkinfo"]["info_data"] for link in shown}
        renamed = [other for other, kind in kinds.items() if kind.get("external") and kind.get("port") == port]
        if renamed:
            _ip("link", "set", renamed[0], "down", "name", name)
        else:
            # `external`: no peer of its own. Packets between nodes carry 50 bytes more, and the links allow it.
            _ip("link", "add", name, "type", "vxlan", "external", "dstport", str(port))
        _ip("link", "set", name, "up")
        return socket.if_nametoindex(name)


def mtu(ifindex: int) -> int:
    """The largest IP packet that an interface sends; 1500 where it is gone or was never there."""
    try:
        name = socket.if_indextoname(ifindex)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
            answer = fcntl.ioctl(query, _SIOCGIFMTU, struct.pack("16s16x", name.encode()))
    except OSError:
        return 1500
    return int(struct.unpack_from("=i", answer, 16)[0])


def gateway(ifindex: int) -> str:
    """The next hop of everything that leaves by an interface; "0.0.0.0" where not all of it has the same one.

    Args:
        ifindex: the interface.
    """
    try:
        name = socket.if_indextoname(ifindex)
    except OSError:
        return "0.0.0.0"
    lines = (line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:])
    routes = [(words[1], words[2], words[7]) for words in lines if words[0] == name]
    hops = {hop for _, hop, _ in routes if int(hop, 16)}            # all in hex, as the machine has them in memory
    direct = {to if mask == "FFFFFFFF" else "net" for to, hop, mask in routes if not int(hop, 16)}
    return socket.inet_ntoa(bytes.fromhex(hops.pop())[::-1]) if len(hops) == 1 and direct <= hops else "0.0.0.0"


def accept_local() -> None:
    """Let packets in that have an address of this host as their source: answers to what it asked itself are such."""
    path = Path("/proc/sys/net/ipv4/conf/all/accept_local")
    if path.read_text().strip() != "1":
        path.write_text("1")


def is_up(name: str) -> bool:
    """Whether a device is there and up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _GET_FLAGS, struct.pack("16sH14x", name.encode(), 0))
        except OSError:
            return False
    return bool(struct.unpack_from("=H", answer, 16)[0] & _UP)


def set_up(name: str) -> None:
    """Bring a device up."""
    _ip("link", "set", name, "up")


def remove_link(name: str) -> None:
    """Delete a device, if it is there."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return
    _ip("link", "del", name)


def _ip(*arguments: str) -> str:
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    if run.returncode:
        raise OSError(errno.EIO, f"ip {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout
