"""Who we are in Azure, and which Azure: credentials and clouds, by names that a parameter or a variable can say."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.errors import TargetError

CREDENTIAL, CLOUD = "LABKIT_CREDENTIAL", "LABKIT_CLOUD"
"""The environment variables that choose."""

CREDENTIALS = {
    "default": "what the environment, a managed identity, `az` or another tool offers (DefaultAzureCredential)",
    "cli": "the login of `az` (AzureCliCredential)",
    "devicecode": "a code that you type in a browser (DeviceCodeCredential)",
}


@dataclass(frozen=True)
class Cloud:
    """One of Azure's clouds.

    Args:
        name: ours: "public", "china" or "usgovernment".
        arm_url: Azure Resource Manager.
        scope: what its tokens are for.
        authority: who issues them.
    """

    name: str
    arm_url: str
    scope: str
    authority: str


def cloud(name: str | None = None) -> Cloud:
    """A cloud by name: the parameter, else LABKIT_CLOUD, else the public one.

    Args:
        name: "public", "china" or "usgovernment".

    Raises:
        TargetError: there is no such cloud.
    """
    from azure.core import AzureClouds
    from azure.identity import AzureAuthorityHosts
    from azure.mgmt.core.tools import get_arm_endpoints

    known = {
        "public": (AzureClouds.AZURE_PUBLIC_CLOUD, AzureAuthorityHosts.AZURE_PUBLIC_CLOUD),
        "china": (AzureClouds.AZURE_CHINA_CLOUD, AzureAuthorityHosts.AZURE_CHINA),
        "usgovernment": (AzureClouds.AZURE_US_GOVERNMENT, AzureAuthorityHosts.AZURE_GOVERNMENT),
    }
    wanted = name or os.environ.get(CLOUD) or "public"
    if wanted not in known:
        raise TargetError(f"There is no Azure cloud {wanted!r}.", f"it may be {', '.join(known)}.",
                          f"pass one of them as cloud=… to Lab.open(), or set {CLOUD}.")
    setting, authority = known[wanted]
    endpoints = get_arm_endpoints(setting)
    return Cloud(wanted, str(endpoints["resource_manager"]).rstrip("/"), str(endpoints["credential_scopes"][0]),
                 os.environ.get("AZURE_AUTHORITY_HOST") or authority)


def kind_of(name: str | None = None) -> str:
    """Which credential: the parameter, else LABKIT_CREDENTIAL, else "default".

    Args:
        name: one of `CREDENTIALS`.

    Raises:
        TargetError: there is no such credential.
    """
    wanted = name or os.environ.get(CREDENTIAL) or "default"
    if wanted not in CREDENTIALS:
        raise TargetError(f"There is no credential {wanted!r}.", f"it may be {', '.join(CREDENTIALS)}.",
                          f"pass one of them as credential=… to Lab.open(), or set {CREDENTIAL}.")
    return wanted


def credential(kind: str, where: Cloud) -> Callable[[], Any]:
    """What makes a credential; always the same one, so that a code is asked for once and not by each client.

    Args:
        kind: as `kind_of` gives it.
        where: the cloud whose authority is asked.
    """
    @functools.cache
    def make() -> Any:
        from azure import identity

        if kind == "cli":
            return identity.AzureCliCredential()
        if kind == "devicecode":
            return identity.DeviceCodeCredential(authority=where.authority)
        return identity.DefaultAzureCredential(authority=where.authority)

    return make


def kubelogin(kind: str) -> str:
    """How kubelogin gets its tokens, to match: a notebook has no terminal to type a code in but yours.

    Args:
        kind: as `kind_of` gives it.
    """
    return "devicecode" if kind == "devicecode" else "azurecli"
