"""A container's environment and the texts in its /etc, from its pod's manifest. Pure, given the objects."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from labkit.local.client import Obj
from labkit.local.kubeapi.pod_rules import amount_of
from labkit.local.node.settings import NodeSettings

Lookup = Callable[[str, str], Obj | None]
"""(resource, name) -> the object in the pod's namespace, or None."""


class ConfigError(Exception):
    """What a container asks for is not there; the text is the kubelet's."""


@dataclass(frozen=True)
class Place:
    """Where a pod runs, and what its node can give."""

    pod_ip: str
    host_ip: str
    node_name: str
    allocatable: Mapping[str, str] = field(default_factory=dict)


def environment(pod: Obj, container: Obj, place: Place, lookup: Lookup) -> dict[str, str]:
    """The variables that a manifest asks for: envFrom, then env, with $(NAME) expanded.

    Raises:
        ConfigError: when a ConfigMap, a Secret or a key in one is missing and not optional.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix", "")
        for key, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if reference := source.get(key):
                data = _data(resource, reference, lookup)
                result.update({prefix + name: value for name, value in data.items()})
    for variable in container.get("env") or ():
        name = variable["name"]
        if source := variable.get("valueFrom"):
            value = _from(source, pod, container, place, lookup)
            if value is not None:
                result[name] = value
        else:
            result[name] = expand(variable.get("value") or "", result)
    return result


def kubernetes_service(ip: str) -> dict[str, str]:
    """The variables by which every pod finds the API."""
    url = f"tcp://{ip}:443"
    return {"KUBERNETES_SERVICE_HOST": ip, "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
            "KUBERNETES_PORT": url, "KUBERNETES_PORT_443_TCP": url, "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
            "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": ip}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' $(NAME); $$ is a dollar sign, and what is not known stays as it is."""
    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)\s]+)\)", replace, text)


def _data(resource: str, reference: Obj, lookup: Lookup) -> dict[str, str]:
    obj = lookup(resource, reference["name"])
    if obj is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{resource.removesuffix("s")} "{reference["name"]}" not found')
    return texts(obj)


def texts(obj: Obj) -> dict[str, str]:
    """A ConfigMap's or Secret's data as text."""
    return {key: value.decode(errors="surrogateescape") for key, value in contents(obj).items()}


def contents(obj: Obj) -> dict[str, bytes]:
    """A ConfigMap's or Secret's data as bytes; a Secret's is base64 in its object."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    result = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    result |= {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return result


def _from(source: Obj, pod: Obj, container: Obj, place: Place, lookup: Lookup) -> str | None:
    for key, resource in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if reference := source.get(key):
            data = _data(resource, reference, lookup)
            if reference["key"] in data:
                return data[reference["key"]]
            if reference.get("optional"):
                return None
            kind = "ConfigMap" if resource == "configmaps" else "Secret"
            owner = f"{pod['metadata']['namespace']}/{reference['name']}"
            raise ConfigError(f"couldn't find key {reference['key']} in {kind} {owner}")
    if reference := source.get("fieldRef"):
        return field_value(reference["fieldPath"], pod, place)
    if reference := source.get("resourceFieldRef"):
        return resource_value(reference, container, place.allocatable)
    return None


def field_value(path: str, pod: Obj, place: Place) -> str:
    """What a downward API path stands for.

    Raises:
        ConfigError: for a path that Kubernetes does not know.
    """
    meta, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": meta["name"], "metadata.namespace": meta["namespace"], "metadata.uid": meta.get("uid", ""),
        "spec.nodeName": place.node_name, "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": place.host_ip, "status.podIP": place.pod_ip, "status.podIPs": place.pod_ip,
        "status.hostIPs": place.host_ip,
    }
    if path in simple:
        return str(simple[path])
    if match := re.fullmatch(r"metadata\.(labels|annotations)(?:\['([^']+)'\])?", path):
        values = meta.get(match[1]) or {}
        if match[2]:
            return str(values.get(match[2], ""))
        return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
    raise ConfigError(f"unsupported fieldPath: {path}")


def resource_value(reference: Obj, container: Obj, allocatable: Mapping[str, str]) -> str:
    """A limit or request of a container, as the downward API gives it: in the divisor's units, rounded up.

    A limit that the container does not have is what its node can give; a request, 0.
    """
    kind, _, name = reference["resource"].partition(".")
    limits, requests = ((container.get("resources") or {}).get(key) or {} for key in ("limits", "requests"))
    quantity = limits.get(name, allocatable.get(name, "0")) if kind == "limits" else requests.get(name, "0")
    divisor = amount_of(reference.get("divisor") or "1") or 1  # an object that was read back has "0" for none
    return str(math.ceil((amount_of(quantity) or 0) / divisor))


def hostname(pod: Obj) -> str:
    """What a pod calls itself."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def etc_files(pod: Obj, place: Place, settings: NodeSettings) -> dict[str, str]:
    """The pod's own hosts, hostname and resolv.conf."""
    name, spec = hostname(pod), pod["spec"]
    own_name = place.node_name if spec.get("hostNetwork") else name
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", f"{place.pod_ip}\t{own_name}"]
    if subdomain := spec.get("subdomain"):
        full = f"{name}.{subdomain}.{pod['metadata']['namespace']}.svc.{settings.cluster_domain}"
        lines[-1] = f"{place.pod_ip}\t{full}\t{name}"
    for alias in spec.get("hostAliases") or ():
        lines.append(f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or ()))
    return {"hosts": "\n".join(lines) + "\n", "hostname": own_name + "\n",
            "resolv.conf": resolv_conf(pod, settings)}


def resolv_conf(pod: Obj, settings: NodeSettings) -> str:
    """The pod's resolver, by its DNS policy.

    As in Kubernetes, a pod in its node's network falls back from ClusterFirst to the node's resolver.
    """
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    on_host = spec.get("hostNetwork")
    servers: list[str] = []
    search: list[str] = []
    options: dict[str, str | None] = {}
    if policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not on_host):
        servers = [settings.dns_service_ip]
        domain = settings.cluster_domain
        search = [f"{pod['metadata']['namespace']}.svc.{domain}", f"svc.{domain}", domain]
        options = {"ndots": "5"}
    elif policy != "None":
        servers = [settings.resolver]
    config = spec.get("dnsConfig") or {}
    servers += [server for server in config.get("nameservers") or () if server not in servers]
    search += [domain for domain in config.get("searches") or () if domain not in search]
    options |= {option["name"]: option.get("value") for option in config.get("options") or ()}
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(n if v is None else f"{n}:{v}" for n, v in options.items()))
    return "\n".join(lines) + "\n"
