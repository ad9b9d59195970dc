"""The Kubernetes API over HTTP, for programs that run in pods.

The standard library and orjson only: a program imports this in some tens of milliseconds, and a pod
that holds ten thousand objects in a watch keeps of each no more than it takes to report its end.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from labkit.local.client import Handler, Obj, PatchType
from labkit.local.programs.kubewatch import Watch
from labkit.local.programs.kubewire import Unreachable, decode

_Objs = list[Obj]  # inside the client `list` is a verb

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_VERSIONS = {  # saves a round trip at start; a group that is not here is asked for
    "apps": "v1", "batch": "v1", "discovery.k8s.io": "v1", "networking.k8s.io": "v1",
    "coordination.k8s.io": "v1", "rbac.authorization.k8s.io": "v1", "apiextensions.k8s.io": "v1",
    "crd.projectcalico.org": "v1", "operator.tigera.io": "v1", "policy": "v1", "events.k8s.io": "v1",
}
_PATCH_TYPES: dict[PatchType, str] = {
    "json": "application/json-patch+json", "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json", "apply": "application/apply-patch+yaml",
}
_TOKEN_LIFE = 60.0  # seconds after which the token's file is read again: Kubernetes rotates it
_HANDSHAKE = 1.0  # seconds that a TCP handshake may take; the kernel would repeat it after this long


class HttpClient:
    """`labkit.local.client.Client` over the network. Safe to use from several threads.

    Args:
        url: such as "https://10.0.0.1:443".
        token: a bearer token, or the path of a file that holds one.
        ca_file: whom to trust; None for the system's authorities.
        timeout: seconds that a verb may take.
        user_agent: who asks, for the API's records and field managers.
    """

    def __init__(self, url: str, *, token: str | Path | None = None, ca_file: str | Path | None = None,
                 timeout: float = 10.0, user_agent: str = "labkit") -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        self._token, self.timeout, self._user_agent = token, timeout, user_agent
        self._read_token: tuple[float, str] = (0.0, "")
        self._versions = dict(_VERSIONS)
        self._local = threading.local()

    @classmethod
    def in_cluster(cls, *, timeout: float = 10.0, user_agent: str = "labkit") -> HttpClient:
        """The API as a pod finds it: two environment variables and the service account's files.

        Raises:
            RuntimeError: outside a pod.
        """
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        token = SERVICE_ACCOUNT / "token"
        if not host or not token.exists():
            raise RuntimeError("not in a pod: no KUBERNETES_SERVICE_HOST, or no token of a service account")
        return cls(f"https://{host}:{port}", token=token, ca_file=SERVICE_ACCOUNT / "ca.crt",
                   timeout=timeout, user_agent=user_agent)

    # The verbs of labkit.local.client.Client ------------------------------------------------------

    def get(self, resource: str, name: str, namespace: str | None = None) -> Obj:
        """Read one object."""
        return self._object("GET", self._path(resource, namespace, name))

    def list(self, resource: str, namespace: str | None = None, *,
             label_selector: str | None = None, field_selector: str | None = None) -> _Objs:
        """Read all objects, of one namespace or of all."""
        return self._list(resource, namespace, _selectors(label_selector, field_selector))[0]

    def create(self, resource: str, obj: Obj, namespace: str | None = None) -> Obj:
        """Create an object."""
        namespace = namespace or obj.get("metadata", {}).get("namespace")
        return self._object("POST", self._path(resource, namespace), obj)

    def update(self, resource: str, obj: Obj, *, subresource: str | None = None) -> Obj:
        """Replace an object."""
        meta = obj["metadata"]
        path = self._path(resource, meta.get("namespace"), meta["name"], subresource)
        return self._object("PUT", path, obj)

    def patch(self, resource: str, name: str, patch: Obj | _Objs, namespace: str | None = None, *,
              type: PatchType = "merge", subresource: str | None = None) -> Obj:
        """Patch an object; a server-side apply takes over fields that others own."""
        path = self._path(resource, namespace, name, subresource)
        if type == "apply":
            path += "?" + urlencode({"fieldManager": self._user_agent, "force": "true"})
        return self._object("PATCH", path, patch, content_type=_PATCH_TYPES[type])

    def delete(self, resource: str, name: str, namespace: str | None = None, *,
               grace_period: int | None = None, propagation: str | None = None,
               uid: str | None = None) -> None:
        """Delete an object."""
        options: Obj = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        if propagation is not None:
            options["propagationPolicy"] = propagation
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        self._object("DELETE", self._path(resource, namespace, name), options)

    def watch(self, resource: str, handler: Handler, *, namespace: str | None = None,
              label_selector: str | None = None, field_selector: str | None = None) -> Watch:
        """Call `handler` from a thread of the watch's own; see `Watch` for what can be asked of it."""
        return Watch(self, resource, namespace, _selectors(label_selector, field_selector), handler)

    def version(self) -> Obj:
        """What the API says of itself; the cheapest way to learn whether it answers."""
        return self._object("GET", "/version")

    # Wire ---------------------------------------------------------------------------------------

    def _path(self, resource: str, namespace: str | None, name: str | None = None,
              subresource: str | None = None) -> str:
        plural, _, group = resource.partition(".")
        path = f"/apis/{group}/{self._version(group)}" if group else "/api/v1"
        if namespace and resource != "namespaces":
            path += f"/namespaces/{quote(namespace)}"
        for part in (plural, name, subresource):
            if part:
                path += f"/{quote(part)}"
        return path

    def _version(self, group: str) -> str:
        if group not in self._versions:
            self._versions[group] = self._object("GET", f"/apis/{group}")["preferredVersion"]["version"]
        return self._versions[group]

    def _list(self, resource: str, namespace: str | None, selectors: dict[str, str]) -> tuple[_Objs, str]:
        path = self._path(resource, namespace)
        answer = self._object("GET", f"{path}?{urlencode(selectors)}" if selectors else path)
        kind, version = answer["kind"].removesuffix("List"), answer["apiVersion"]
        items = answer.get("items") or []
        for item in items:  # a list's items do not repeat what they are
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", version)
        return items, answer["metadata"].get("resourceVersion", "")

    def _object(self, method: str, path: str, body: Any = None, *,
                content_type: str = "application/json") -> Obj:
        data = None if body is None else orjson.dumps(body)
        headers = self._headers()
        if data is not None:
            headers["Content-Type"] = content_type
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            reused = connection is not None
            if connection is None:
                connection = self._local.connection = self.connect(self.timeout)
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                payload = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                gone = isinstance(error, (http.client.RemoteDisconnected, ConnectionError))
                if reused and gone and attempt == 1:  # closed while idle: not an answer to us
                    continue
                raise Unreachable(self.url, error) from error
            if response.will_close:
                connection.close()
                self._local.connection = None
            return decode(response.status, payload)
        raise AssertionError("unreachable")

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        if token := self._current_token():
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _current_token(self) -> str:
        if not isinstance(self._token, Path):
            return self._token or ""
        read_at, token = self._read_token
        if not token or time.monotonic() - read_at > _TOKEN_LIFE:
            with suppress(OSError):
                token = self._token.read_text().strip()
                self._read_token = (time.monotonic(), token)
        return token

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        """A new connection to the API, not yet opened."""
        connection = (http.client.HTTPConnection(self._host, self._port, timeout=timeout) if self._tls is None else
                      http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls))
        connection._create_connection = _dial  # type: ignore[attr-defined]
        return connection

    def take(self) -> http.client.HTTPConnection:
        """The calling thread's connection, for a use of its own; a new one where it has none."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is None:
            connection = self.connect(self.timeout)
            connection.connect()
        return connection

    def stream(self, connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        """Begin a watch on a connection that is open; each line is an event, until the server ends it."""
        connection.request("GET", path, headers=self._headers())
        response = connection.getresponse()
        if response.status != 200:
            with response:
                decode(response.status, response.read())
        return response

    def close(self) -> None:
        """Close the calling thread's connection; it is opened again when it is needed."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


def _dial(address: tuple[str, int], timeout: float, source: tuple[str, int] | None = None) -> socket.socket:
    """A TCP connection; a handshake that nobody answers within a second is begun anew, until `timeout` (seconds).

    A program may start before kube-proxy has its rules, and the kernel keeps the way of a connection's first packet
    for all that follow: the same handshake, repeated, would go astray again; a new one finds the rules.
    """
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            sock = socket.create_connection(address, max(0.001, min(left, _HANDSHAKE)), source)
        except TimeoutError:
            if left <= _HANDSHAKE:
                raise
        else:
            sock.settimeout(timeout)
            return sock


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in given.items() if value}
