"""Notices what somebody else changed in our chains and IP sets, and names it once it is put back.

Several programs share a table, so only our part of it counts. The kernel prints rules in words of its own: what it
printed once is compared word for word, what we have written since by the words that both of us use.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from labkit.local.dataplane import iptables_stamp
from labkit.local.dataplane.iptables import IpsetError, Iptables
from labkit.local.dataplane.repaired import count

SHARE = 0.03         # of a processor, for reading a long table's rules again and again
LONG = 1 << 20       # characters of a table, some 8,000 rules, beyond which nothing is remembered of it
_Chains = Mapping[str, tuple[str, ...]]
_Written = dict[str, tuple[str, ...] | None]       # None: the chain was deleted
_SAME_WORDS = re.compile(r"(?<=\s)(?:! )?(?:-[jg]|--dport|--to-destination|-d(?= [\d.]+(?:/32)?(?:\s|$))) \S+")


class Guard:
    """Our chains of one table, and the jumps to them.

    What is right is the table's picture that was found right last, and over it what we wrote since. So it does not
    matter when somebody changes something: before our own write, between its steps, or after it. Of a long table no
    picture is kept; what is right there is asked of who writes it.

    Args:
        iptables: the namespace.
        table: such as "nat".
        prefix: what the names of our chains start with.
        jumps: our rules in built-in chains, each as its chain and the rule's words.
        comment: part of a rule of ours in a built-in chain that jumps to none of our chains.
        everything: what iptables-restore would be given for all that was written; without it no table counts as long.
    """

    def __init__(self, iptables: Iptables, table: str, prefix: str, jumps: Iterable[tuple[str, Sequence[str]]] = (),
                 comment: str = "", everything: Callable[[], str] | None = None) -> None:
        self.table = table
        self.broken: frozenset[str] = frozenset()  # chains to write again, after `changed` said so
        self._iptables, self._prefix, self._comment = iptables, prefix, comment
        self._everything, self._long = everything, False
        self._jumps: dict[str, tuple[str, ...]] = {}
        for chain, rule in jumps:
            self._jumps[chain] = (*self._jumps.get(chain, ()), " ".join(rule))
        self._stamp: bytes | None = None           # of the whole table, when we wrote it or found it right last
        self._contents: bytes | None = None        # of a long one, since the first look after that
        self._next_reading = 0.0                   # time.monotonic() from which a long table's rules may be read again
        self._right: _Chains = {}                  # our part of it then, in the kernel's words
        self._written: _Written = {}               # what we wrote since
        self._unseen = False                       # whether we wrote anything since
        self._others: int | None = None            # how many entries of the table were not in what we wrote, then
        self._theirs: set[str] = set()             # chains with names like ours that our writing does not remove
        self._found: tuple[bytes, _Chains] | None = None      # its stamp and our part of it as others left it
        self._said: tuple[str, ...] = ()           # and what is wrong with it, in words

    def changed(self, *, compare: bool = True) -> bool:
        """Whether somebody else changed our chains: then write `broken` again, and call `wrote`.

        Costs microseconds while nobody changes the table.

        Args:
            compare: after each `wrote` see that nobody changed the table meanwhile. For calls that nobody waits for.

        Raises:
            IptablesError: the kernel does not say.
        """
        if self._stamp is None:
            return False
        stamp = self._iptables.stamp(self.table)
        if self._found and self._found[0] == stamp:
            return True
        replaced = compare and self._was_replaced(stamp)
        if (stamp == self._stamp and not replaced
                and (not compare or not self._unseen or self._as_long_as_written(stamp))):
            return False
        there = ours(self._iptables.save(self.table), self._prefix, self._comment)
        want, have = self._compare(there)
        self.broken = frozenset(chain for chain in {*want, *have} if want.get(chain) != have.get(chain))
        self._said, self._found = differences(self.table, want, have), (stamp, there) if self.broken else None
        if self.broken:
            return True
        if self._iptables.stamp(self.table) == stamp:      # else it is no picture of what the stamp stands for
            self._stamp, self._unseen, self._written = stamp, False, {}
            self._right = {} if self._long else there
            self._others = self._beside_ours(stamp)
        return False

    def wrote(self, text: str) -> tuple[str, ...]:
        """Take what we wrote for right: all of it at first, later what changed, and what was broken.

        Returns:
            What others had changed, in words.
        """
        found, said, broken = self._found, self._said, self.broken
        self._found, self._said, self.broken = None, (), frozenset()
        text = self._part(text)
        self._long = self._long or bool(self._everything and len(text) >= LONG)
        new = {} if self._long else written(text)
        if self._long:
            self._right, self._written = {}, {}
        elif found:
            self._right = {chain: rules for chain, rules in found[1].items() if chain not in broken}
            self._written = new
        else:
            self._written = self._written | new
        if found:
            touched = new.keys() if new else written(text).keys()
            self._theirs = {chain for chain in found[1] if chain in broken | self._theirs
                            and chain.startswith(self._prefix)} - touched
        self._stamp, self._unseen = self._iptables.stamp(self.table), self._unseen or bool(text)
        self._contents, self._next_reading = None, 0.0
        return said

    def _compare(self, there: _Chains) -> tuple[_Chains, _Chains]:
        """Our chains as they should be and as they are, in words that both have."""
        right, since = self._right, self._written
        if self._long and self._everything:
            since = written(self._part(self._everything()))
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
        return want, have

    def _was_replaced(self, stamp: bytes) -> bool:
        """Whether a long table has other rules, of the same number and length, than at the last look."""
        if iptables_stamp.entries(stamp) is None or time.monotonic() < self._next_reading:
            return False
        before, began = self._contents, time.thread_time()
        self._contents = self._iptables.contents(self.table)
        self._next_reading = time.monotonic() + (time.thread_time() - began) / SHARE
        return before not in (None, self._contents)

    def _as_long_as_written(self, stamp: bytes) -> bool:
        """Whether a long table has as many rules as we wrote and others have: then it need not be printed."""
        self._unseen = self._others is None or self._others != self._beside_ours(stamp)
        return not self._unseen

    def _beside_ours(self, stamp: bytes) -> int | None:
        number = iptables_stamp.entries(stamp)
        if not self._long or self._everything is None or number is None:
            return None
        text = self._part(self._everything())
        return number - 2 * text.count("\n:") - text.count("\n-A ")    # a chain has a head and an end

    def _part(self, text: str) -> str:
        """What a text for iptables-restore says of our table."""
        return "".join(part for part in text.split("COMMIT\n") if part.startswith(f"*{self.table}\n"))


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
