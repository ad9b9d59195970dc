"""Notices what somebody else changed in our chains and IP sets, and names it once it is put back.

Several programs share a table, and the kernel prints rules in words of its own. So what is right is not worked out
here: it is what the kernel printed after we had written, and only our part of it counts.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence

from labkit.local.dataplane.iptables import IpsetError, Iptables
from labkit.local.dataplane.repaired import count

COSTLY = 1 << 20     # characters of a table, some 8,000 rules, beyond which it is not printed without a reason
_Chains = Mapping[str, tuple[str, ...]]


class Guard:
    """Our chains of one table, and the jumps to them.

    Args:
        iptables: the namespace.
        table: such as "nat".
        prefix: what the names of our chains start with.
        comment: part of a rule of ours in a built-in chain that jumps to none of our chains.
    """

    def __init__(self, iptables: Iptables, table: str, prefix: str, comment: str = "") -> None:
        self.table = table
        self._iptables, self._prefix, self._comment = iptables, prefix, comment
        self._stamp: bytes | None = None           # of the whole table, when our part of it was right last
        self._right: _Chains | None = None         # our part of it, once somebody needed to know
        self._found: _Chains | None = None         # our part of it as others left it
        self._size = 0                             # of the table in characters, when it was printed last

    @property
    def found(self) -> _Chains:
        """Our chains as others left them, after `changed` said so."""
        return self._found or {}

    def changed(self, *, learn: bool = True) -> bool:
        """Whether somebody else changed our chains, or may have: then write all of them, and call `wrote`.

        Costs microseconds while nobody changes the table.

        Args:
            learn: print an unchanged table once after each `wrote`, unless that is costly, so that what others
                change later can be told from what we write then. For calls that nobody waits for.

        Raises:
            IptablesError: the kernel does not say.
        """
        if self._stamp is None:
            return False
        stamp = self._iptables.stamp(self.table)
        if stamp != self._stamp:
            there = self._read()
            if there != self._right:
                self._found = there
                return True
            self._stamp = stamp
        elif learn and self._right is None and self._size < COSTLY:
            there = self._read()
            if self._iptables.stamp(self.table) == stamp:
                self._right = there
        return False

    def wrote(self, *, same: bool = False) -> tuple[str, ...]:
        """Take what is there now for right.

        Args:
            same: what was written is what had been there before somebody changed it.

        Returns:
            What others had changed, in words; nothing where that cannot be told from what we changed ourselves.
        """
        found, right = self._found, self._right
        self._found = self._right = None
        self._stamp = self._iptables.stamp(self.table)
        if found is not None and right is None and same:
            right = self._right = self._read()
        return () if found is None or right is None else differences(self.table, right, found)

    def _read(self) -> _Chains:
        saved = self._iptables.save(self.table)
        self._size = len(saved)
        return ours(saved, self._prefix, self._comment)


class SetGuard:
    """Our IP sets. The kernel has no cheap sign of a change of these, so they are read.

    Every method raises IpsetError where ipset does not say.
    """

    def __init__(self, prefix: str, enter: Sequence[str] = ()) -> None:
        self._prefix, self._enter = prefix, tuple(enter)
        self._right: _Chains = {}
        self._found: _Chains | None = None

    def changed(self) -> bool:
        """Whether somebody else changed our sets: then write all of them, and call `wrote`."""
        if self._right:
            there = self._read()
            self._found = there if there != self._right else None
        return self._found is not None

    def wrote(self, *, any_set: bool) -> tuple[str, ...]:
        """Take what is there now for right, and say what others had changed.

        Args:
            any_set: whether there is a set of ours; without one no process is started.
        """
        found, right = self._found, self._right
        self._found, self._right = None, self._read() if any_set else {}
        return () if found is None else differences("ipset", right, found, "set", "member")

    def _read(self) -> _Chains:
        done = subprocess.run([*self._enter, "ipset", "save"], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise IpsetError(f"ipset save failed: {done.stderr.strip()}")
        sets: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            verb, _, rest = line.partition(" ")
            name, _, member = rest.partition(" ")
            if name.startswith(self._prefix):
                members = sets.setdefault(name, [])
                if verb == "add":
                    members.append(member)
        return {name: tuple(sorted(members)) for name, members in sets.items()}


def ours(saved: str, prefix: str, comment: str = "") -> dict[str, tuple[str, ...]]:
    """Of what iptables-save prints: our chains with their rules, and our rules in chains of others. Pure."""
    chains: dict[str, list[str]] = {}
    jumps = (f"-j {prefix}", f"-g {prefix}", comment or f"-j {prefix}")
    for line in saved.splitlines():
        if line.startswith(f":{prefix}"):
            chains.setdefault(line[1:line.index(" ")], [])
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            if chain.startswith(prefix) or any(jump in rule for jump in jumps):
                chains.setdefault(chain, []).append(rule)
    return {chain: tuple(rules) for chain, rules in chains.items()}


def differences(where: str, right: _Chains, found: _Chains, kind: str = "chain", part: str = "rule",
                ) -> tuple[str, ...]:
    """What was not right, in words, an item for each chain. Pure."""
    said = []
    for name in sorted({*right, *found}):
        want, have = right.get(name), found.get(name)
        if want == have:
            continue
        if have is None:
            said.append(f"{kind} {name} ({where}) was missing")
        elif want is None:
            said.append(f"{kind} {name} ({where}) was not ours")
        else:
            missing, foreign = Counter(want) - Counter(have), Counter(have) - Counter(want)
            parts = [f"{count(parts.total(), part)} {how}" for parts, how in (
                (missing, "missing"), (foreign, "not ours")) if parts]
            said.append(f"{kind} {name} ({where}): {', '.join(parts) or f'{part}s in another order'}")
    return tuple(said)
