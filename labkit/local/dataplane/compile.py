"""Compiles the eBPF programs, once: `python -m labkit.local.dataplane.compile`.

Objects are kept by the hash of what they are made from, so set-up compiles only after a change of the C, and
a lab at run time needs no compiler. The folder is build/bpf beside the package, or LABKIT_BPF_OBJECTS.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "bpf"
PROGRAMS = ("tc", "connect")
FLAGS = ("-O2", "-g", "-Wall", "-Werror", "-target", "bpf")


class CompileError(Exception):
    """The eBPF programs cannot be had; the message says what is lost and the next thing to do."""


def cache() -> Path:
    """The folder of compiled objects: build/bpf of the project."""
    return Path(__file__).parents[3] / "build" / "bpf"


def content_hash(sources: Path = SOURCES) -> str:
    """Twelve hex digits that change with the C, its flags and the machine's architecture."""
    digest = hashlib.sha256(" ".join((*FLAGS, platform.machine())).encode())
    for path in sorted((*sources.glob("*.c"), *sources.glob("*.h"))):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def objects() -> Path:
    """The folder with tc.o and connect.o of this version of the C, whether it exists yet or not."""
    if given := os.environ.get("LABKIT_BPF_OBJECTS"):
        return Path(given)
    return cache() / content_hash()


def ensure_objects() -> Path:
    """Compile what is missing.

    Returns:
        The folder of the objects.

    Raises:
        CompileError: there is no clang or no libbpf, or clang refuses the code.
    """
    folder = objects()
    if all((folder / f"{name}.o").exists() for name in PROGRAMS):
        return folder
    clang = _clang()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made aside and renamed, so that nobody sees half an object.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for name in PROGRAMS:
            _compile(clang, SOURCES / f"{name}.c", Path(scratch) / f"{name}.o")
        folder.mkdir(exist_ok=True)
        for name in PROGRAMS:
            (Path(scratch) / f"{name}.o").replace(folder / f"{name}.o")
    return folder


def _clang() -> str:
    for name in ("clang", *(f"clang-{version}" for version in range(21, 10, -1))):
        if found := shutil.which(name):
            return found
    raise CompileError(
        "clang is not installed, so Calico's eBPF data plane cannot be compiled: notebooks that switch the "
        "cluster to eBPF will stop at that step; kube-proxy and Calico's iptables data plane work without.\n"
        "Next: apt-get install clang libbpf-dev   (dnf install clang libbpf-devel; pacman -S clang libbpf), "
        "then run this again.")


def _compile(clang: str, source: Path, target: Path) -> None:
    # Debian keeps <asm/types.h> in a folder for each architecture, which -target bpf does not look into.
    include = Path(f"/usr/include/{platform.machine()}-linux-gnu")
    where = [f"-I{include}"] if include.exists() else []
    run = subprocess.run([clang, *FLAGS, *where, "-c", str(source), "-o", str(target)],
                         capture_output=True, text=True, timeout=120, check=False)
    if run.returncode:
        hint = ("\nNext: apt-get install libbpf-dev linux-libc-dev   (dnf install libbpf-devel "
                "kernel-headers; pacman -S libbpf linux-api-headers)" if "file not found" in run.stderr else "")
        raise CompileError(f"clang does not compile {source.name}:\n{run.stderr.strip()}{hint}")


def main() -> int:
    """Compile, and print where the objects are."""
    try:
        print(ensure_objects())
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
