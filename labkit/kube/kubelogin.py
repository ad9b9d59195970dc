"""kubelogin: the program that a kubeconfig of a cluster with Microsoft Entra ID takes its tokens from.

The Python client only logs that such a program is missing, and goes on without a token: so it is looked for here.
"""

from __future__ import annotations

import shutil
import subprocess

from labkit.errors import KubeconfigError
from labkit.kube.kubeconfig import Config

_CURE = ("install it with `az aks install-cli`, then `kubelogin convert-kubeconfig -l azurecli`; where the cluster has "
         "local accounts, `lab.get_credentials()` needs none.")


def programs(config: Config) -> tuple[str, ...]:
    """The programs that a kubeconfig's users call; pure.

    Args:
        config: the kubeconfig.
    """
    users = (entry.get("user") or {} for entry in config.get("users") or [])
    found = {str(user["exec"]["command"]): None for user in users if (user.get("exec") or {}).get("command")}
    return tuple(found)


def with_login(config: Config, login: str) -> Config:
    """The same with another way for kubelogin to get its tokens; what calls other programs stays; pure.

    AKS hands out "devicecode", which asks on a terminal that a notebook does not have.

    Args:
        config: the kubeconfig.
        login: "azurecli", "devicecode", "msi" …, as kubelogin names them.
    """
    def changed(entry: Config) -> Config:
        call = (entry.get("user") or {}).get("exec") or {}
        arguments = list(call.get("args") or [])
        for flag in ("--login", "-l"):
            if call.get("command", "").endswith("kubelogin") and flag in arguments[:-1]:
                arguments[arguments.index(flag) + 1] = login
                return {**entry, "user": {**entry["user"], "exec": {**call, "args": arguments}}}
        return entry

    return {**config, "users": [changed(entry) for entry in config.get("users") or []]} if "users" in config else config


def check(config: Config) -> None:
    """See that the programs of a kubeconfig are there, and are what their names say.

    Args:
        config: the kubeconfig.

    Raises:
        KubeconfigError: one is missing, or another program has its name.
    """
    for program in programs(config):
        if shutil.which(program) is None:
            raise KubeconfigError(f"{program} is missing: this cluster's credentials come from it.",
                                  f"the kubeconfig calls {program}, and it is not on the PATH.", _CURE)
        if program.endswith("kubelogin") and not _is_azures(program):
            raise KubeconfigError(f"{shutil.which(program)} is another program of that name.",
                                  "it knows no `convert-kubeconfig`, which Azure's kubelogin does.", _CURE)


def _is_azures(program: str) -> bool:
    try:
        asked = subprocess.run([program, "convert-kubeconfig", "--help"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return asked.returncode == 0
