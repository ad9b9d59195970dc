"""What a run tells those who watch it, and how they stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.bench.results import Sample


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        done: samples taken.
        total: samples that the run will have.
        doing: what it does now.
        seconds_left: how long the rest takes, judged by what has been.
    """

    done: int
    total: int
    doing: str
    seconds_left: float


class Watch:
    """Somebody who watches a run. This one does nothing; a live view overrides it.

    Attributes:
        stopped: set it, and the run ends after the sample under way; a note in the run says so.
    """

    stopped: bool = False

    def sample(self, sample: Sample) -> None:
        """A sample was taken."""

    def progress(self, progress: Progress) -> None:
        """Something else is being done now."""
