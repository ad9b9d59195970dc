"""What a shell needs so that az, kubectl and Azure's SDKs reach the lab and nothing else.

The shell may belong to someone who works on Azure: with a proxy, a service principal in the environment,
a login of az. None of these may lead a command that is meant for the lab elsewhere, nor be changed.
"""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from labkit.local.server.lifecycle import DaemonInfo
from labkit.student import VARIABLE, own

_CLOUD = "labkit"


def script(info: DaemonInfo, home: Path, environ: Mapping[str, str], binaries: Path) -> Iterator[str]:
    """The lines that a POSIX shell evaluates.

    Args:
        info: the running lab.
        home: the lab's folder; az keeps its clouds and its login for the lab there.
        environ: the shell's environment as it is.
        binaries: where the set-up put kubectl and labkit.
    """
    for name, value in _variables(info, home, environ).items():
        yield f"export {name}={shlex.quote(value)}"
    if not shutil.which("kubectl", path=environ.get("PATH")) and (binaries / "kubectl").exists():
        yield f'export PATH="$PATH":{shlex.quote(str(binaries))}'
    if not shutil.which("az", path=environ.get("PATH")):
        yield ("echo 'labkit: there is no az on the PATH; kubectl and the SDKs reach the lab without it. "
               "To install it: pip install azure-cli, then this again.' >&2")
    elif not _az_knows(info, home / "azure"):
        yield from _az_login(info, home / "azure")


def _variables(info: DaemonInfo, home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        "LABKIT_TARGET": "local",
        "LABKIT_HOME": str(home),
        # The file that the library merges credentials into, so that kubectl and notebooks reach the same cluster.
        "KUBECONFIG": environ.get("KUBECONFIG") or str(own(home / "kubeconfig", environ.get(VARIABLE))),
        "LABKIT_ARM_URL": info.url,  # an SDK's base_url; az learns it from its cloud
        "AZURE_SUBSCRIPTION_ID": info.subscription,
        "AZURE_TENANT_ID": info.tenant,
        "IDENTITY_ENDPOINT": info.identity_endpoint,
        "IDENTITY_HEADER": info.identity_header,
        # Else DefaultAzureCredential tries a service principal of the shell's first.
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "REQUESTS_CA_BUNDLE": info.ca_bundle,
        "SSL_CERT_FILE": info.ca_bundle,
        "AZURE_CONFIG_DIR": str(home / "azure"),
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        # Else az asks the public cloud whether it knows the lab's login endpoint.
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        **_no_proxy(environ),
    }


def _no_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """The lab is on this machine: a proxy of the shell's does not lead to it. Tools read either spelling."""
    exempt: dict[str, None] = {}
    for name in ("no_proxy", "NO_PROXY"):
        exempt |= dict.fromkeys(host.strip() for host in environ.get(name, "").split(",") if host.strip())
    value = ",".join(exempt | dict.fromkeys(("localhost", "127.0.0.1")))
    return {"no_proxy": value, "NO_PROXY": value}


def _az_knows(info: DaemonInfo, folder: Path) -> bool:
    """Whether az is logged in to this lab at this address: asking az itself would take half a second."""
    clouds, settings = configparser.ConfigParser(), configparser.ConfigParser()
    try:
        clouds.read(folder / "clouds.config")
        settings.read(folder / "config")
        profile = json.loads((folder / "azureProfile.json").read_text("utf-8-sig"))
        return (clouds.get(_CLOUD, "endpoint_resource_manager", fallback="") == info.url
                and settings.get("cloud", "name", fallback="") == _CLOUD
                and any(each["id"] == info.subscription for each in profile["subscriptions"]))
    except (OSError, ValueError, KeyError, TypeError, configparser.Error):
        return False


def _az_login(info: DaemonInfo, folder: Path) -> Iterator[str]:
    """Commands that tell az of the lab, in a folder of the lab's: the shell's own login stays as it is."""
    quiet = "--only-show-errors >/dev/null"
    if (folder / "clouds.config").exists():  # of a lab that had another address
        yield f"az cloud set --name AzureCloud {quiet}"
        yield f"az cloud unregister --name {_CLOUD} {quiet} 2>&1"
    yield f"az cloud register --name {_CLOUD} --endpoint-resource-manager {info.url} {quiet} &&"
    yield f"az cloud set --name {_CLOUD} {quiet} &&"
    yield f"az login --identity {quiet}"
