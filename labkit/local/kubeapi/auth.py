"""Who is asking: bearer tokens, and the service account tokens that the API itself issues."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from labkit.local import jwt
from labkit.local.client import Obj

from .store import Store

ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class User:
    """Whom a token stands for."""

    name: str
    groups: tuple[str, ...] = ("system:authenticated",)
    uid: str = ""


Authenticate = Callable[[str], "User | None"]


class ServiceAccountTokens:
    """Issues and checks service account tokens: JSON web tokens, signed with the cluster's own key.

    A token dies with its service account, and with its pod if it is bound to one. Nobody but the API
    checks these tokens, so a symmetric signature (HS256) does.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        kept = store.find("-keys", "", "service-accounts")
        if kept is None:
            kept = store.put("-keys", "", "service-accounts", {"metadata": {}, "key": secrets.token_hex(32)})
        self._key = bytes.fromhex(kept.obj["key"])

    def issue(self, namespace: str, account: Obj, *, seconds: int, audiences: list[str] | None = None,
              pod: Obj | None = None, secret: Obj | None = None) -> tuple[str, float]:
        """A token and the time at which it expires; it dies with the pod or the secret that it is bound to."""
        now = int(time.time())
        bound: Obj = {"namespace": namespace,
                      "serviceaccount": {"name": account["metadata"]["name"], "uid": account["metadata"]["uid"]}}
        for kind, holder in (("pod", pod), ("secret", secret)):
            if holder is not None:
                bound[kind] = {"name": holder["name"], "uid": holder.get("uid", "")}
        claims = {
            "aud": audiences or [ISSUER], "exp": now + seconds, "iat": now, "nbf": now, "iss": ISSUER,
            "jti": secrets.token_hex(8), "kubernetes.io": bound,
            "sub": f"system:serviceaccount:{namespace}:{account['metadata']['name']}",
        }
        return jwt.sign(claims, self._key), now + seconds

    def check(self, token: str) -> User | None:
        """The service account behind a token; None if it is none of ours, expired, or orphaned."""
        claims = jwt.claims_of(token, self._key)
        if claims is None or claims["exp"] < time.time():
            return None
        bound = claims["kubernetes.io"]
        namespace, account = bound["namespace"], bound["serviceaccount"]
        for resource, wanted in (("serviceaccounts", account), ("pods", bound.get("pod")),
                                 ("secrets", bound.get("secret"))):
            if wanted is None:
                continue
            found = self._store.find(resource, namespace, wanted["name"])
            if found is None or (wanted["uid"] and found.obj["metadata"]["uid"] != wanted["uid"]):
                return None
        return User(claims["sub"], ("system:serviceaccounts", f"system:serviceaccounts:{namespace}",
                                    "system:authenticated"), account["uid"])
