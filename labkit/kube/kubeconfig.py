"""Kubeconfig files: back up and merge, as `az aks get-credentials` does; never lose what is there."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from labkit.errors import KubeconfigError

Config = dict[str, Any]
_SECTIONS = ("clusters", "users", "contexts")
_LOCK_SECONDS = 5.0  # kubectl holds its lock for milliseconds


def paths() -> list[Path]:
    """The files that kubectl reads: those of KUBECONFIG, else ~/.kube/config."""
    named = [Path(entry) for entry in os.environ.get("KUBECONFIG", "").split(os.pathsep) if entry]
    return named or [Path.home() / ".kube" / "config"]


def default_path() -> Path:
    """The file that kubectl writes to: the first of `paths`."""
    return paths()[0]


def load_all() -> Config:
    """What kubectl sees: all of its files, and of two entries of one name the first.

    Raises:
        KubeconfigError: one of the files is not a kubeconfig.
    """
    found: Config = {}
    for path in reversed(paths()):
        config = load(path)
        current = config.get("current-context") or found.get("current-context") or ""
        found = {**merge(found, config), "current-context": current}
    return found


def load(path: Path) -> Config:
    """Read a kubeconfig; an absent or empty file is an empty one.

    Raises:
        KubeconfigError: the file is not a kubeconfig.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"{path} cannot be read.", str(error),
                              "give yourself the right to read it, or set KUBECONFIG to another file.") from error
    return parse(text, str(path))


def parse(text: str | bytes, said: str = "the kubeconfig") -> Config:
    """Read a kubeconfig's text.

    Raises:
        KubeconfigError: it is not one.
    """
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{said} is not YAML.", str(error).replace("\n", " "),
                              "mend it by hand, or move it away; it is left untouched.") from error
    if not isinstance(config, dict) or any(not isinstance(config.get(s) or [], list) for s in _SECTIONS):
        raise KubeconfigError(f"{said} is not a kubeconfig.", "clusters, users and contexts should be lists.",
                              "mend it by hand, or move it away; it is left untouched.")
    return config


def named(config: Config, context: str) -> Config:
    """A cluster's credentials under the names that `get-credentials` gives them.

    Args:
        config: what listClusterAdminCredential or listClusterUserCredential answered.
        context: the context's name, such as "MyCalicoCluster-admin".
    """
    current = config.get("current-context")
    contexts = [{**c, "name": context} if c["name"] == current else c for c in config.get("contexts", [])]
    return {**config, "contexts": contexts, "current-context": context}


def merge(existing: Config, new: Config) -> Config:
    """Entries of `new` beside those of `existing`, replacing those of the same name; pure.

    The current context becomes the new one's, as with `az aks get-credentials --overwrite-existing`.
    """
    merged: Config = {"apiVersion": "v1", "kind": "Config", "preferences": {}, **existing}
    for section in _SECTIONS:
        names = {entry["name"] for entry in new.get(section) or []}
        kept = [entry for entry in existing.get(section) or [] if entry.get("name") not in names]
        merged[section] = kept + list(new.get(section) or [])
    if new.get("current-context"):
        merged["current-context"] = new["current-context"]
    return merged


def without(config: Config, context: str) -> Config:
    """A kubeconfig without one context, and without the cluster and the user that only it used; pure."""
    gone = [c for c in config.get("contexts") or [] if c["name"] == context]
    left = [c for c in config.get("contexts") or [] if c["name"] != context]
    if not gone:
        return config
    result = {**config, "contexts": left}
    for section, key in (("clusters", "cluster"), ("users", "user")):
        used = {c["context"].get(key) for c in left}
        dropped = {c["context"].get(key) for c in gone} - used
        result[section] = [e for e in config.get(section) or [] if e["name"] not in dropped]
    if config.get("current-context") == context:
        result["current-context"] = ""
    return result


def back_up(path: Path) -> Path | None:
    """Copy the file beside itself, as the article does before anything else; None where there is none.

    Raises:
        KubeconfigError: the file cannot be read, or the folder cannot be written to.
    """
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        for stamp in itertools.count(int(time.time())):  # a copy that is there already is never written over
            copy = path.with_name(f"{path.name}.{stamp}.backup")
            with contextlib.suppress(FileExistsError), open(
                    os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                return copy
    except OSError as error:
        raise _unwritable(path, error, "backed up") from error
    raise AssertionError("unreachable: seconds do not end")


def update(path: Path, change: Callable[[Config], Config]) -> None:
    """Read a kubeconfig, change it and write it, while nobody else does; kubectl takes the same lock.

    Args:
        path: the file.
        change: from what is there to what shall be there; pure.

    Raises:
        KubeconfigError: the file is not a kubeconfig, is locked, or cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + _LOCK_SECONDS
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unwritable(path, error) from error
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
            break
        except FileExistsError as error:
            if time.monotonic() > deadline:
                raise KubeconfigError(
                    f"{path} is being changed by another program.", f"{lock} exists.",
                    f"wait for it; if no kubectl runs, it was left behind: `rm {lock}`.") from error
            time.sleep(0.05)
        except OSError as error:
            raise _unwritable(path, error) from error
    try:
        write(path, change(load(path)))
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def write(path: Path, config: Config) -> None:
    """Write a kubeconfig, readable by its owner only, in one step: a crash leaves the old file.

    Raises:
        KubeconfigError: the folder cannot be written to.
    """
    try:
        # A symbolic link stays one: what it points to is replaced.
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".kubeconfig-")  # made with mode 0600
        try:
            with os.fdopen(handle, "w") as file:
                yaml.safe_dump(config, file, sort_keys=False)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError, done: str = "written") -> KubeconfigError:
    return KubeconfigError(f"{path} cannot be {done}.", str(error),
                           "give yourself the right to write there, or set KUBECONFIG to another file.")
