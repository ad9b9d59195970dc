"""What a notebook shows: plans as cards, paths as pictures, measurements as charts.

`ui.show(x)` draws widgets where somebody can click, and does and prints the same where nobody can.
"""

from labkit.mode import choose, interactive
from labkit.ui.live import live
from labkit.ui.path import Hop, Leg, Path
from labkit.ui.show import show

__all__ = ["Hop", "Leg", "Path", "choose", "interactive", "live", "show"]
