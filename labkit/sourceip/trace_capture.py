"""What a trace puts into a cluster for its time: pods that capture on the nodes, and tcpdump in the pods' own.

Nothing here needs more than a Kubernetes API gives: the nodes' namespaces are reached by pods with
`hostNetwork`, a pod's own by exec into one of its containers that has tcpdump.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from labkit.bench.workload import TOOLS_IMAGE
from labkit.errors import ExecError, ForbiddenError, KubeError, LabError, NotSupportedError
from labkit.kube import Kube, Obj, wait_for
from labkit.kube.client import Output
from labkit.kube.wait import is_ready, waiting_reason
from labkit.plan import Evidence
from labkit.sourceip.trace_model import Place

PREFIX = "labkit-trace-"
CONTAINER = "capture"
"""The name of a container that is there to capture in its pod's network namespace."""

_LIFE = 300
"""Seconds after which a capture ends by itself: a notebook's kernel may be killed while it traces."""

_SETTLE = 0.3
"""Seconds for the last packets to come out of the kernel's buffer."""

_LOST = re.compile(r"^([1-9]\d*) packets? dropped by (?:kernel|interface)", re.MULTILINE)

_T = TypeVar("_T")

# A process of its own, which outlives the exec session that started it; a second session ends and reads it.
# Headers are enough, and without -s the kernel's ring has room for eight packets, as it reserves for whole ones.
_START = """rm -f {f}.*
command -v tcpdump >/dev/null || {{ echo 'there is no tcpdump in it' >&2; exit 127; }}
nohup timeout {life} tcpdump -i any -nn -tt -S -l --immediate-mode -s 256 -B 4096 '{filter}' \\
  >{f}.out 2>{f}.err </dev/null &
echo $! >{f}.pid
for i in $(seq 100); do
  grep -q '^listening' {f}.err && exit 0
  kill -0 $(cat {f}.pid) 2>/dev/null || break
  sleep 0.05
done
cat {f}.err >&2; rm -f {f}.*; exit 1"""
_STOP = """kill -INT $(cat {f}.pid) 2>/dev/null
for i in $(seq 40); do kill -0 $(cat {f}.pid) 2>/dev/null || break; sleep 0.05; done
cat {f}.out; cat {f}.err >&2; rm -f {f}.*"""


@dataclass(frozen=True)
class Post:
    """Where a capture is taken: a container that can see a place's packets."""

    place: Place
    namespace: str
    pod: str
    container: str | None


@contextmanager
def pods_for(kube: Kube, nodes: Iterable[Place], *, client_on: str | None = None) -> Iterator[str]:
    """Run a capturing pod on each node, in a namespace of this trace's own, and remove it all afterwards.

    Args:
        kube: the cluster.
        nodes: where.
        client_on: a node for a pod that asks, or None.

    Raises:
        NotSupportedError: the cluster refuses pods in the nodes' network.
        WaitError: they do not start.
    """
    namespace = PREFIX + secrets.token_hex(3)
    wanted = {node_pod(node.node): node.node for node in nodes}
    try:
        _create(kube, namespace, wanted, client_on)
        names = {*wanted, "client"} if client_on else set(wanted)
        wait_for("the pods that capture", lambda: _running(kube, namespace, names), timeout=180)
        yield namespace
    finally:
        kube.delete("namespaces", namespace)


def _create(kube: Kube, namespace: str, wanted: dict[str, str], client_on: str | None) -> None:
    try:
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {
            "app.kubernetes.io/managed-by": "labkit", "pod-security.kubernetes.io/enforce": "privileged"}}})
        for name, node in wanted.items():
            kube.create(_pod(name, namespace, node, host=True))
        if client_on:
            kube.create(_pod("client", namespace, client_on, host=False))
    except ForbiddenError as error:
        raise NotSupportedError(
            "The cluster refuses pods in the nodes' own network, which a trace needs to see packets there.",
            error.why or error.what, f"allow namespaces named {PREFIX}… in its pod security (Azure Policy: exclude "
            "them), or trace on the local lab.") from error


