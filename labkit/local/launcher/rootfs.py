"""A container's files and rights, made from inside: what is left to its command when it starts."""

from __future__ import annotations

import os
import resource
import signal
import stat
from typing import NoReturn

from labkit.local.launcher.kernel import (
    BIND,
    CLONE_NEWNS,
    DETACH,
    NODEV,
    NOEXEC,
    NOSUID,
    PRIVATE,
    RDONLY,
    REC,
    REMOUNT,
    Spec,
    check,
    libc,
    mount,
)

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38


def make_root(spec: Spec) -> None:
    """Make the container's files: a small tmpfs of its own, with read-only views of the host's."""
    root = spec["root"]
    os.umask(0o022)  # who is not root in the container reads it, too
    check(libc.unshare(CLONE_NEWNS), "unshare mounts")
    mount(None, "/", None, REC | PRIVATE)
    # Without devices: a container may make device nodes, and one for the machine's disk must not open.
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "mode=755,size=64m")
    for folder, mode in spec["folders"]:
        os.makedirs(root + folder, exist_ok=True)
        os.chmod(root + folder, mode)
    for link, target in spec["links"]:
        os.makedirs(os.path.dirname(root + link), exist_ok=True)
        os.symlink(target, root + link)
    for path, text, mode in spec["files"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        with open(root + path, "w") as file:
            file.write(text)
        os.chmod(root + path, mode)
    _make_devices(root)
    os.makedirs(root + "/proc", exist_ok=True)
    os.makedirs(root + "/sys", exist_ok=True)
    mount("proc", root + "/proc", "proc", NOSUID | NODEV | NOEXEC)
    mount("sysfs", root + "/sys", "sysfs", NOSUID | NODEV | NOEXEC | (0 if spec["privileged"] else RDONLY))
    if spec["privileged"]:
        mount("tmpfs", root + "/sys/fs/cgroup", "tmpfs", NOSUID, "mode=755")
    else:
        _cover_machine(root)
        if os.path.isdir(root + "/sys/fs/cgroup"):  # its own accounts, where a container of Kubernetes finds them
            _bind(spec["cgroup"], root + "/sys/fs/cgroup", NOSUID | NODEV | NOEXEC | RDONLY)
    for source, target, read_only in spec["mounts"]:
        place = _inside(root, target)
        if not os.path.lexists(place):
            _make_place(root, place, like=source)
        _bind(source, place, NODEV | (RDONLY if read_only else 0))
    for path, target in spec["again"]:  # with all that covers parts of them
        mount(root + path, _inside(root, target), None, BIND | REC)
    os.chdir(root)
    check(libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")  # the old root is then on top of the new
    check(libc.umount2(b".", DETACH), "unmount the old root")
    os.chdir("/")


_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_HIDDEN = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/sys/firmware",
)


def _cover_machine(root: str) -> None:
    """Keep root in a container from what is the machine's in /proc and /sys, as container runtimes do.

    Most of it asks for no capability: whoever is uid 0 could restart the machine by sysrq-trigger.
    """
    for path in _READ_ONLY:
        if os.path.exists(root + path):
            _bind(root + path, root + path, RDONLY)
    for path in _HIDDEN:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", NOSUID | NODEV | NOEXEC | RDONLY, "size=0,mode=755")
        elif os.path.exists(root + path):
            _bind("/dev/null", root + path)


_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, 41)


def _make_devices(root: str) -> None:
    devices = root + "/dev"
    os.makedirs(devices + "/pts", exist_ok=True)
    os.makedirs(devices + "/shm", exist_ok=True)
    os.chmod(devices + "/shm", 0o1777)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        _touch(f"{devices}/{name}")
        _bind("/dev/" + name, f"{devices}/{name}")
    mount("devpts", devices + "/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        os.symlink(target, f"{devices}/{name}")


def _inside(root: str, path: str) -> str:
    """`path` below `root`, its links followed as they would be inside."""
    done = ""
    parts = [part for part in path.split("/") if part]
    for _ in range(256):
        if not parts:
            return root + done
        part = parts.pop(0)
        here = f"{done}/{part}"
        if os.path.islink(root + here):
            target = os.readlink(root + here)
            if target.startswith("/"):
                done = ""
            parts = [piece for piece in target.split("/") if piece not in ("", ".")] + parts
        elif part == "..":
            done = os.path.dirname(done)
        else:
            done = here
    raise OSError(f"too many links in {path}")


def _make_place(root: str, target: str, like: str) -> None:
    """Make a folder or file to mount on, also where the machine's read-only folders have none."""
    above = os.path.dirname(target)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    if os.statvfs(above).f_flag & os.ST_RDONLY:
        _make_writable(root, above)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISDIR(os.stat(like).st_mode):
        os.mkdir(target)
    else:
        _touch(target)


def _make_writable(root: str, folder: str) -> None:
    """Lay the container's own layer over a folder of the machine: what is added stays in the container."""
    layers = f"{root}/.labkit/layers/{folder.removeprefix(root).replace('/', '-')}"
    upper, work = layers + "/upper", layers + "/work"
    for path in (upper, work):
        os.makedirs(path)
    os.chmod(upper, stat.S_IMODE(os.stat(folder).st_mode))
    mount("overlay", folder, "overlay", NODEV, f"lowerdir={folder},upperdir={upper},workdir={work}")


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _bind(source: str, target: str, flags: int = 0) -> None:
    mount(source, target, None, BIND)
    if flags:  # a bind mount takes them in a second step
        mount(None, target, None, BIND | REMOUNT | flags)


def become(spec: Spec) -> NoReturn:
    """Give up what a container must not have, and run its command."""
    keep = spec["capabilities"]
    if keep is not None:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            last = int(file.read())
        for capability in range(last + 1):
            if capability not in keep:
                libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.chdir(spec["cwd"])
    except FileNotFoundError:
        os.makedirs(spec["cwd"])
        os.chdir(spec["cwd"])
    if spec["gid"] or spec["uid"]:
        os.setgroups(spec["groups"])
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    if spec["no_new_privileges"]:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these, and exec would keep that
    os.umask(0o022)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except FileNotFoundError:
        raise OSError(f'exec: "{spec["argv"][0]}": executable file not found in $PATH') from None
    except PermissionError:
        raise OSError(f'exec: "{spec["argv"][0]}": permission denied') from None
