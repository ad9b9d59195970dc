"""The everyday mistakes in specifications, with Kubernetes' words for them. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from labkit.local.client import Obj

from . import errors
from .errors import FieldError
from .meta import LABEL_RULE, SUBDOMAIN_RULE, is_label, is_subdomain
from .pod_rules import PORT_RANGE, container_rules, pod_rules
from .selectors import selects

_PROTOCOLS = ("TCP", "UDP", "SCTP")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_QUANTITY = re.compile(r"[+-]?[0-9.]+([eE][-+]?[0-9]+|[numkKMGTPE]i?)?")


def pod_spec_errors(spec: Obj, at: str, *, template: str | None = None) -> list[FieldError]:
    """A pod's specification; `template` names the restart policy that a controller's template must have."""
    out: list[FieldError] = []
    volumes: set[str] = set()
    for i, volume in enumerate(spec.get("volumes") or ()):
        out += _name_errors(volume.get("name") or "", volumes, f"{at}.volumes[{i}].name")
    names: set[str] = set()
    for key in ("initContainers", "containers"):
        for i, one in enumerate(spec.get(key) or ()):
            out += _container_errors(one, f"{at}.{key}[{i}]", names, volumes)
            out += container_rules(one, f"{at}.{key}[{i}]", init=key == "initContainers",
                                   host_network=bool(spec.get("hostNetwork")))
    if not spec.get("containers"):
        out.append(errors.required(f"{at}.containers"))
    policy = spec.get("restartPolicy", "Always")
    if policy not in ("Always", "OnFailure", "Never"):
        out.append(errors.unsupported(f"{at}.restartPolicy", policy, ("Always", "OnFailure", "Never")))
    elif template == "Always" and policy != "Always":
        out.append(errors.unsupported(f"{at}.restartPolicy", policy, ("Always",)))
    elif template == "Job" and policy == "Always":
        out.append(errors.unsupported(f"{at}.restartPolicy", policy, ("OnFailure", "Never")))
    dns = spec.get("dnsPolicy", "ClusterFirst")
    if dns not in (known := ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")):
        out.append(errors.unsupported(f"{at}.dnsPolicy", dns, known))
    elif dns == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        out.append(errors.required(f"{at}.dnsConfig.nameservers",
                                   "must provide at least one DNS nameserver when `dnsPolicy` is None"))
    if (node := spec.get("nodeName")) and not is_subdomain(node):
        out.append(errors.bad_value(f"{at}.nodeName", node, SUBDOMAIN_RULE))
    out += pod_rules(spec, at)
    return out


def _container_errors(c: Obj, at: str, names: set[str], volumes: set[str]) -> list[FieldError]:
    out = _name_errors(c.get("name") or "", names, f"{at}.name")
    if not c.get("image"):
        out.append(errors.required(f"{at}.image"))
    elif c["image"] != str(c["image"]).strip():
        out.append(errors.bad_value(f"{at}.image", c["image"], "must not have leading or trailing whitespace"))
    port_names: set[str] = set()
    for i, port in enumerate(c.get("ports") or ()):
        field = f"{at}.ports[{i}]"
        if label := port.get("name"):
            out += port_name_errors(label, f"{field}.name")
            if label in port_names:
                out.append(errors.duplicate(f"{field}.name", label))
            port_names.add(label)
        number = port.get("containerPort")
        if not number:
            out.append(errors.required(f"{field}.containerPort"))
        elif not is_port(number):
            out.append(errors.bad_value(f"{field}.containerPort", number, PORT_RANGE))
        if port.get("hostPort") and not is_port(port["hostPort"]):
            out.append(errors.bad_value(f"{field}.hostPort", port["hostPort"], PORT_RANGE))
        if port.get("protocol", "TCP") not in _PROTOCOLS:
            out.append(errors.unsupported(f"{field}.protocol", port["protocol"], _PROTOCOLS))
    for i, env in enumerate(c.get("env") or ()):
        if not env.get("name"):
            out.append(errors.required(f"{at}.env[{i}].name"))
        elif not _ENV_NAME.fullmatch(env["name"]):
            out.append(errors.bad_value(
                f"{at}.env[{i}].name", env["name"], "a valid environment variable name must consist of alphabetic"
                " characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or"
                " 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')"))
    for i, mount in enumerate(c.get("volumeMounts") or ()):
        if not mount.get("name"):
            out.append(errors.required(f"{at}.volumeMounts[{i}].name"))
        elif mount["name"] not in volumes:
            out.append(errors.missing_ref(f"{at}.volumeMounts[{i}].name", mount["name"]))
        if not mount.get("mountPath"):
            out.append(errors.required(f"{at}.volumeMounts[{i}].mountPath"))
    if (policy := c.get("imagePullPolicy")) not in (known := ("Always", "IfNotPresent", "Never")):
        out.append(errors.unsupported(f"{at}.imagePullPolicy", policy, known))
    for which, amounts in (c.get("resources") or {}).items():
        for key, amount in (amounts.items() if isinstance(amounts, dict) else ()):
            if not _QUANTITY.fullmatch(str(amount)):
                raise errors.bad_request("quantities must match the regular expression"
                                         f" '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                                         f" ({at}.resources.{which}.{key})")
    return out


def _name_errors(name: str, taken: set[str], at: str) -> list[FieldError]:
    """A name within a list, which is taken from now on."""
    known = name in taken
    taken.add(name)
    if not name:
        return [errors.required(at)]
    if not is_label(name):
        return [errors.bad_value(at, name, LABEL_RULE)]
    return [errors.duplicate(at, name)] if known else []


def port_name_errors(name: str, at: str) -> list[FieldError]:
    """A port's name, wherever one is given."""
    if len(name) > 15:
        return [errors.bad_value(at, name, "must be no more than 15 characters")]
    return [] if _PORT_NAME.fullmatch(name) else [errors.bad_value(at, name, _port_name_rule(name))]


