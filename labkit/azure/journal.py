"""Long-running operations that were begun and not seen to end, so that a new process can follow them.

Each operation is a file of its own: notebooks that run side by side do not touch each other's. A file holds the
SDK's continuation token, which names the operation at Azure and carries no credential; its owner alone can read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Operation:
    """A long-running operation on one resource.

    Args:
        verb: "create", "delete", "start", "abort", "delete-group", "switch kube-proxy on in" or "… off in".
        group: the resource group.
        name: the cluster; the group's name again where the operation is on the group.
    """

    verb: str
    group: str
    name: str

    def __str__(self) -> str:
        return f"delete group {self.group}" if self.verb == "delete-group" else f"{self.verb} cluster {self.name}"


@dataclass(frozen=True)
class Entry:
    """What is remembered of an operation.

    Args:
        token: the SDK's continuation token.
        began: when it was begun.
    """

    token: str
    began: datetime


def default_folder() -> Path:
    """Where operations are remembered: beside the lab's state in LABKIT_HOME, else in the learner's home."""
    home = os.environ.get("LABKIT_HOME")
    if home and os.access(home, os.W_OK):
        return Path(home) / "operations"
    return Path.home() / ".labkit" / "operations"


class Journal:
    """The operations of one subscription. A folder that cannot be written remembers nothing, and says so once.

    Args:
        subscription: its id.
        folder: where the files are; None means `default_folder`.
    """

    def __init__(self, subscription: str, folder: Path | None = None) -> None:
        self._subscription, self._folder = subscription, folder or default_folder()

    def entry(self, operation: Operation) -> Entry | None:
        """What is remembered of an operation; a file that cannot be read is as good as none."""
        try:
            document = json.loads(self._file(operation).read_text())
            return Entry(str(document["token"]), datetime.fromisoformat(document["began"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, operation: Operation, token: str) -> str:
        """Write an operation down; returns why that was not possible, or nothing."""
        document = {"subscription": self._subscription, "group": operation.group, "name": operation.name,
                    "operation": operation.verb, "began": datetime.now(UTC).isoformat(), "token": token}
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")  # made with mode 0600
            with os.fdopen(handle, "w") as file:
                json.dump(document, file)
            os.replace(name, self._file(operation))
        except OSError as error:
            return f"{self._folder} cannot be written ({error.strerror}): a new process will look, not resume"
        return ""

    def forget(self, operation: Operation) -> None:
        """The operation has ended, or its resource is gone."""
        with contextlib.suppress(OSError):
            self._file(operation).unlink()

    def _file(self, operation: Operation) -> Path:
        # Azure's names compare without case.
        key = "/".join((self._subscription, operation.group, operation.name, operation.verb)).lower()
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
