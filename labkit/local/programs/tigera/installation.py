"""What an Installation may say: the operator's validation, in its words. Pure."""

from __future__ import annotations

import ipaddress
from typing import Any

from labkit.local.client import Obj

METHODS = {"canReach": "can-reach={}", "interface": "interface={}", "skipInterface": "skip-interface={}",
           "cidrs": "cidr={}", "kubernetes": "kubernetes-internal-ip", "firstFound": "first-found"}
"""How a node's address may be found, as the Installation says it and as calico-node is told."""


class InvalidInstallation(ValueError):  # noqa: N818 - it is the state that the operator reports
    """The Installation is refused; workloads stay as they are."""


def network_of(installation: Obj) -> dict[str, Any]:
    """spec.calicoNetwork, or nothing."""
    return (installation.get("spec") or {}).get("calicoNetwork") or {}


def wants_bpf(installation: Obj) -> bool:
    """Whether the Installation asks for the eBPF data plane."""
    return bool(network_of(installation).get("linuxDataplane") == "BPF")


def cni_of(installation: Obj) -> str:
    """The CNI plugin: on AKS it is Azure's, where the Installation does not say."""
    spec = installation.get("spec") or {}
    return (spec.get("cni") or {}).get("type") or ("AzureVNET" if spec.get("kubernetesProvider") == "AKS" else "")


def defaults(installation: Obj) -> Obj:
    """What of the spec the operator fills in, because the Installation does not say it."""
    spec: Obj = {}
    network: Obj = {}
    have = network_of(installation)
    if not have.get("linuxDataplane"):
        network["linuxDataplane"] = "Iptables"
    # eBPF needs to know the node's address even where Calico does not give pods theirs.
    needs_address = wants_bpf(installation) or any(":" not in p.get("cidr", "") for p in have.get("ipPools") or ())
    if needs_address and not have.get("nodeAddressAutodetectionV4"):
        network["nodeAddressAutodetectionV4"] = {"firstFound": True}
    if network:
        spec["calicoNetwork"] = network
    cni = cni_of(installation)
    if cni and not ((installation.get("spec") or {}).get("cni") or {}).get("ipam"):
        spec["cni"] = {"type": cni, "ipam": {"type": cni}}
    return spec


def validate(installation: Obj) -> None:
    """Refuse what the operator refuses.

    Raises:
        InvalidInstallation: with the operator's own sentence.
    """
    network, cni = network_of(installation), cni_of(installation)
    if not cni:
        raise InvalidInstallation("spec.cni must be defined")
    for family in ("nodeAddressAutodetectionV4", "nodeAddressAutodetectionV6"):
        _one_method(network.get(family) or {})
    for pool in network.get("ipPools") or ():
        _pool(pool, network, cni, bpf=wants_bpf(installation))
    if cni == "AzureVNET" and network.get("bgp") == "Enabled":
        raise InvalidInstallation("BGP is not supported when using non-Calico CNI")
    if cni == "AzureVNET" and network.get("hostPorts") == "Enabled":
        raise InvalidInstallation("spec.calicoNetwork.hostPorts is supported only for Calico CNI")


def autodetection_method(network: Obj) -> str | None:
    """calico-node's name for the method by which it finds its node's IPv4 address."""
    asked = network.get("nodeAddressAutodetectionV4") or {}
    for key, form in METHODS.items():
        if value := asked.get(key):
            return form.format(",".join(value) if isinstance(value, list) else value)
    return None


def _one_method(asked: Obj) -> None:
    given = [key for key in METHODS if asked.get(key)]
    for cidr in asked.get("cidrs") or ():
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise InvalidInstallation(f"invalid CIDR provided for node address autodetection: {cidr}") from None
    if len(given) > 1:
        raise InvalidInstallation(
            "no more than one node address autodetection method can be specified per-family")


def _pool(pool: Obj, network: Obj, cni: str, *, bpf: bool) -> None:
    try:
        version = ipaddress.ip_network(pool.get("cidr") or "").version
    except ValueError as error:
        raise InvalidInstallation(f"ipPool.CIDR({pool.get('cidr')}) is invalid: {error}") from None
    if bpf and not network.get(f"nodeAddressAutodetectionV{version}"):
        raise InvalidInstallation(
            f"spec.calicoNetwork.nodeAddressAutodetectionV{version} is required for the BPF dataplane")
    encapsulation = pool.get("encapsulation") or "None"
    if cni != "Calico" and encapsulation != "None":
        raise InvalidInstallation(f"{encapsulation} is invalid for ipPool.encapsulation when using non-Calico "
                                  "CNI, should be None")
