"""From what a client PUTs to the resource that it gets back: checks and defaults, pure.

What Azure refuses is refused in Azure's words. What Azure can do and the lab does not model is refused
too, by name, rather than accepted and ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from . import catalogue, contents, pools
from .clusters import ClusterSpec
from .errors import ArmError, bad_request, not_in_the_lab, unsupported_version

Json = dict[str, Any]

CLUSTER_TYPE = "Microsoft.ContainerService/managedClusters"
POOL_TYPE = "Microsoft.ContainerService/managedClusters/agentPools"
KUBE_PROXY = "kubeProxyConfig"
"""The property of a network profile that only preview versions of the API know."""
_RESERVED = ("169.254.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "192.0.2.0/24")
"""Ranges that AKS keeps for itself."""
_CLUSTER_NAME = re.compile(r"^[a-zA-Z0-9]$|^[a-zA-Z0-9][-_a-zA-Z0-9]{0,61}[a-zA-Z0-9]$")
_NOT_IN_GROUP_NAMES = re.compile(r"[^-\w.()]")
_NOT_IN_CLUSTERS = ("windowsProfile", "diskEncryptionSetID", "httpProxyConfig", "podIdentityProfile", "ingressProfile",
                    "serviceMeshProfile", "azureMonitorProfile", "autoScalerProfile")
"""What Azure's API takes and the lab would only pretend to have."""
_DNS_PREFIX = re.compile(r"^[a-zA-Z0-9]([-a-zA-Z0-9]{0,52}[a-zA-Z0-9])?$")


def location_of(body: Json, kind: str) -> str:
    """The normalised location of a request for a resource of this kind."""
    asked = body.get("location")
    if not asked or not isinstance(asked, str):
        raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
    if region := catalogue.find_region(asked):
        return region.name
    if kind.lower().endswith("/resourcegroups"):
        raise ArmError(400, "LocationNotAvailableForResourceGroup",
                       f"The provided location '{asked}' is not available for resource group. "
                       f"List of available regions is '{','.join(catalogue.REGIONS)}'.")
    raise ArmError(400, "LocationNotAvailableForResourceType",
                   f"The provided location '{asked}' is not available for resource type '{kind}'. "
                   f"List of available regions for the resource type is '{','.join(catalogue.REGIONS)}'.")


def check_group_name(name: str) -> None:
    """Refuse a resource group name as Azure does."""
    wrong = ""
    if bad := "".join(_NOT_IN_GROUP_NAMES.findall(name)):
        wrong = (f"has these invalid characters: '{bad}'. The name can only be a letter, digit, '-', '.', "
                 "'(', ')' or '_'.")
    elif name.endswith("."):
        wrong = "cannot end with '.'."
    elif len(name) > 90:
        wrong = "is too long: it can have at most 90 characters."
    if wrong:
        raise ArmError(400, "InvalidResourceGroup", f"The provided resource group name '{name}' {wrong}")


def shown(resource: Json, api_version: str) -> Json:
    """A cluster as a version of the API shows it: a stable one knows no preview property."""
    network = resource["properties"].get("networkProfile") or {}
    if "preview" in api_version or KUBE_PROXY not in network:
        return resource
    kept = {key: value for key, value in network.items() if key != KUBE_PROXY}
    return {**resource, "properties": {**resource["properties"], "networkProfile": kept}}


def untagged(resource: Json) -> Json:
    """A resource without its tags."""
    return {key: value for key, value in resource.items() if key != "tags"}


def tags_of(body: Json) -> Json:
    """The `tags` entry of a request, if it has any; Azure takes strings only, and shows no empty ones."""
    tags = body.get("tags") or {}
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be "
                       "deserialized: 'tags' must be an object of strings.")
    return {"tags": tags} if tags else {}


