"""Network namespaces: making, entering and removing them, without touching the caller's own.

A namespace belongs to a thread, not to a process. So what has to happen inside another namespace
happens in a thread that is made for it, enters, and ends: the daemon's other threads, and the host's
own namespace, are never involved, and nothing has to be undone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_FOLDER = Path("/run/netns")  # where iproute2 keeps namespaces, so that `ip netns` and `ip -n` see ours
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 4096, 16384, 1 << 20, 2
_libc = ctypes.CDLL(None, use_errno=True)
_folder_lock = threading.Lock()


class NetworkError(OSError):
    """The kernel refused a change to one of the lab's networks."""


def path_of(name: str) -> Path:
    """The file that keeps a namespace alive."""
    return _FOLDER / name


def names(prefix: str) -> list[str]:
    """The namespaces whose names start with `prefix`."""
    if not _FOLDER.is_dir():
        return []
    return sorted(entry for entry in os.listdir(_FOLDER) if entry.startswith(prefix))


def exists(name: str) -> bool:
    """Whether the namespace is there, and is more than a file that a crash left."""
    path = path_of(name)
    return path.exists() and path.stat().st_dev != _FOLDER.stat().st_dev


def create(name: str) -> bool:
    """Make a namespace, or keep the one that is there.

    Returns:
        Whether it was made now.
    """
    if exists(name):
        return False
    _prepare_folder()
    path = path_of(name)
    path.touch(mode=0o444)

    def make() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), f"unshare for {name}")
        _check(_libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None), f"mount {path}")

    _in_thread(make)
    return True


def remove(name: str) -> None:
    """Remove a namespace; the kernel frees it when the last process in it has gone."""
    path = path_of(name)
    while exists(name):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"unmount {path}")
    path.unlink(missing_ok=True)


def run_inside(name: str, function: Callable[[], _T]) -> _T:
    """Call `function` in a thread that has entered the namespace; sockets that it makes stay there."""

    def enter() -> _T:
        fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(fd, _CLONE_NEWNET), f"enter {name}")
        finally:
            os.close(fd)
        return function()

    return _in_thread(enter)


def socket_in(name: str, family: int, type: int) -> socket.socket:
    """A socket that belongs to the namespace, for use from anywhere in this process."""
    return run_inside(name, lambda: socket.socket(family, type))


def has_link(name: str, link: str) -> bool:
    """Whether the namespace has a network interface of that name."""

    def look() -> bool:
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(link) > 0
        return False

    return run_inside(name, look)


def set_sysctls(name: str, values: Iterable[tuple[str, str]]) -> None:
    """Write kernel settings below net/ in the namespace; they hold for it alone."""

    def write() -> None:
        for key, value in values:
            Path("/proc/sys/net", key).write_text(value)

    run_inside(name, write)


def sysctls(name: str, keys: Iterable[str]) -> dict[str, str]:
    """Read kernel settings below net/ in the namespace."""
    return run_inside(name, lambda: {key: Path("/proc/sys/net", key).read_text().strip() for key in keys})


def ip(name: str, commands: Iterable[str]) -> None:
    """Run `ip` commands in the namespace, all in one process.

    Raises:
        NetworkError: when one was refused; those before it hold.
    """
    _run(["ip", "-n", name, "-batch", "-"], "\n".join(commands) + "\n")


def ip_output(name: str, *arguments: str) -> str:
    """What an `ip` command prints."""
    return _run(["ip", "-n", name, *arguments], "")


def hang_up(name: str, ip: str) -> None:
    """End every TCP connection of an address in the namespace, without waiting for the other side.

    On a kernel built without CONFIG_INET_DIAG_DESTROY they end by themselves, later.
    """
    run_inside(name, lambda: _run(["ss", "-K", "src", ip], ""))


def forget(name: str, ip: str) -> None:
    """Take the connections that were translated from or to an address out of the namespace's tracking."""
    for which in ("--orig-dst", "--reply-dst"):
        with contextlib.suppress(NetworkError):    # there was none
            run_inside(name, partial(_run, ["conntrack", "-D", which, ip], ""))


def nft(name: str, script: str) -> None:
    """Load an nftables script in the namespace, in one transaction."""
    run_inside(name, lambda: _run(["nft", "-f", "-"], script))


def nft_map(name: str, which: str) -> dict[str, str]:
    """What a map of addresses holds, in the namespace; `which` is "family table map"."""
    text = run_inside(name, lambda: _run(["nft", "-j", "list", "map", *which.split()], ""))
    entries = [item["map"] for item in json.loads(text)["nftables"] if "map" in item]
    return {key: value for entry in entries for key, value in entry.get("elem", ())}


def _run(argv: list[str], text: str) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise NetworkError(f"{' '.join(argv)}: {done.stderr.strip()}\n{text}".rstrip())
    return done.stdout


def _prepare_folder() -> None:
    """Make /run/netns a shared mount as `ip netns add` does, so that both see each other's."""
    with _folder_lock:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        if any(line.split()[4] == str(_FOLDER) for line in mounts):  # is_mount() misses bind mounts
            return
        _FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = os.fsencode(_FOLDER)
        _check(_libc.mount(folder, folder, b"none", _MS_BIND | _MS_REC, None), f"mount {_FOLDER}")
        _check(_libc.mount(b"", folder, b"none", _MS_SHARED | _MS_REC, None), f"share {_FOLDER}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise NetworkError(number, f"{what}: {os.strerror(number)}")


def _in_thread(function: Callable[[], _T]) -> _T:
    results: list[_T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