def _port_name_rule(name: str) -> str:
    if not re.search("[a-z]", name):
        return "must contain at least one letter or number (a-z, 0-9)" if not re.search(r"\d", name) \
            else "must contain at least one letter (a-z)"
    if "--" in name:
        return "must not contain consecutive hyphens"
    return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"


def is_port(value: Any) -> bool:
    """Whether a value is a port's number."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


_NO_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _special_address(text: str, field: str) -> list[FieldError]:
    """An external address of a service, which may be none of a machine's own."""
    if (ip := _address(text)) is None:
        return [errors.bad_value(field, text, _NO_ADDRESS)]
    for special, words in ((ip.is_unspecified, "be unspecified (0.0.0.0)"),
                           (ip.is_loopback, "be in the loopback range (127.0.0.0/8)"),
                           (ip.is_link_local, "be in the link-local range (169.254.0.0/16)"),
                           (text.startswith("224.0.0."), "be in the link-local multicast range (224.0.0.0/24)")):
        if special:
            return [errors.bad_value(field, text, f"may not {words}")]
    return []


def service_errors(spec: Obj, old: Obj | None) -> list[FieldError]:
    """A service's specification, and its change."""
    out: list[FieldError] = []
    kinds = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec["type"] not in kinds:
        out.append(errors.unsupported("spec.type", spec["type"], kinds))
    if spec["type"] == "ExternalName":
        if not spec.get("externalName"):
            out.append(errors.required("spec.externalName"))
    elif not spec.get("ports") and spec.get("clusterIP") != "None":
        out.append(errors.required("spec.ports"))
    seen: set[tuple[Any, Any]] = set()
    names: set[str] = set()
    ports = spec.get("ports") or []
    for i, port in enumerate(ports):
        at = f"spec.ports[{i}]"
        name = port.get("name") or ""
        if name or len(ports) > 1:
            out += _name_errors(name, names, f"{at}.name")
        if not is_port(port.get("port")):
            out.append(errors.bad_value(f"{at}.port", port.get("port", 0), PORT_RANGE))
        target = port.get("targetPort")
        if isinstance(target, int) and not is_port(target):
            out.append(errors.bad_value(f"{at}.targetPort", target, PORT_RANGE))
        elif isinstance(target, str):
            out += port_name_errors(target, f"{at}.targetPort")
        if port.get("protocol") not in _PROTOCOLS:
            out.append(errors.unsupported(f"{at}.protocol", port.get("protocol"), _PROTOCOLS))
        if port.get("nodePort") and spec["type"] not in ("NodePort", "LoadBalancer"):
            out.append(errors.denied(f"{at}.nodePort", "may not be used when `type` is 'ClusterIP'"))
        key = (port.get("protocol"), port.get("port"))
        if key in seen:
            out.append(FieldError("FieldValueDuplicate", at, "Duplicate value: core.ServicePort{"
                                  f"Protocol:\"{key[0]}\", Port:{key[1]}}}"))
        seen.add(key)
    if spec.get("sessionAffinity") not in ("ClientIP", "None"):
        out.append(errors.unsupported("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None")))
    for i, one in enumerate(spec.get("externalIPs") or ()):
        out += _special_address(one, f"spec.externalIPs[{i}]")
    own = spec.get("clusterIP")
    if own and own != "None" and not _address(own):
        out.append(errors.bad_value("spec.clusterIPs[0]", own, _NO_ADDRESS))
    if spec.get("loadBalancerSourceRanges") and spec["type"] != "LoadBalancer":
        out.append(errors.denied("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"))
    for one in spec.get("loadBalancerSourceRanges") or ():
        try:
            if "/" not in one:
                raise ValueError(one)
            ipaddress.ip_network(one.strip(), strict=False)
        except ValueError:
            out.append(errors.bad_value(
                "spec.LoadBalancerSourceRanges", f"[{' '.join(spec['loadBalancerSourceRanges'])}]",
                "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24"))
            break
    policy = spec.get("externalTrafficPolicy")
    if policy is not None:
        if spec["type"] not in ("NodePort", "LoadBalancer"):
            out.append(errors.bad_value("spec.externalTrafficPolicy", policy,
                                        "ExternalTrafficPolicy can only be set on NodePort and LoadBalancer service"))
        elif policy not in ("Cluster", "Local"):
            out.append(errors.unsupported("spec.externalTrafficPolicy", policy, ("Cluster", "Local")))
    if old and "ExternalName" not in (spec["type"], old["type"]) and old.get("clusterIP") \
            and spec.get("clusterIP") != old["clusterIP"]:
        out.append(FieldError("FieldValueInvalid", "spec.clusterIPs[0]",
                              f"Invalid value: []string{{{errors.go_value(spec.get('clusterIP') or '')}}}:"
                              " may not change once set"))
    return out


