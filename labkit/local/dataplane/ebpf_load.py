"""Loads the programs with bpftool and pins them, or adopts those that are pinned already."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from labkit.local.dataplane import bpfsys, policy_names
from labkit.local.dataplane.ebpf_maps import MAPS

PROGRAMS = {
    "tc": ("from_workload", "to_workload", "from_uplink", "to_uplink", "from_tunnel", "to_loopback"),
    "connect": ("cali_connect4", "cali_getpeername4", "cali_sendmsg4", "cali_recvmsg4"),
}


class LoadError(RuntimeError):
    """The programs cannot be loaded; the message says why, and the next thing to do."""


@dataclass(frozen=True)
class Loaded:
    """Descriptors of what is pinned."""

    programs: dict[str, int]
    maps: dict[str, bpfsys.Map]
    folder: Path                               # where the programs are pinned

    def repin(self) -> list[str]:
        """Give what somebody unpinned its name back, and say what that was. Adopting needs the names."""
        missing = []
        for part, names in PROGRAMS.items():
            for name in names:
                if not (path := self.folder / part / name).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    bpfsys.pin(self.programs[name], path)
                    missing.append(name)
        for name, kernel in self.maps.items():
            if not kernel.path.exists():
                kernel.path.parent.mkdir(parents=True, exist_ok=True)
                kernel.pin()
                missing.append(name)
        return missing

    def close(self) -> None:
        """Close the descriptors; what is pinned or attached lives on."""
        for fd in self.programs.values():
            os.close(fd)
        for kernel in self.maps.values():
            kernel.close()


def load(objects: Path, bpffs: Path) -> Loaded:
    """The programs of these objects, with the maps that are pinned under `bpffs`, or new ones.

    Programs of another version of the objects give way to these, and the maps stay: connections do not break.

    Raises:
        LoadError: an object or bpftool is missing, or the kernel refuses.
    """
    folder, pinned_maps = bpffs / f"programs-{_version(objects)}", bpffs / "maps"
    pinned_maps.mkdir(parents=True, exist_ok=True)
    with _alone(bpffs) as lock:
        if not _complete(folder):
            try:
                _load_objects(objects, folder, pinned_maps, lock)
            except LoadError:
                if not any(pinned_maps.iterdir()):
                    raise
                # Maps of an older layout. What they say can be written again, but connections cannot be saved.
                shutil.rmtree(pinned_maps)
                pinned_maps.mkdir()
                _load_objects(objects, folder, pinned_maps, lock)
    for other in bpffs.glob("programs-*"):
        if other != folder:
            shutil.rmtree(other)
    programs = {name: bpfsys.open_pinned(folder / part / name)
                for part, names in PROGRAMS.items() for name in names}
    return Loaded(programs, {name: bpfsys.Map(pinned_maps / name) for name in MAPS}, folder)


def unload(bpffs: Path) -> None:
    """Remove the pins: what is not attached any more is freed."""
    for folder in (*bpffs.glob("programs-*"), bpffs / "maps", bpffs / policy_names.FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def _version(objects: Path) -> str:
    digest = sha256()
    for part in PROGRAMS:
        try:
            digest.update((objects / f"{part}.o").read_bytes())
        except FileNotFoundError:
            raise LoadError(f"{objects / part}.o does not exist: the eBPF programs are not compiled.\n"
                            "Next: python -m labkit.local.dataplane.compile") from None
    return digest.hexdigest()[:12]


def _complete(folder: Path) -> bool:
    return all((folder / part / name).exists() for part, names in PROGRAMS.items() for name in names)


@contextlib.contextmanager
def _alone(bpffs: Path) -> Iterator[int]:
    """Wait for the bpftool of an agent that was killed: it goes on, and would pin its maps between ours.

    bpftool gets the descriptor that carries the lock, so it is held until both have ended.
    """
    lock = os.open(bpffs, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _load_objects(objects: Path, folder: Path, pinned_maps: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in PROGRAMS:
        known = [name for name in MAPS if (pinned_maps / name).exists()]
        if known and len(known) != len(MAPS):           # a load that was cut short: nothing uses them yet
            shutil.rmtree(pinned_maps)
            pinned_maps.mkdir()
            known = []
        maps = [word for name in known for word in ("map", "name", name, "pinned", str(pinned_maps / name))]
        where = [] if known else ["pinmaps", str(pinned_maps)]
        _bpftool("prog", "loadall", str(objects / f"{part}.o"), str(folder / part), *maps, *where, lock=lock)


def _bpftool(*arguments: str, lock: int) -> None:
    tool = shutil.which("bpftool", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if tool is None:
        raise LoadError("bpftool is not installed, so eBPF programs cannot be loaded.\n"
                        "Next: apt-get install bpftool")
    run = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=False,
                         pass_fds=(lock,))
    if run.returncode:
        raise LoadError("bpftool " + " ".join(arguments[:3]) + " failed:\n"
                        + "\n".join(run.stderr.strip().splitlines()[-15:]))
