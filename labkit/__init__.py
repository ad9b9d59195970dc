"""A course that you run: Calico's eBPF data plane on AKS, and a local lab that needs no cloud."""

from typing import Any

from labkit.version import __version__

__all__ = ["Lab", "__version__"]


def __getattr__(name: str) -> Any:
    # On first use, because a command line that only starts the lab needs none of it.
    if name == "Lab":
        from labkit.lab import Lab

        return Lab
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")
