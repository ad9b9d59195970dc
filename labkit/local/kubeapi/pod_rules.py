"""What a pod's specification may say of probes, hooks, volumes, variables, resources and tolerations. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from labkit.local.client import Obj

from . import errors
from .errors import FieldError
from .meta import key_errors

PORT_RANGE = "must be between 1 and 65535, inclusive"
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
_FIELDS = frozenset({"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations",
                     "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.podIP", "status.podIPs",
                     "status.hostIPs"})
_UNITS: dict[str, Decimal | int] = {"": 1, "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
          **{unit: 1000 ** i for i, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
          **{unit: 1024 ** i for i, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}}


def container_rules(c: Obj, at: str, *, init: bool, host_network: bool) -> Iterator[FieldError]:
    """A container's probes, hooks, variables, mounts and resources."""
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if (probe := c.get(key)) is not None:
            if init:
                yield errors.denied(f"{at}.{key}", "must not be set for init containers")
            else:
                yield from _probe(probe, f"{at}.{key}", once=key != "readinessProbe")
    for hook, handler in (c.get("lifecycle") or {}).items():
        if handler is not None and hook in ("postStart", "preStop"):
            yield from _handler(handler, f"{at}.lifecycle.{hook}")
    for i, env in enumerate(c.get("env") or ()):
        if (source := env.get("valueFrom")) is not None:
            yield from _variable(env, source, f"{at}.env[{i}].valueFrom")
    paths = [m.get("mountPath") for m in c.get("volumeMounts") or ()]
    for i, path in enumerate(paths):
        if path and path in paths[:i]:
            yield errors.bad_value(f"{at}.volumeMounts[{i}].mountPath", path, "must be unique")
    for i, port in enumerate(c.get("ports") or ()):
        if host_network and port.get("hostPort") != port.get("containerPort"):
            yield errors.bad_value(f"{at}.ports[{i}].containerPort", port.get("containerPort"),
                                   "must match `hostPort` when `hostNetwork` is true")
    yield from _resources(c.get("resources") or {}, f"{at}.resources")
    policy = c.get("terminationMessagePolicy")
    if policy not in (None, "File", "FallbackToLogsOnError"):
        yield errors.bad_value(f"{at}.terminationMessagePolicy", policy, "must be 'File' or 'FallbackToLogsOnError'")


