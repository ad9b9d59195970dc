"""What a notebook shows: plans as cards, paths as pictures, measurements as charts.

`ui.show(x)` draws widgets where somebody can click, and does and prints the same where nobody can.
"""

from typing import TYPE_CHECKING

from labkit.mode import choose, interactive
from labkit.ui.path import Hop, Leg, Path
from labkit.ui.show import show

if TYPE_CHECKING:
    from labkit.ui.live import Live

__all__ = ["Hop", "Leg", "Path", "choose", "interactive", "live", "show"]


def live(metric: str, title: str = "Samples as they come in") -> "Live":
    """Return a callback that draws a benchmark's samples while it runs.

    Args:
        metric: which metric of each sample, such as ``gbit_per_s``.
        title: of the chart.
    """
    from labkit.ui.live import Live

    return Live(metric, title)
