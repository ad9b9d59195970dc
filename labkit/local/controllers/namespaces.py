"""Namespaces: what goes takes everything in it along. And each has its default service account."""

from __future__ import annotations

from collections import Counter

from labkit.local.client import Obj, tolerating

from .base import Context, Controller
from .customs import CRDS, resource_of, served
from .kinds import NAMESPACED
from .objects import deleting, saying, with_condition
from .queue import Key
from .store import key_of

LOOK_AGAIN = 0.25
AUTHORITY = "kube-root-ca.crt"
ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
ACCOUNT = "kubernetes.io/service-account.name"
SECRETLESS = 24
"""The minor version from which an account has no secret unless somebody makes one."""
BATCH = 100
"""Objects deleted at a time, so that thousands leave the loop free in between."""
CALM = (
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions",
     "All legacy kube types successfully parsed"),
    ("NamespaceDeletionContentFailure", "ContentDeleted",
     "All content successfully deleted, may be waiting on finalization"),
)
"""Conditions of a namespace that goes, with their reasons and messages, that are never true here."""
TROUBLES = ("SomeResourcesRemain", "SomeFinalizersRemain")


class Namespaces(Controller):
    """Empties namespaces that are being deleted, then lets them go."""

    component = "namespace-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces, self.crds = self.stores["namespaces"], self.stores[CRDS]
        self.namespaces.subscribe(self._on_namespace)
        self.stores["pods"].subscribe(self._on_pod)

    def _on_namespace(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and deleting(new):
            self.enqueue(key_of(new))

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            self._on_namespace(None, self.namespaces.get(("", old["metadata"]["namespace"])))

    def _resources(self) -> list[str]:
        return [
            *(resource_of(crd) for crd in self.crds if served(crd) and crd["spec"].get("scope") == "Namespaced"),
            *NAMESPACED,
        ]

    def reconcile(self, key: Key) -> None:
        """Empty this namespace if it is to go."""
        namespace = self.namespaces.get(key)
        if namespace is None or not deleting(namespace):
            return
        if not self._empty(key[1]):
            self.enqueue(key)
            return
        left, finalizers = self._left(key[1])
        if left:
            self._report(namespace, left, finalizers)
            self.enqueue_after(key, LOOK_AGAIN)
            return
        keep = [f for f in namespace["spec"].get("finalizers") or () if f != "kubernetes"]
        if keep != namespace["spec"].get("finalizers"):
            self.stores.update(
                "namespaces",
                {**namespace, "spec": {**namespace["spec"], "finalizers": keep}},
                subresource="finalize",
            )

    def _list(self, resource: str, name: str) -> list[Obj]:
        with tolerating(404):  # a custom kind that has just gone
            return self.context.client.list(resource, name)
        return []

    def _empty(self, name: str) -> bool:
        """Delete some of what is there; False if there is more."""
        room = BATCH
        for resource in self._resources():
            for obj in self._list(resource, name):
                if not deleting(obj):
                    if not room:
                        return False
                    room -= 1
                    self.stores.delete(resource, obj, propagation="Background")
        return True

    def _left(self, name: str) -> tuple[dict[str, int], dict[str, int]]:
        """How many objects of each resource, and how many with each finalizer, are still there."""
        left, finalizers = Counter[str](), Counter[str]()
        for resource in self._resources():
            for obj in self._list(resource, name):
                left[resource] += 1
                finalizers.update(obj["metadata"].get("finalizers") or ())
        return left, finalizers

    def _report(self, namespace: Obj, left: dict[str, int], finalizers: dict[str, int]) -> None:
        content = ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed")
        held = ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers",
                "All content-preserving finalizers finished")
        if left:
            content = (content[0], TROUBLES[0], "Some resources are remaining: " + ", ".join(
                f"{name if '.' in name else name + '.'} has {count} resource instances"
                for name, count in sorted(left.items())))
        if finalizers:
            held = (held[0], TROUBLES[1], "Some content in the namespace has finalizers remaining: " + ", ".join(
                f"{name} in {count} resource instances" for name, count in sorted(finalizers.items())))
        status = namespace.get("status") or {}
        conditions = status.get("conditions")
        for kind, reason, message in (*CALM, content, held):
            conditions = with_condition(conditions, saying(kind, reason in TROUBLES, reason, message))
        self.stores.update_status("namespaces", namespace, {**status, "phase": "Terminating", "conditions": conditions})


