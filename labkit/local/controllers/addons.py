"""The add-on manager of AKS: what it owns is taken back to its manifest.

It applies manifests as `kubectl apply` does, so fields that a manifest does not name survive, but for
those that it owns as a whole: a node selector that someone added to kube-proxy's pods goes. Only objects
labelled `addonmanager.kubernetes.io/mode: Reconcile` are touched; `EnsureExists` are made again if they
are gone and otherwise left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from labkit.local.client import Obj, find

from .base import Context, Controller
from .customs import CRDS, kind_of, resource_of
from .kinds import OWNABLE
from .objects import labels_of
from .queue import Key
from .store import key_of

MODE = "addonmanager.kubernetes.io/mode"
OWNED = {
    "DaemonSet": (("spec", "template", "spec", "nodeSelector"),),
    "Deployment": (("spec", "template", "spec", "nodeSelector"),),
}
"""Fields that are the manifest's as a whole, by kind."""


def plan(manifest: Obj, current: Obj) -> Obj:
    """The strategic merge patch that takes an object back to its manifest; empty if it is as it should be."""
    said = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "status")}
    said["metadata"] = {key: value for key, value in manifest["metadata"].items() if key in ("labels", "annotations")}
    patch: Obj = difference(said, current)
    for path in OWNED.get(manifest["kind"], ()):
        have, want = _at(current, path), _at(manifest, path)
        extra = {key: None for key in have if key not in want}
        if extra:
            patch = _with(patch, path, {**extra, **want})
    return patch


def difference(said: Obj, current: Obj) -> Obj:
    """What of `said` is not so in `current`.

    As with `kubectl apply`, what is so already is left out. That matters for ports: the strategic merge
    knows them by number alone, so a list with UDP and TCP on one number must be replaced as a whole.
    """
    result: Obj = {}
    for key, value in said.items():
        have = current.get(key)
        if _holds(value, have):
            continue
        if isinstance(value, dict) and isinstance(have, dict):
            result[key] = difference(value, have)
        elif key == "ports":
            result[key] = [{"$patch": "replace"}, *value]
        elif key == "containers" and isinstance(have, list):
            known = {item["name"]: item for item in have}
            result[key] = [{**difference(item, known.get(item["name"], {})), "name": item["name"]} for item in value]
        else:
            result[key] = value
    return result


def _holds(said: Any, current: Any) -> bool:
    """Whether `current` says all that `said` does; empty and absent are the same."""
    if isinstance(said, dict):
        return all(_holds(value, (current or {}).get(key)) for key, value in said.items())
    if isinstance(said, list):
        have = current or []
        return len(said) == len(have) and all(map(_holds, said, have))
    return bool(said == current) or (not said and not current)


def _at(obj: Obj, path: tuple[str, ...]) -> Obj:
    value: Any = obj
    for part in path:
        value = (value or {}).get(part)
    return value or {}


def _with(obj: Obj, path: tuple[str, ...], value: Obj) -> Obj:
    if not path:
        return value
    return {**obj, path[0]: _with(obj.get(path[0]) or {}, path[1:], value)}


def _kind(manifest: Obj) -> tuple[str, str]:
    """(group, kind)."""
    return manifest["apiVersion"].rpartition("/")[0], manifest["kind"]


class Addons(Controller):
    """Looks at its add-ons every so often, where the cluster's settings turn it on."""

    component = "addon-manager"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._manifests: dict[tuple[tuple[str, str], Key], Obj] = {}
        self._started = False

    def register(self, manifests: Iterable[Obj]) -> None:
        """Take these under control, and no others; those without the label are none of the add-on manager's."""
        self._manifests.clear()
        for manifest in manifests:
            if MODE in labels_of(manifest):
                self._manifests[(_kind(manifest), key_of(manifest))] = manifest

    def start(self) -> None:
        """Begin to compare, if this cluster has an add-on manager."""
        if self.settings.addon_manager:
            self.queue.add_after(self._tick, None, self.settings.addon_interval)

    def _tick(self, _: object) -> None:
        self.queue.add_after(self._tick, None, self.settings.addon_interval)
        for key in self._manifests:
            self.queue.add(self._take_back, key)

    def _resource(self, wanted: tuple[str, str]) -> str | None:
        return OWNABLE.get(wanted) or next(
            (resource_of(crd) for crd in self.stores[CRDS] if kind_of(crd) == wanted), None)

    def _take_back(self, key: tuple[tuple[str, str], Key]) -> None:
        kind, where = key
        manifest, resource = self._manifests[key], self._resource(kind)
        if resource is None:
            return
        current = find(self.context.client, resource, where[1], where[0] or None)
        if current is None:
            self.stores.create(resource, manifest)
        elif labels_of(manifest)[MODE] == "Reconcile" and labels_of(current).get(MODE, "Reconcile") == "Reconcile":
            patch = plan(manifest, current)
            if patch:
                self.stores.patch(resource, where, patch, type="strategic" if kind in OWNABLE else "merge")
