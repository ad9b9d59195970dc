"""The cloud's login endpoint: it lets nobody in, and says so at once.

`az login` and `az logout` ask the cloud's login endpoint what it can do. Without an answer from here az
would ask the public cloud about this lab, and end in a traceback where that cannot be reached.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .http import Context, answer

_REFUSAL = "The local lab knows no users. It has one identity: az login --identity"


async def discovery(context: Context, request: Request) -> Response:
    """OpenID Connect's discovery document of a tenant."""
    host, tenant = request.headers.get("host", "localhost"), request.path_params["tenant"]
    base = f"https://{host}/login/{tenant}"
    return answer({
        "issuer": f"{base}/v2.0", "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode"})


async def refuse(context: Context, request: Request) -> Response:
    """Every way to log in but the managed identity."""
    return answer({"error": "unauthorized_client", "error_description": _REFUSAL}, 400)
