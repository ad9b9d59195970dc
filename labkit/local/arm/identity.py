"""Tokens of the managed-identity kind.

Azure's clients ask a managed-identity endpoint for a token and show it to Resource Manager. The lab's
endpoint is of the App Service flavour: `IDENTITY_ENDPOINT` says where it is, `IDENTITY_HEADER` is the
secret that opens it. The token is a signed JWT, because `az` reads the tenant out of it.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from labkit.local import jwt

LIFETIME = 24 * 3600


@dataclass(frozen=True)
class LabTokens:
    """Signs tokens with the lab's own key and checks them.

    Args:
        key: the lab's signing key; a restart must bring the same one.
        identity_header: the secret that clients show to get a token.
        tenant: the tenant's GUID.
        subscription: the GUID of the one subscription.
    """

    key: bytes
    identity_header: str
    tenant: str
    subscription: str

    def issue(self, resource: str) -> tuple[str, int]:
        """A new token for an audience, and the second at which it ends."""
        now = int(time.time())
        oid = guid(self.tenant + "identity")
        claims = {
            "aud": resource, "iss": f"https://sts.windows.net/{self.tenant}/",
            "iat": now, "nbf": now, "exp": now + LIFETIME,
            "appid": guid(self.tenant + "app"), "appidacr": "2", "idtyp": "app",
            "idp": f"https://sts.windows.net/{self.tenant}/", "oid": oid, "sub": oid, "tid": self.tenant,
            "ver": "1.0",
            "xms_mirid": f"/subscriptions/{self.subscription}/resourcegroups/labkit/providers/"
                         "Microsoft.Web/sites/labkit",
        }
        return jwt.sign(claims, self.key), now + LIFETIME

    def reason_to_refuse(self, token: str) -> str | None:
        """None for a good token; else the reason."""
        claims = jwt.claims_of(token, self.key)
        if claims is None:
            return "The access token is invalid."
        if claims["exp"] < time.time():
            return "The access token expiry UTC time is earlier than current UTC time."
        return None


def guid(seed: str) -> str:
    """A GUID that is always the same for a seed: Azure's identities have names of their own."""
    digits = hashlib.sha256(seed.encode()).hexdigest()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))
