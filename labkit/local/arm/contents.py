"""What a request must look like to be read at all: the kinds of values that the lab looks at; pure.

Azure reads a request into types before it looks at what it says. So does the lab, for what it reads: a text where a
list should be is the client's mistake, not the server's.
"""

from __future__ import annotations

from typing import Any

from .errors import ArmError

_WORDS = {str: "a text", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}
_ENABLED = {"enabled": bool}
_POOL: dict[str, Any] = {
    "orchestratorVersion": str, "vmSize": str, "mode": str, "osType": str, "osSKU": str, "osDiskSizeGB": int,
    "maxPods": int, "enableNodePublicIP": bool, "enableAutoScaling": bool, "scaleSetPriority": str,
    "scaleDownMode": str, "powerState": {"code": str}, "upgradeSettings": {}, "tags": {"*": str},
    "nodeLabels": {"*": str}, "nodeTaints": [str], "availabilityZones": [str],
}
"""A pool's count is looked at where it is used: Azure has words of its own for it."""
POOL: dict[str, Any] = {"properties": _POOL}
CLUSTER: dict[str, Any] = {
    "location": str, "tags": {"*": str}, "identity": {"type": str}, "sku": {"name": str, "tier": str},
    "properties": {
        "kubernetesVersion": str, "dnsPrefix": str, "fqdnSubdomain": str, "nodeResourceGroup": str, "enableRBAC": bool,
        "disableLocalAccounts": bool, "agentPoolProfiles": [{**_POOL, "name": str}], "addonProfiles": {"*": _ENABLED},
        "servicePrincipalProfile": {"clientId": str}, "linuxProfile": {}, "aadProfile": {},
        "autoUpgradeProfile": {"upgradeChannel": str, "nodeOSUpgradeChannel": str},
        "networkProfile": {
            "networkPlugin": str, "networkPluginMode": str, "networkPolicy": str, "loadBalancerSku": str,
            "outboundType": str, "serviceCidr": str, "dnsServiceIP": str, "podCidr": str,
            "loadBalancerProfile": {"managedOutboundIPs": {"count": int}},
            "kubeProxyConfig": {**_ENABLED, "mode": str},
        },
    },
}


def check(value: Any, shape: Any, where: str = "") -> None:
    """Refuse what is of another kind than the lab reads.

    A property that is null is as good as none; what is not in the shape is not read.

    Args:
        value: a request's content, or a part of it.
        shape: a type; a list of one shape; or an object's properties, of which "*" is every one.
        where: the part.

    Raises:
        ArmError: it is.
    """
    kind: Any = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized: "
                       f"'{where or 'the content'}' must be {_WORDS[kind]}.")
    if isinstance(shape, list):
        for at, entry in enumerate(value):
            check(entry, shape[0], f"{where}[{at}]")
    elif isinstance(shape, dict):
        for key in value:
            part = shape.get(key, shape.get("*"))
            if part is not None and value[key] is not None:
                check(value[key], part, f"{where}.{key}".lstrip("."))
