"""What eBPF programs print while something is done.

The machine has one buffer for all programs. Its pipe gives each line to one reader only, and another worker's test may
read at the same time; so the buffer itself is read, from a mark on.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable


def printed(do: Callable[[], object]) -> list[str]:
    """Do it, and return what Calico's programs of this machine print meanwhile."""
    mark = uuid.uuid4().hex
    _tracefs(f"echo {mark} >trace_marker")
    do()
    lines = _tracefs("cat trace").partition(mark)[2].splitlines()
    return [line.partition("calico: ")[2].strip() for line in lines if "calico: " in line]


def _tracefs(command: str) -> str:
    """Run a shell in a mount namespace of its own, because tracefs need not be mounted."""
    where = "/sys/kernel/tracing"
    script = f"mount -t tracefs tracefs {where} && cd {where} && {command}"
    return subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=True).stdout
