"""Where the two public APIs are, and who we are.

A target is data: Azure Resource Manager's URL and credentials, the outside clients, and what a shell
needs so that `az` and `kubectl` reach the same. Nothing above asks which target it is on in order to
behave differently; it asks the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labkit.errors import LabNotRunningError, NotSupportedError, TargetError
from labkit.student import own

NAMES = ("local", "aks", "kind")


@dataclass(frozen=True)
class OutsideClient:
    """Somebody outside the cluster who can open connections to it.

    Args:
        name: such as "alice".
        address: the address that the cluster should see, or "" where it is not known before.
        proxy_url: an HTTP proxy that opens connections as this client; None means from this machine.
    """

    name: str
    address: str
    proxy_url: str | None = None


@dataclass(frozen=True)
class Target:
    """Where the APIs are, and who we are.

    Args:
        name: "local", "aks" or "kind".
        title: for people.
        arm_url: Azure Resource Manager, or None where there is none.
        subscription: the subscription's id, or None.
        credential: makes a credential for Azure's SDKs.
        ca_bundle: certificates to trust, a file; None means the system's.
        outside_clients: who can connect from outside.
        env: what a shell needs besides.
        kubeconfig: the file that credentials are merged into.
        context: a context to use as it is, where there is no Azure to ask.
        poll_seconds: how often to ask about long-running operations, where the server does not say.
        not_modelled: what a reader of a measurement on this target must know.
        calico_releases: where Calico's releases are published: an address, or a folder with the same files; None
            means Calico's own address.
        takes_back_seconds: after how long what AKS takes back is surely taken back.
        scope: what tokens for Azure are for; None means the URL's own.
        kubelogin: how kubelogin gets its tokens, where a cluster asks for it.
        billed: whether what is made there costs money.
    """

    name: str
    title: str
    arm_url: str | None
    subscription: str | None
    credential: Callable[[], Any]
    ca_bundle: str | None = None
    outside_clients: tuple[OutsideClient, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    kubeconfig: Path | None = None
    context: str | None = None
    poll_seconds: float = 10.0
    not_modelled: str = ""
    calico_releases: str | None = None
    takes_back_seconds: float = 300.0
    scope: str | None = None
    kubelogin: str = "azurecli"
    billed: bool = False

    def client(self, name: str) -> OutsideClient:
        """The outside client of a name.

        Raises:
            TargetError: there is none.
        """
        for client in self.outside_clients:
            if client.name == name:
                return client
        names = ", ".join(c.name for c in self.outside_clients) or "none"
        raise TargetError(f"There is no outside client {name!r} on the target {self.name}.",
                          f"it has: {names}.", "use one of these names.")

    def require_arm(self) -> str:
        """Azure Resource Manager's URL.

        Raises:
            NotSupportedError: the target has none.
        """
        if self.arm_url is None:
            raise NotSupportedError(
                f"The target {self.name} has no Azure Resource Manager.",
                "it is a Kubernetes cluster that already exists.",
                "create and delete the cluster with its own tool, or use the target local or aks.")
        return self.arm_url


def open_target(name: str | None = None, *, subscription: str | None = None, context: str | None = None,
                credential: str | None = None, cloud: str | None = None, start: bool = True,
                student: str | None = None) -> Target:
    """The target of a name: the parameter, else LABKIT_TARGET, else local.

    Args:
        name: "local", "aks" or "kind".
        subscription: Azure's subscription; None means AZURE_SUBSCRIPTION_ID, else what `az` uses.
        context: for kind: the kubeconfig's context; None means its current one.
        credential: for aks: "default", "cli" or "devicecode"; None means LABKIT_CREDENTIAL, else the default.
        cloud: for aks: "public", "china" or "usgovernment"; None means LABKIT_CLOUD, else the public one.
        start: for local: start the lab where it is down, and that needs nothing from the user.
        student: for local: whose kubeconfig; None means LABKIT_STUDENT, else the lab's.

    Raises:
        TargetError: a name is unknown, or the target does not answer.
    """
    wanted = name or os.environ.get("LABKIT_TARGET") or "local"
    if wanted == "local":
        return local(start=start, student=student)
    if wanted == "aks":
        return aks(subscription, credential=credential, cloud=cloud)
    if wanted == "kind":
        return kind(context)
    raise TargetError(f"There is no target {wanted!r}.", f"targets are {', '.join(NAMES)}.",
                      "pass one of them to Lab.open(), or set LABKIT_TARGET.")


# Local


def local(*, start: bool = True, student: str | None = None) -> Target:
    """The lab on this machine; it is started where that needs nothing from the user.

    Args:
        start: False for who only looks.
        student: whose kubeconfig; None means LABKIT_STUDENT, else the lab's.

    Raises:
        LabNotRunningError: it is not running, and we are not root or only look.
    """
    from labkit import startlocal

    return local_from(startlocal.ensure_running(start=start), student)


def local_from(daemon: Mapping[str, Any], student: str | None = None) -> Target:
    """The local target from what its daemon says about itself.

    Args:
        daemon: the content of daemon.json, and "home", the folder that it is in.
        student: likewise.

    Raises:
        TargetError: the file is not complete.
    """
    try:
        port, token, home = daemon["port"], daemon["client_token"], Path(daemon["home"])
        bundle = str(daemon.get("ca_bundle") or daemon["ca_file"])
        clients = tuple(
            OutsideClient(c["name"], c["address"], f"http://{c['name']}:{token}@127.0.0.1:{port}")
            for c in daemon["clients"])
        # Who shares a machine with others has a file of its own, or one's current context would be everybody's.
        kubeconfig = Path(os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or own(home / "kubeconfig", student))
        identity = LocalIdentity(daemon["identity_endpoint"], daemon["identity_header"], bundle)
        return Target(
            name="local", title="a lab on this machine", arm_url=str(daemon["url"]).rstrip("/"),
            subscription=daemon["subscription"], credential=lambda: identity, ca_bundle=bundle,
            outside_clients=clients, kubeconfig=kubeconfig, poll_seconds=0.2,
            calico_releases=str(home / "calico"), takes_back_seconds=65.0,
            env=MappingProxyType({
                "KUBECONFIG": str(kubeconfig), "AZURE_CONFIG_DIR": str(home / "azure"),
                "AZURE_SUBSCRIPTION_ID": daemon["subscription"], "REQUESTS_CA_BUNDLE": bundle,
                "IDENTITY_ENDPOINT": daemon["identity_endpoint"],
                "IDENTITY_HEADER": daemon["identity_header"],
            }),
            not_modelled="All nodes share this machine's CPUs and kernel; there is no NIC with its offloads, "
                         "no Azure fabric and no distance.",
        )
    except KeyError as error:
        raise TargetError("The local lab's daemon.json is not complete.", f"{error} is missing.",
                          "restart the lab: `sudo labkit down && sudo labkit up`.") from error


class LocalIdentity:
    """A credential for Azure's SDKs from the local lab's managed-identity endpoint.

    azure-identity's ManagedIdentityCredential speaks the same protocol, but takes the endpoint from the
    environment of the whole process, where a second lab or a real identity would collide with it.
    """

    def __init__(self, endpoint: str, header: str, ca_bundle: str) -> None:
        self._endpoint, self._header, self._ca_bundle = endpoint, header, ca_bundle
        self._token: tuple[str, int] | None = None

    def get_token(self, *scopes: str, **_: Any) -> Any:
        """A token for a scope, as azure-core's TokenCredential says."""
        from azure.core.credentials import AccessToken

        if self._token is None or self._token[1] - time.time() < 300:
            self._token = self._ask(scopes[0].removesuffix("/.default"))
        return AccessToken(*self._token)

    def _ask(self, resource: str) -> tuple[str, int]:
        import urllib3

        pool = urllib3.PoolManager(ca_certs=self._ca_bundle)
        try:
            response = pool.request(
                "GET", self._endpoint, fields={"resource": resource, "api-version": "2019-08-01"},
                headers={"X-IDENTITY-HEADER": self._header}, timeout=10.0, retries=1)
            answer = response.json()
            return str(answer["access_token"]), int(answer["expires_on"])
        except (urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
            raise LabNotRunningError(
                "The local lab does not answer.", str(error),
                "start it again: `sudo labkit up`; its log is ~/.labkit/local/daemon.log.") from error


# Azure


def aks(subscription: str | None = None, *, credential: str | None = None, cloud: str | None = None) -> Target:
    """Azure.

    Args:
        subscription: its id; None means AZURE_SUBSCRIPTION_ID, else the default of `az`.
        credential: who we are, as `labkit.azure.identity` names it.
        cloud: which Azure, as `labkit.azure.identity` names it.

    Raises:
        TargetError: no subscription is known, or there is no such credential or cloud.
    """
    from labkit.azure import identity
    from labkit.kube import kubeconfig

    where, who = identity.cloud(cloud), identity.kind_of(credential)
    found = subscription or os.environ.get("AZURE_SUBSCRIPTION_ID") or _az_subscription()
    if not found:
        raise TargetError(
            "No Azure subscription is known.",
            "none was passed, AZURE_SUBSCRIPTION_ID is not set, and `az account show` names none.",
            "log in with `az login`, or pass subscription=… to Lab.open().")
    return Target(
        name="aks", title="Azure" if where.name == "public" else f"Azure, the cloud {where.name}",
        arm_url=where.arm_url, subscription=found, credential=identity.credential(who, where), scope=where.scope,
        outside_clients=(OutsideClient("me", ""),), kubelogin=identity.kubelogin(who), billed=True,
        env=MappingProxyType({"AZURE_SUBSCRIPTION_ID": found}), kubeconfig=kubeconfig.default_path(),
        poll_seconds=30.0,
        not_modelled="Neighbours on the same hardware, and what your VM size is limited to, are part of "
                     "what you measure.",
    )


def _az_subscription() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, KeyError):
        shown = subprocess.run(["az", "account", "show", "--output", "json"], capture_output=True, timeout=20,
                               check=True)
        return str(json.loads(shown.stdout)["id"])
    return None


# kind


def kind(context: str | None = None) -> Target:
    """A cluster that a kubeconfig names, such as one that `kind` has made.

    Args:
        context: the kubeconfig's context; None means its current one.

    Raises:
        TargetError: the kubeconfig has no such context.
    """
    from labkit.kube import kubeconfig

    path = kubeconfig.default_path()
    config = kubeconfig.load_all()
    names = [c["name"] for c in config.get("contexts") or []]
    wanted = context or config.get("current-context")
    if wanted not in names:
        raise TargetError(
            f"{path} has no context {wanted!r}.", f"it has: {', '.join(names) or 'none'}.",
            "create a cluster with `kind create cluster`, or pass context=… to Lab.open().")

    def none() -> Any:
        raise NotSupportedError("The target kind has no Azure credentials.", "it has no Azure.")

    return Target(
        name="kind", title=f"the cluster of context {wanted}", arm_url=None, subscription=None,
        credential=none,
        outside_clients=(OutsideClient("me", ""),), kubeconfig=path, context=wanted,
        not_modelled="All nodes share this machine's CPUs and kernel; there is no Azure.",
    )