def pod_rules(spec: Obj, at: str) -> Iterator[FieldError]:
    """What holds for the pod as a whole."""
    for i, volume in enumerate(spec.get("volumes") or ()):
        yield from _volume(volume, f"{at}.volumes[{i}]")
    for i, one in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(one, f"{at}.tolerations[{i}]")
    for key in spec.get("nodeSelector") or {}:
        yield from key_errors(key, f"{at}.nodeSelector")
    if (deadline := spec.get("activeDeadlineSeconds")) is not None and deadline < 1:
        yield errors.bad_value(f"{at}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None and not required.get("nodeSelectorTerms"):
        yield errors.required(f"{at}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
                              ".nodeSelectorTerms", "must have at least one node selector term")


def _probe(probe: Obj, at: str, *, once: bool) -> Iterator[FieldError]:
    yield from _handler(probe, at)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(key, 0) < 0:
            yield errors.bad_value(f"{at}.{key}", probe[key], "must be greater than or equal to 0")
    if once and probe.get("successThreshold", 1) != 1:
        yield errors.bad_value(f"{at}.successThreshold", probe["successThreshold"], "must be 1")


def _handler(handler: Obj, at: str) -> Iterator[FieldError]:
    given = [key for key in _HANDLERS if handler.get(key) is not None]
    if not given:
        yield errors.required(at, "must specify a handler type")
    for key in given[1:]:
        yield errors.denied(f"{at}.{key}", "may not specify more than 1 handler type")
    if "exec" in given[:1] and not handler["exec"].get("command"):
        yield errors.required(f"{at}.exec.command")
    if given and (key := given[0]) != "exec":
        port = handler[key].get("port", 0)
        if isinstance(port, int) and not 1 <= port <= 65535:
            yield errors.bad_value(f"{at}.{key}.port", port, PORT_RANGE)


def _variable(env: Obj, source: Obj, at: str) -> Iterator[FieldError]:
    given = [key for key in _SOURCES if source.get(key) is not None]
    if not given:
        yield errors.bad_value(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or"
                                       " `secretKeyRef`")
    elif env.get("value"):
        yield errors.bad_value(at, "", "may not be specified when `value` is not empty")
    elif len(given) > 1:
        yield errors.bad_value(at, "", "may not have more than one field specified at a time")
    if "fieldRef" in given:
        yield from _field_path(source["fieldRef"], f"{at}.fieldRef")
    for key in ("configMapKeyRef", "secretKeyRef"):
        if key in given and not source[key].get("key"):
            yield errors.required(f"{at}.{key}.key")


def _field_path(ref: Obj, at: str) -> Iterator[FieldError]:
    if not (path := ref.get("fieldPath")):
        yield errors.required(f"{at}.fieldPath")
    elif path not in _FIELDS and not re.fullmatch(r"metadata\.(labels|annotations)\['.+'\]", path):
        yield errors.bad_value(f"{at}.fieldPath", path,
                               f"error converting fieldPath: field label not supported: {path}")


def _volume(volume: Obj, at: str) -> Iterator[FieldError]:
    for key in [key for key, source in volume.items() if key != "name" and source is not None][1:]:
        yield errors.denied(f"{at}.{key}", "may not specify more than 1 volume type")
    if (host := volume.get("hostPath")) is not None:
        if not host.get("path"):
            yield errors.required(f"{at}.hostPath.path")
        elif ".." in host["path"].split("/"):
            yield errors.bad_value(f"{at}.hostPath.path", host["path"], "must not contain '..'")
        known = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
        if host.get("type", "") not in known:
            yield errors.unsupported(f"{at}.hostPath.type", host["type"], known)
    for item in (volume.get("downwardAPI") or {}).get("items") or ():
        if item.get("fieldRef") is not None:
            yield from _field_path(item["fieldRef"], f"{at}.downwardAPI.fieldRef")


def _toleration(one: Obj, at: str) -> Iterator[FieldError]:
    operator, effect = one.get("operator") or "Equal", one.get("effect")
    if not one.get("key") and operator != "Exists":
        yield errors.bad_value(f"{at}.operator", operator, "operator must be Exists when `key` is empty, which means"
                               ' "match all values and all keys"')
    elif operator not in ("Equal", "Exists"):
        yield errors.unsupported(f"{at}.operator", operator, ("Equal", "Exists"))
    elif operator == "Exists" and one.get("value"):
        yield errors.bad_value(f"{at}.operator", one, "value must be empty when `operator` is 'Exists'")
    if effect not in (None, "", *(known := ("NoSchedule", "PreferNoSchedule", "NoExecute"))):
        yield errors.unsupported(f"{at}.effect", effect, known)


def _resources(resources: Obj, at: str) -> Iterator[FieldError]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for which, amounts in (("limits", limits), ("requests", requests)):
        for key, amount in amounts.items():
            if not re.fullmatch("cpu|memory|ephemeral-storage|hugepages-.*|.*/.*", key):
                field = f"{at}.{which}[{key}]"
                yield errors.bad_value(field, key, "must be a standard resource type or fully qualified")
                yield errors.bad_value(field, key, "must be a standard resource for containers")
            if (value := amount_of(amount)) is not None and value < 0:
                yield errors.bad_value(f"{at}.{which}[{key}]", amount, "must be greater than or equal to 0")
    for key in requests.keys() & limits.keys():
        asked, most = amount_of(requests[key]), amount_of(limits[key])
        if asked is not None and most is not None and asked > most:
            yield errors.bad_value(f"{at}.requests", requests[key], f"must be less than or equal to {key} limit")


def amount_of(quantity: Any) -> Decimal | None:
    """A quantity's value; None for what is no quantity."""
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][-+]?[0-9]+)?)([a-zA-Z]*)", str(quantity))
    if found is None or found[2] not in _UNITS:
        return None
    try:
        return Decimal(found[1]) * _UNITS[found[2]]
    except InvalidOperation:
        return None


_FORBIDDEN_TO_DEBUGGERS = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle")


def debugger_errors(new: Obj, old: Obj) -> list[FieldError]:
    """What is wrong with a pod's ephemeral containers, or with their change: they are added, and then stay."""
    before, after = old.get("ephemeralContainers") or [], new.get("ephemeralContainers") or []
    path = "spec.ephemeralContainers"
    named = {c.get("name"): c for c in after}
    out = [errors.denied(path, "existing ephemeral containers "
                         f"{errors.go_value(c['name'])} may not be {'changed' if c['name'] in named else 'removed'}\n")
           for c in before if named.get(c["name"]) != c]
    taken = {c["name"] for kind in ("containers", "initContainers") for c in old.get(kind) or ()}
    for i, one in enumerate(after):
        at, name = f"{path}[{i}]", one.get("name")
        if not name:
            out.append(errors.required(f"{at}.name"))
        elif name in taken:
            out.append(errors.duplicate(f"{at}.name", name))
        taken.add(str(name))
        if not one.get("image"):
            out.append(errors.required(f"{at}.image"))
        out += [errors.denied(f"{at}.{field}", "cannot be set for an Ephemeral Container")
                for field in _FORBIDDEN_TO_DEBUGGERS if one.get(field)]
        target = one.get("targetContainerName")
        if target and target not in {c["name"] for c in old["containers"]}:
            out.append(errors.missing_ref(f"{at}.targetContainerName", target))
    return out
