"""Reviews: questions about identity and access. Whoever has a token may do everything here, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.local.client import Obj

from .kinds import Served

if TYPE_CHECKING:
    from .api import Api
    from .auth import User


def answer(api: Api, served: Served, user: User, review: Obj) -> Obj:
    """The review with its status."""
    out: Obj = {"kind": served.kind.kind, "apiVersion": served.api_version, "metadata": {"creationTimestamp": None},
           "spec": review.get("spec") or {}}
    if served.kind.kind == "TokenReview":
        asked = api.user_of(str(out["spec"].get("token", "")))
        out["status"] = {"authenticated": False, "user": {}} if asked is None else {
            "authenticated": True, "user": {"username": asked.name, "uid": asked.uid, "groups": list(asked.groups)}}
    elif served.kind.kind == "SelfSubjectReview":
        out["status"] = {"userInfo": {"username": user.name, "uid": user.uid, "groups": list(user.groups)}}
    elif served.kind.kind == "SelfSubjectRulesReview":
        out["status"] = {"incomplete": False, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                         "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}
    else:
        out["status"] = {"allowed": True, "reason": f"every user of this cluster may do everything ({user.name})"}
    return out
