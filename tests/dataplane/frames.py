"""Packets by hand, and the kernel's test run of one program on one of them."""

from __future__ import annotations

import os
import socket
import struct

from labkit.local.dataplane import bpfsys
from labkit.local.dataplane import ebpf_maps as maps
from labkit.local.fabric import netns
from tests.dataplane.ebpf_lab import EbpfLab

OK, SHOT, REDIRECT = 0, 2, 7
CLIENT = "203.0.113.10"
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    words = sum(struct.unpack(f">{len(data) // 2}H", data))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return ~words & 0xFFFF


def frame(flow: maps.Flow, *, tcp_flags: int = maps.TCP_SYN, payload: bytes = b"hello!", ttl: int = 64,
          fragment: int = 0) -> bytes:
    """An Ethernet frame with correct checksums; `fragment` is IP's field with the flags and the offset."""
    if flow.protocol == 6:
        head = struct.pack(">HHIIBBHHH", flow.sport, flow.dport, 1, 0, 5 << 4, tcp_flags, 1024, 0, 0)
    else:
        head = struct.pack(">HHHH", flow.sport, flow.dport, 8 + len(payload), 0)
    ends = socket.inet_aton(flow.saddr) + socket.inet_aton(flow.daddr)
    sum4 = checksum(ends + struct.pack(">HH", flow.protocol, len(head + payload)) + head + payload)
    at = 16 if flow.protocol == 6 else 6
    head = head[:at] + struct.pack(">H", sum4) + head[at + 2:]
    return ip_frame(flow.saddr, flow.daddr, flow.protocol, head + payload, ttl=ttl, fragment=fragment)


def ip_frame(saddr: str, daddr: str, protocol: int, body: bytes, *, ttl: int = 64, fragment: int = 0) -> bytes:
    """An Ethernet frame with an IP packet that carries `body`."""
    ends = socket.inet_aton(saddr) + socket.inet_aton(daddr)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, ttl, protocol, 0)
    ip = ip[:10] + struct.pack(">H", checksum(ip + ends))
    return bytes(range(12)) + b"\x08\x00" + ip + ends + body


def icmp_error(reporter: str, receiver: str, quoted: bytes, *, kind: int = 3, code: int = 3, mtu: int = 0) -> bytes:
    """A frame with an ICMP error about the frame `quoted`."""
    body = struct.pack(">BBHHH", kind, code, 0, 0, mtu) + quoted[14:42]
    return ip_frame(reporter, receiver, 1, body[:2] + struct.pack(">H", checksum(body)) + body[4:])


def quoted_in(packet: bytes) -> bytes:
    """What an ICMP error quotes, as a frame."""
    return packet[:14] + packet[42:]


def is_sound(packet: bytes) -> bool:
    """Whether the checksums of a frame are right."""
    ends, body = packet[26:34], packet[34:]
    pseudo = b"" if packet[23] == 1 else ends + struct.pack(">HH", packet[23], len(body))
    return checksum(packet[14:34]) == 0 and checksum(pseudo + body) == 0


def flow_of(packet: bytes) -> maps.Flow:
    """The addresses and ports of a frame."""
    sport, dport = struct.unpack_from(">HH", packet, 34)
    return maps.Flow(socket.inet_ntoa(packet[26:30]), socket.inet_ntoa(packet[30:34]), sport, dport, packet[23])


def run(lab: EbpfLab, program: str, packet: bytes, *, repeat: int = 1, pod: str = "",
        segment: int = 0) -> tuple[int, bytes, int]:
    """Run a program of node1 on a frame: its verdict, the frame as it left it, and nanoseconds.

    `pod` is whose interface it seems to be on; `segment` as `bpfsys.run` has it.
    """
    def ask(fd: int) -> tuple[int, bytes, int]:
        ifindex = socket.if_nametoindex(lab.pods[pod].host_interface) if pod else 0
        return bpfsys.run(fd, packet, repeat=repeat, ifindex=ifindex, segment=segment)

    fd = bpfsys.open_pinned(next((lab.paths.bpffs / "c1" / "node1").glob(f"programs-*/tc/{program}")))
    try:
        return netns.run_inside(lab.nodes["node1"].netns, lambda: ask(fd))
    finally:
        os.close(fd)
