"""A watch of the API that outlives its connections."""

from __future__ import annotations

import http.client
import logging
import random
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode

import orjson

from labkit.local.client import ApiError, EventType, Handler, Obj
from labkit.local.programs.kubewire import Unreachable

if TYPE_CHECKING:
    from labkit.local.programs.kubeclient import HttpClient

log = logging.getLogger("kubeclient")

_FIRST_DELAY = 0.1  # seconds until a watch that has failed tries again; doubled each time
_WATCH_SECONDS = 600  # a watch that the server ends after this long is simply begun again


class Watch:
    """A watch that goes on until it is closed: it reconnects, and lists again when it has missed too much.

    The end of an object that vanished while the watch was away is reported with the object's metadata
    only (name, namespace, uid, labels): nothing more of it is kept.

    Attributes:
        synced: set once everything that was there at the start has been handed to the handler.
        failing_since: time.monotonic() of the first failure since the last success, or None.
        last_error: why it fails, in words.
    """

    def __init__(self, client: HttpClient, resource: str, namespace: str | None, selectors: dict[str, str],
                 handler: Handler) -> None:
        self.synced = threading.Event()
        self.failing_since: float | None = None
        self.last_error = ""
        self._delay = _FIRST_DELAY
        self._client, self._resource, self._namespace = client, resource, namespace
        self._selectors, self._handler = selectors, handler
        self._known: dict[tuple[str, str], tuple[str, str, dict[str, str] | None]] = {}
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns when no call to the handler can follow."""
        self._closed.set()
        if (sock := self._socket) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        version = ""
        while not self._closed.is_set():
            try:
                if not version:
                    version = self._relist()
                version = self._follow(version)
            except ApiError as error:
                if error.code == 410:
                    version = ""
                    continue
                self._failed(error)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._failed(Unreachable(self._client.url, error))
            else:
                continue
            self._closed.wait(self._delay * random.uniform(0.5, 1.0))
            self._delay = min(self._delay * 2, 5.0)
        self._client.close()

    def _well(self) -> None:
        if self.failing_since is not None and self.last_error:
            log.info("Watch of %s is back", self._resource)
        self.failing_since, self.last_error, self._delay = None, "", _FIRST_DELAY

    def _failed(self, error: ApiError) -> None:
        if self._closed.is_set():
            return
        if self.failing_since is None:
            self.failing_since = time.monotonic()
        if error.message != self.last_error:
            log.warning("Watch of %s failed: %s", self._resource, error.message)
        self.last_error = error.message

    def _relist(self) -> str:
        items, version = self._client._list(self._resource, self._namespace, self._selectors)
        vanished = set(self._known)
        for obj in items:
            key = _key(obj)
            vanished.discard(key)
            known = self._known.get(key)
            meta = obj["metadata"]
            if known is None:
                self._emit("ADDED", obj)
            elif known[0] != meta.get("uid"):
                self._gone(key)
                self._emit("ADDED", obj)
            elif known[1] != meta.get("resourceVersion"):
                self._emit("MODIFIED", obj)
        for key in vanished:
            self._gone(key)
        self.synced.set()
        return version

    def _follow(self, version: str) -> str:
        query = {**self._selectors, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true",
                 "timeoutSeconds": str(_WATCH_SECONDS)}
        path = self._client._path(self._resource, self._namespace)
        # The connection that the list came by, as Go's clients do: a new one would ask for the server's name, which
        # nobody answers where cluster DNS has just moved and this watch is what should tell us where to.
        connection = self._client.take()
        try:
            connection.sock.settimeout(_WATCH_SECONDS + 30)  # from here on silence is normal
            self._socket = _keep_alive(connection.sock)
            if self._closed.is_set():  # by somebody who did not see the socket yet
                return version
            with self._client.stream(connection, f"{path}?{urlencode(query)}") as events:
                self._well()
                for event in (orjson.loads(line) for line in events if line.strip()):
                    if self._closed.is_set():
                        break
                    obj = event["object"]
                    if event["type"] == "ERROR":
                        raise ApiError(obj.get("code", 500), obj.get("reason", ""), obj.get("message", ""))
                    version = obj["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._emit(cast(EventType, event["type"]), obj)
        finally:
            self._socket = None
            connection.close()
        return version

    def _gone(self, key: tuple[str, str]) -> None:
        uid, version, labels = self._known[key]
        meta: Obj = {"name": key[1], "uid": uid, "resourceVersion": version, "labels": labels or {}}
        if key[0]:
            meta["namespace"] = key[0]
        self._emit("DELETED", {"metadata": meta})

    def _emit(self, event: EventType, obj: Obj) -> None:
        meta = obj["metadata"]
        if event == "DELETED":
            self._known.pop(_key(obj), None)
        else:
            version = meta.get("resourceVersion", "")
            self._known[_key(obj)] = (meta.get("uid", ""), version, meta.get("labels"))
        if self._closed.is_set():
            return
        try:
            self._handler(event, obj)
        except Exception:  # one object that a handler cannot digest must not end the watch of the rest
            log.exception("Handler of %s failed on %s %s", self._resource, event, meta.get("name"))


def _key(obj: Obj) -> tuple[str, str]:
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _keep_alive(sock: socket.socket) -> socket.socket:
    """Have the kernel notice within some 30 seconds that the other end of an idle watch is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
