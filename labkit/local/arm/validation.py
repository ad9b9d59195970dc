"""From what a client PUTs to the resource that it gets back: checks and defaults, pure.

What Azure refuses is refused in Azure's words. What Azure can do and the lab does not model is refused
too, by name, rather than accepted and ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from . import catalogue
from .clusters import ClusterSpec, PoolSpec
from .errors import ArmError, bad_request, not_in_the_lab, unsupported_version

Json = dict[str, Any]

CLUSTER_TYPE = "Microsoft.ContainerService/managedClusters"
POOL_TYPE = "Microsoft.ContainerService/managedClusters/agentPools"
MAX_NODES = 20
"""How many nodes a lab's cluster may have: they share one machine."""

KUBE_PROXY = "kubeProxyConfig"
"""The property of a network profile that only preview versions of the API know."""
_RESERVED = ("169.254.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "192.0.2.0/24")
"""Ranges that AKS keeps for itself."""
_CLUSTER_NAME = re.compile(r"^[a-zA-Z0-9]$|^[a-zA-Z0-9][-_a-zA-Z0-9]{0,61}[a-zA-Z0-9]$")
_POOL_NAME = re.compile(r"^[a-z][a-z0-9]{0,11}$")
_NOT_IN_GROUP_NAMES = re.compile(r"[^-\w.()]")
_FIXED_IN_POOLS = ("vmSize", "maxPods", "enableNodePublicIP")
"""What a pool keeps for its life, whatever later requests say."""
_NOT_IN_CLUSTERS = ("windowsProfile", "diskEncryptionSetID", "httpProxyConfig", "podIdentityProfile", "ingressProfile",
                    "serviceMeshProfile", "azureMonitorProfile", "autoScalerProfile")
_NOT_IN_POOLS = ("availabilityZones", "vnetSubnetID", "podSubnetID", "nodePublicIPPrefixID", "gpuInstanceProfile",
                 "kubeletConfig", "linuxOSConfig", "hostGroupID", "proximityPlacementGroupID", "creationData",
                 "capacityReservationGroupID", "enableEncryptionAtHost", "enableUltraSSD", "enableFIPS")
"""What Azure's API takes and the lab would only pretend to have."""
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
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


def _properties(body: Json) -> Json:
    """The `properties` of a request, as far as their shape is right; values are checked where they are used."""
    asked: Any = body.get("properties") or {}
    shaped = isinstance(asked, dict)
    for key in ("networkProfile", "addonProfiles", "servicePrincipalProfile") if shaped else ():
        shaped = shaped and isinstance(asked.get(key) or {}, dict)
    pools = (asked.get("agentPoolProfiles") or []) if shaped else None
    if not isinstance(pools, list) or not all(isinstance(pool, dict) for pool in pools):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be "
                       "deserialized: 'properties' does not have the shape of this resource type's.")
    return dict(asked)


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
    asked = _properties(body)
    version = catalogue.resolve_version(asked.get("kubernetesVersion") or None)
    if version is None:
        raise unsupported_version(asked["kubernetesVersion"])
    pools = [_pool(profile, version, location) for profile in asked.get("agentPoolProfiles") or ()]
    _check_pools(pools)
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
        "agentPoolProfiles": pools,
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
    return {
        "id": id, "location": location, "name": name, "type": "Microsoft.ContainerService/ManagedClusters",
        **tags_of(body), "properties": properties,
        "identity": {"type": (body.get("identity") or {}).get("type") or "SystemAssigned"},
        "sku": {"name": "Base", "tier": (body.get("sku") or {}).get("tier") or "Free"},
    }


def _says(value: Any) -> bool:
    """Whether a value asks for something: false, zero and nothing do not, wherever they are."""
    if isinstance(value, dict):
        return any(_says(entry) for entry in value.values())
    return any(_says(entry) for entry in value) if isinstance(value, list) else bool(value)


