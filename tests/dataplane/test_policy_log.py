"""The kernel's form of what policy logs."""

import pytest

from labkit.local.dataplane.policy_log import line

ENDS = bytes.fromhex("0ae00008 0ae00007")
FROM = "SRC=10.224.0.8 DST=10.224.0.7"
SYN = bytes.fromhex("9c481f90 00000001 00000000 5002faf0 0000 0000")


def packet(protocol: int, inner: bytes, *, tos: int = 0, fragment: int = 0x4000) -> bytes:
    head = bytes((0x45, tos)) + (20 + len(inner)).to_bytes(2, "big") + b"\x00\x07" + fragment.to_bytes(2, "big")
    return head + bytes((63, protocol, 0, 0)) + ENDS + inner


@pytest.mark.parametrize(("raw", "said"), [
    (packet(6, SYN), "LEN=40 TOS=0x00 PREC=0x00 TTL=63 ID=7 DF PROTO=TCP SPT=40008 DPT=8080 WINDOW=64240 RES=0x00 SYN"
                     " URGP=0"),
    (packet(6, SYN[:12]), "LEN=32 TOS=0x00 PREC=0x00 TTL=63 ID=7 DF PROTO=TCP INCOMPLETE [12 bytes]"),
    (packet(17, SYN[:4] + b"\x00\x0a\x00\x00"), "LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=7 DF PROTO=UDP SPT=40008 DPT=8080"
                                                 " LEN=10"),
    (packet(1, bytes.fromhex("0800 0000 0005 0001"), tos=0xc8, fragment=0),
     "LEN=28 TOS=0x08 PREC=0xC0 TTL=63 ID=7 PROTO=ICMP TYPE=8 CODE=0 ID=5 SEQ=1"),
    (packet(1, bytes.fromhex("0301 0000 0000 0000")),
     "LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=7 DF PROTO=ICMP TYPE=3 CODE=1"),
    (packet(17, bytes(8), fragment=0x2005), "LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=7 MF FRAG:5 PROTO=UDP"),
    (packet(132, bytes(12)), "LEN=32 TOS=0x00 PREC=0x00 TTL=63 ID=7 DF PROTO=132"),
])
def test_a_packet_is_told_as_the_kernel_tells_it(raw: bytes, said: str) -> None:
    assert line({9: raw}) == f"{FROM} {said}"


def test_what_came_by_an_interface_has_its_frame_and_its_mark() -> None:
    found = line({2: b"\x00\x01\x00\x00", 4: b"\x00\x00\x00\x02", 9: packet(132, b""), 16: bytes.fromhex("0a580800")})
    assert found.startswith(f"MAC=0a:58:08:00 {FROM} ")
    assert found.endswith(" PROTO=132 MARK=0x10000")