class ServiceAccounts(Controller):
    """Makes the service account `default`, and the CA's ConfigMap, in every namespace.

    Before Kubernetes 1.24 every account has a secret with a token, too; a token's secret goes with its account.
    """

    component = "service-account-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces, self.accounts = self.stores["namespaces"], self.stores["serviceaccounts"]
        self.namespaces.subscribe(self.on_object)
        self.accounts.subscribe(self._on_account)
        self.stores["configmaps"].subscribe(self._on_authority)
        if self.settings.minor < SECRETLESS:
            self.stores["secrets"].subscribe(self._on_secret)

    def _on_authority(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and old["metadata"]["name"] == AUTHORITY:
            self.enqueue(("", old["metadata"]["namespace"]))

    def _on_secret(self, old: Obj | None, new: Obj | None) -> None:
        """A token that somebody deleted is issued anew: to revoke one, that is what one does."""
        if new is None and old is not None and old.get("type") == ACCOUNT_TOKEN:
            self.enqueue(("", old["metadata"]["namespace"]))

    def _on_account(self, old: Obj | None, new: Obj | None) -> None:
        account = new or old
        assert account is not None
        if new is None or (self.settings.minor < SECRETLESS and not deleting(new) and not new.get("secrets")):
            self.enqueue(("", account["metadata"]["namespace"]))

    def _tokens(self, namespace: str) -> None:
        """A secret with a token for each account; none for an account that is gone."""
        secrets = {s["metadata"]["name"]: s for s in self.context.client.list(
            "secrets", namespace, field_selector=f"type={ACCOUNT_TOKEN}")}
        accounts = {a["metadata"]["name"]: a for a in self.context.client.list("serviceaccounts", namespace)}
        for secret in secrets.values():
            account = accounts.get(secret["metadata"]["annotations"][ACCOUNT])
            uid = secret["metadata"]["annotations"].get(f"{ACCOUNT.removesuffix('.name')}.uid")
            if uid and (account is None or account["metadata"]["uid"] != uid):
                self.stores.delete("secrets", secret)
        for name, account in accounts.items():
            kept = [ref for ref in account.get("secrets") or ()
                    if ref["name"] in secrets or not ref["name"].startswith(f"{name}-token-")]
            if self.settings.minor < SECRETLESS and not any(r["name"] in secrets for r in kept) \
                    and not deleting(account):
                secret = self.context.client.create("secrets", {
                    "apiVersion": "v1", "kind": "Secret", "type": ACCOUNT_TOKEN,
                    "metadata": {"generateName": f"{name}-token-", "namespace": namespace,
                                 "annotations": {ACCOUNT: name}}})
                self.stores.patch("serviceaccounts", key_of(account),
                                  {"secrets": [*kept, {"name": secret["metadata"]["name"]}]})

    def reconcile(self, key: Key) -> None:
        """Make what every namespace has."""
        namespace = self.namespaces.get(key)
        if namespace is None or deleting(namespace):
            return
        name = key[1]
        if self.accounts.get((name, "default")) is None:
            with tolerating(409):
                self.stores.create("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount",
                                                       "metadata": {"name": "default", "namespace": name}})
        if self.settings.ca_pem:
            self._publish_authority(name)
        self._tokens(name)

    def _publish_authority(self, namespace: str) -> None:
        there, data = self.stores["configmaps"].get((namespace, AUTHORITY)), {"ca.crt": self.settings.ca_pem}
        if there is None:
            with tolerating(409):
                self.stores.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                                                  "metadata": {"name": AUTHORITY, "namespace": namespace}})
        elif there.get("data") != data:
            self.stores.update("configmaps", {**there, "data": data})
