"""A pod's volumes: folders of the host that are filled when the pod starts, and where they are mounted."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labkit.local.client import Obj
from labkit.local.node.environment import (
    ConfigError,
    Lookup,
    Place,
    contents,
    expand,
    field_value,
    resource_value,
)
from labkit.local.node.sandbox import ETC, Mount, node_links

_READABLE_HOST_PATHS = ("/usr", "/lib/modules", *(f"/etc/{name}" for name in ETC))
_CA_MAP = "kube-root-ca.crt"
_DISK = ("dev", "home", "mnt", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var/lib", "var/log", "var/tmp")


@dataclass(frozen=True)
class Surroundings:
    """What volumes are made from.

    Attributes:
        folder: the pod's own folder for volumes.
        host: the folder that stands for the node's own disk.
        lookup: reads ConfigMaps and Secrets.
        token: a service account token's text, by seconds to live and audience.
        real: paths that privileged pods see as they are: the lab's cgroup and bpffs.
    """

    folder: Path
    host: Path
    lookup: Lookup
    token: Mapping[str, str]
    ca_pem: str
    real: tuple[str, ...] = ()


def lay_out_disk(disk: Path, etc: Mapping[str, str]) -> None:
    """Give a new node's empty disk the folders of a system, links to what is shown there, and its own texts in /etc."""
    for name in _DISK:
        (disk / name).mkdir(parents=True, exist_ok=True)
    for name, target in node_links().items():
        path = disk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    for folder in (disk, *(path for path in disk.rglob("*") if path.is_dir() and not path.is_symlink())):
        folder.chmod(0o1777 if folder.name == "tmp" else 0o755)
    for name, text in etc.items():
        (disk / "etc" / name).write_text(text)


def materialise(pod: Obj, place: Place, around: Surroundings) -> dict[str, str]:
    """Make a pod's volumes.

    Returns:
        The host's path of each volume, by its name.

    Raises:
        ConfigError: when one needs an object that is not there.
    """
    return {volume["name"]: _make(volume, pod, place, around) for volume in pod["spec"].get("volumes") or ()}


def _make(volume: Obj, pod: Obj, place: Place, around: Surroundings) -> str:
    if "hostPath" in volume:
        return _host_path(volume["hostPath"], around)
    folder = around.folder / volume["name"]
    folder.mkdir(exist_ok=True)
    if "emptyDir" in volume:
        folder.chmod(0o1777)
        return str(folder)
    folder.chmod(0o755)  # the daemon's umask is strict, and who runs in the pod need not be root
    files = _files(volume, pod, place, around)
    for path, (data, mode) in files.items():
        if data is not None:
            _write(folder, path, data, mode)
    known = {posixpath.normpath(path) for path in files}
    for left in folder.rglob("*"):
        if not left.is_dir() and str(left.relative_to(folder)) not in known:
            left.unlink(missing_ok=True)
    return str(folder)


def refresh(pod: Obj, place: Place, around: Surroundings) -> None:
    """Bring the files of a running pod up to date with ConfigMaps and Secrets that changed."""
    for volume in pod["spec"].get("volumes") or ():
        if changes(volume) or ("projected" in volume and around.token):
            try:
                _make(volume, pod, place, around)
            except ConfigError:
                continue  # what it was made from is gone: a running pod keeps its files


def changes(volume: Obj) -> bool:
    """Whether a volume is made from what somebody may change, beside a service account's token and its CA."""
    sources = (volume.get("projected") or {}).get("sources") or [volume]
    return any("secret" in source or source.get("configMap", {}).get("name", _CA_MAP) != _CA_MAP for source in sources)


_Files = dict[str, tuple[bytes | None, int]]
"""What each file holds, None for what it has already; and its mode."""


def _files(volume: Obj, pod: Obj, place: Place, around: Surroundings) -> _Files:
    for key in ("configMap", "secret", "downwardAPI", "projected"):
        if key in volume:
            source = volume[key]
            mode = source.get("defaultMode", 0o644)
            if key != "projected":
                return _projection(key, source, mode, pod, place, around)
            result: _Files = {}
            for part in source.get("sources") or ():
                for kind, body in part.items():
                    result |= _projection(kind, body, mode, pod, place, around)
            return result
    raise ConfigError(f'volume "{volume["name"]}": the lab has no volumes of this kind')


