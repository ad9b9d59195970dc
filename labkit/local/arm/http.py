"""What every request to Resource Manager passes: token, api-version, subscription, JSON, errors."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .clusters import Clusters
from .errors import ArmError
from .identity import LabTokens
from .operations import Operations
from .store import ArmStore, Operation

RETRY_AFTER = "1"
"""Seconds between polls. A poll is held until the operation ends, so that nobody waits for the clock;
0 would not do: the SDKs read it as "no header" and wait 30 seconds."""

_API_VERSION = re.compile(r"^\d{4}-\d{2}-\d{2}(-preview|-alpha|-beta)?$", re.IGNORECASE)
_GUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)


@dataclass(frozen=True)
class Context:
    """What the handlers share."""

    store: ArmStore
    clusters: Clusters
    auth: LabTokens
    operations: Operations

    @property
    def subscription_id(self) -> str:
        """The id of the lab's one subscription, in its own spelling."""
        return f"/subscriptions/{self.auth.subscription}"


METHODS = ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE")
Handler = Callable[[Context, Request], Awaitable[Response]]


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response; no body for None."""
    content = b"" if body is None else orjson.dumps(body)
    return Response(content, status, {"x-ms-request-id": str(uuid.uuid4()), "Cache-Control": "no-cache",
                                      **(headers or {})},
                    media_type=None if body is None else "application/json; charset=utf-8")


def refusal(error: ArmError) -> Response:
    """The response that says no."""
    return answer(error.body(), error.status, {"x-ms-error-code": error.code, **error.headers})


async def json_body(request: Request) -> dict[str, Any]:
    """The request's JSON object."""
    raw = await request.body()
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be "
                       f"deserialized: '{error}'.") from error
    if not isinstance(body, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be "
                       "deserialized: 'an object was expected'.")
    return body


def api_version(request: Request) -> str:
    """The request's api-version; parameter names compare without case, as everything in ARM."""
    for name, value in request.query_params.items():
        if name.lower() == "api-version":
            return value
    return ""


def operation_headers(request: Request, context: Context, operation: Operation, *,
                      location: bool) -> dict[str, str]:
    """The headers of an accepted long-running operation."""
    base = (f"https://{request.headers.get('host', 'localhost')}{context.subscription_id}/providers/"
            f"Microsoft.ContainerService/locations/{operation.location}")
    query = f"api-version={api_version(request)}"
    headers = {"Azure-AsyncOperation": f"{base}/operations/{operation.id}?{query}",
               "Retry-After": RETRY_AFTER}
    if location:
        headers["Location"] = f"{base}/operationresults/{operation.id}?{query}"
    return headers


class ArmRoute(Route):
    """A route whose path matches in any casing, as Resource Manager's do."""

    def __init__(self, path: str, context: Context, methods: dict[str, Handler], *,
                 anonymous: bool = False) -> None:
        async def endpoint(request: Request) -> Response:
            try:
                if not anonymous:
                    _authenticate(context.auth, request)
                    _check_api_version(request)
                    _check_subscription(context.auth, request)
                handler = methods.get(request.method)
                if handler is None:
                    raise ArmError(405, "MethodNotAllowed", f"The http method '{request.method}' is not "
                                   f"supported for this resource.", headers={"Allow": ", ".join(methods)})
                return await handler(context, request)
            except ArmError as error:
                return refusal(error)

        super().__init__(path, endpoint, methods=METHODS)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)


def _authenticate(auth: LabTokens, request: Request) -> None:
    header = request.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    if not header:
        code, message = "AuthenticationFailed", ("Authentication failed. The 'Authorization' header is "
                                                 "missing.")
    elif scheme.lower() != "bearer" or not token:
        code, message = "AuthenticationFailed", ("Authentication failed. The 'Authorization' header is "
                                                 "provided in an invalid format.")
    elif reason := auth.reason_to_refuse(token.strip()):
        code, message = "InvalidAuthenticationToken", reason
        if "expiry" in reason:
            code = "ExpiredAuthenticationToken"
    else:
        return
    challenge = (f'Bearer authorization_uri="https://login.microsoftonline.com/{auth.tenant}", '
                 f'error="invalid_token", error_description="{message}"')
    raise ArmError(401, code, message, headers={"WWW-Authenticate": challenge})


def _check_api_version(request: Request) -> None:
    version = api_version(request)
    if not version:
        raise ArmError(400, "MissingApiVersionParameter",
                       "The api-version query parameter (?api-version=) is required for all requests.")
    if not _API_VERSION.match(version):
        raise ArmError(400, "InvalidApiVersionParameter", f"The api-version '{version}' is invalid. It must "
                       "have the form 'YYYY-MM-DD' or 'YYYY-MM-DD-preview'.")


def _check_subscription(auth: LabTokens, request: Request) -> None:
    asked = request.path_params.get("subscription")
    if asked is None or asked.lower() == auth.subscription.lower():
        return
    if not _GUID.match(asked):
        raise ArmError(400, "InvalidSubscriptionId",
                       f"The provided subscription identifier '{asked}' is malformed or invalid.")
    raise ArmError(404, "SubscriptionNotFound", f"The subscription '{asked}' could not be found.")