def new_cluster(name: str, body: Json, *, id: str, fqdn_id: str, api_version: str) -> Json:
    """The resource for a PUT of a cluster that is not there yet.

    Args:
        name: the cluster's, from the path.
        body: as it was PUT.
        id: the resource's id.
        fqdn_id: eight hex digits that make the API's name unique.
        api_version: of the request; a stable one knows no preview property.
    """
    if not _CLUSTER_NAME.match(name):
        raise bad_request(f"The resource name '{name}' is invalid. It must be 1 to 63 characters: letters, "
                          "digits, '-' and '_', starting and ending with a letter or digit.",
                          "InvalidParameter")
    location = location_of(body, CLUSTER_TYPE)
    contents.check(body, contents.CLUSTER)
    asked: Json = dict(body.get("properties") or {})
    version = catalogue.resolve_version(asked.get("kubernetesVersion") or None)
    if version is None:
        raise unsupported_version(asked["kubernetesVersion"])
    profiles = [pools.profile(profile, version, location) for profile in asked.get("agentPoolProfiles") or ()]
    pools.check(profiles)
    prefix = _dns_prefix(asked)
    fqdn = f"{prefix}-{fqdn_id}.hcp.{location}.azmk8s.io".lower()
    group = id.split("/")[4]
    properties: Json = {
        "provisioningState": "Creating",
        "powerState": {"code": "Running"},
        "kubernetesVersion": asked.get("kubernetesVersion") or version,
        "currentKubernetesVersion": version,
        "dnsPrefix": prefix,
        "fqdn": fqdn,
        "azurePortalFQDN": fqdn.replace(".hcp.", ".portal.hcp."),
        "agentPoolProfiles": profiles,
        **{key: asked[key] for key in ("linuxProfile", "autoUpgradeProfile") if asked.get(key)},
        # `az aks update` reads "msi" here, and gives up without it; a secret is never shown again.
        "servicePrincipalProfile": {"clientId": (asked.get("servicePrincipalProfile") or {}).get("clientId")
                                    or "msi"},
        "nodeResourceGroup": asked.get("nodeResourceGroup") or f"MC_{group}_{name}_{location}"[:80],
        "enableRBAC": asked.get("enableRBAC", True),
        "supportPlan": "KubernetesOfficial",
        "networkProfile": _network(asked.get("networkProfile") or {}, name, group, api_version),
        "maxAgentPools": 100,
        "disableLocalAccounts": bool(asked.get("disableLocalAccounts")),
        "securityProfile": {}, "oidcIssuerProfile": {"enabled": False},
        "storageProfile": {driver: {"enabled": False}
                           for driver in ("diskCSIDriver", "fileCSIDriver", "snapshotController")},
        "workloadAutoScalerProfile": {},
    }
    _check_modelled(asked)
    identity = (body.get("identity") or {}).get("type") or "SystemAssigned"
    if identity not in ("SystemAssigned", "None"):
        raise not_in_the_lab(f"the identity '{identity}', only 'SystemAssigned' and 'None'")
    return {
        "id": id, "location": location, "name": name, "type": "Microsoft.ContainerService/ManagedClusters",
        **tags_of(body), "properties": properties,
        "identity": {"type": identity},
        "sku": {"name": "Base", "tier": _tier(body) or "Free"},
    }


def _tier(body: Json) -> str | None:
    """The tier of the control plane that a request names."""
    tier: str | None = (body.get("sku") or {}).get("tier")
    if tier and tier not in ("Free", "Standard", "Premium"):
        raise bad_request(f"The value of parameter sku.tier is invalid: '{tier}' is none of Free, Standard, Premium.",
                          "InvalidParameter", "sku.tier")
    return tier


def _check_modelled(asked: Json) -> None:
    if asked.get("aadProfile"):
        raise not_in_the_lab("Microsoft Entra integration (aadProfile)")
    if wanted := next((key for key in _NOT_IN_CLUSTERS if pools.says(asked.get(key))), None):
        raise not_in_the_lab(f"a cluster's {wanted}")
    if any((addon or {}).get("enabled") for addon in (asked.get("addonProfiles") or {}).values()):
        raise not_in_the_lab("add-ons (addonProfiles)")


