"""What labkit needs of a machine beside Python: one table for the set-up, the start and the preflight."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Need", "install", "missing", "needs"]

_TABLE = Path(__file__).with_name("machine.tsv")
_INSTALL = (("Debian, Ubuntu", "apt-get install --no-install-recommends", "debian"),
            ("Fedora", "dnf install", "fedora"), ("Arch", "pacman -S", "arch"))


@dataclass(frozen=True)
class Need:
    """A program or a header that something of ours cannot do without.

    Attributes:
        name: a command's name, or a file's path.
        debian, fedora, arch: the package that has it.
        purpose: "lab", "ebpf" (compiling and loading the programs) or "test".
    """

    name: str
    debian: str
    fedora: str
    arch: str
    purpose: str

    @property
    def here(self) -> bool:
        """Whether this machine has it; administrators' folders count, whatever PATH says."""
        if self.name.startswith("/"):
            return Path(self.name).exists()
        return shutil.which(self.name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


@cache
def needs() -> tuple[Need, ...]:
    """The whole table."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    return tuple(Need(*line.split("\t")) for line in lines if line and not line.startswith("#"))


def missing(purpose: str) -> tuple[Need, ...]:
    """What this machine lacks for one purpose."""
    return tuple(need for need in needs() if need.purpose == purpose and not need.here)


def install(wanted: tuple[Need, ...]) -> str:
    """The commands that install what is wanted, one for each family of distributions, in one sentence."""
    lines = []
    for family, command, column in _INSTALL:
        packages = dict.fromkeys(getattr(need, column) for need in wanted)
        lines.append(f"{family}: `sudo {command} {' '.join(packages)}`")
    return "; ".join(lines)