def _check_modelled(asked: Json) -> None:
    if asked.get("aadProfile"):
        raise not_in_the_lab("Microsoft Entra integration (aadProfile)")
    if wanted := next((key for key in _NOT_IN_CLUSTERS if _says(asked.get(key))), None):
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
    asked = _properties(body)
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
    pools = was["agentPoolProfiles"]
    if asked.get("agentPoolProfiles") is not None:
        before = {p["name"]: p for p in was["agentPoolProfiles"]}
        pools = [_pool({**_kept(before.get(p.get("name"), {})), **_given(p)}, was["currentKubernetesVersion"],
                       location) for p in asked["agentPoolProfiles"]]
        if {p["name"] for p in pools} != set(before):
            raise bad_request("Adding or removing agent pools through the managed cluster is not allowed "
                              "once it exists. Use the agentPools resource.", "InvalidParameter")
        for pool in pools:
            for key in _FIXED_IN_POOLS:
                _check_unchanged(f"agentPoolProfile.{key}", before[pool["name"]][key], pool[key])
        _check_pools(pools)
    _check_modelled(asked)
    local = asked.get("disableLocalAccounts")
    tier = (body.get("sku") or {}).get("tier") or old["sku"]["tier"]
    kept = {**untagged(old), **tags_of(body)} if "tags" in body else old
    proxy = {KUBE_PROXY: network[KUBE_PROXY]} if KUBE_PROXY in network else {}
    return {**kept, "sku": {**old["sku"], "tier": tier},
            "properties": {**was, "networkProfile": {**was["networkProfile"], **proxy}, "agentPoolProfiles": pools,
                           "provisioningState": "Updating",
                           "disableLocalAccounts": was["disableLocalAccounts"] if local is None else bool(local)}}


def pool_profile(name: str, body: Json, cluster: Json) -> Json:
    """The pool profile for a PUT of an agent pool."""
    properties = cluster["properties"]
    asked = _given(_properties(body))
    others = [p for p in properties["agentPoolProfiles"] if p["name"] != name]
    old: Json = next((p for p in properties["agentPoolProfiles"] if p["name"] == name), {})
    profile = _pool({"mode": "User", **_kept(old), **asked, "name": name},
                    properties["currentKubernetesVersion"], cluster["location"])
    if old:
        for key in _FIXED_IN_POOLS:
            _check_unchanged(f"properties.{key}", old[key], profile[key])
    _check_pools([*others, profile])
    return profile


def _kept(profile: Json) -> Json:
    """What a pool keeps where a request leaves it out."""
    return {key: profile[key] for key in (*_FIXED_IN_POOLS, "mode", "count", "nodeLabels", "nodeTaints")
            if key in profile}


def _given(profile: Json) -> Json:
    """What a request says about a pool: a null says nothing."""
    return {key: value for key, value in profile.items() if value is not None}


def spec_of(resource: Json, key: str) -> ClusterSpec:
    """What to build, from the resource as it is stored."""
    properties, network = resource["properties"], resource["properties"]["networkProfile"]
    return ClusterSpec(
        key=key, name=resource["name"], resource_group=resource["id"].split("/")[4],
        location=resource["location"], kubernetes_version=properties["currentKubernetesVersion"],
        fqdn=properties["fqdn"], network_plugin=network["networkPlugin"],
        network_policy=network["networkPolicy"], service_cidr=network["serviceCidr"],
        dns_service_ip=network["dnsServiceIP"], pod_cidr=network.get("podCidr") or "10.224.0.0/16",
        kube_proxy=(network.get(KUBE_PROXY) or {}).get("enabled") is not False, tags=resource.get("tags") or {},
        pools=tuple(pool_spec(profile) for profile in properties["agentPoolProfiles"]))


def pool_spec(profile: Json) -> PoolSpec:
    """What to build for one agent pool, from its profile as it is stored."""
    return PoolSpec(
        profile["name"], profile["count"], profile["vmSize"], profile["mode"], profile["maxPods"],
        profile.get("nodeLabels") or {}, tuple(profile.get("nodeTaints") or ()),
        bool(profile.get("enableNodePublicIP")))


