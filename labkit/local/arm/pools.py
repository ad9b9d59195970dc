"""Agent pools: from what a client asks for to the profile that is stored, and to what is built; pure."""

from __future__ import annotations

import re
from typing import Any

from . import catalogue
from .clusters import PoolSpec
from .errors import bad_request, not_in_the_lab, unsupported_version

Json = dict[str, Any]

MAX_NODES = 20
"""How many nodes a lab's cluster may have: they share one machine."""
_POOL_NAME = re.compile(r"^[a-z][a-z0-9]{0,11}$")
FIXED = ("vmSize", "maxPods", "enableNodePublicIP")
"""What a pool keeps for its life, whatever later requests say."""
_NOT_IN_THE_LAB = ("availabilityZones", "vnetSubnetID", "podSubnetID", "nodePublicIPPrefixID", "gpuInstanceProfile",
                 "kubeletConfig", "linuxOSConfig", "hostGroupID", "proximityPlacementGroupID", "creationData",
                 "capacityReservationGroupID", "enableEncryptionAtHost", "enableUltraSSD", "enableFIPS")
"""What Azure's API takes and the lab would only pretend to have."""
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def pool_spec(profile: Json) -> PoolSpec:
    """What to build for one agent pool, from its profile as it is stored."""
    return PoolSpec(
        profile["name"], profile["count"], profile["vmSize"], profile["mode"], profile["maxPods"],
        profile.get("nodeLabels") or {}, tuple(profile.get("nodeTaints") or ()),
        bool(profile.get("enableNodePublicIP")))


def profile(asked: Json, version: str, location: str) -> Json:
    """The profile of a pool as it is stored, from what was asked for.

    Args:
        asked: its name, and what else was given.
        version: the cluster's.
        location: for the refusals.
    """
    asked = given(asked)
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
    if not (asked.get("osSKU") or "Ubuntu").startswith("Ubuntu"):
        raise not_in_the_lab(f"nodes of {asked['osSKU']}")
    if asked.get("enableAutoScaling"):
        raise not_in_the_lab("the cluster autoscaler")
    if wanted := next((key for key in _NOT_IN_THE_LAB if says(asked.get(key))), None):
        raise not_in_the_lab(f"an agent pool's {wanted}")
    if asked.get("scaleSetPriority") == "Spot":
        raise not_in_the_lab("spot machines")
    if asked.get("scaleDownMode") == "Deallocate":
        raise not_in_the_lab("machines that are kept deallocated")
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


def check(pools: list[Json]) -> None:
    """Refuse pools that no cluster can have together."""
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


def kept(profile: Json) -> Json:
    """What a pool keeps where a request leaves it out."""
    return {key: profile[key] for key in (*FIXED, "mode", "count", "nodeLabels", "nodeTaints")
            if key in profile}


def given(profile: Json) -> Json:
    """What a request says about a pool: a null says nothing."""
    return {key: value for key, value in profile.items() if value is not None}


def says(value: Any) -> bool:
    """Whether a value asks for something: false, zero and nothing do not, wherever they are."""
    if isinstance(value, dict):
        return any(says(entry) for entry in value.values())
    return any(says(entry) for entry in value) if isinstance(value, list) else bool(value)
