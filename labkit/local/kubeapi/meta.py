"""Object metadata: names, times, uids, and the rules that hold for every kind."""

from __future__ import annotations

import random
import re

from labkit.local.client import Obj

from .errors import FieldError, bad_value, required
from .kinds import Kind

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names, Kubernetes' own: no vowels, so no words."""

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and"
    " end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic"
    " character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for"
    " validation is '[a-z]([-a-z0-9]*[a-z0-9])?')")
_QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
    " alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used"
    " for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")


def generated_name(base: str) -> str:
    """GenerateName plus Kubernetes' five random characters."""
    return base[:58] + "".join(random.choices(ALPHABET, k=5))


def is_subdomain(text: str) -> bool:
    """RFC 1123 subdomain, 253 characters at most."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """RFC 1123 label."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def name_errors(kind: Kind, name: str) -> list[FieldError]:
    """What is wrong with an object's name."""
    if kind.group == "rbac.authorization.k8s.io" or kind.resource == "apiservices.apiregistration.k8s.io":
        if name in (".", "..") or "/" in name or "%" in name:
            return [bad_value("metadata.name", name, "may not contain '/' or '%'")]
        return []
    if kind.resource == "services":
        return _check(name, _LABEL_1035, 63, LABEL_1035_RULE)
    if kind.resource == "namespaces":
        return _check(name, _LABEL, 63, LABEL_RULE)
    return _check(name, _SUBDOMAIN, 253, SUBDOMAIN_RULE)


def _check(name: str, pattern: re.Pattern[str], longest: int, rule: str) -> list[FieldError]:
    out = []
    if len(name) > longest:
        out.append(bad_value("metadata.name", name, f"must be no more than {longest} characters"))
    if pattern.fullmatch(name) is None:
        out.append(bad_value("metadata.name", name, rule))
    return out


def label_errors(labels: dict[str, str]) -> list[FieldError]:
    """What is wrong with labels."""
    out = []
    for key, value in labels.items():
        out += key_errors(key, "metadata.labels")
        if not isinstance(value, str) or (value and (len(value) > 63 or not _QUALIFIED.fullmatch(value))):
            out.append(bad_value("metadata.labels", value, _VALUE_RULE))
    return out


def key_errors(key: str, field: str) -> list[FieldError]:
    """What is wrong with a label's or annotation's key."""
    prefix, _, name = key.rpartition("/")
    if ("/" in key and not is_subdomain(prefix)) or len(name) > 63 or not _QUALIFIED.fullmatch(name):
        return [bad_value(field, key, _QUALIFIED_RULE)]
    return []


def meta_errors(kind: Kind, meta: Obj) -> list[FieldError]:
    """What is wrong with metadata, apart from an absent namespace."""
    name = meta.get("name") or ""
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    out = name_errors(kind, name) + label_errors(meta.get("labels") or {})
    for key, value in (meta.get("annotations") or {}).items():
        out += key_errors(key.lower(), "metadata.annotations")
        if not isinstance(value, str):
            out.append(bad_value(f"metadata.annotations[{key}]", value, "must be a string"))
    for i, name in enumerate(meta.get("finalizers") or []):
        if "/" not in name and name not in _FINALIZERS and not kind.crd and kind.group != "apiextensions.k8s.io":
            out.append(bad_value(f"metadata.finalizers[{i}]", name,
                                 "name is neither a standard finalizer name nor is it fully qualified"))
    for i, owner in enumerate(meta.get("ownerReferences") or []):
        out += [required(f"metadata.ownerReferences[{i}].{part}", f"{part} must not be empty")
                for part in ("apiVersion", "kind", "name", "uid") if not owner.get(part)]
    return out
