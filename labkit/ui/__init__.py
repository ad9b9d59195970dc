"""What a notebook shows: plans as cards, paths as pictures, measurements as charts.

`ui.show(x)` draws widgets where somebody can click, and does and prints the same where nobody can.
"""

from typing import TYPE_CHECKING

from labkit import mode
from labkit.course.parameters import require_switch
from labkit.mode import interactive
from labkit.ui import failures
from labkit.ui.path import Hop, Leg, Path
from labkit.ui.shell import sh
from labkit.ui.show import install, show
from labkit.ui.source import source
from labkit.ui.watch import Watch

if TYPE_CHECKING:
    from labkit.sourceip import Answer, Refused
    from labkit.ui.live_chart import Live

__all__ = ["Hop", "Leg", "Path", "Watch", "choose", "interactive", "live", "path_of", "sh", "show", "source"]


def choose(interactive: bool | None) -> None:
    """Set what the notebook's parameter says: False never waits for a click, None asks the front end.

    From here on the kernel shows labkit's errors in words, without a walk through the library, and plans as cards.

    Raises:
        ParameterError: it is none of the three.
    """
    failures.install()
    require_switch("interactive", interactive)
    mode.choose(interactive)
    install()


def path_of(answer: "Answer | Refused", title: str = "") -> Path:
    """Return the way that an outside client's connection took, for `show`.

    Args:
        answer: of `lab.source_ip.ask`.
        title: above the picture.
    """
    from labkit.ui import answers  # loads the cluster's clients; most notebooks draw no path

    return answers.path_of(answer, title)


def live(metric: str, title: str = "Samples as they come in") -> "Live":
    """Return a callback that draws a benchmark's samples while it runs.

    Args:
        metric: which metric of each sample, such as ``gbit_per_s``.
        title: of the chart.
    """
    from labkit.ui.live_chart import Live  # loads numpy

    return Live(metric, title)
