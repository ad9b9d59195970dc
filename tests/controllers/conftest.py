from __future__ import annotations

from pathlib import Path

import pytest

from .world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A cluster's API, its controllers, two nodes, and a kubelet that needs no machine."""
    return World(tmp_path / "lab.db")