def template_errors(obj: Obj, *, restart: str = "Always") -> list[FieldError]:
    """What deployments, replica sets, daemon sets, stateful sets and jobs have in common."""
    out: list[FieldError] = []
    spec = obj.get("spec") or {}
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    wanted = spec.get("selector")
    if not wanted:
        out.append(errors.required("spec.selector"))
    elif not (wanted.get("matchLabels") or wanted.get("matchExpressions")):
        out.append(FieldError("FieldValueInvalid", "spec.selector", "Invalid value: v1.LabelSelector{MatchLabels:"
                              "map[string]string(nil), MatchExpressions:[]v1.LabelSelectorRequirement(nil)}:"
                              f" empty selector is invalid for {obj['kind'].lower()}"))
    elif not selects(wanted, labels):
        out.append(FieldError("FieldValueInvalid", "spec.template.metadata.labels",
                              f"Invalid value: {go_map(labels)}: `selector` does not match template `labels`"))
    out += pod_spec_errors(template.get("spec") or {}, "spec.template.spec", template=restart)
    if isinstance(replicas := spec.get("replicas"), int) and replicas < 0:
        out.append(errors.bad_value("spec.replicas", replicas, "must be greater than or equal to 0"))
    return out


def immutable(new: Obj, old: Obj, *path: str) -> list[FieldError]:
    """That spec.<path> did not change."""
    a: Any = new["spec"]
    b: Any = old["spec"]
    for part in path:
        a, b = (a or {}).get(part), (b or {}).get(part)
    if a == b:
        return []
    shown = go_selector(a) if path == ("selector",) else errors.go_value(a)
    return [FieldError("FieldValueInvalid", ".".join(("spec", *path)), f"Invalid value: {shown}: field is immutable")]


def go_map(labels: dict[str, str]) -> str:
    """A map as Go prints it with %#v."""
    return "map[string]string{" + ", ".join(f'"{k}":"{v}"' for k, v in sorted(labels.items())) + "}"


def go_selector(selector: Obj | None) -> str:
    """A label selector as Go prints it with %#v."""
    if selector is None:
        return "null"
    labels = go_map(selector["matchLabels"]) if selector.get("matchLabels") else "map[string]string(nil)"
    terms = ", ".join(
        f'v1.LabelSelectorRequirement{{Key:"{e["key"]}", Operator:"{e["operator"]}", Values:[]string{{'
        + ", ".join(f'"{v}"' for v in e.get("values") or ()) + "}}" for e in selector.get("matchExpressions") or ())
    expressions = f"[]v1.LabelSelectorRequirement{{{terms}}}" if terms else "[]v1.LabelSelectorRequirement(nil)"
    return f"v1.LabelSelector{{MatchLabels:{labels}, MatchExpressions:{expressions}}}"
