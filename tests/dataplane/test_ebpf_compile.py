"""The object cache: compiled once, and a clear word where it cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labkit.local.dataplane import compile as bpf
from labkit.local.dataplane.ebpf_load import LoadError, load


def test_objects_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_BPF_OBJECTS", str(tmp_path / "objects"))
    folder = bpf.ensure_objects()
    made = (folder / "tc.o").stat().st_mtime_ns
    assert bpf.ensure_objects() == folder
    assert (folder / "tc.o").stat().st_mtime_ns == made


def test_the_cache_follows_the_sources(tmp_path: Path) -> None:
    sources = tmp_path / "bpf"
    shutil.copytree(bpf.SOURCES, sources)
    before = bpf.content_hash(sources)
    assert before == bpf.content_hash()
    (sources / "policy.h").write_text("/* another */")
    assert bpf.content_hash(sources) != before


def test_without_clang_it_says_what_is_lost_and_how_to_get_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LABKIT_BPF_OBJECTS", str(tmp_path / "objects"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bpf.main() == 1
    said = capsys.readouterr().err
    assert "clang is not installed" in said
    assert "iptables data plane work" in said
    assert "apt-get install clang" in said


def test_missing_objects_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"python -m labkit\.local\.dataplane\.compile"):
        load(tmp_path, tmp_path)
