"""What a Kubernetes API refuses, as errors that say what to do."""

from __future__ import annotations

from typing import Any

import orjson

from labkit import errors

_FIXES: dict[str, str] = {
    "Unauthorized": "the credentials are missing or out of date: `lab.run(lab.get_credentials())`.",
    "Forbidden": "ask with the cluster's admin credentials, or be given a role that may do this.",
    "AlreadyExists": "use another name, or apply a change to the object that is there.",
    "Conflict": "read the object again and repeat the change on it.",
    "Invalid": "mend the field that the message names.",
    "NotFound": "look at what there is with `kubectl get`.",
}
_CLASSES: dict[int, type[errors.KubeError]] = {
    401: errors.ForbiddenError, 403: errors.ForbiddenError, 404: errors.NotFoundError,
    409: errors.ConflictError, 422: errors.InvalidError,
}


def error_of(code: int, body: bytes) -> errors.KubeError:
    """The error behind a Status body.

    Args:
        code: the HTTP status.
        body: the response's body; need not be JSON.
    """
    try:
        status: dict[str, Any] = orjson.loads(body)
        message, reason = str(status["message"]), str(status.get("reason", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message, reason = body.decode(errors="replace").strip()[:300] or f"HTTP {code}", ""
    kind = _CLASSES.get(code, errors.KubeError)
    if reason == "AlreadyExists":
        kind = errors.AlreadyExistsError
    said = f"Kubernetes refused: {message}" if message[-1:] in ".!" else f"Kubernetes refused: {message}."
    return kind(said, f"{reason} (HTTP {code})" if reason else f"HTTP {code}", _FIXES.get(reason, ""),
                code=code, reason=reason)


def unreachable(host: str, error: Exception) -> errors.UnreachableError:
    """The error for no answer at all.

    Args:
        host: the API server's URL.
        error: what the HTTP library said.
    """
    return errors.UnreachableError(
        f"The API server {host} does not answer.", _innermost(error),
        "see whether the lab runs (`labkit status`), whether the cluster is started, and whether a proxy or "
        "a firewall is in between.")


def handshake(error: Exception) -> str:
    """Why a WebSocket did not open: the message of the Status in the server's answer, where there is one.

    Args:
        error: what the WebSocket library raised.
    """
    body = getattr(error, "resp_body", None)
    return error_of(getattr(error, "status_code", 0), body).what if body else str(error)[:300]


def _innermost(error: BaseException) -> str:
    while (cause := getattr(error, "reason", None) or error.__cause__) and isinstance(cause, BaseException):
        error = cause
    return str(error)
