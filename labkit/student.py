"""Whose lab this is, where a class shares a subscription or a machine; pure."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

from labkit.errors import AzureError

VARIABLE = "LABKIT_STUDENT"
"""The environment variable that says whose lab this is."""
_LIMIT = 10  # letters of a student's part; the whole must fit into MC_<group>_<cluster>_<location>, 80 letters


def suffix(student: str) -> str:
    """What a student's resources are called after: small letters, digits and hyphens.

    Names that differ only in what Azure does not take (accents, spaces) get a few digits that keep them apart.

    Args:
        student: a number or a name.

    Raises:
        AzureError: nothing of it can be used.
    """
    student = student.strip()
    plain = unicodedata.normalize("NFKD", student).encode("ascii", "ignore").decode().lower()
    tidy = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not student:
        raise AzureError("A student needs a name or a number.", "it is empty.", "pass student=\"07\", for example.",
                         code="InvalidParameter")
    if tidy == student.lower() and len(tidy) <= _LIMIT:
        return tidy
    digits = hashlib.sha256(student.lower().encode()).hexdigest()[:4]
    return f"{tidy[:_LIMIT - 5].strip('-')}-{digits}".strip("-")


def own(file: Path, student: str | None = None) -> Path:
    """A student's own file in place of one that a class would share: progress.json becomes progress-07.json.

    Args:
        file: the file of who is no student.
        student: a number or a name; None means LABKIT_STUDENT, and without it the file stays.
    """
    whose = student or os.environ.get(VARIABLE)
    return file.with_stem(f"{file.stem}-{suffix(whose)}") if whose else file
