"""What Azure refuses, as errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from labkit.errors import AzureError, AzureNotFoundError

_FIXES = {
    "AgentPoolK8sVersionNotSupported": "leave kubernetes_version out, or name one of `az aks get-versions`.",
    "K8sVersionNotSupported": "leave kubernetes_version out, or name one of `az aks get-versions`.",
    "VMSizeNotSupported": "name a node_vm_size that your subscription may use: `az vm list-skus`.",
    "InsufficientVCPUQuota": "ask for more quota, or use a smaller size or another region; the lab needs 4 "
                             "vCPUs and 2 more while nodes are replaced.",
    "QuotaExceeded": "ask for more quota, or use a smaller size or another region.",
    "AKSCapacityError": "try another region: this one is full at the moment.",
    "ManagedClusterCountExceedsQuotaLimit": "delete clusters that you no longer need.",
    "MissingSubscriptionRegistration": "register the provider: `az provider register --wait --namespace "
                                       "Microsoft.ContainerService`.",
    "LocationNotAvailable": "choose another location: `az account list-locations -o table`.",
    "LocationNotFound": "choose another location: `az account list-locations -o table`.",
    "AuthorizationFailed": "ask for the role Contributor on the subscription or the group; for credentials "
                           "'Azure Kubernetes Service Cluster Admin Role'.",
    "InvalidAuthenticationToken": "log in again with `az login`; on the local lab start it again.",
    "KubeProxyConfigDisabledBYOCNIOnly": "only clusters without a CNI of Azure's can disable kube-proxy.",
    "ResourceGroupNotFound": "look at the group's name, or create it with its cluster: "
                             "`lab.run(lab.create_cluster())`.",
    "ResourceNotFound": "look at the name (`az aks list -o table`), or create the cluster: "
                        "`lab.run(lab.create_cluster())`.",
    "SubscriptionNotFound": "check the subscription's id: `az account list -o table`.",
}


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Args:
        what: what was being done, such as "Creating the cluster MyCalicoCluster".
    """
    from azure.core import exceptions as sdk

    try:
        yield
    except sdk.ClientAuthenticationError as error:
        raise AzureError(f"{what}: Azure does not accept who we are.", _first_lines(error.message),
                         "log in with `az login`; on the local lab start it again with `sudo labkit up`.",
                         code="AuthenticationFailed", status=error.status_code) from error
    except sdk.HttpResponseError as error:
        code = (error.error.code if error.error else "") or ""
        kind = AzureNotFoundError if error.status_code == 404 else AzureError
        message = (error.error.message if error.error else None) or error.message or ""
        why = f"{code}: {_first_lines(message)}" if code else _first_lines(message)
        raise kind(f"{what}: Azure refused.", why,
                   fix_for(code, message), code=code, status=error.status_code) from error
    except (sdk.ServiceRequestError, sdk.ServiceResponseError) as error:
        raise AzureError(f"{what}: Azure Resource Manager does not answer.", _first_lines(error.message),
                         "check the network; on the local lab `labkit status` says whether it runs.",
                         code="Unreachable") from error


def fix_for(code: str, message: str) -> str:
    """The next thing to do about an error code, or about a message that hides one.

    Args:
        code: Azure's code.
        message: Azure's message.
    """
    if "not allowed in your subscription" in message:
        return _FIXES["VMSizeNotSupported"]
    for known, fix in _FIXES.items():
        if known.lower() in code.lower():
            return fix
    return "read Azure's message; `az` shows the same operation in the activity log."


def _first_lines(message: str | None, limit: int = 600) -> str:
    text = " ".join((message or "").split())
    return text if len(text) <= limit else text[:limit] + " …"
