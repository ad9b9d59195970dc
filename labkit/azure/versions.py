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
        plans = (minor.get("capabilities") or {}).get("supportPlan", ["KubernetesOfficial"])
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
    return choices(offered, wanted, location)[0]


def choices(offered: Sequence[Version], wanted: str | None, location: str) -> tuple[str, ...]:
    """The versions to try, the best first: one where one was asked for.

    Args:
        offered: what the location offers.
        wanted: as in `choose`.
        location: for the message.

    Raises:
        AzureError: the location does not offer it.
    """
    names = [v.name for v in offered]
    if wanted is None:
        usable = [v.name for v in offered if not v.preview and v.official]
        first = [ARTICLE_VERSION] if ARTICLE_VERSION in names else []
        found = (*first, *(name for name in usable if name not in first))
    else:
        found = tuple(name for name in names if name == wanted or name.startswith(f"{wanted}."))[:1]
    if found:
        return found
    raise AzureError(
        f"Kubernetes {wanted or 'of any usable version'} is not offered in {location}.",
        f"it offers {', '.join(names) or 'none'}; Azure supports about three minor versions at a time.",
        "leave kubernetes_version out to get the newest, or name one of these.",
        code="AgentPoolK8sVersionNotSupported")


def after_refusal(error: AzureError, tried_in_order: Sequence[str], version: str) -> str | None:
    """The version to try next; None where the error is about something else, or nothing is left.

    A list of versions may be ahead of what a subscription may create: long-term support only, or just retired.

    Args:
        error: the refusal.
        tried_in_order: what `choices` gave.
        version: what was refused.
    """
    if "K8sVersionNotSupported" not in error.code:
        return None
    rest = list(tried_in_order)[list(tried_in_order).index(version) + 1:]
    return rest[0] if rest else None
