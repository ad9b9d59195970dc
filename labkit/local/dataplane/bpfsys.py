"""The bpf(2) system call, as much of it as a loaded data plane needs: maps, pins, attaching to a cgroup.

ctypes and nothing else, because programs that run in pods have to start fast. Loading is bpftool's work.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _OBJ_PIN, _OBJ_GET = 1, 2, 3, 4, 6, 7
_PROG_ATTACH, _PROG_DETACH, _PROG_RUN, _OBJ_GET_INFO, _PROG_QUERY, _MAP_LOOKUP_BATCH = 8, 9, 10, 15, 16, 24

PER_CPU = {5, 6, 10, 21}                      # map types: percpu hash, percpu array, LRU percpu hash …
LPM_TRIE = 11
CGROUP_CONNECT4, CGROUP_SENDMSG4, CGROUP_RECVMSG4, CGROUP_GETPEERNAME4 = 10, 14, 19, 29   # attach types
_ALLOW_MULTI = 2
_BATCH = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: ctypes.Array[ctypes.c_char] | ctypes.Structure) -> int:
    size = ctypes.sizeof(attr)
    result: int = _libc.syscall(_SYS_BPF[platform.machine()], command, ctypes.byref(attr), size)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf(2) command {command}: {os.strerror(number)}")
    return result


def _attr(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(len(data), 64))


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").split("-")[-1]
    return int(last) + 1


def open_pinned(path: Path) -> int:
    """A file descriptor of what is pinned there.

    Raises:
        OSError: nothing is (ENOENT), or this process may not (EPERM).
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, _attr(struct.pack("=QII", ctypes.addressof(name), 0, 0)))


def pin(fd: int, path: Path) -> None:
    """Give a loaded program or a map a name in a bpffs.

    Raises:
        OSError: something has that name (EEXIST).
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, _attr(struct.pack("=QII", ctypes.addressof(name), fd, 0)))


def program_id(fd: int) -> int:
    """The kernel's id of a loaded program."""
    info = ctypes.create_string_buffer(256)
    _bpf(_OBJ_GET_INFO, _attr(struct.pack("=IIQ", fd, 256, ctypes.addressof(info))))
    return int(struct.unpack_from("=II", info.raw)[1])


def attach_cgroup(cgroup: Path, program: int, attach_type: int) -> None:
    """Attach a program to a cgroup, beside those that others attached; once is enough."""
    with _directory(cgroup) as target:
        if program_id(program) not in _attached(target, attach_type):
            _bpf(_PROG_ATTACH, _attr(struct.pack("=IIII", target, program, attach_type, _ALLOW_MULTI)))


