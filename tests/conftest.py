"""Fixtures that several rooms' tests share: a lab of the tests' own, with its own name on everything."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.local.paths import LabPaths


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests alone go first, so that two workers end together."""
    mixed = {item.path for item in items if "slow" not in item.keywords}
    items.sort(key=lambda item: item.path in mixed)


@pytest.fixture(scope="session")
def lab_paths(tmp_path_factory: pytest.TempPathFactory) -> LabPaths:
    return LabPaths(tmp_path_factory.mktemp("labkit-home"))


@pytest.fixture(scope="session")
def daemon(lab_paths: LabPaths) -> Iterator[object]:
    """A running lab, for all tests of the session; nothing of it may be left at the end."""
    from labkit.local.server import lifecycle

    info = lifecycle.up(lab_paths, port=0)
    before = {name: os.environ.get(name) for name in ("LABKIT_HOME", "KUBECONFIG", "LABKIT_TARGET")}
    os.environ |= {
        "LABKIT_HOME": str(lab_paths.home),
        "KUBECONFIG": str(lab_paths.home / "kubeconfig"),
        "LABKIT_TARGET": "local",
    }
    yield info
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    lifecycle.down(lab_paths)
    assert leftovers(lab_paths) == []


def leftovers(paths: LabPaths) -> list[str]:
    """What of a lab stays. Who was killed is there for as long as the kernel takes his namespaces apart."""
    deadline = time.monotonic() + 60
    while (found := _there(paths)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _there(paths: LabPaths) -> list[str]:
    netns = Path("/run/netns")
    found = [
        f"namespace {n.name}"
        for n in (netns.iterdir() if netns.exists() else ())
        if n.name.startswith(paths.prefix)
    ]
    found += [
        f"mount {line.split()[1]}"
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(paths.run) in line
    ]
    found += [f"folder {p}" for p in (paths.run, paths.cgroup, paths.database) if p.exists()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                cgroup = (entry / "cgroup").read_text()
                if "\nState:\tZ" in (entry / "status").read_text():
                    continue  # dead; whoever adopted it has not collected it yet
            except OSError:
                continue
            if (b"labkit.local" in words and str(paths.home).encode() in words) or paths.prefix in cgroup:
                found.append(f"process {entry.name} {words[:80]!r}")
    return found
