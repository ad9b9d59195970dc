"""A folder that stands for the place where Calico publishes its manifests: the lab does without the internet."""

from __future__ import annotations

from pathlib import Path

import yaml

from labkit.local.bootstrap import PUBLISHED, published


def write(home: Path) -> None:
    """Write the manifests where a release of Calico has them, below `calico` in the lab's home.

    Args:
        home: the lab's folder.
    """
    folder = home / "calico" / PUBLISHED[0] / "manifests"
    folder.mkdir(parents=True, exist_ok=True)
    for name, objects in published().items():
        (folder / name).write_text(yaml.safe_dump_all(objects, sort_keys=False), encoding="utf-8")
