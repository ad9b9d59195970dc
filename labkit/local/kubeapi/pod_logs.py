"""GET /api/v1/namespaces/x/pods/y/log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from labkit.local.client import ApiError, Obj

from . import errors
from .request import Receive, Request, Send, while_connected

if TYPE_CHECKING:
    from .api import Api


class LogStream:
    """A log that is sent as it comes."""

    code, content_type = 200, b"text/plain; charset=utf-8"

    def __init__(self, first: bytes | None, rest: AsyncIterator[bytes]) -> None:
        self._first, self._rest = first, rest

    async def run(self, receive: Receive, send: Send) -> None:
        """Send until the log or the client ends."""
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-type", self.content_type)]})
        try:
            await while_connected(self._pump(send), receive)
        finally:
            if close := getattr(self._rest, "aclose", None):
                await close()

    async def _pump(self, send: Send) -> None:
        if self._first is not None:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for chunk in self._rest:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def answer(api: Api, request: Request, namespace: str, name: str) -> LogStream:
    """A container's log.

    Raises:
        ApiError: when there is no such pod, container or log.
    """
    pod = api.machinery.entry(api.machinery.registry.kind("pods"), namespace, name).obj
    container = pick_container(pod, request.query.get("container", ""))
    backend = api.node_backend
    if backend is None or not pod["spec"].get("nodeName"):
        raise errors.bad_request(f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
                                 if pod["spec"].get("nodeName") else f"pod {name} does not have a host assigned")
    stream = await backend.logs(
        namespace, name, container, follow=request.flag("follow"), previous=request.flag("previous"),
        tail=request.number("tailLines"), since_seconds=request.number("sinceSeconds"),
        timestamps=request.flag("timestamps"), limit_bytes=request.number("limitBytes"))
    if request.flag("follow"):
        return LogStream(b"", stream)                   # headers at once: the first line may take long
    return LogStream(await anext(stream, None), stream)     # an error before the first line is a Status


def pick_container(pod: Obj, asked: str) -> str:
    """The container that is meant.

    Raises:
        ApiError: when that is not clear, or not there.
    """
    spec = pod["spec"]
    every = [c["name"] for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key) or ()]
    name = pod["metadata"]["name"]
    if asked:
        if asked not in every:
            raise errors.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    names = [c["name"] for c in spec["containers"]]
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    if default in every:
        return str(default)
    if len(names) == 1:
        return str(names[0])
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise ApiError(400, "BadRequest", text)