def changed_cluster(old: Json, body: Json, *, api_version: str) -> Json:
    """The resource for a PUT of a cluster that is there: pools, tags, accounts and tier change, the rest must not."""
    location = location_of(body, CLUSTER_TYPE)
    if location != old["location"]:
        raise ArmError(409, "InvalidResourceLocation",
                       f"The resource '{old['name']}' already exists in location '{old['location']}' in "
                       f"resource group '{old['id'].split('/')[4]}'. A resource with the same name cannot be "
                       f"created in location '{location}'. Please select a new resource name.")
    contents.check(body, contents.CLUSTER)
    asked: Json = dict(body.get("properties") or {})
    was: Json = old["properties"]
    version = asked.get("kubernetesVersion")
    if version and catalogue.resolve_version(version) != was["currentKubernetesVersion"]:
        if catalogue.resolve_version(version) is None:
            raise unsupported_version(version)
        raise not_in_the_lab("upgrades of Kubernetes; create a second cluster of the other version")
    _check_unchanged("dnsPrefix", was.get("dnsPrefix"), asked.get("dnsPrefix"))
    group = old["id"].split("/")[4]
    network = _network(asked.get("networkProfile") or was["networkProfile"], old["name"], group, api_version)
    for key in ("networkPlugin", "networkPolicy", "serviceCidr", "dnsServiceIP", "podCidr"):
        _check_unchanged(f"networkProfile.{key}", was["networkProfile"].get(key), network.get(key))
    profiles = was["agentPoolProfiles"]
    if asked.get("agentPoolProfiles") is not None:
        before = {p["name"]: p for p in profiles}
        profiles = [pools.profile({**pools.kept(before.get(p.get("name"), {})), **pools.given(p)},
                                  was["currentKubernetesVersion"], location) for p in asked["agentPoolProfiles"]]
        if {p["name"] for p in profiles} != set(before):
            raise bad_request("Adding or removing agent pools through the managed cluster is not allowed "
                              "once it exists. Use the agentPools resource.", "InvalidParameter")
        for profile in profiles:
            for key in pools.FIXED:
                _check_unchanged(f"agentPoolProfile.{key}", before[profile["name"]][key], profile[key])
        pools.check(profiles)
    _check_modelled(asked)
    local = asked.get("disableLocalAccounts")
    tier = _tier(body) or old["sku"]["tier"]
    kept = {**untagged(old), **tags_of(body)} if "tags" in body else old
    proxy = {KUBE_PROXY: network[KUBE_PROXY]} if KUBE_PROXY in network else {}
    return {**kept, "sku": {**old["sku"], "tier": tier},
            "properties": {**was, "networkProfile": {**was["networkProfile"], **proxy}, "agentPoolProfiles": profiles,
                           "provisioningState": "Updating",
                           "disableLocalAccounts": was["disableLocalAccounts"] if local is None else bool(local)}}


def pool_profile(name: str, body: Json, cluster: Json) -> Json:
    """The pool profile for a PUT of an agent pool."""
    properties = cluster["properties"]
    contents.check(body, contents.POOL)
    asked = pools.given(body.get("properties") or {})
    others = [p for p in properties["agentPoolProfiles"] if p["name"] != name]
    old: Json = next((p for p in properties["agentPoolProfiles"] if p["name"] == name), {})
    profile = pools.profile({"mode": "User", **pools.kept(old), **asked, "name": name},
                    properties["currentKubernetesVersion"], cluster["location"])
    if old:
        for key in pools.FIXED:
            _check_unchanged(f"properties.{key}", old[key], profile[key])
    pools.check([*others, profile])
    return profile


def spec_of(resource: Json, key: str) -> ClusterSpec:
    """What to build, from the resource as it is stored."""
    properties, network = resource["properties"], resource["properties"]["networkProfile"]
    return ClusterSpec(
        key=key, name=resource["name"], resource_group=resource["id"].split("/")[4],
        location=resource["location"], kubernetes_version=properties["currentKubernetesVersion"],
        fqdn=properties["fqdn"], network_plugin=network["networkPlugin"],
        network_policy=network["networkPolicy"], service_cidr=network["serviceCidr"],
        dns_service_ip=network["dnsServiceIP"], pod_cidr=network.get("podCidr") or "10.224.0.0/16",
        kube_proxy=(network.get(KUBE_PROXY) or {}).get("enabled") is not False,
        pools=tuple(pools.pool_spec(profile) for profile in properties["agentPoolProfiles"]))


def _dns_prefix(asked: Json) -> str:
    prefix = asked.get("dnsPrefix") or asked.get("fqdnSubdomain")
    if not prefix:
        raise bad_request("Provisioning of resource(s) failed: required parameter dnsPrefix is missing "
                          "(null)", "InvalidParameter")
    if not _DNS_PREFIX.match(prefix):
        raise bad_request(f"The value of parameter dnsPrefix is invalid: '{prefix}'. It must contain only "
                          "letters, digits and hyphens, start and end with a letter or digit, and have at "
                          "most 54 characters.", "InvalidParameter")
    return str(prefix)


