"""An operator knows one Calico, and what its own generation does differently."""

from __future__ import annotations

from dataclasses import dataclass

_CALICO = {"v1.13.5": "v3.17.2", "v1.34.7": "v3.28.2", "v1.36.7": "v3.29.3", "v1.38.8": "v3.30.4",
           "v1.40.2": "v3.31.2", "v1.42.3": "v3.32.1"}


@dataclass(frozen=True, slots=True)
class Release:
    """One version of the operator.

    Args:
        version: such as "v1.40.2".
    """

    version: str

    @property
    def calico(self) -> str:
        """The Calico that this operator installs."""
        return _CALICO.get(self.version, _CALICO["v1.40.2"])

    @property
    def minor(self) -> int:
        """40 for v1.40.2."""
        return int(self.version.split(".")[1])

    @property
    def watches_endpoint(self) -> bool:
        """Whether it reads the ConfigMap `kubernetes-services-endpoint`, rather than its own environment."""
        return self.minor >= 15

    @property
    def owns_bpf(self) -> bool:
        """Whether it writes FelixConfiguration's bpfEnabled, and refuses one that somebody else wrote."""
        return self.minor >= 34

    @property
    def reasons(self) -> bool:
        """Whether conditions carry CamelCase reasons and messages, as Kubernetes asks for."""
        return self.minor >= 30
