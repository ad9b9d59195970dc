"""Starting a lab: by two at the same time, and for the user behind sudo."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle
from tests.conftest import leftovers


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[LabPaths]:
    made = LabPaths(tmp_path / "home")
    yield made
    lifecycle.down(made)
    assert leftovers(made) == []


@pytest.mark.kernel
def test_two_that_start_one_lab_get_the_same(paths: LabPaths) -> None:
    with ThreadPoolExecutor(4) as pool:
        infos = list(pool.map(lambda _: lifecycle.up(paths, port=0), range(4)))
    assert {info.pid for info in infos} == {infos[0].pid}
    assert lifecycle.running(paths) == infos[0]


@pytest.mark.kernel
def test_down_while_a_lab_starts_leaves_nothing(paths: LabPaths) -> None:
    def start() -> None:
        lifecycle.up(paths, port=0)

    starting = threading.Thread(target=start)
    starting.start()
    while not paths.log_file.exists():
        pass
    lifecycle.down(paths)
    starting.join()
    assert leftovers(paths) == []


@pytest.mark.kernel
def test_a_daemon_that_nobody_can_find_is_replaced(paths: LabPaths) -> None:
    lost = lifecycle.up(paths, port=0)
    paths.daemon_file.unlink()
    found = lifecycle.up(paths, port=0)
    assert found.pid != lost.pid
    assert not Path(f"/proc/{lost.pid}").exists()


@pytest.mark.kernel
def test_files_are_for_their_owner_alone(paths: LabPaths) -> None:
    lifecycle.up(paths, port=0)
    readable = [f.name for f in paths.home.rglob("*") if f.is_file() and f.stat().st_mode & 0o077]
    assert readable == []


def test_another_lab_s_daemon_is_not_ours(paths: LabPaths) -> None:
    other = LabPaths(paths.home.with_name("other"))
    words = b"python\0-m\0labkit.local.server\0%b\0" + b"0\0"
    assert lifecycle._is_daemon_of(paths, words % str(paths.home).encode())
    assert not lifecycle._is_daemon_of(paths, words % str(other.home).encode())


def test_sudo_gives_away_what_was_made_and_nothing_else(paths: LabPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home below a folder of root's, as with LABKIT_HOME=/srv/lab, must not hand over that folder."""
    given: list[Path] = []
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1000")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, *_, **__: given.append(Path(path)))
    inner = paths.home / "deep" / "lab"
    paths.home.mkdir()
    lifecycle._make_home(inner)
    (inner / "key").touch()
    (inner / "dangling").symlink_to("nowhere")
    lifecycle.give_to_user(inner)
    assert set(given) <= {inner, inner.parent, inner / "key", inner / "dangling"}
    assert inner.parent in given
