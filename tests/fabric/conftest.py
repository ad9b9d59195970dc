from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.local.fabric import Fabric
from labkit.local.fabric import netns as ns
from labkit.local.paths import LabPaths


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Fabric]:
    fabric = Fabric(LabPaths(tmp_path / "lab"))
    try:
        fabric.ensure_internet()
        yield fabric
    finally:
        fabric.tear_down()
        assert ns.names(LabPaths(tmp_path / "lab").prefix) == []
