"""Namespaces, nodes, secrets: small rules of their own."""

from __future__ import annotations

import base64
import binascii
import re

from labkit.local.client import Obj

from . import errors
from .auth import ServiceAccountTokens
from .errors import FieldError
from .kinds import Kind
from .strategies import Strategy

_KEY_RULE = ("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or"
             " 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')")
_PROTECTED = frozenset({"default", "kube-system", "kube-public"})


def key_rules(obj: Obj) -> list[FieldError]:
    """The keys of a config map or a secret become names of files."""
    return [errors.bad_value(f"data[{key}]", key, _KEY_RULE) for key in obj.get("data") or ()
            if not re.fullmatch("[-._a-zA-Z0-9]{1,253}", key) or key in (".", "..")]


class NamespaceStrategy(Strategy):
    """A namespace empties itself before it goes: the finalizer "kubernetes" is its controller's to remove."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """The label that network policies select namespaces by; new in 1.21."""
        if self.api.minor >= 21:
            meta = obj["metadata"]
            meta["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta.get("name", "")}

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """Set the finalizer."""
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}

    def separate(self, kind: Kind, new: Obj, old: Obj, sub: str | None) -> Obj:
        """Only /finalize changes spec.finalizers."""
        if sub == "finalize":
            return {**old, "spec": {**(new.get("spec") or {})}, "metadata": {**old["metadata"]}}
        out = super().separate(kind, new, old, sub)
        out["spec"] = old.get("spec", {})
        return out

    def check_delete(self, kind: Kind, obj: Obj) -> None:
        """Kubernetes' own namespaces stay."""
        if (name := obj["metadata"]["name"]) in _PROTECTED:
            raise errors.forbidden(kind, name, "this namespace may not be deleted")

    def prepare_delete(self, new: Obj) -> None:
        """Show that it is going."""
        new["status"] = {**new.get("status", {}), "phase": "Terminating"}

    def may_go(self, obj: Obj) -> bool:
        """Once it is empty."""
        return not (obj.get("spec") or {}).get("finalizers")


class NodeStrategy(Strategy):
    """A kubelet registers its node together with the status, and writes labels and annotations with it."""

    def default(self, kind: Kind, obj: Obj) -> None:
        """A node always has a spec."""
        obj.setdefault("spec", {})

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """Keep the status."""


ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
_ACCOUNT = "kubernetes.io/service-account.name"
_TEN_YEARS = 10 * 365 * 86400


class SecretStrategy(Strategy):
    """stringData is write-only; data is base64."""

    def prepare_create(self, kind: Kind, obj: Obj) -> None:
        """A service account's token is issued into a secret that names the account, as Kubernetes' controller does."""
        if obj["type"] != ACCOUNT_TOKEN:
            return
        meta = obj["metadata"]
        namespace, name = meta.get("namespace", ""), (meta.get("annotations") or {}).get(_ACCOUNT, "")
        account = self.api.store.find("serviceaccounts", namespace, name)
        if account is None:
            return
        tokens = ServiceAccountTokens(self.api.store)
        token, _ = tokens.issue(namespace, account.obj, seconds=_TEN_YEARS, secret=meta)
        authority = self.api.store.find("configmaps", namespace, "kube-root-ca.crt")
        given = {"ca.crt": authority.obj["data"]["ca.crt"] if authority else "", "namespace": namespace, "token": token}
        uid = account.obj["metadata"]["uid"]
        meta["annotations"] = {**meta["annotations"], "kubernetes.io/service-account.uid": uid}
        obj["data"] = {key: base64.b64encode(text.encode()).decode() for key, text in given.items()} \
            | (obj.get("data") or {})

    def default(self, kind: Kind, obj: Obj) -> None:
        """Merge stringData into data."""
        obj.setdefault("type", "Opaque")
        plain = obj.pop("stringData", None)
        if plain:
            data = dict(obj.get("data") or {})
            for key, value in plain.items():
                data[key] = base64.b64encode(str(value).encode()).decode()
            obj["data"] = data

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Type is immutable, and so is everything in an immutable secret."""
        for key, value in (new.get("data") or {}).items():
            try:
                base64.b64decode(value or "", validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise errors.bad_request(f"Secret in version \"v1\" cannot be handled as a Secret: illegal base64"
                                         f" data in data[{key}]") from None
        if old and new.get("type") != old.get("type"):
            return [errors.bad_value("type", new.get("type"), "field is immutable")]
        if fixed := _fixed_errors(new, old):
            return fixed
        if new["type"] == ACCOUNT_TOKEN and not (new["metadata"].get("annotations") or {}).get(_ACCOUNT):
            return [errors.required(f"metadata.annotations[{_ACCOUNT}]")]
        return key_rules(new)


def _fixed_errors(new: Obj, old: Obj | None) -> list[FieldError]:
    """An immutable ConfigMap or Secret stays one, and stays as it is."""
    if not old or not old.get("immutable"):
        return []
    return [errors.denied(field, "field is immutable when `immutable` is set")
            for field in ("immutable", "data", "binaryData") if new.get(field) != old.get(field)]


class ConfigMapStrategy(Strategy):
    """Values are text."""

    def validate(self, kind: Kind, new: Obj, old: Obj | None, sub: str | None = None) -> list[FieldError]:
        """Values are strings, keys are file names."""
        for key, value in (new.get("data") or {}).items():
            if not isinstance(value, str):
                raise errors.bad_request(
                    f"ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal"
                    f" {errors.go_type(value)} into Go struct field ConfigMap.data of type string (data.{key})")
        return _fixed_errors(new, old) or key_rules(new)