def detach_cgroup(cgroup: Path, program: int, attach_type: int) -> None:
    """Detach a program; one that is not attached is fine."""
    if not cgroup.exists():
        return
    with _directory(cgroup) as target:
        try:
            _bpf(_PROG_DETACH, _attr(struct.pack("=IIII", target, program, attach_type, 0)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def attached_to_cgroup(cgroup: Path, attach_type: int) -> list[int]:
    """Ids of the programs that are attached to a cgroup."""
    with _directory(cgroup) as target:
        return _attached(target, attach_type)


def _attached(target: int, attach_type: int) -> list[int]:
    ids = (ctypes.c_uint32 * 64)()
    attr = _attr(struct.pack("=IIIIQI", target, attach_type, 0, 0, ctypes.addressof(ids), 64))
    _bpf(_PROG_QUERY, attr)
    return list(ids[: struct.unpack_from("=I", attr.raw, 24)[0]])


class _directory:  # noqa: N801 - reads as a function
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def run(program: int, packet: bytes, *, repeat: int = 1, ifindex: int = 0,
        segment: int = 0) -> tuple[int, bytes, int]:
    """Run a tc program on a packet without a network: its verdict, the packet after, nanoseconds each.

    `ifindex` is the interface of the caller's namespace that the packet seems to be on; 0 for the loopback's. `segment`
    is how many bytes of it go into each packet, where it is still to be cut into several; 0 where it is not.
    """
    given = ctypes.create_string_buffer(packet, len(packet))
    after = ctypes.create_string_buffer(len(packet) + 256)
    context = ctypes.create_string_buffer(struct.pack("=40xI132xI", ifindex, segment), 180)    # of a struct __sk_buff
    attr = _attr(struct.pack("=IIIIQQIIIIQQ", program, 0, len(packet), len(after), ctypes.addressof(given),
                             ctypes.addressof(after), repeat, 0, len(context) if ifindex or segment else 0,
                             0, ctypes.addressof(context) if ifindex or segment else 0, 0))
    _bpf(_PROG_RUN, attr)
    _, verdict, _, size, _, _, _, duration = struct.unpack_from("=IIIIQQII", attr.raw)
    return verdict, after.raw[:size], duration


class _Element(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("key", ctypes.c_uint64),
                ("value", ctypes.c_uint64), ("flags", ctypes.c_uint64))


class _Batch(ctypes.Structure):
    _fields_ = (("at", ctypes.c_uint64), ("next", ctypes.c_uint64), ("keys", ctypes.c_uint64),
                ("values", ctypes.c_uint64), ("count", ctypes.c_uint32), ("fd", ctypes.c_uint32),
                ("element_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64))


class Map:
    """A pinned map: bytes to bytes. A per-CPU map's value is the values of all CPUs, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_pinned(path)
        info = ctypes.create_string_buffer(256)
        _bpf(_OBJ_GET_INFO, _attr(struct.pack("=IIQ", self._fd, 256, ctypes.addressof(info))))
        self.type, _, self.key_size, value_size, self.max_entries = struct.unpack_from("=IIIII", info.raw)
        if self.type in PER_CPU:
            value_size = -(-value_size // 8) * 8 * possible_cpus()
        self.value_size: int = value_size
        # One buffer for each map, made once: a write costs little more than its system call.
        self._key = ctypes.create_string_buffer(self.key_size)
        self._value = ctypes.create_string_buffer(self.value_size)
        self._element = _Element(fd=self._fd, key=ctypes.addressof(self._key),
                                 value=ctypes.addressof(self._value))
        self._doomed = _Element(fd=self._fd, key=ctypes.addressof(self._key))   # the kernel wants no value here

    def pin(self) -> None:
        """Give the map its name back, where somebody removed it."""
        pin(self._fd, self.path)

    def close(self) -> None:
        """Close the descriptor; the map lives on as long as it is pinned."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._key.raw, self._value.raw = key, value
        _bpf(_MAP_UPDATE, self._element)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        self._key.raw = key
        try:
            _bpf(_MAP_LOOKUP, self._element)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return self._value.raw

    def discard(self, key: bytes) -> None:
        """Delete an entry; one that is not there is fine."""
        self._key.raw = key
        try:
            _bpf(_MAP_DELETE, self._doomed)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def keys(self) -> Iterator[bytes]:
        """Every key, also of maps without batches."""
        following = ctypes.create_string_buffer(self.key_size)
        attr = _Element(fd=self._fd, key=0, value=ctypes.addressof(following))
        while True:
            try:
                _bpf(_MAP_NEXT_KEY, attr)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            current = ctypes.create_string_buffer(following.raw, self.key_size)
            attr.key = ctypes.addressof(current)
            yield current.raw

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry. The map may change meanwhile: what is there all the time is seen."""
        if self.type == LPM_TRIE or self.type in PER_CPU:
            for key in list(self.keys()):
                if (value := self.get(key)) is not None:
                    yield key, value
            return
        for number, keys, values in self._batches():
            for i in range(number):
                yield (keys[i * self.key_size:(i + 1) * self.key_size],
                       values[i * self.value_size:(i + 1) * self.value_size])

    def digest(self) -> bytes:
        """What differs after a change of the map, for a quarter of what `items` costs; b"" where there is none.

        The same entries may have two digests, after one was taken out and put back.
        """
        if self.type == LPM_TRIE or self.type in PER_CPU:
            return b""
        whole = hashlib.blake2b(digest_size=16)
        for number, keys, values in self._batches():
            whole.update(keys[:number * self.key_size])
            whole.update(values[:number * self.value_size])
        return whole.digest()

    def _batches(self) -> Iterator[tuple[int, bytes, bytes]]:
        size = min(self.max_entries, _BATCH)
        keys = ctypes.create_string_buffer(size * self.key_size)
        values = ctypes.create_string_buffer(size * self.value_size)
        position = ctypes.create_string_buffer(max(self.key_size, 8))
        attr = _Batch(at=0, next=ctypes.addressof(position), keys=ctypes.addressof(keys),
                      values=ctypes.addressof(values), fd=self._fd)
        last = False
        while not last:
            attr.count = size
            try:
                _bpf(_MAP_LOOKUP_BATCH, attr)
            except OSError as error:
                if error.errno != errno.ENOENT:       # ENOENT: this batch is the last
                    raise
                last = True
            attr.at = ctypes.addressof(position)
            yield attr.count, keys.raw, values.raw
