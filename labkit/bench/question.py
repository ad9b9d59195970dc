"""What is asked of a benchmark, and whether it can be answered: looked at before anything is created."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from labkit.bench import iperf
from labkit.errors import MeasurementError

MOST_SECONDS = 3600
_T = TypeVar("_T")


def rounds(count: int) -> int:
    """A number of rounds.

    Raises:
        MeasurementError: there are none.
    """
    if count < 1 or count != int(count):
        raise MeasurementError(f"rounds={count} measures nothing.", "",
                               "give at least rounds=1 for a look; a claim takes five.")
    return int(count)


def seconds(count: float, *, whole: bool = False) -> float:
    """How long each sample takes.

    Args:
        count: seconds.
        whole: whether iperf3 measures, which knows whole seconds only.

    Raises:
        MeasurementError: nothing can be measured in them.
    """
    if not 0 < count <= MOST_SECONDS or (whole and count != int(count)):
        kind = "whole seconds" if whole else "seconds"
        raise MeasurementError(f"Nothing can be measured in seconds={count}.", "",
                               f"give {kind} from {1 if whole else 0.5} to {MOST_SECONDS}; 2 is a good start.")
    return count


def rate(text: str | None) -> str | None:
    """A fixed rate, or None.

    Raises:
        MeasurementError: it is no rate, or one that no machine reaches.
    """
    if text is not None:
        iperf.rate(text)
    return text


def budget(count: float | None) -> float | None:
    """Seconds that a run may take, or None.

    Raises:
        MeasurementError: it is not positive.
    """
    if count is not None and count <= 0:
        raise MeasurementError(f"budget={count:g} s is no time.", "", "give seconds, such as budget=300.")
    return count


def counts(numbers: Sequence[int], most: int) -> list[int]:
    """Numbers of services, in ascending order.

    Args:
        numbers: what was asked for.
        most: how many there can be.

    Raises:
        MeasurementError: there is none, or one that cannot be.
    """
    bad = [n for n in numbers if not 1 <= n <= most or n != int(n)]
    if bad or not numbers:
        raise MeasurementError(f"{bad[0] if bad else 'Nothing'} is not a number of services to measure among.", "",
                               f"give some from 1 to {most:,}, such as services=(10, 1000).")
    return sorted({int(n) for n in numbers})


def pick(what: str, wanted: Iterable[str] | None, known: dict[str, _T]) -> list[_T]:
    """What was asked for by name, in the order of what there is.

    Args:
        what: the kind of thing, such as "flow".
        wanted: names; None means all.
        known: everything that there is, by name.

    Raises:
        MeasurementError: a name is unknown, or nothing was asked for.
    """
    if wanted is None:
        return list(known.values())
    if isinstance(wanted, str):
        wanted = [wanted]
    names = list(wanted)
    if unknown := [name for name in names if name not in known]:
        raise MeasurementError(f"There is no {what} {unknown[0]!r}.", "", f"there are: {'; '.join(known)}.")
    if not names:
        raise MeasurementError(f"No {what} was asked for.", "", f"there are: {'; '.join(known)}.")
    return [thing for name, thing in known.items() if name in names]
