"""A course that you run: Calico's eBPF data plane on AKS, and a local lab that needs no cloud."""

from typing import Any

__all__ = ["Lab", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On first use, because a command line that only starts the lab needs none of it.
    if name == "Lab":
        from labkit.lab import Lab

        return Lab
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")