def _pool(asked: Json, version: str, location: str) -> Json:
    asked = _given(asked)
    name = str(asked.get("name") or "")
    if not _POOL_NAME.match(name):
        raise bad_request("The value of parameter agentPoolProfile.name is invalid. Please see "
                          "https://aka.ms/aks-naming-rules for more details.", "InvalidParameter",
                          "agentPoolProfile.name")
    pool_version = asked.get("orchestratorVersion")
    resolved = catalogue.resolve_version(pool_version) if pool_version else version
    if resolved is None:
        raise unsupported_version(str(pool_version))
    if resolved != version:
        raise not_in_the_lab("agent pools of another Kubernetes version than the control plane's")
    size = catalogue.VM_SIZES.get(str(asked.get("vmSize") or catalogue.DEFAULT_VM_SIZE).lower())
    if size is None:
        available = ",".join(size.name.lower() for size in catalogue.VM_SIZES.values())
        raise bad_request(f"The VM size of {asked['vmSize']} is not allowed in your subscription in location "
                          f"'{location}'. The available VM sizes are '{available}'. For more details, please "
                          "visit https://aka.ms/aks/quotas-skus-regions")
    count = asked.get("count", 1)
    mode = asked.get("mode") or "System"
    least = 1 if mode == "System" else 0
    if not isinstance(count, int) or isinstance(count, bool) or not least <= count <= 1000:
        raise bad_request(
            f"agentPoolProfile.count was {count}. It must be greater or equal to minCount:{least} and less "
            "than or equal to maxCount:1000. If allowedMinCount was expected to be 0 but is 1: 1) The nodepool "
            "is a VMAS pool. 2) api Version is less than 2020-03-01. 3) The node is a system pool.",
            "InvalidParameter", "agentPoolProfile.count")
    if (asked.get("osType") or "Linux") != "Linux":
        raise not_in_the_lab("Windows nodes")
    if asked.get("enableAutoScaling"):
        raise not_in_the_lab("the cluster autoscaler")
    if wanted := next((key for key in _NOT_IN_POOLS if _says(asked.get(key))), None):
        raise not_in_the_lab(f"an agent pool's {wanted}")
    if asked.get("scaleSetPriority") == "Spot":
        raise not_in_the_lab("spot machines")
    _check_marks(asked)
    if (asked.get("powerState") or {}).get("code") == "Stopped":
        raise not_in_the_lab("stopping one agent pool; scale it to 0, or stop the cluster")
    return {
        "name": name, "count": count, "vmSize": size.name, "osDiskSizeGB": asked.get("osDiskSizeGB") or 128,
        "osDiskType": "Managed", "kubeletDiskType": "OS", "maxPods": asked.get("maxPods") or 30,
        "type": "VirtualMachineScaleSets", "enableAutoScaling": False, "provisioningState": "Creating",
        "powerState": {"code": "Running"}, "orchestratorVersion": pool_version or version,
        "currentOrchestratorVersion": version, "enableNodePublicIP": bool(asked.get("enableNodePublicIP")),
        "mode": mode, "enableEncryptionAtHost": False, "enableUltraSSD": False,
        "osType": "Linux", "osSKU": asked.get("osSKU") or "Ubuntu", "nodeImageVersion": "labkit-local",
        "upgradeSettings": asked.get("upgradeSettings") or {}, "enableFIPS": False,
        **{key: asked[key] for key in ("tags", "nodeLabels", "nodeTaints") if asked.get(key)},
    }


def _check_marks(asked: Json) -> None:
    """Refuse labels and taints that no node could have."""
    labels, taints = asked.get("nodeLabels") or {}, asked.get("nodeTaints") or []
    if not isinstance(labels, dict) or not isinstance(taints, list):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be "
                       "deserialized: 'nodeLabels' must be an object and 'nodeTaints' a list.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(str(value)):
            raise bad_request(f"The value of parameter agentPoolProfile.nodeLabels is invalid: '{key}={value}' is no "
                              "label of Kubernetes.", "InvalidParameter", "agentPoolProfile.nodeLabels")
    for taint in taints:
        key, _, value = str(taint).rpartition(":")[0].partition("=")
        if (str(taint).rpartition(":")[2] not in _EFFECTS or not _LABEL_KEY.fullmatch(key)
                or not _LABEL_VALUE.fullmatch(value)):
            raise bad_request(f"The value of parameter agentPoolProfile.nodeTaints is invalid: '{taint}' is not "
                              f"key=value:effect with one of {', '.join(_EFFECTS)}.", "InvalidParameter",
                              "agentPoolProfile.nodeTaints")


def _check_pools(pools: list[Json]) -> None:
    if not any(pool["mode"] == "System" and pool["count"] > 0 for pool in pools):
        raise bad_request("Must define at least one system pool with at least one node.", "InvalidParameter")
    names = [pool["name"] for pool in pools]
    if len(set(names)) != len(names):
        raise bad_request("Agent pool names must be unique.", "InvalidParameter")
    total = sum(pool["count"] for pool in pools)
    if total > MAX_NODES:
        raise bad_request(f"Insufficient vcpu quota requested {2 * total}, remaining {2 * MAX_NODES} for the "
                          f"local lab: its nodes share one machine, and a cluster may have {MAX_NODES}.",
                          "ErrCode_InsufficientVCPUQuota")


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
