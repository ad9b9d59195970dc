"""Where a cluster serves a kind: found by asking it, once for each group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from labkit.errors import NotFoundError


@dataclass(frozen=True)
class Resource:
    """Where a kind is served."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of the kind, of an object or of a subresource of it."""
        parts = [f"/apis/{self.group}" if self.group else "/api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


class Discovery:
    """Finds kinds; remembers what it found, and looks again when something is missing.

    Args:
        get: reads a path of the API as JSON.
    """

    def __init__(self, get: Callable[[str], Any]) -> None:
        self._get = get
        self._lists: dict[str, tuple[Resource, ...]] = {}  # by group and version, "apps/v1"
        self._preferred: dict[str, str] = {"": "v1"}  # by group
        self._lock = threading.Lock()

    def by_name(self, name: str) -> Resource:
        """The kind that kubectl calls "pods" or "deployments.apps"; without a group it is the core's.

        Raises:
            NotFoundError: the cluster does not serve it.
        """
        plural, _, group = name.partition(".")
        return self._find(name, lambda: self._preferred_version(group), lambda r: r.plural == plural)

    def by_kind(self, api_version: str, kind: str) -> Resource:
        """The kind of an object, by its apiVersion and kind.

        Raises:
            NotFoundError: the cluster does not serve it.
        """
        return self._find(f"{kind} ({api_version})", lambda: api_version, lambda r: r.kind == kind)

    def _find(self, said: str, group_version: Callable[[], str | None],
              wanted: Callable[[Resource], bool]) -> Resource:
        with self._lock:
            for _ in range(2):
                found = group_version()
                for resource in self._resources(found) if found else ():
                    if wanted(resource):
                        return resource
                # A custom resource definition may have come since we looked.
                if found:
                    self._lists.pop(found, None)
        raise NotFoundError(
            f"The cluster does not serve {said}.",
            "its API group or its custom resource definition is absent.",
            "list what it serves: `kubectl api-resources`.", code=404, reason="NotFound")

    def _preferred_version(self, group: str) -> str | None:
        if group not in self._preferred:
            for entry in self._get("/apis")["groups"]:
                self._preferred[entry["name"]] = entry["preferredVersion"]["groupVersion"]
        return self._preferred.get(group)

    def _resources(self, group_version: str) -> tuple[Resource, ...]:
        if group_version not in self._lists:
            group, _, version = group_version.rpartition("/")
            try:
                document = self._get(f"/apis/{group_version}" if group else f"/api/{version}")
            except NotFoundError:
                return ()
            self._lists[group_version] = tuple(
                Resource(group, version, entry["name"], entry["kind"], entry["namespaced"])
                for entry in document["resources"] if "/" not in entry["name"])
        return self._lists[group_version]
