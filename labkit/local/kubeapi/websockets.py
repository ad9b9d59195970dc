"""exec, attach and port-forward over WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from . import errors
from .kinds import Served
from .request import Receive, Request, Send

if TYPE_CHECKING:
    from .api import Api

Session = Callable[[Receive, Send], Awaitable[None]]


async def open_session(api: Api, request: Request, served: Served, namespace: str, name: str,
                       sub: str | None) -> Session:
    """What speaks on an upgraded connection."""
    raise errors.bad_request(f"{sub} is not served yet")
