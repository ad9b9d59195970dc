"""The API over HTTP: who asks, for what, and the answer. Raw ASGI, because every request comes this way."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from labkit.local.client import ApiError, Obj

from . import aggregation, apply, decoding, discovery, errors, lists, patches, proxy, reviews, subresources, websockets
from .kinds import REVIEW_RESOURCES, Served
from .request import Receive, Reply, Request, Send, decode, error_reply, json_reply, read_body
from .store import Entry
from .tables import table_for, wants_table
from .watch_stream import Watch

if TYPE_CHECKING:
    from .api import Api
    from .auth import User

log = logging.getLogger(__name__)

_OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")


class HttpSurface:
    """The ASGI application of an Api."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._watches: set[Watch] = set()
        self._closed = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return

    def close(self) -> None:
        """End the watches."""
        self._closed = True
        for watch in tuple(self._watches):
            watch.end()

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        request = Request.of(scope)
        metrics, started = self._api.metrics, time.perf_counter()
        try:
            answer = await self._answer(request, receive)
        except ApiError as error:
            answer = error_reply(error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            answer = error_reply(ApiError(500, "InternalError", f"Internal error occurred: {error}"))
        if isinstance(answer, Reply):
            if request.warnings:
                answer = replace(answer, headers=(*answer.headers, *request.warning_headers()))
            await answer.send(send)
            metrics.count(request, answer.code, answer.content_type, time.perf_counter() - started)
            return
        if isinstance(answer, Watch):
            self._watches.add(answer)
        metrics.begin(request)
        try:
            await answer.run(receive, send)
        finally:
            metrics.end(request)
            self._watches.discard(answer)
            metrics.count(request, answer.code, answer.content_type, time.perf_counter() - started)

    def _user(self, request: Request) -> User:
        token = request.token()
        user = self._api.user_of(token) if token else None
        if user is None:
            raise errors.unauthorized()
        return user

    async def _answer(self, request: Request, receive: Receive) -> Any:
        path = request.path
        if path.startswith(_OPEN_PATHS):
            return discovery.open_path(self._api, request)
        user = self._user(request)
        parts = request.parts
        if (fixed := discovery.answer(self._api, request, parts)) is not None:
            return fixed
        request.target = served, namespace, name, sub = self._target(parts, request)
        method = request.method
        body = await read_body(receive) if method in ("POST", "PUT", "PATCH", "DELETE") else b""
        if served.kind.resource in REVIEW_RESOURCES:
            if method != "POST":
                raise errors.method_not_allowed()
            if all("as=" in form for form in request.header(b"accept").split(",")):
                raise errors.not_acceptable(["application/json"])
            return json_reply(reviews.answer(self._api, served, user, self._decode(served, body, request)), 201)
        if sub == "proxy":
            return await proxy.answer(self._api, request, served, namespace, name, body)
        if served.group == aggregation.GROUP:
            return await self._api.aggregation.forward(request, body)
        if sub in ("log", "exec", "attach", "portforward"):
            return await self._connect(request, served, namespace, name, sub)
        match method:
            case "GET":
                return self._get(request, served, namespace, name, sub)
            case "POST":
                return self._post(request, served, namespace, name, sub, body)
            case "PUT" if name:
                return self._put(request, served, namespace, name, sub, body)
            case "PATCH" if name:
                return self._patch(request, served, namespace, name, sub, body)
            case "DELETE":
                return self._delete(request, served, namespace, name, sub, body)
        raise errors.method_not_allowed()

    def _target(self, parts: list[str], request: Request) -> tuple[Served, str, str, str | None]:
        """(kind, namespace, name, subresource) of a path."""
        if parts[0] == "api":
            group, rest = "", parts[1:]
        elif parts[0] == "apis" and len(parts) > 2:
            group, rest = parts[1], parts[2:]
        else:
            raise errors.page_not_found()
        if len(rest) < 2:
            raise errors.page_not_found()
        version, rest = rest[0], rest[1:]
        if rest[0] == "watch" and len(rest) > 1:        # the old way to ask for a watch
            request.query["watch"] = "true"
            rest = rest[1:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
            namespace, rest = rest[1], rest[2:]
        served = self._api.machinery.registry.served.get((group, version), {}).get(rest[0])
        if served is None or (len(rest) > 3 and rest[2] != "proxy") or (namespace and not served.kind.namespaced):
            raise errors.page_not_found()
        sub = rest[2] if len(rest) > 2 else None
        if sub is not None and sub not in served.kind.subresources:
            raise errors.page_not_found()
        return served, namespace, rest[1] if len(rest) > 1 else "", sub

    # verbs

    def _get(self, request: Request, served: Served, namespace: str, name: str, sub: str | None) -> Any:
        api = self._api
        if name and not request.flag("watch"):
            entry = api.machinery.entry(served.kind, namespace, name)
            if sub == "scale":
                return json_reply(subresources.scale_of(served.kind, entry.obj))
            if wants_table(request):
                return json_reply(table_for(api, served, [entry], request, str(entry.rv)))
            return self._entry(served, entry)
        if name:
            request.query["fieldSelector"] = f"metadata.name={name}"
        if request.flag("watch"):
            if self._closed:
                raise ApiError(503, "ServiceUnavailable", "the API server is shutting down")
            return Watch(api, served, namespace, request)
        return lists.list_reply(api, served, namespace, request)

    def _post(self, request: Request, served: Served, namespace: str, name: str, sub: str | None,
              body: bytes) -> Reply:
        obj = self._decode(served, body, request, typed=sub is None)
        if name:
            if sub is None:
                raise errors.method_not_allowed()
            out = subresources.post(self._api, served.kind, sub, namespace, name, obj, dry_run=request.dry_run)
            return json_reply(out, 201)
        if served.kind.namespaced and not namespace and not (obj.get("metadata") or {}).get("namespace"):
            raise errors.method_not_allowed()
        obj = served.from_wire(obj) if served.from_wire else obj
        if isinstance(meta := obj.get("metadata"), dict):
            meta.pop("managedFields", None)
        entry = self._api.machinery.create(served.kind, obj, namespace, dry_run=request.dry_run)
        return self._entry(served, entry, 201)

    def _put(self, request: Request, served: Served, namespace: str, name: str, sub: str | None,
             body: bytes) -> Reply:
        machinery = self._api.machinery
        obj = self._decode(served, body, request, typed=sub != "scale")
        if sub == "scale":
            entry = machinery.change(served.kind, namespace, name,
                                     lambda old: subresources.set_scale(served.kind, old, obj), dry_run=request.dry_run)
            return json_reply(subresources.scale_of(served.kind, entry.obj))
        obj = served.from_wire(obj) if served.from_wire else obj
        if not isinstance(meta := obj.setdefault("metadata", {}), dict):
            raise errors.bad_request("metadata must be an object")
        if not meta.get("name"):
            raise errors.bad_request(f"the name of the object () does not match the name on the URL ({name})")
        old = machinery.entry(served.kind, namespace, name)
        if old.obj["metadata"].get("managedFields"):
            apply.note_update(old.obj, obj, request.manager, sub, served.api_version)
        return self._entry(served, machinery.replace(served.kind, namespace, name, obj, sub=sub,
                                                     dry_run=request.dry_run))

    def _patch(self, request: Request, served: Served, namespace: str, name: str, sub: str | None,
               body: bytes) -> Reply:
        content_type = request.header(b"content-type").partition(";")[0].strip().lower()
        type_ = patches.CONTENT_TYPES.get(content_type)
        if type_ is None:
            raise errors.unsupported_media_type(tuple(patches.CONTENT_TYPES)[:4])
        patch = decode(body, content_type)
        check = None if sub == "scale" else partial(self._settle, served, request)
        if type_ == "apply" and not request.query.get("fieldManager"):
            raise ApiError(422, "Invalid", 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is'
                           " required for apply patch")
        entry, created = patches.patch_object(
            self._api.machinery, served.kind, namespace, name, patch, type_, sub=sub, manager=request.manager,
            force=request.flag("force"), dry_run=request.dry_run, served=served, check=check)
        if sub == "scale":
            return json_reply(subresources.scale_of(served.kind, entry.obj))
        return self._entry(served, entry, 201 if created else 200)

    def _delete(self, request: Request, served: Served, namespace: str, name: str, sub: str | None,
                body: bytes) -> Reply:
        if sub is not None:
            raise errors.method_not_allowed()
        given = decode(body, request.header(b"content-type")) if body.strip() else {}
        options = subresources.delete_options(given if isinstance(given, dict) else {}, request.query)
        if not name:
            return lists.delete_collection(self._api, served, namespace, request, options)
        entry, gone = self._api.machinery.remove(served.kind, namespace, name, options)
        if not gone or served.kind.resource == "pods":
            return self._entry(served, entry)
        meta = entry.obj["metadata"]
        about = {**errors.details(served.kind, name), "uid": meta["uid"]}
        return json_reply({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                           "details": about})

    async def _connect(self, request: Request, served: Served, namespace: str, name: str, sub: str) -> Any:
        from . import pod_logs

        if sub == "log":
            if request.method != "GET":
                raise errors.method_not_allowed()
            return await pod_logs.answer(self._api, request, namespace, name)
        # kubectl asks this way once more when a WebSocket was refused, and shows this answer
        await websockets.open_session(self._api, request, served, namespace, name, sub)
        raise errors.bad_request("Upgrade request required")

    def _entry(self, served: Served, entry: Entry, code: int = 200) -> Reply:
        if served.to_wire is None:
            return Reply(code, entry.raw)
        return Reply(code, orjson.dumps(served.to_wire(entry.obj)))

    def _decode(self, served: Served, body: bytes, request: Request, *, typed: bool = True) -> Obj:
        """A request's object."""
        obj = decode(body, request.header(b"content-type"))
        if not isinstance(obj, dict):
            raise errors.bad_request(f"the object provided is unrecognized (must be of type {served.kind.kind}):"
                                     " couldn't get version/kind; json parse error: json: cannot unmarshal"
                                     f" {errors.go_type(obj)} into Go value of type struct {{ APIVersion string"
                                     ' "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }')
        if typed:
            kind, version = obj.get("kind"), obj.get("apiVersion")
            if kind and kind != served.kind.kind:
                raise errors.bad_request(f"{kind} in version \"{version}\" cannot be handled as a {served.kind.kind}:"
                                         " the kind in the data does not match the expected kind")
            if version and version != served.api_version:
                raise errors.bad_request(f"the API version in the data ({version}) does not match the expected API"
                                         f" version ({served.api_version})")
            self._settle(served, request, obj)
        return obj

    def _settle(self, served: Served, request: Request, obj: Obj) -> None:
        """Drop fields that the kind does not have; refuse or tell of them, as the request asks."""
        mode = request.query.get("fieldValidation") or "Ignore"
        if mode not in ("Ignore", "Warn", "Strict"):
            raise ApiError(422, "Invalid", 'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported'
                           f' value: {errors.go_value(mode)}: supported values: "", "Ignore", "Strict", "Warn"')
        if unknown := decoding.settle(served, obj):
            if mode == "Strict":
                raise decoding.strict_error(served, unknown)
            if mode == "Warn":
                request.warnings += decoding.unknown_texts(unknown)

    # WebSocket

    async def _websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        request = Request.of(scope)
        await receive()                                  # websocket.connect
        try:
            self._user(request)
            request.target = served, namespace, name, sub = self._target(request.parts, request)
            self._api.machinery.entry(served.kind, namespace, name)
            session = await websockets.open_session(self._api, request, served, namespace, name, sub)
        except ApiError as error:
            reply = error_reply(error)
            await send({"type": "websocket.http.response.start", "status": reply.code,
                        "headers": [(b"content-type", b"application/json"),
                                    (b"content-length", b"%d" % len(reply.body))]})
            await send({"type": "websocket.http.response.body", "body": reply.body})
            return
        metrics, started = self._api.metrics, time.perf_counter()
        metrics.begin(request)
        try:
            await session(receive, send)
        finally:
            metrics.end(request)
            metrics.count(request, 101, b"", time.perf_counter() - started)
