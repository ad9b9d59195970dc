"""Notices what somebody else changed in our chains and IP sets, and names it once it is put back.

Several programs share a table, so only our part of it counts. The kernel prints rules in words of its own: what it
printed once is compared word for word, what we have written since by the words that both of us use.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from labkit.local.dataplane.iptables import IpsetError, Iptables
from labkit.local.dataplane.repaired import count

COSTLY = 1 << 20     # characters of a table, some 8,000 rules, beyond which it is not printed without a reason
_Chains = Mapping[str, tuple[str, ...]]
_Written = dict[str, tuple[str, ...] | None]       # None: the chain was deleted
_SAME_WORDS = re.compile(r"(?<=\s)(?:! )?(?:-[jg]|--dport|--to-destination|-d(?= [\d.]+(?:/32)?(?:\s|$))) \S+")


class Guard:
    """Our chains of one table, and the jumps to them.

    What is right is the table's picture that was found right last, and over it what we wrote since. So it does not
    matter when somebody changes something: before our own write, between its steps, or after it.

    Args:
        iptables: the namespace.
        table: such as "nat".
        prefix: what the names of our chains start with.
        jumps: our rules in built-in chains, each as its chain and the rule's words.
        comment: part of a rule of ours in a built-in chain that jumps to none of our chains.
    """

    def __init__(self, iptables: Iptables, table: str, prefix: str, jumps: Iterable[tuple[str, Sequence[str]]] = (),
                 comment: str = "") -> None:
        self.table = table
        self._iptables, self._prefix, self._comment = iptables, prefix, comment
        self._jumps: dict[str, tuple[str, ...]] = {}
        for chain, rule in jumps:
            self._jumps[chain] = (*self._jumps.get(chain, ()), " ".join(rule))
        self._stamp: bytes | None = None           # of the whole table, when we wrote it or found it right last
        self._right: _Chains = {}                  # our part of it then, in the kernel's words
        self._written: _Written | None = {}        # what we wrote since; None where that is too much to remember
        self._theirs: set[str] = set()             # chains with names like ours that our writing does not remove
        self._found: _Chains | None = None         # our part of it as others left it
        self._said: tuple[str, ...] = ()           # and what is wrong with it, in words

    def changed(self, *, compare: bool = True) -> bool:
        """Whether somebody else changed our chains, or may have: then write all of them, and call `wrote`.

        Costs microseconds while nobody changes the table.

        Args:
            compare: print the table once after each `wrote`, to see that nobody changed it meanwhile. For calls that
                nobody waits for.

        Raises:
            IptablesError: the kernel does not say.
        """
        if self._stamp is None:
            return False
        stamp = self._iptables.stamp(self.table)
        if stamp == self._stamp and not (compare and self._written):
            return False
        there = ours(self._iptables.save(self.table), self._prefix, self._comment)
        self._said = () if self._written is None else self._differences(there)
        if self._said or self._written is None:
            self._found = there
            return True
        if self._iptables.stamp(self.table) == stamp:      # else it is no picture of what the stamp stands for
            self._stamp, self._right, self._written = stamp, there, {}
        return False

    def wrote(self, text: str, *, same: bool = False) -> tuple[str, ...]:
        """Take what we wrote for right.

        Args:
            text: what iptables-restore was given.
            same: it is what had been there before somebody changed it.

        Returns:
            What others had changed, in words; nothing where that cannot be told from what we changed ourselves.
        """
        found, said = self._found, self._said
        self._found, self._said = None, ()
        if found is not None:
            self._right, self._written = {}, {}            # all of it is written anew
        elif self._stamp is None:
            self._written = {}
        self._stamp = self._iptables.stamp(self.table)
        text = "".join(part for part in text.split("COMMIT\n") if part.startswith(f"*{self.table}\n"))
        new = written(text) if len(text) < COSTLY or found is not None else None
        self._written = None if new is None or self._written is None else self._written | new
        if found is None:
            return ()
        if same and not said:
            said = self._differences(found)
        self._theirs = {chain for chain in found if chain.startswith(self._prefix)} - (new or {}).keys()
        if len(text) >= COSTLY:
            self._written = None
        return said

    def _differences(self, there: _Chains) -> tuple[str, ...]:
        right, since = self._right, self._written or {}
        want, have = dict[str, tuple[str, ...]](), dict[str, tuple[str, ...]]()
        for chain in {*right, *since, *there, *self._jumps} - self._theirs:
            wanted, found = right.get(chain), there.get(chain)
            if not chain.startswith(self._prefix):
                # A rule of ours twice or in another place, or a jump of somebody's own, is not for us to remove.
                words = str if wanted else gist
                wanted = wanted or tuple(map(gist, self._jumps.get(chain, ()))) or None
                left = set(map(words, found or ()))
                found = None if wanted is None else tuple(rule for rule in wanted if rule in left)
            elif chain in since:
                wanted, found = since[chain], None if found is None else tuple(map(gist, found))
            want |= {} if wanted is None else {chain: wanted}
            have |= {} if found is None else {chain: found}
        return differences(self.table, want, have)


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


def written(text: str) -> _Written:
    """Of what iptables-restore is given for a table: the chains that it writes, as `gist` of their rules. Pure."""
    chains: dict[str, list[str] | None] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chains[line[1:line.index(" ")]] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            if (rules := chains.get(chain)) is not None:
                rules.append(gist(rule))
        elif line.startswith("-X "):
            chains[line[3:]] = None
    return {chain: None if rules is None else tuple(rules) for chain, rules in chains.items()}


def gist(rule: str) -> str:
    """Of a rule, what we and the kernel have the same words for: what it leads to, and a single destination. Pure."""
    return " ".join(sorted(_SAME_WORDS.findall(f" {rule}"))).replace("/32", "")


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
