"""iptables as programs use it: restore, save, and a few single rules, all in the caller's namespace.

The legacy variant is preferred where the kernel still has it. AKS nodes of the article's time ran it, and
at thousands of services it is several times faster than the nft variant to restore.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cached_property

from labkit.local.dataplane import iptables_stamp

_WRITING = 1200.0   # seconds; with nft, all rules of 10,000 services take minutes on a busy machine


class IptablesError(RuntimeError):
    """iptables refused; the message carries its own words."""


class IpsetError(RuntimeError):
    """ipset refused; the message carries its own words."""


class Iptables:
    """One network namespace's IPv4 rules.

    Args:
        variant: "legacy" or "nft"; chosen from what the machine has where it is None.
        prefix: what each command starts with, such as `("ip", "netns", "exec", name)`.
    """

    def __init__(self, variant: str | None = None, prefix: Sequence[str] = ()) -> None:
        self._variant, self._prefix = variant, tuple(prefix)
        # Every namespace has tables of its own, so a lock file that the whole machine shares would only make
        # nodes wait for one another. `_lock` keeps the programs of one node apart.
        self._env = {**os.environ, "XTABLES_LOCKFILE": f"/tmp/xtables-{os.getpid()}.lock"}
        self._saved: tuple[bytes, dict[str, str]] = b"", {}     # tables printed with another, and when that was

    @cached_property
    def variant(self) -> str:
        """The variant in use, "legacy" or "nft"."""
        for variant in (self._variant,) if self._variant else ("legacy", "nft"):
            if shutil.which(f"iptables-{variant}") and self._works(variant):
                return variant
        raise IptablesError("no usable iptables: install it (apt install iptables), and check that the kernel"
                            " has nf_tables or ip_tables")

    def _works(self, variant: str) -> bool:
        return self._call([f"iptables-{variant}", "-w", "5", "-t", "nat", "-S", "OUTPUT"]).returncode == 0

    def restore(self, text: str) -> None:
        """Apply iptables-restore input, leaving alone the chains that it does not name.

        Raises:
            IptablesError: it was refused; no part of the failing table was applied.
        """
        with self._lock():
            command = [f"iptables-{self.variant}-restore", "-w", "5", "--noflush", "--counters"]
            done = self._call(command, text, timeout=_WRITING)
        if done.returncode:
            raise IptablesError(f"iptables-restore failed: {done.stderr.strip() or done.returncode}")

    def save(self, table: str) -> str:
        """What iptables-save prints of a table.

        With the nft back end it reads all tables for one, so the others are kept until somebody asks for them.
        """
        if self._prefix or self.variant == "legacy":
            return self._save("-t", table)
        stamp = self.stamp(table)
        if self._saved[0] != stamp or table not in self._saved[1]:
            parts = [part.rpartition("\n*")[2] for part in f"\n{self._save()}".split("\nCOMMIT\n")[:-1]]
            self._saved = stamp, {part[:part.index("\n")]: f"*{part}\nCOMMIT\n" for part in parts}
        return self._saved[1].pop(table, "")

    def _save(self, *which: str) -> str:
        done = self._call([f"iptables-{self.variant}-save", *which])
        if done.returncode:
            raise IptablesError(f"iptables-save failed: {done.stderr.strip()}")
        return done.stdout

    def stamp(self, table: str) -> bytes:
        """What differs after somebody changed the table; cheap, and no more than that can be read from it.

        Raises:
            IptablesError: the kernel refuses to say.
        """
        if self._prefix:       # a test's: the kernel is asked in the caller's namespace
            return self.save(table).encode()
        try:
            return iptables_stamp.of_table(self.variant, table)
        except OSError as error:
            raise IptablesError(str(error)) from error

    def contents(self, table: str) -> bytes:
        """What differs after somebody replaced a rule of a long legacy table by one of the same length, too.

        Raises:
            IptablesError: the kernel refuses to say.
        """
        try:
            return iptables_stamp.of_contents(table)
        except OSError as error:
            raise IptablesError(str(error)) from error

    def chains(self, table: str) -> set[str]:
        """The names of a table's chains."""
        return {line[1:line.index(" ")] for line in self.save(table).splitlines() if line.startswith(":")}

    def has_chain(self, table: str, chain: str) -> bool:
        """Whether a chain exists."""
        return self._iptables(table, "-S", chain, "1").returncode == 0

    def has_rule(self, table: str, chain: str, rule: Sequence[str]) -> bool:
        """Whether a chain has a rule, wherever in it."""
        return self._iptables(table, "-C", chain, *rule).returncode == 0

    def ensure_rule(self, table: str, chain: str, rule: Sequence[str], *, append: bool = False) -> None:
        """Insert a rule at the chain's top (or append it) unless the chain has it."""
        with self._lock():
            if self.has_rule(table, chain, rule):
                return
            done = self._iptables(table, "-A" if append else "-I", chain, *rule)
        if done.returncode:
            raise IptablesError(f"iptables -t {table}: {done.stderr.strip()}")

    def ensure_first(self, table: str, chain: str, rule: Sequence[str], *, insert: bool = True) -> bool:
        """Make a rule the first of its chain, in one transaction; say whether it was not.

        Without `insert` a chain that does not have the rule is left alone.
        """
        with self._lock():
            if self._iptables(table, "-S", chain, "1").stdout.split() == ["-A", chain, *rule]:
                return False
            if not insert and not self.has_rule(table, chain, rule):
                return False
            self._move_up(table, chain, [rule])
        return True

    def put_first(self, table: str, chain: str, rules: Sequence[Sequence[str]]) -> None:
        """Make these rules the first of a chain, in their order, in one transaction."""
        with self._lock():
            self._move_up(table, chain, rules)

    def _move_up(self, table: str, chain: str, rules: Sequence[Sequence[str]]) -> None:
        def line(rule: Sequence[str]) -> str:
            return " ".join([chain, *(f'"{word}"' if " " in word else word for word in rule)])
        lines = [f"*{table}", *(f"-D {line(rule)}" for rule in rules if self.has_rule(table, chain, rule)),
                 *(f"-I {line(rule)}" for rule in reversed(rules)), "COMMIT", ""]
        done = self._call([f"iptables-{self.variant}-restore", "-w", "5", "--noflush"], "\n".join(lines))
        if done.returncode:
            raise IptablesError(f"iptables-restore failed: {done.stderr.strip()}")

    def delete_rule(self, table: str, chain: str, rule: Sequence[str]) -> None:
        """Delete a rule, as often as the chain has it."""
        with self._lock():
            while self._iptables(table, "-D", chain, *rule).returncode == 0:
                pass

    def _iptables(self, table: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self._call([f"iptables-{self.variant}", "-w", "5", "-t", table, *args])

    def _call(self, argv: Sequence[str], text: str | None = None, *, timeout: float = 120,
              ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run([*self._prefix, *argv], input=text, text=True, capture_output=True,
                                  env=self._env, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise IptablesError(f"{argv[0]} did not end within {timeout:.0f} s") from None

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep others out who program the same namespace through this class.

        An abstract socket's name belongs to a network namespace and goes with its holder, so it needs no file
        that both pods can write and is never left behind.
        """
        if self._prefix:       # a test's, in a namespace that it has to itself
            yield
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            deadline = time.monotonic() + 30
            while True:
                try:
                    lock.bind("\0labkit-xtables-lock")
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise IptablesError("another program holds the iptables lock for 30 s") from None
                    time.sleep(0.005)
            yield


def remove_chains(iptables: Iptables, table: str, prefixes: tuple[str, ...],
                  keep: frozenset[str] = frozenset()) -> int:
    """Remove the chains whose names start with one of `prefixes`, and every jump to them; say how many."""
    saved = iptables.save(table).splitlines()
    ours = [line[1:line.index(" ")] for line in saved if line.startswith(":")]
    ours = [chain for chain in ours if chain.startswith(prefixes) and chain not in keep]
    if not ours:
        return 0
    gone = frozenset(ours)
    lines = [f"*{table}"]
    for line in saved:
        if not line.startswith("-A "):
            continue
        chain, _, rest = line[3:].partition(" ")
        words = rest.split()
        target = next((words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-j", "-g")), "")
        if chain not in gone and target in gone:
            lines.append(f"-D {chain} {rest}")
    lines += [f":{chain} - [0:0]" for chain in ours] + [f"-X {chain}" for chain in ours] + ["COMMIT", ""]
    iptables.restore("\n".join(lines))
    return len(ours)
