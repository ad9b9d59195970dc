"""The lab's secrets: one random key, from which every token is derived.

Derived tokens need no table: a kubeconfig that was handed out before a crash is still good after it,
and `labkit down` ends them all by deleting the key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from labkit.local.server.tls import write_private


@dataclass(frozen=True)
class Secrets:
    """Tokens of one lab.

    Args:
        key: the random key behind them.
    """

    key: bytes

    @classmethod
    def ensure(cls, home: Path) -> Secrets:
        """Read the lab's key, or make one."""
        path = home / "key"
        if not path.exists():
            write_private(path, secrets.token_bytes(32))
        return cls(path.read_bytes())

    def token(self, *purpose: str) -> str:
        """The token for a purpose, such as ("kube", "c1", "clusterAdmin"). 64 hex digits."""
        return hmac.new(self.key, "\x00".join(purpose).encode(), hashlib.sha256).hexdigest()

    @property
    def identity_header(self) -> str:
        """What a managed-identity request must carry as X-IDENTITY-HEADER."""
        return self.token("identity")

    @property
    def client_token(self) -> str:
        """The password of outside clients' proxy authorisation."""
        return self.token("outside-client")
