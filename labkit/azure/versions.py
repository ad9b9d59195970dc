"""Which Kubernetes version to ask for: always one that the location offers now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.azure.settings import ARTICLE_VERSION
from labkit.errors import AzureError


@dataclass(frozen=True)
class Version:
    """A patch version that a location offers.

    Args:
        name: such as "1.36.2".
        preview: not generally available yet.
        official: under the support plan that costs nothing extra; the others are long-term support only.
        default: what Azure chooses where nothing is asked for.
    """

    name: str
    preview: bool = False
    official: bool = True
    default: bool = False

    @property
    def key(self) -> tuple[int, ...]:
        """For sorting."""
        return tuple(int(part) for part in self.name.split("."))


def parse(body: dict[str, Any]) -> tuple[Version, ...]:
    """Azure's answer, flattened: newest first.

    Args:
        body: a KubernetesVersionListResult as JSON.
    """
    found = []
    for minor in body.get("values", []):
        plans = (minor.get("capabilities") or {}).get("supportPlan") or ["KubernetesOfficial"]
        for patch in minor.get("patchVersions") or {}:
            found.append(Version(patch, bool(minor.get("isPreview")), "KubernetesOfficial" in plans,
                                 bool(minor.get("isDefault"))))
    return tuple(sorted(found, key=lambda v: v.key, reverse=True))


def choose(offered: Sequence[Version], wanted: str | None, location: str) -> str:
    """The version to create.

    Args:
        offered: what the location offers.
        wanted: a version or a minor such as "1.36"; None means the article's where it is offered, else
            the newest that is generally available.
        location: for the message.

    Raises:
        AzureError: the location does not offer it.
    """
    names = [v.name for v in offered]
    if wanted is None:
        usable = [v for v in offered if not v.preview and v.official]
        if ARTICLE_VERSION in names:
            return ARTICLE_VERSION
        if usable:
            return usable[0].name
    elif wanted in names:
        return wanted
    else:
        for version in offered:
            if version.name.startswith(f"{wanted}."):
                return version.name
    raise AzureError(
        f"Kubernetes {wanted or 'of any usable version'} is not offered in {location}.",
        f"it offers {', '.join(names) or 'none'}; Azure supports about three minor versions at a time.",
        "leave kubernetes_version out to get the newest, or name one of these.",
        code="AgentPoolK8sVersionNotSupported")
