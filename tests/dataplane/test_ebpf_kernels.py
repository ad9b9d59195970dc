"""What the programs ask of a kernel: nothing that 5.10 does not have, read off the compiled instructions.

An older kernel's verifier refuses a program for a helper that it does not know, also where it is never called; only
what libbpf removes before the load may be newer. Versions are those of docs.ebpf.io and of the kernel's own history.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit.local.dataplane import compile as bpf

OLDEST = (5, 10)
HELPERS = {
    "map_lookup_elem": (3, 19), "map_update_elem": (3, 19), "ktime_get_ns": (4, 1), "trace_printk": (4, 1),
    "get_prandom_u32": (4, 1), "skb_store_bytes": (4, 1), "l3_csum_replace": (4, 1), "l4_csum_replace": (4, 1),
    "skb_get_tunnel_key": (4, 3), "skb_set_tunnel_key": (4, 3), "redirect": (4, 4), "skb_load_bytes": (4, 5),
    "csum_diff": (4, 6), "skb_change_type": (4, 8), "skb_change_tail": (4, 9), "skb_adjust_room": (4, 13),
    "get_socket_cookie": (4, 18), "get_netns_cookie": (5, 7), "redirect_neigh": (5, 10), "redirect_peer": (5, 10),
    "set_retval": (5, 18),
}
"""Of those that work in more kinds of programs by now: since when in ours."""
GUARDED = {"set_retval"}                 # behind bpf_core_enum_value_exists
LAST_IN_5_10 = 155                      # redirect_peer: numbers only grow
MAP_TYPES = {"HASH": (3, 19), "ARRAY": (3, 19), "PERCPU_HASH": (4, 6), "PERCPU_ARRAY": (4, 6), "LRU_HASH": (4, 10),
             "LPM_TRIE": (4, 11)}
HOOKS = {"tc": (4, 1), "cgroup/connect4": (4, 17), "cgroup/sendmsg4": (4, 18), "cgroup/recvmsg4": (5, 2),
         "cgroup/getpeername4": (5, 8)}
FUNCTIONS_CHECKED_ALONE = ".text"       # 5.6
CALL, EXIT, WIDE = 0x85, 0x95, 0x18     # opcodes; the last is a load of 64 bits, which takes two instructions
JEQ = 0x10                              # a jump where a register has this value
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
SHF_EXECINSTR = 4


@dataclass(frozen=True)
class Instruction:
    section: str
    index: int
    opcode: int
    source: int
    offset: int
    immediate: int


def instructions(path: Path) -> Iterator[Instruction]:
    """All of an object's. A 64-bit little-endian ELF file, as clang makes it."""
    data = path.read_bytes()
    start, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, start + i * size) for i in range(count)]
    for name, _, flags, _, offset, length in headers:
        if not flags & SHF_EXECINSTR:
            continue
        at = headers[names][4] + name
        section = data[at:data.index(b"\0", at)].decode()
        skip = False
        for index in range(length // 8):
            opcode, registers, jump, immediate = struct.unpack_from("<BBhi", data, offset + 8 * index)
            if not skip:
                yield Instruction(section, index, opcode, registers >> 4, jump, immediate)
            skip = opcode == WIDE and not skip


@pytest.fixture(scope="module")
def code() -> list[Instruction]:
    folder = bpf.ensure_objects()
    return [each for part in bpf.PROGRAMS for each in instructions(folder / f"{part}.o")]


@pytest.fixture(scope="module")
def names() -> dict[int, str]:
    """Helper's number -> its name, by libbpf."""
    header = Path("/usr/include/bpf/bpf_helper_defs.h").read_text()
    return {int(number): name for name, number in re.findall(r"\bbpf_(\w+)\)\(.*= \(void \*\) ?(\d+);", header)}


def test_every_helper_is_in_the_table_with_its_kernel(code: list[Instruction], names: dict[int, str]) -> None:
    used = {each.immediate for each in code if each.opcode == CALL and each.source == 0}
    assert {names[number] for number in used} == HELPERS.keys()
    newer = {names[number] for number in used if number > LAST_IN_5_10}
    assert newer == {name for name, since in HELPERS.items() if since > OLDEST} == GUARDED


def reached(code: list[Instruction], section: str) -> set[int]:
    """Where a section's program comes on a kernel without what it asks for by `bpf_core_enum_value_exists`.

    clang leaves a load of 1 and a jump for it; before the load into the kernel libbpf makes that a 0, which is what the
    verifier of an old kernel then sees, and it does not go where nobody comes.
    """
    here = {each.index: each for each in code if each.section == section}
    found, ways = set[int](), [0]
    while ways:
        index = ways.pop()
        if index in found:
            continue
        found.add(index)
        each = here[index]
        after = index + (2 if each.opcode == WIDE else 1)
        jumps = each.opcode & 7 in (JMP, JMP32) and each.opcode not in (CALL, EXIT)
        asked = here.get(index - 2)
        missing = asked and (asked.opcode, asked.source, asked.immediate, each.opcode) == (WIDE, 0, 1, JMP | JEQ)
        if jumps:
            ways.append(after + each.offset)
        if each.opcode != EXIT and not (jumps and (missing or each.opcode == JMP)):
            ways.append(after)
    return found


def test_what_is_newer_is_reached_where_it_exists_only(code: list[Instruction], names: dict[int, str]) -> None:
    calls = [each for each in code if each.opcode == CALL and names.get(each.immediate) in GUARDED]
    assert calls
    for call in calls:
        assert call.index not in reached(code, call.section)


def test_no_instruction_is_newer(code: list[Instruction]) -> None:
    """Atomics that fetch came with 5.12, calls of the kernel's own functions with 5.13, clang's -mcpu=v4 with 6.6."""
    found: Counter[str] = Counter()
    for each in code:
        kind, operation = each.opcode & 7, each.opcode & 0xf0
        found["atomic"] += kind == STX and each.opcode & 0xe0 == 0xc0 and each.immediate != 0   # 0: an add alone
        found["kernel function"] += each.opcode == CALL and each.source not in (0, 1)
        found["callback"] += each.opcode == WIDE and each.source == 4                           # 5.13
        found["signed load"] += kind == LDX and each.opcode & 0xe0 == 0x80
        found["signed move or division"] += kind in (ALU, ALU64) and each.offset != 0
        found["byte swap"] += kind == ALU64 and operation == 0xd0
        found["long jump"] += kind == JMP32 and operation == 0
    assert not +found
    assert {each.section for each in code} == {*HOOKS, FUNCTIONS_CHECKED_ALONE}
    assert max(HOOKS.values()) <= OLDEST


def test_no_map_is_newer() -> None:
    source = "".join(path.read_text() for path in bpf.SOURCES.glob("*.[ch]"))
    assert set(re.findall(r"BPF_MAP_TYPE_(\w+)", source)) == MAP_TYPES.keys()
    assert max(MAP_TYPES.values()) <= OLDEST
