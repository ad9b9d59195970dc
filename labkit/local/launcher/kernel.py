"""The few system calls that the standard library lacks, and small helpers on top of /proc and cgroups."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from typing import Any

Spec = dict[str, Any]

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x04000000, 0x08000000, 0x20000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
libc = ctypes.CDLL(None, use_errno=True)


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its number, that names it for good."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def kill_cgroup(folder: str | os.PathLike[str]) -> None:
    """Kill every process of a cgroup and of those below it; it need not be there."""
    folder = os.fspath(folder)
    try:
        with open(folder + "/cgroup.kill", "w") as file:
            file.write("1")
        return
    except OSError:
        pass  # before Linux 5.14, or gone already
    for path, _, _ in os.walk(folder):
        try:
            with open(path + "/cgroup.procs") as file:
                pids = [int(line) for line in file]
        except OSError:
            continue
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_cgroup(folder: str | os.PathLike[str]) -> None:
    """Kill every process of a cgroup, and remove it: the kernel needs a moment for what was killed."""
    for _ in range(200):
        kill_cgroup(folder)
        if remove_cgroup(folder):
            return
        time.sleep(0.01)


def remove_cgroup(folder: str | os.PathLike[str]) -> bool:
    """Remove a cgroup and those below it.

    Returns:
        Whether it is gone; dying processes keep it for a moment.
    """
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def join_cgroup(folder: str) -> None:
    """Move this process to a cgroup, which is made where it is missing."""
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/cgroup.procs", "w") as file:
        file.write("0")


def setns_path(path: str) -> None:
    """Enter the namespace that a file stands for."""
    fd = os.open(path, os.O_RDONLY)
    check(libc.setns(fd, 0), f"enter {path}")
    os.close(fd)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount; the arguments are the system call's."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    result = libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    check(result, f"mount {source or ''} on {target}")


def check(result: int, what: str) -> None:
    """Raise what a system call left in errno, where it failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def exit_code(status: int) -> int:
    """A wait status as a shell and Kubernetes show it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def write_json(path: str, value: Spec) -> None:
    """Write a file at once, so that a reader sees all of it or none."""
    temporary = path + ".new"
    with open(temporary, "w") as file:
        json.dump(value, file)
    os.rename(temporary, path)