def node_pod(node: str) -> str:
    """The name of the pod that captures on a node."""
    return f"node-{node}"[:63].rstrip("-.")


@contextmanager
def captures(kube: Kube, posts: Iterable[Post], expression: str) -> Iterator[Captures]:
    """Capture at each post from now on, until `Captures.read` or the end of the block.

    Args:
        kube: the cluster.
        posts: where; a post at a pod whose containers have no tcpdump is left out, and named.
        expression: tcpdump's filter.
    """
    running = Captures(kube, f"/tmp/labkit-trace-{secrets.token_hex(4)}")
    try:
        running.start(tuple(posts), expression)
        yield running
    finally:
        running.read(settle=0)


class Captures:
    """tcpdump running at several posts.

    Args:
        kube: the cluster.
        file: where each keeps what it writes, inside its own container.
    """

    def __init__(self, kube: Kube, file: str) -> None:
        self._kube, self._file = kube, file
        self._running: list[Post] = []
        self.notes: list[str] = []
        """What is missing: pods that could not be captured in, and why; packets that were lost."""

    def start(self, posts: tuple[Post, ...], expression: str) -> None:
        """Start at all posts and wait until each listens.

        Raises:
            LabError: tcpdump does not start on a node.
        """
        script = _START.format(f=self._file, life=_LIFE, filter=expression)

        def begin(post: Post) -> tuple[Post, str]:
            try:
                self._sh(post, script)
            except ExecError as error:
                return post, error.why or error.what
            return post, ""

        failures = []
        for post, failure in each(begin, posts):
            if not failure:
                self._running.append(post)
            elif post.place.kind == "node":
                failures.append(f"{post.place}: {failure}")
            else:
                self.notes.append(f"{post.place} was not captured in: {failure.strip().splitlines()[-1].strip('()')}.")
        if failures:
            raise LabError("tcpdump does not start on every node.", "; ".join(failures),
                           f"look at the image {TOOLS_IMAGE}: it must have tcpdump 4.99 or later.")

    def read(self, settle: float = _SETTLE) -> list[tuple[Place, tuple[str, ...]]]:
        """End all captures and return their lines; a second call returns nothing.

        Args:
            settle: seconds to wait before.
        """
        time.sleep(settle)
        running, self._running = self._running, []

        def end(post: Post) -> tuple[Place, tuple[str, ...]]:
            try:
                output = self._sh(post, _STOP.format(f=self._file))
            except (KubeError, ExecError):  # its pod has gone, and the capture with it
                return post.place, ()
            if lost := _LOST.search(output.stderr):
                self.notes.append(f"tcpdump in {post.place} lost {lost[1]} packets.")
            return post.place, tuple(output.stdout.splitlines())

        return list(each(end, running))

    def _sh(self, post: Post, script: str) -> Output:
        return self._kube.exec(post.pod, post.namespace, ["sh", "-c", script], container=post.container,
                               timeout=30)


def each(do: Callable[[Any], _T], things: Iterable[Any]) -> list[_T]:
    """Do something for all things at once, each a request or two to the API."""
    items = list(things)
    if not items:
        return []
    with ThreadPoolExecutor(min(16, len(items))) as pool:
        return list(pool.map(do, items))


def _pod(name: str, namespace: str, node: str, *, host: bool) -> Obj:
    container: Obj = {"name": CONTAINER, "image": TOOLS_IMAGE, "command": ["sleep", str(_LIFE)]}
    if host:
        container["securityContext"] = {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "labkit"}},
        "spec": {
            "nodeName": node, "hostNetwork": host, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}], "automountServiceAccountToken": False,
            "containers": [container],
        },
    }


def _running(kube: Kube, namespace: str, names: set[str]) -> Evidence:
    pods = {p["metadata"]["name"]: p for p in kube.list("pods", namespace)}
    missing = sorted(name for name in names if name not in pods or not is_ready(pods[name]))
    reasons = [f"{name} {waiting_reason(pods[name]) if name in pods else 'is not there'}".strip()
               for name in missing]
    return Evidence(not missing, f"not ready: {', '.join(reasons)}" if missing else "all ready")
