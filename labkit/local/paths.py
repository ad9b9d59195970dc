"""Where a local lab keeps its things, and how they are named.

Every kernel object that the lab makes carries the lab's id, a short hash of its home folder, so that
two labs (a learner's and a test's) run side by side, and so that what a crash left behind is found
again without any state: all that is named after us is ours, and nothing else is.
"""

from __future__ import annotations

import hashlib
import os
import pwd
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class LabPaths:
    """Files and names of one lab.

    Args:
        home: the folder of the lab's state, tokens and certificates; only its owner can read it.
    """

    home: Path

    @classmethod
    def default(cls) -> LabPaths:
        """LABKIT_HOME, else ~/.labkit/local of the user who called (under sudo: of the user behind it)."""
        if given := os.environ.get("LABKIT_HOME"):
            return cls(Path(given).resolve())
        user = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
        home = Path(pwd.getpwnam(user).pw_dir) if user else Path.home()
        return cls(home / ".labkit" / "local")

    @cached_property
    def lab_id(self) -> str:
        """Eight hex digits that every name of this lab carries; with four, two labs in 65,536 would be one."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:8]

    @property
    def prefix(self) -> str:
        """What the name of each of the lab's network namespaces and cgroups starts with."""
        return f"labkit-{self.lab_id}"

    def netns(self, *parts: str) -> str:
        """Name a network namespace; ("c1", "vnet") gives "labkit-ab12cd34-c1-vnet"."""
        return "-".join((self.prefix, *parts))

    @property
    def run(self) -> Path:
        """What lasts no longer than the machine's uptime: sandboxes, sockets, mounts."""
        return Path("/run/labkit") / self.lab_id

    @property
    def bpffs(self) -> Path:
        """The lab's own bpffs; a node's pins are in bpffs/<cluster>/<node>."""
        return self.run / "bpf"

    @cached_property
    def cgroup(self) -> Path:
        """The lab's own cgroup, in the unified hierarchy wherever this system mounts it."""
        return _cgroup2_mount() / self.prefix

    @property
    def database(self) -> Path:
        """The state: ARM resources and Kubernetes objects."""
        return self.home / "lab.db"

    @property
    def daemon_file(self) -> Path:
        """JSON that clients read: url, port, pid, tokens' file, CA file."""
        return self.home / "daemon.json"

    @property
    def ca_file(self) -> Path:
        """The authority that signs the lab's certificate."""
        return self.home / "ca.pem"

    @property
    def log_file(self) -> Path:
        """What the daemon says."""
        return self.home / "daemon.log"


def _cgroup2_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    return Path("/sys/fs/cgroup")
