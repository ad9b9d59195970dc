"""What a learner has done, kept in one small file of theirs.

The file is a convenience, not a record: a missing or damaged one starts afresh, and two notebooks that write
at once lose at most one entry of the same key.
"""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import student

__all__ = ["Progress", "default_file"]

_EMPTY: dict[str, Any] = {"schema": 1, "lessons": {}, "checks": {}, "predictions": {}}


def default_file() -> Path:
    """Return where progress is kept: ``LABKIT_PROGRESS``, or the learner's home, for each student of a class."""
    if override := os.environ.get("LABKIT_PROGRESS"):
        return Path(override)
    return student.own(Path.home() / ".labkit" / "progress.json")


class Progress:
    """Reads the file at each question and writes it whole at each change."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or default_file()

    def read(self) -> dict[str, Any]:
        """Return everything that is recorded."""
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            document = {}
        if not isinstance(document, dict) or document.get("schema") != 1:
            document = {}
        return {key: document.get(key, default if key == "schema" else {}) for key, default in _EMPTY.items()}

    def record(self, section: str, key: str, **values: Any) -> dict[str, Any]:
        """Merge values into one entry and return the entry."""
        document = self.read()
        entry: dict[str, Any] = {**document[section].get(key, {}), **values, "at": _now()}
        document[section][key] = entry
        self._write(document)
        return entry

    def entry(self, section: str, key: str) -> dict[str, Any] | None:
        """Return one entry, or None."""
        found: dict[str, Any] | None = self.read()[section].get(key)
        return found

    def forget(self) -> None:
        """Start afresh."""
        self.file.unlink(missing_ok=True)

    def _write(self, document: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=self.file.parent, prefix=".progress-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1, sort_keys=True)
        os.replace(name, self.file)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
