"""What Azure refuses, as errors that say what to do.

One table knows the refusals: `explained` takes an error's cure from it, and the doctor looks an error up in it and
says the row's id, symptom, cause and source.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from labkit.errors import AzureError, AzureNotFoundError


@dataclass(frozen=True)
class Refusal:
    """One kind of refusal.

    Args:
        id: stable name, as the doctor shows it.
        title: what it is about, in a few words.
        codes: parts of Azure's error codes that mean it.
        words: a pattern in messages that mean it whatever their code; empty where the code says all.
        symptom: what a user sees.
        cause: why.
        fix: the next thing to do.
        source: where it is documented or was met: an address, or "repository#issue".
    """

    id: str
    title: str
    codes: tuple[str, ...]
    words: str
    symptom: str
    cause: str
    fix: str
    source: str


REFUSALS = (
    Refusal(
        "az-rp", "Resource providers", ("MissingSubscriptionRegistration",),
        r"not registered to use namespace",
        "creating a cluster ends with 409 MissingSubscriptionRegistration.",
        "a new subscription has no providers registered.",
        "register the provider that the message names: `az provider register --wait --namespace "
        "Microsoft.ContainerService`; Microsoft.Compute, Microsoft.Network and Microsoft.ManagedIdentity likewise.",
        "dotnet/core#3276, Azure/azure-cli#21899"),
    Refusal(
        "az-version", "Kubernetes version",
        ("AgentPoolK8sVersionNotSupported", "K8sVersionNotSupported"), r"Version \S+ is not supported in this region",
        "creating a cluster ends with \"Version … is not supported in this region\", or \"only available for "
        "Long-Term Support\".",
        "Azure supports about three minor versions at a time; older ones need the Premium tier.",
        "leave kubernetes_version out, or name one of `az aks get-versions`.",
        "learn.microsoft.com/azure/aks/supported-kubernetes-versions"),
    Refusal(
        "az-sku", "VM size", ("VMSizeNotSupported", "SkuNotAvailable"),
        r"not allowed in your subscription",
        "creating a cluster ends with \"The VM size of … is not allowed in your subscription in location …\".",
        "sizes are restricted by subscription and region; older ones are closed to new subscriptions.",
        "name a node_vm_size that your subscription may use: `az vm list-skus`.",
        "dotnet/core#8181, Azure/azure-cli#30887"),
    Refusal(
        "az-quota", "Quota of vCPUs", ("InsufficientVCPUQuota", "QuotaExceeded"),
        r"Insufficient vcpu quota|Total Regional Cores quota",
        "creating a cluster ends with ErrCode_InsufficientVCPUQuota or QuotaExceeded.",
        "the region or the VM family has fewer vCPUs left than two nodes and one more during upgrades need.",
        "ask for more quota, or use a smaller size, another family or another region; the lab needs 4 vCPUs and 2 "
        "more while nodes are replaced.",
        "Azure/AKS#5808, Azure/azure-cli#15013"),
    Refusal(
        "az-capacity", "Room in the region", ("AKSCapacityError",), r"Creating a new cluster is unavailable",
        "creating a cluster ends with AKSCapacityError.",
        "AKS takes no new clusters in this region for the time being.",
        "try another region: this one is full at the moment.",
        "Azure/AKS#4113"),
    Refusal(
        "az-count", "Number of clusters", ("ManagedClusterCountExceedsQuotaLimit",),
        r"exceeding quota limits for managed clusters",
        "creating a cluster ends with ManagedClusterCountExceedsQuotaLimit.",
        "the subscription has as many clusters in the region as it may.",
        "delete clusters that you no longer need, or ask for a higher limit.",
        "learn.microsoft.com/azure/aks/quotas-skus-regions"),
    Refusal(
        "az-throttle", "Rate of requests", ("Throttled", "TooManyRequests", "SubscriptionRequestsThrottled"), "",
        "Azure answers 429 Throttled with a Retry-After.",
        "AKS takes 20 PUTs of clusters at once and then one a minute; operations may be asked about more often.",
        "wait as long as Retry-After says, and ask every 30 s at most.",
        "learn.microsoft.com/azure/aks/quotas-skus-regions"),
    Refusal(
        "az-kubeproxy", "Switching kube-proxy off", ("KubeProxyConfigDisabledBYOCNIOnly",),
        r"Disabling kube-proxy is only allowed|unknown field \"?kubeProxyConfig|KubeProxyConfigurationPreview",
        "a kubeProxyConfig is refused.",
        "only clusters with their own CNI can do without kube-proxy, and only preview versions of the API know the "
        "property.",
        "keep kube-proxy (the plan lets Felix live beside it), or create a cluster with `--network-plugin none` and "
        "use the preview API.",
        "Azure/AKS#4563"),
    Refusal(
        "az-local", "Local accounts", (),
        r"(Getting static credential|static credential).*(not allowed|isn't allowed)",
        "`az aks get-credentials --admin` ends with \"Getting static credential is not allowed because this cluster "
        "is set to disable local accounts\".",
        "the cluster, a policy of the tenant, or AKS Automatic turns local accounts off.",
        "use user credentials and kubelogin (`az aks install-cli`, `kubelogin convert-kubeconfig -l azurecli`), or "
        "enable local accounts: `az aks update --enable-local-accounts`.",
        "hashicorp/terraform-provider-azurerm#15489"),
    Refusal(
        "az-rbac", "Roles", ("AuthorizationFailed", "LinkedAuthorizationFailed"), "",
        "Azure answers 403 AuthorizationFailed.",
        "who is logged in may not do this in the subscription or the group.",
        "ask for the role Contributor on the subscription or the group; for credentials 'Azure Kubernetes Service "
        "Cluster Admin Role'.",
        "kubernetes-sigs/cluster-api-provider-azure#5672"),
    Refusal(
        "az-kubelogin", "kubelogin", (),
        r"exec: executable kubelogin not found|kubelogin is not installed|unknown shorthand flag: 'l' in -l",
        "kubectl says \"exec: executable kubelogin not found\"; the Python client says 401.",
        "the kubeconfig takes its token from kubelogin, and that is not on the PATH, or is another program of that "
        "name.",
        "`az aks install-cli`, then `kubelogin convert-kubeconfig -l azurecli`.",
        "Azure/kubelogin#161"),
    Refusal(
        "az-podcidr", "Pod network", ("PodCidr", "PodCIDR"),
        r"(?i)pod ?cidr.*(overlap|conflict|reserved|missing|required|not allowed)",
        "a cluster with its own CNI is refused, or its pods do not reach each other.",
        "without a CNI of Azure's a pod CIDR must be given, apart from the VNet, from the services and from the "
        "ranges that Azure keeps: 169.254.0.0/16, 172.30.0.0/16, 172.31.0.0/16, 192.0.2.0/24.",
        "create the cluster with `--pod-cidr 192.168.0.0/16`.",
        "learn.microsoft.com/azure/aks/use-byo-cni"),
    Refusal(
        "az-location", "Location", ("LocationNotAvailable", "LocationNotFound"), "",
        "Azure does not know the location, or does not offer AKS there.", "a typing error, or another cloud.",
        "choose another location: `az account list-locations -o table`.",
        "learn.microsoft.com/azure/aks/quotas-skus-regions"),
    Refusal(
        "az-login", "Login",
        ("AuthenticationFailed", "InvalidAuthenticationToken", "ExpiredAuthenticationToken", "NoCredentials"), "",
        "Azure answers 401.", "nobody is logged in, or the login has run out.",
        "log in again with `az login`; on the local lab start it again with `sudo labkit up`.",
        "learn.microsoft.com/python/api/overview/azure/identity-readme"),
    Refusal(
        "az-subscription", "Subscription", ("SubscriptionNotFound",), "",
        "Azure answers SubscriptionNotFound.", "its id is wrong, or it belongs to another tenant.",
        "check the subscription's id: `az account list -o table`.",
        "learn.microsoft.com/azure/azure-resource-manager/troubleshooting/error-not-found"),
    Refusal(
        "az-no-group", "Resource group", ("ResourceGroupNotFound",), "",
        "Azure answers ResourceGroupNotFound.", "its name is wrong, or it was deleted.",
        "look at the group's name, or create it with its cluster: `lab.run(lab.create_cluster())`.",
        "learn.microsoft.com/azure/azure-resource-manager/troubleshooting/error-not-found"),
    Refusal(
        "az-no-cluster", "Cluster", ("ResourceNotFound",), "",
        "Azure answers ResourceNotFound.", "its name is wrong, or it was deleted.",
        "look at the name (`az aks list -o table`), or create the cluster: `lab.run(lab.create_cluster())`.",
        "learn.microsoft.com/azure/azure-resource-manager/troubleshooting/error-not-found"),
)


def known(code: str, message: str, status: int | None = None) -> Refusal | None:
    """The row that explains an error; None where the table has none.

    A message that names the thing beats the code: AKS says much under BadRequest.

    Args:
        code: Azure's code.
        message: Azure's message.
        status: the HTTP status, where it is known.
    """
    for refusal in REFUSALS:
        if refusal.words and re.search(refusal.words, message):
            return refusal
    for refusal in REFUSALS:
        if any(part.lower() in code.lower() for part in refusal.codes):
            return refusal
    by_status = {429: "az-throttle", 403: "az-rbac", 401: "az-login"}.get(status or 0)
    return next((refusal for refusal in REFUSALS if refusal.id == by_status), None)


def local_accounts_disabled(error: AzureError) -> bool:
    """Whether a cluster gives no administrator's credentials because it has no local accounts.

    Args:
        error: the refusal.
    """
    refusal = known(error.code, error.why, error.status)
    return refusal is not None and refusal.id == "az-local"


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
        raise AzureError(f"{what}: Azure does not accept who we are.", _shortened(error.message),
                         "log in with `az login`; on the local lab start it again with `sudo labkit up`.",
                         code="AuthenticationFailed", status=error.status_code) from error
    except sdk.HttpResponseError as error:
        code = (error.error.code if error.error else "") or ""
        kind = AzureNotFoundError if error.status_code == 404 else AzureError
        message = (error.error.message if error.error else None) or error.message or ""
        why = f"{code}: {_shortened(message)}" if code else _shortened(message)
        refusal = known(code, message, error.status_code)
        fix = refusal.fix if refusal else "read Azure's message; `az` shows the same operation in the activity log."
        raise kind(f"{what}: Azure refused.", why, fix, code=code, status=error.status_code) from error
    except (sdk.ServiceRequestError, sdk.ServiceResponseError) as error:
        raise AzureError(f"{what}: Azure Resource Manager does not answer.", _shortened(error.message),
                         "check the network; on the local lab `labkit status` says whether it runs.",
                         code="Unreachable") from error


def _shortened(message: str | None) -> str:
    text = " ".join((message or "").split())
    return text if len(text) <= 600 else text[:600] + " …"
