"""Azure's refusals, in Azure's words.

Azure has two shapes for the same thing: Resource Manager nests (`{"error": {"code", "message"}}`), and
the AKS resource provider behind it often answers flat (`{"code", "message"}`). Clients must survive
both, so the lab keeps the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ArmError(Exception):
    """A refusal.

    Args:
        status: HTTP status.
        code: Azure's code, which clients match on.
        message: Azure's sentence.
        provider: said by the AKS resource provider (flat) rather than by Resource Manager (nested).
        headers: further response headers.
        target: the property that is refused, where it is one; `az` prints it.
    """

    def __init__(self, status: int, code: str, message: str, *, provider: bool = False,
                 headers: Mapping[str, str] | None = None, target: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.provider, self.target = provider, target
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON body, in the shape of whoever refuses."""
        if self.provider:
            body = {"code": self.code, "details": None, "message": self.message, "subcode": ""}
            return {**body, "target": self.target} if self.target else body
        return {"error": {"code": self.code, "message": self.message}}


def resource_not_found(kind: str, name: str, group: str) -> ArmError:
    """A GET of something that is not there."""
    return ArmError(
        404, "ResourceNotFound",
        f"The Resource '{kind}/{name}' under resource group '{group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
        headers={"x-ms-failure-cause": "gateway"},
    )


def group_not_found(group: str) -> ArmError:
    """A resource group that is not there."""
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.",
                    headers={"x-ms-failure-cause": "gateway"})


def pool_not_found(cluster: str, pool: str, group: str) -> ArmError:
    """An agent pool that is not there; the resource provider says it."""
    return ArmError(404, "NotFound", f"Agent pool '{pool}' of managed cluster '{cluster}' in resource group "
                    f"'{group}' was not found.", provider=True)


def bad_request(message: str, code: str = "BadRequest", target: str | None = None) -> ArmError:
    """The resource provider's everyday refusal."""
    return ArmError(400, code, message, provider=True, target=target)


def unsupported_version(version: str) -> ArmError:
    """A Kubernetes version that the location does not offer."""
    return bad_request(
        f"Version {version} is not supported in this region. Please use [az aks get-versions] command to "
        "get the supported version list in this region. For more information, please check "
        "https://aka.ms/supported-version-list", "AgentPoolK8sVersionNotSupported")


def not_in_the_lab(what: str) -> ArmError:
    """Azure can do it and the lab does not model it: said plainly, never imitated."""
    return bad_request(f"The local lab does not model {what}. Leave it out, or use the aks target.",
                       "NotModelledByLocalLab")
