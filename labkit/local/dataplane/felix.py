"""Felix's configuration: a FelixConfiguration object and FELIX_* variables become one frozen value.

The environment wins over the datastore, as in Felix. Names here are the API's field names in snake case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class FelixConfig:
    """What of Felix's configuration this data plane acts on, with Felix's defaults."""

    bpf_enabled: bool = False
    bpf_connect_time_load_balancing: str = "TCP"          # TCP | Enabled | Disabled
    bpf_external_service_mode: str = "Tunnel"             # Tunnel | DSR
    bpf_dsr_optout_cidrs: tuple[str, ...] = ()
    bpf_kube_proxy_iptables_cleanup_enabled: bool = True
    bpf_kube_proxy_healthz_port: int = 10256
    bpf_log_level: str = "Off"                            # Off | Info | Debug
    bpf_data_iface_pattern: str = "^(en.*|eth.*|tunl0$)"
    vxlan_port: int = 4789
    vxlan_vni: int = 4096
    vxlan_enabled: bool = False                           # pods' addresses are an overlay's: a pool says so
    default_endpoint_to_host_action: str = "Accept"       # Drop | Return | Accept; as the operator sets it
    interface_prefix: str = "azv"
    health_enabled: bool = True
    health_host: str = "localhost"
    health_port: int = 9099

    @classmethod
    def read(cls, spec: Mapping[str, Any], env: Mapping[str, str]) -> FelixConfig:
        """Combine a FelixConfiguration's spec with FELIX_* variables; unknown names are Felix's, not ours.

        Raises:
            ValueError: a value is not one that Felix takes; the message names the parameter.
        """
        wanted: dict[str, Any] = {}
        by_env = {name.upper().removeprefix("FELIX_"): value for name, value in env.items()
                  if name.upper().startswith("FELIX_")}
        for field in fields(cls):
            camel = _camel(field.name)
            raw: Any = by_env.get(camel.upper(), spec.get(camel))
            if raw is None or raw == "":
                continue
            wanted[field.name] = _convert(camel, raw, getattr(cls(), field.name))
        old = spec.get("bpfConnectTimeLoadBalancingEnabled")     # the field before v3.27
        if old is not None and "bpf_connect_time_load_balancing" not in wanted:
            wanted["bpf_connect_time_load_balancing"] = "Enabled" if old else "Disabled"
        return cls(**wanted)


def logs_in_bpf(environment: Mapping[str, str]) -> bool:
    """Whether this Calico does in BPF mode what a policy's Log says; those before v3.29.1 pass over it."""
    return tuple(map(int, re.findall(r"\d+", environment.get("CALICO_VERSION", ""))[:3])) >= (3, 29, 1)


_CHOICES = {
    "bpfConnectTimeLoadBalancing": ("TCP", "Enabled", "Disabled"),
    "bpfExternalServiceMode": ("Tunnel", "DSR"),
    "bpfLogLevel": ("Off", "Info", "Debug"),
    "defaultEndpointToHostAction": ("Drop", "Return", "Accept"),
}


def _convert(name: str, raw: Any, default: Any) -> Any:
    if isinstance(default, bool):
        text = str(raw).lower()
        if text in ("true", "1", "yes", "on", "enabled"):
            return True
        if text in ("false", "0", "no", "off", "disabled"):
            return False
        raise ValueError(f"{name}: invalid boolean {raw!r}")
    if isinstance(default, int):
        try:
            return int(raw)
        except ValueError:
            raise ValueError(f"{name}: invalid integer {raw!r}") from None
    if isinstance(default, tuple):
        parts = raw.split(",") if isinstance(raw, str) else raw
        return tuple(str(part).strip() for part in parts)
    for choice in _CHOICES.get(name, ()):
        if choice.lower() == str(raw).lower():
            return choice
    if name in _CHOICES:
        raise ValueError(f"{name}: unknown option {raw!r}, one of {', '.join(_CHOICES[name])}")
    return str(raw)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(
        {"dsr": "DSR", "cidrs": "CIDRs", "vni": "VNI"}.get(part, part.capitalize()) for part in rest)