def _projection(kind: str, source: Obj, mode: int, pod: Obj, place: Place, around: Surroundings) -> _Files:
    if kind == "serviceAccountToken":
        token = around.token[source.get("audience", "")].encode() if around.token else None
        return {source["path"]: (token, 0o644)}
    if kind == "downwardAPI":
        return {item["path"]: (_downward(item, pod, place).encode(), item.get("mode", mode))
                for item in source.get("items") or ()}
    resource = "configmaps" if kind == "configMap" else "secrets"
    name = source.get("name") or source.get("secretName", "")
    obj = around.lookup(resource, name)
    if obj is None:
        if source.get("optional"):
            return {}
        if name == _CA_MAP:  # every namespace has it, also before a controller wrote it
            obj = {"data": {"ca.crt": around.ca_pem}}
        else:
            raise ConfigError(f'{resource.removesuffix("s")} "{name}" not found')
    data = contents(obj)
    items = source.get("items")
    if items is None:
        return {key: (value, mode) for key, value in data.items()}
    result: _Files = {}
    for item in items:
        if item["key"] in data:
            result[item["path"]] = (data[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise ConfigError(f"references non-existent {resource.removesuffix('s')} key: {item['key']}")
    return result


def _downward(item: Obj, pod: Obj, place: Place) -> str:
    if "fieldRef" in item:
        return field_value(item["fieldRef"]["fieldPath"], pod, place)
    reference = item["resourceFieldRef"]
    containers = {c["name"]: c for c in pod["spec"]["containers"]}
    return resource_value(reference, containers.get(reference.get("containerName", ""), {}), place.allocatable)


def _write(folder: Path, path: str, data: bytes, mode: int) -> None:
    """Write a file so that a reader sees the old or the new text, never half of one."""
    place = posixpath.normpath("/" + path)
    target = within(folder, posixpath.dirname(place)) / posixpath.basename(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    for between in target.parents:
        if between == folder.resolve():
            break
        between.chmod(0o755)
    if target.is_file() and not target.is_symlink() and target.read_bytes() == data:
        return
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)  # never through a link
    temporary.write_bytes(data)
    temporary.chmod(mode)
    os.replace(temporary, target)


def _host_path(source: Obj, around: Surroundings) -> str:
    """A path of the node's disk.

    A node is not a machine: its disk is a folder of its own, so a pod cannot change this machine's
    files. A few harmless folders of the machine are themselves.
    """
    path, kind = str(posixpath.normpath(source["path"])), str(source.get("type") or "")
    if any(path == real or path.startswith(real + "/") for real in around.real):
        return path
    if _is_readable(path) and os.path.exists(path):
        return path
    target = within(around.host, path)
    if kind.startswith("File"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    else:
        target.mkdir(parents=True, exist_ok=True)
    return str(target)


def _is_readable(path: str) -> bool:
    """Whether a path is of those that are the machine's own, and that a pod may read."""
    return any(path == known or path.startswith(f"{known}/") for known in _READABLE_HOST_PATHS)


def within(folder: Path, below: str) -> Path:
    """A path below a folder that pods can write to.

    Raises:
        ConfigError: a link that a pod left there leads out of it, to the machine's own files.
    """
    base = folder.resolve()
    target = (base / posixpath.normpath("/" + below).lstrip("/")).resolve()
    if not target.is_relative_to(base):
        raise ConfigError(f'"{below}" leads out of its volume by a symbolic link')
    return target


def mounts(container: Obj, paths: Mapping[str, str], env: Mapping[str, str]) -> list[Mount]:
    """A container's mounts, given where its pod's volumes are.

    Raises:
        ConfigError: when it names a volume that the pod has not.
    """
    result = []
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in paths:
            raise ConfigError(f'volume "{mount["name"]}" not found')
        source = Path(paths[mount["name"]])
        below = mount.get("subPath") or expand(mount.get("subPathExpr") or "", env)
        if below:
            source = within(source, below)
            if not source.exists():
                source.mkdir(parents=True)
        read_only = bool(mount.get("readOnly")) or _is_readable(str(source))
        result.append(Mount(str(source), posixpath.normpath(mount["mountPath"]), read_only))
    return result
