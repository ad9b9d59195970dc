"""Whether a machine is quiet enough to measure on: what it does while nothing is measured, and what it is denied."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from labkit.bench.results import Sample
from labkit.errors import MeasurementError

BUSY_PERCENT = 40.0
"""Of a node, while nothing is measured. Agents and the local lab itself need a few percent."""
STEAL_PERCENT = 10.0
"""Of the time, that the hypervisor may give to others."""
DISTURBED_SHARE = 0.2
"""Of a run's samples, that may have been disturbed: medians bear so many, and not many more."""
PATIENCE_SECONDS = 30.0


def stolen(percent: float) -> str:
    """What to say of a sample's steal; "" where it is little.

    Args:
        percent: of the time.
    """
    return f"{percent:.0f} % of the CPU time was stolen by the hypervisor" if percent > STEAL_PERCENT else ""


def marked(sample: Sample) -> Sample:
    """A sample that says of itself when the hypervisor took much of its time.

    Args:
        sample: any.
    """
    said = stolen(sample.metrics.get("steal_percent", 0.0))
    return replace(sample, detail={"noisy": said, **sample.detail}) if said else sample


def loud(sample: Sample) -> str:
    """What is wrong with an idle window; "" where nothing is.

    Args:
        sample: what nodes spent while nothing was measured.
    """
    ends = [sum(sample.metrics[f"{end}_{kind}_percent"] for kind in ("user", "nice", "system"))
            for end in ("client", "server")]
    machine = max(ends)
    if machine > BUSY_PERCENT:
        return f"a node is {machine:.0f} % busy while nothing is measured"
    return stolen(sample.metrics["steal_percent"])


def check(samples: Sequence[Sample]) -> None:
    """Look at what has been measured so far: steal shows only while a machine has work.

    Args:
        samples: of a run that is to support a claim.

    Raises:
        MeasurementError: too many were disturbed.
    """
    disturbed = [s.detail["noisy"] for s in samples if "noisy" in s.detail]
    if len(disturbed) >= 3 and len(disturbed) > DISTURBED_SHARE * len(samples):
        raise too_noisy(disturbed[-1], f"{len(disturbed)} of {len(samples)} samples were disturbed")


def too_noisy(wrong: str, seen: str) -> MeasurementError:
    """The error that ends a run.

    Args:
        wrong: what is wrong with the machine.
        seen: how often it was.
    """
    return MeasurementError(
        f"The machine is too noisy to measure on: {wrong}.", f"{seen}; a claim from it would be luck",
        "stop what else runs there and run it again; or with fewer than five rounds, which claim nothing.")


def rest(look: Callable[[], Sample], *, strict: bool, patience: float = PATIENCE_SECONDS) -> Sample:
    """An idle window, once the machine has come to rest. The windows before that stay in the sample's detail.

    Args:
        look: takes an idle window.
        strict: whether to give up on a machine that does not; otherwise the sample says that it is noisy.
        patience: seconds to wait for it.

    Raises:
        MeasurementError: it did not.
    """
    deadline = time.monotonic() + patience
    before: list[float] = []
    while True:
        sample = look()
        wrong = loud(sample)
        detail = {"busy_before": before} if before else {}
        if not wrong:
            return replace(sample, detail={**sample.detail, **detail})
        if not strict:
            return replace(sample, detail={**sample.detail, "noisy": wrong})
        if time.monotonic() > deadline:
            raise too_noisy(wrong, f"it was looked at {len(before) + 1} times in {patience:.0f} s")
        before.append(sample.metrics["node_percent"])
