"""What is in the kernel's maps, remembered here, so that only differences are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from labkit.local.dataplane.bpfsys import Map

_ONE = (1).to_bytes(4, "little")


class Mirror:
    """A map that only we write, and its content. What an earlier agent wrote is adopted."""

    def __init__(self, kernel: Map) -> None:
        self._kernel = kernel
        self.known = dict(kernel.items())
        self._digest = b""                       # the kernel's map, when it was what we wrote; b"" after a write

    def set(self, key: bytes, value: bytes) -> None:
        """Write an entry, unless it is there already."""
        if self.known.get(key) != value:
            self._kernel[key] = value
            self.known[key] = value
            self._digest = b""

    def discard(self, key: bytes) -> None:
        """Delete an entry, if it is there."""
        if self.known.pop(key, None) is not None:
            self._kernel.discard(key)
            self._digest = b""

    def repair(self) -> tuple[int, int]:
        """Bring the kernel's map back to what we wrote, where somebody else changed it.

        A map of 20,000 entries takes some 20 milliseconds after a write, and five while nobody writes.

        Returns:
            How many entries were missing or different, and how many were not ours.
        """
        digest = self._kernel.digest()
        if digest and digest == self._digest:
            return 0, 0
        there = dict(self._kernel.items())
        if there == self.known:
            self._digest = digest
            return 0, 0
        lost = {key: value for key, value in self.known.items() if there.get(key) != value}
        foreign = there.keys() - self.known.keys()
        for key, value in lost.items():
            self._kernel[key] = value
        for key in foreign:
            self._kernel.discard(key)
        return len(lost), len(foreign)

    def replace(self, wanted: Mapping[bytes, bytes]) -> None:
        """Make the map be exactly this."""
        for key, value in wanted.items():
            self.set(key, value)
        for key in self.known.keys() - wanted.keys():
            self.discard(key)


class IpSets:
    """cali_v4_ip_sets, shared by policy and source ranges: a member goes when its last user lets go."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._users: Counter[bytes] = Counter()

    def use(self, members: Iterable[bytes]) -> None:
        """Write these, before the rule that names them."""
        for member in members:
            self._users[member] += 1
            self._mirror.set(member, _ONE)

    def release(self, members: Iterable[bytes]) -> None:
        """Let go of these, after the rule that named them."""
        for member in members:
            self._users[member] -= 1
            if self._users[member] <= 0:
                del self._users[member]
                self._mirror.discard(member)

    def repair(self) -> tuple[int, int]:
        """As `Mirror.repair`."""
        return self._mirror.repair()

    def prune(self) -> None:
        """Delete what an earlier agent wrote and nobody uses now."""
        for member in self._mirror.known.keys() - self._users.keys():
            self._mirror.discard(member)