def _network(asked: Mapping[str, Any], cluster: str, group: str, api_version: str) -> Json:
    plugin = (asked.get("networkPlugin") or "azure").lower()
    policy = (asked.get("networkPolicy") or "none").lower()
    proxy = asked.get(KUBE_PROXY)
    if proxy and "preview" not in api_version:
        raise bad_request(f"Api-version {api_version} does not know the property "
                          "properties.networkProfile.kubeProxyConfig: json: unknown field "
                          "\"kubeProxyConfig\"", "UnmarshalError")
    if proxy:
        if proxy.get("enabled") is False and plugin != "none":
            raise bad_request(
                f"Preflight validation check for resource(s) for container service {cluster} in resource "
                f"group {group} failed. Message: Disabling kube-proxy is only allowed for bring your own "
                "(BYO) CNI clusters. For more information, please check https://aka.ms/byo-cni. Details: ",
                "KubeProxyConfigDisabledBYOCNIOnly")
        if (proxy.get("mode") or "IPTABLES") != "IPTABLES":
            raise not_in_the_lab(f"kube-proxy's mode {proxy['mode']}, only IPTABLES")
    if plugin not in ("azure", "none"):
        raise not_in_the_lab(f"networkPlugin '{plugin}', only 'azure' (Azure CNI) and 'none' (bring your own)")
    if plugin == "none" and policy != "none":
        raise bad_request(f"Network policy {policy} is not supported with network plugin none: who brings a network "
                          "brings its policies too.", "InvalidParameter", "networkProfile.networkPolicy")
    if asked.get("networkPluginMode"):
        raise not_in_the_lab(f"networkPluginMode '{asked['networkPluginMode']}'")
    if policy not in ("none", "calico"):
        raise not_in_the_lab(f"networkPolicy '{policy}', only 'calico' and 'none'")
    if (asked.get("loadBalancerSku") or "standard").lower() != "standard":
        raise not_in_the_lab("the basic load balancer")
    if (asked.get("outboundType") or "loadBalancer") != "loadBalancer":
        raise not_in_the_lab(f"outboundType '{asked['outboundType']}'")
    outbound = (asked.get("loadBalancerProfile") or {}).get("managedOutboundIPs") or {}
    if outbound.get("count") not in (None, 1):
        raise not_in_the_lab("more outbound addresses than one")
    service_cidr, dns = asked.get("serviceCidr") or "10.0.0.0/16", asked.get("dnsServiceIP") or "10.0.0.10"
    _check_service_network(service_cidr, dns)
    return {
        "networkPlugin": plugin, "networkPolicy": policy, "networkDataplane": "azure",
        "loadBalancerSku": "standard",
        "loadBalancerProfile": {"managedOutboundIPs": {"count": 1}, "backendPoolType": "nodeIPConfiguration"},
        "serviceCidr": service_cidr, "dnsServiceIP": dns, "outboundType": "loadBalancer",
        "serviceCidrs": [service_cidr], "ipFamilies": ["IPv4"],
        **({"podCidr": (pods := _pod_network(asked.get("podCidr"))), "podCidrs": [pods]} if plugin == "none" else {}),
        **({KUBE_PROXY: dict(proxy)} if proxy else {}),
    }


def _pod_network(cidr: str | None) -> str:
    """The range of pods' addresses of a cluster that brings its own network."""
    cidr = cidr or "10.244.0.0/16"
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise bad_request(f"The specified pod CIDR {cidr} is invalid: {error}.", "InvalidParameter",
                          "networkProfile.podCidr") from error
    for taken in ("10.224.0.0/12", "10.0.0.0/16", *_RESERVED):
        if network.overlaps(ipaddress.ip_network(taken)):
            raise bad_request(f"The specified pod CIDR {cidr} overlaps {taken}, which the nodes' network, the services "
                              "or AKS itself use.", "InvalidParameter", "networkProfile.podCidr")
    if network.prefixlen > 24:
        raise bad_request(f"The specified pod CIDR {cidr} is too small: a node takes a block of 64 addresses.",
                          "InvalidParameter", "networkProfile.podCidr")
    return cidr


def _check_service_network(cidr: str, dns: str) -> None:
    try:
        network, address = ipaddress.ip_network(cidr), ipaddress.ip_address(dns)
    except ValueError as error:
        raise bad_request(f"The specified service CIDR {cidr} or DNS service IP {dns} is invalid: {error}.",
                          "ServiceCidrInvalid") from error
    if address not in network or address == network[1]:
        raise bad_request(f"The specified DNS service IP {dns} must be within the service CIDR {cidr} and "
                          "not its first address.", "DNSServiceIPInvalid")
    if network.overlaps(ipaddress.ip_network("10.224.0.0/12")):
        raise bad_request(f"The specified service CIDR {cidr} is conflicted with an existing subnet CIDR "
                          "10.224.0.0/16. Please see https://aka.ms/aks/servicecidroverlap to fix the error.",
                          "ServiceCidrOverlapExistingSubnetsCidr")
    if cidr != "10.0.0.0/16":
        raise not_in_the_lab(f"the service CIDR {cidr}, only Azure's default 10.0.0.0/16")


def _check_unchanged(what: str, old: object, new: object) -> None:
    if new is not None and str(old).lower() != str(new).lower():
        raise bad_request(f"Changing property '{what}' is not allowed.", "PropertyChangeNotAllowed", what)
