"""The tags that mark what labkit makes in Azure: whose it is, and when it may go."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

RUN_TAG, OWNER_TAG, EXPIRY_TAG = "labkit-run", "owner", "expires-at"
OWNER_VARIABLE = "LABKIT_OWNER"
HOURS = 8.0
"""After how many hours a lab counts as forgotten, where nobody says otherwise."""

_RUN = "%Y%m%d-%H%M%S"
_EVERYBODY = ("root", "jovyan", "ubuntu", "azureuser", "user", "vscode", "codespace", "admin")
"""Names of users that many machines have: the machine's name tells their owners apart."""


@dataclass(frozen=True)
class Mark:
    """What the tags of a resource say.

    Args:
        run: when it was made, as the run tag writes it.
        owner: whose it is.
        expires: when it may go, with its zone.
    """

    run: str
    owner: str
    expires: datetime


def owner() -> str:
    """Who we are, for the tag: LABKIT_OWNER, else the user, with the machine where the user's name says nothing."""
    if given := os.environ.get(OWNER_VARIABLE):
        return given
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return f"{user}@{platform.node()}" if user in _EVERYBODY else user


def tags(hours: float = HOURS, now: datetime | None = None) -> MappingProxyType[str, str]:
    """What marks a resource as ours: a forgotten one can be found, and says when it may go.

    Args:
        hours: after which it counts as forgotten.
        now: the time; None means the clock's.
    """
    now = now or datetime.now(UTC)
    return MappingProxyType({
        RUN_TAG: now.strftime(_RUN), OWNER_TAG: owner(),
        EXPIRY_TAG: (now + timedelta(hours=hours)).isoformat(timespec="seconds"),
    })


def read(given: Mapping[str, str] | None) -> Mark | str | None:
    """What the tags of a resource say; None where they say nothing about labkit, a reason where they are not clear.

    Args:
        given: the tags, as Azure lists them.
    """
    found = given or {}
    if RUN_TAG not in found:
        alike = [name for name in found if name.casefold() == RUN_TAG]
        return f"its tag is written {alike[0]!r}, not {RUN_TAG!r}" if alike else None
    if not found.get(OWNER_TAG):
        return f"it has no tag {OWNER_TAG!r}"
    written = found.get(EXPIRY_TAG)
    if not written:
        return f"it has no tag {EXPIRY_TAG!r}"
    try:
        expires = datetime.fromisoformat(written)
    except ValueError:
        return f"its tag {EXPIRY_TAG!r} is no time: {written!r}"
    if expires.tzinfo is None:
        return f"its tag {EXPIRY_TAG!r} has no time zone: {written!r}"
    return Mark(found[RUN_TAG], found[OWNER_TAG], expires)


def made_at(given: Mapping[str, str] | None) -> datetime | None:
    """When the run began that made a resource, by its run tag; None where it does not say.

    Args:
        given: the tags.
    """
    try:
        return datetime.strptime((given or {}).get(RUN_TAG, ""), _RUN).replace(tzinfo=UTC)
    except ValueError:
        return None


def expired(groups: Iterable[Mapping[str, Any]], now: datetime | None = None) -> list[str]:
    """The names of our own resource groups whose time is over.

    Args:
        groups: resource groups, as Azure lists them.
        now: the time; None means the clock's.
    """
    now, me = now or datetime.now(UTC), owner()
    marks = ((str(group.get("name")), read(group.get("tags"))) for group in groups if not group.get("managedBy"))
    return [name for name, mark in marks if isinstance(mark, Mark) and mark.owner == me and mark.expires <= now]
