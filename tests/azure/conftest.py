"""The library's Azure through the real SDKs, against a Resource Manager whose wire can be made to fail."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

from labkit.azure import Azure, ClusterSettings
from labkit.azure.sdk import Patience
from labkit.azure.tags import owner
from tests.arm import shapes
from tests.arm.conftest import SUBSCRIPTION, Arm, arm, certificate
from tests.arm.wire import Wire

__all__ = ["arm", "certificate"]
CLUSTER = r"managedclusters/MyCalicoCluster$"
OPERATION = r"locations/[^/]+/operations/"


@dataclass
class Azures:
    """A learner's machine: each `open()` is a kernel that has just been started."""

    arm: Arm
    journal: Path
    made: list[Azure] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def wire(self) -> Wire:
        return self.arm.wire

    def open(self, **patience: float) -> Azure:
        quick = Patience(**{"connect": 60.0, "read": 60.0, "backoff": 0.01, "attempts": 2, **patience})
        self.made.append(Azure(self.arm.url, SUBSCRIPTION, lambda: self.arm, str(self.arm.ca), 0.05,
                               journal=self.journal, patience=quick))
        return self.made[-1]

    def say(self, line: str) -> None:
        self.log.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.log)

    def puts(self) -> int:
        """How many requests to create the cluster Azure accepted."""
        return len([e for e in self.wire.asked("PUT", CLUSTER) if e.status in (200, 201)])


@pytest.fixture
def azures(arm: Arm, tmp_path: Path) -> Iterator[Azures]:
    found = Azures(arm, tmp_path / "operations")
    yield found
    arm.loop.call_soon_threadsafe(arm.clusters.gate.set)
    for azure in found.made:
        azure.close()
    sent = [exchange for exchange in arm.wire.exchanges if "azsdk-python" in exchange.agent]
    assert shapes.problems(sent) == [], "what the library sent is what Azure publishes"


@pytest.fixture
def settings() -> ClusterSettings:
    return ClusterSettings(tags=MappingProxyType({"labkit-run": "20261127-080000", "owner": owner(),
                                                  "expires-at": "2099-01-01T00:00:00+00:00"}))
