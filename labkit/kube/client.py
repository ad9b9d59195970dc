"""One cluster's Kubernetes API: the only module that knows the official client.

The official client does what is hard to do well: kubeconfig files, credentials and their renewal, TLS,
proxies, the exec protocol. Its typed models are not used: objects are plain JSON here, so that a custom
resource and a pod are handled alike and a field that the models do not know yet gets through.

A resource is named as kubectl names it: "pods", "deployments.apps", "felixconfigurations". The version
that the cluster prefers is found by discovery, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import orjson
import yaml

from labkit import errors
from labkit.kube import refusals
from labkit.kube.discovery import Discovery

Obj = dict[str, Any]
"""A Kubernetes object as JSON."""

Query = Mapping[str, str | None]
PatchType = Literal["merge", "strategic", "json", "apply"]

_CONTENT_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
}
FIELD_MANAGER = "labkit"
_CONNECTIONS = 32  # threads that may talk at once without waiting for each other
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Output:
    """What a command in a pod wrote, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


class Kube:
    """One cluster's API.

    Args:
        kubeconfig: a kubeconfig as a dictionary; its proxy-url and CA are honoured.
        context: a context of it; None means its current one.
        kubectl: how a command line names this cluster, for the twins of steps.
    """

    def __init__(self, kubeconfig: Obj, context: str | None = None, kubectl: str = "kubectl") -> None:
        from kubernetes import config
        from kubernetes.client import Configuration

        settings = Configuration()
        settings.connection_pool_maxsize = _CONNECTIONS
        try:
            api = config.new_client_from_config_dict(
                kubeconfig, context, persist_config=False, client_configuration=settings)
        except config.ConfigException as error:
            raise errors.KubeconfigError(
                "The kubeconfig cannot be used.", str(error),
                "fetch it again: `lab.run(lab.get_credentials())`.") from error
        self._api, self._settings = api, settings
        self._pool = api.rest_client.pool_manager
        self._discovery = Discovery(self.raw)
        self.kubectl = kubectl
        self.host: str = settings.host.rstrip("/")
        """The API server's URL, such as "https://mycalicocl-….hcp.canadaeast.azmk8s.io:443"."""

    # Verbs

    def get(self, resource: str, name: str, namespace: str | None = None) -> Obj:
        """Read one object."""
        return self._object("GET", self.path(resource, namespace, name))

    def find(self, resource: str, name: str, namespace: str | None = None) -> Obj | None:
        """Read one object; None where it, or its kind, does not exist."""
        try:
            return self.get(resource, name, namespace)
        except errors.NotFoundError:
            return None

    def list(self, resource: str, namespace: str | None = None, *, label_selector: str | None = None,
             field_selector: str | None = None) -> list[Obj]:
        """Read all objects, of one namespace or of all."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        items: list[Obj] = self._json("GET", self.path(resource, namespace), query=query)["items"]
        return items

    def create(self, obj: Obj, namespace: str | None = None) -> Obj:
        """Create an object; its own namespace serves where `namespace` is None."""
        return self._object("POST", self._path_of(obj, namespace, named=False), body=obj)

    def replace(self, obj: Obj) -> Obj:
        """Replace an object; a resourceVersion that is not current is a ConflictError."""
        return self._object("PUT", self._path_of(obj, None, named=True), body=obj)

    def apply(self, obj: Obj, namespace: str | None = None) -> Obj:
        """Create an object or change it to what is given: server-side apply, as `kubectl apply`."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._object("PATCH", self._path_of(obj, namespace, named=True), body=obj, query=query,
                            content_type=_CONTENT_TYPES["apply"])

    def patch(self, resource: str, name: str, patch: Obj | Sequence[Obj], namespace: str | None = None, *,
              type: PatchType = "merge", subresource: str = "") -> Obj:
        """Patch an object; a None in a merge patch removes the field."""
        return self._object("PATCH", self.path(resource, namespace, name, subresource), body=patch,
                            content_type=_CONTENT_TYPES[type], query={"fieldManager": FIELD_MANAGER})

    def delete(self, resource: str, name: str, namespace: str | None = None, *,
               grace_seconds: int | None = None) -> bool:
        """Delete an object; returns False where it was not there."""
        body: Obj = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            self._json("DELETE", self.path(resource, namespace, name), body=body)
        except errors.NotFoundError:
            return False
        return True

    def watch(self, resource: str, namespace: str | None = None, *, label_selector: str | None = None,
              resource_version: str = "", seconds: int = 60) -> Iterator[tuple[str, Obj]]:
        """Changes as they happen: ("ADDED" | "MODIFIED" | "DELETED", object), for some seconds."""
        query = {"watch": "true", "labelSelector": label_selector, "resourceVersion": resource_version,
                 "timeoutSeconds": str(seconds)}
        response = self._request("GET", self.path(resource, namespace), query=query, timeout=seconds + 10)
        with contextlib.closing(response):
            for line in _lines(response.stream()):
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise refusals.error_of(status.get("code", 500), orjson.dumps(status))
                yield event["type"], event["object"]

    # Pods

    def logs(self, pod: str, namespace: str, *, container: str | None = None, tail: int | None = None,
             previous: bool = False) -> str:
        """What a container has written."""
        query = {"container": container, "tailLines": str(tail) if tail is not None else None,
                 "previous": "true" if previous else None}
        response = self._request("GET", self.path("pods", namespace, pod, "log"), query=query)
        with contextlib.closing(response):
            return bytes(response.read()).decode(errors="replace")

    def exec(self, pod: str, namespace: str, argv: Sequence[str], *, container: str | None = None,
             timeout: float = 60.0, check: bool = True) -> Output:
        """Run a command in a container.

        Args:
            pod: the pod.
            namespace: its namespace.
            argv: the command.
            container: None means the pod's first.
            timeout: seconds after which it is given up.
            check: raise where the command ends with an error.

        Raises:
            ExecError: the command ended with an error, or did not end.
            UnreachableError: the connection was lost.
        """
        from kubernetes.stream import ws_client
        from websocket import WebSocketException

        query = [("command", word) for word in argv] + [("stdout", "true"), ("stderr", "true")]
        if container:
            query.append(("container", container))
        path = self.path("pods", namespace, pod, "exec")
        said = f"`{' '.join(argv)[:80]}` in pod {namespace}/{pod}"
        try:
            session = ws_client.WSClient(
                self._settings, ws_client.get_websocket_url(f"{self.host}{path}?{urlencode(query)}"),
                self._auth(), capture_all=False)
        except Exception as error:  # websocket-client has no common base for what a handshake can raise
            raise errors.ExecError(f"{said} could not be started.", refusals.handshake(error),
                                   f"look at the pod: `{self.kubectl} -n {namespace} describe pod {pod}`.",
                                   ) from error
        try:
            session.run_forever(timeout=timeout)
            if session.is_open():
                raise errors.ExecError(f"{said} did not end within {timeout:.0f} s.")
            stdout, stderr = session.read_stdout(), session.read_stderr()
            output = Output(_exit_code(session), stdout, stderr)
        except (WebSocketException, OSError) as error:
            raise refusals.unreachable(self.host, error) from error
        finally:
            session.close()
            session.sock.shutdown()  # what close() leaves open where the server has hung up first
        if check and output.exit_code:
            raise errors.ExecError(f"{said} ended with code {output.exit_code}.", stderr.strip()[-500:],
                                   exit_code=output.exit_code, stdout=stdout, stderr=stderr)
        return output

    # The rest

    def version(self) -> str:
        """The cluster's version, such as "v1.20.2"."""
        return str(self._json("GET", "/version")["gitVersion"])

    def raw(self, path: str) -> Any:
        """GET any path of the API as JSON."""
        return self._json("GET", path)

    def path(self, resource: str, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of a kind, of an object or of a subresource of it."""
        return self._discovery.by_name(resource).path(namespace, name, subresource)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _path_of(self, obj: Obj, namespace: str | None, *, named: bool) -> str:
        resource = self._discovery.by_kind(obj["apiVersion"], obj["kind"])
        inside = obj["metadata"].get("namespace") or namespace or "default"
        return resource.path(inside, obj["metadata"]["name"] if named else "")

    def _object(self, method: str, path: str, *, body: Any = None, query: Query | None = None,
                content_type: str = "application/json") -> Obj:
        answer: Obj = self._json(method, path, body=body, query=query, content_type=content_type)
        return answer

    def _json(self, method: str, path: str, *, body: Any = None, query: Query | None = None,
              content_type: str = "application/json") -> Any:
        response = self._request(method, path, body=body, query=query, content_type=content_type)
        data = response.read()
        response.release_conn()
        return orjson.loads(data) if data else {}

    def _request(self, method: str, path: str, *, body: Any = None, query: Query | None = None,
                 content_type: str = "application/json", timeout: float = _TIMEOUT) -> Any:
        import urllib3

        asked = {key: value for key, value in (query or {}).items() if value}
        url = f"{self.host}{path}" + (f"?{urlencode(asked)}" if asked else "")
        headers = self._auth() | {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._pool.request(
                method, url, headers=headers, body=orjson.dumps(body) if body is not None else None,
                preload_content=False, timeout=timeout, retries=urllib3.Retry(2, status=0, redirect=0))
        except urllib3.exceptions.HTTPError as error:
            raise refusals.unreachable(self.host, error) from error
        if response.status >= 400:
            data = response.read()
            response.release_conn()
            raise refusals.error_of(response.status, data)
        return response

    def _auth(self) -> dict[str, str]:
        # The hook inside renews a token that has run out (exec plugins such as kubelogin).
        token = self._settings.get_api_key_with_prefix("authorization", "BearerToken")
        if token is None:
            token = self._settings.get_api_key_with_prefix("BearerToken")
        return {"authorization": token} if token else {}


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)


def _exit_code(session: Any) -> int:
    """The exit code from the error channel; a connection that broke before it came counts as a failure."""
    status = yaml.safe_load(session.read_channel(3) or "{}") or {}
    if status.get("status") == "Success":
        return 0
    for cause in status.get("details", {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    return 255
