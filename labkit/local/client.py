"""The Kubernetes API as controllers, the kubelet and in-pod programs see it.

Everything in the local lab that reconciles talks to this small interface and to nothing else, so it
would run against any API server. There are two implementations: `labkit.local.kubeapi.Api` (in
process, for what the control plane runs) and `labkit.local.programs.kubeclient.HttpClient` (over the
network, for programs that run in pods).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

Obj = dict[str, Any]
Objs = list[Obj]
"""A Kubernetes object as JSON. Objects that a client returns or hands to a watch handler are shared:
never change one in place; take `copy_of(obj)` first."""

PatchType = Literal["json", "merge", "strategic", "apply"]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]
Handler = Callable[[EventType, Obj], None]


class ApiError(Exception):
    """A refusal by the API, as Kubernetes words it.

    Args:
        code: HTTP status, such as 404.
        reason: Kubernetes' reason, such as "NotFound", "AlreadyExists", "Conflict", "Invalid".
        message: the sentence that kubectl prints.
        details: the Status body's details, where it has any.
    """

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def status(self) -> Obj:
        """The error as a Kubernetes Status object."""
        body: Obj = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


class Subscription(Protocol):
    """A running watch."""

    def close(self) -> None:
        """Stop the watch; no call to the handler follows."""


class Client(Protocol):
    """The verbs, each of which raises ApiError.

    `resource` is "pods", "deployments.apps", "endpointslices.discovery.k8s.io" and so on: plural, and the
    group where there is one.
    """

    def get(self, resource: str, name: str, namespace: str | None = None) -> Obj:
        """Read one object."""

    def list(self, resource: str, namespace: str | None = None, *,
             label_selector: str | None = None, field_selector: str | None = None) -> list[Obj]:
        """Read all objects, of one namespace or of all."""

    def create(self, resource: str, obj: Obj, namespace: str | None = None) -> Obj:
        """Create an object; its metadata.namespace serves where `namespace` is None."""

    def update(self, resource: str, obj: Obj, *, subresource: str | None = None) -> Obj:
        """Replace an object; a metadata.resourceVersion that is not current is a Conflict."""

    def patch(self, resource: str, name: str, patch: Obj | Objs, namespace: str | None = None, *,
              type: PatchType = "merge", subresource: str | None = None) -> Obj:
        """Patch an object."""

    def delete(self, resource: str, name: str, namespace: str | None = None, *,
               grace_period: int | None = None, propagation: str | None = None,
               uid: str | None = None) -> None:
        """Delete an object; `uid` is a precondition."""

    def watch(self, resource: str, handler: Handler, *, namespace: str | None = None,
              label_selector: str | None = None, field_selector: str | None = None) -> Subscription:
        """Call `handler` with ADDED for each object that is there, then with every change, in order.

        In process the calls for what is there come before `watch` returns, and later ones from the
        event loop's thread. Over the network they come from a thread of the watch's own, which
        reconnects, lists again after a 410, and reports what vanished meanwhile as DELETED.
        """


@contextlib.contextmanager
def tolerating(*codes: int) -> Iterator[None]:
    """Pass over refusals of these HTTP statuses; what follows in the block is left out."""
    try:
        yield
    except ApiError as error:
        if error.code not in codes:
            raise


def find(client: Client, resource: str, name: str, namespace: str | None = None) -> Obj | None:
    """The object; None where there is none."""
    with tolerating(404):
        return client.get(resource, name, namespace)
    return None


def timestamp(seconds: float | None = None) -> str:
    """A time as Kubernetes writes it; now, where none is given."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def copy_of(obj: Any) -> Any:
    """A deep copy of JSON-like data; faster than copy.deepcopy and as exact for JSON."""
    if isinstance(obj, dict):
        return {k: copy_of(v) for k, v in obj.items()}
    if isinstance(obj, list):
        return [copy_of(v) for v in obj]
    return obj
