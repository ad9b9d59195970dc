"""A course that you run: Calico's eBPF data plane on AKS, and a local lab that needs no cloud."""

__version__ = "0.1.0"
