"""A Kubernetes API over the official client: verbs, waits, logs and exec, and kubeconfig files."""

from labkit.kube.client import Kube, Obj
from labkit.kube.wait import wait_for

__all__ = ["Kube", "Obj", "wait_for"]
