"""What was put back after somebody changed it by hand, in words: for logs, and for one event on the node. Pure."""

from __future__ import annotations

from collections.abc import Sequence

REASON = "DataPlaneRepaired"
"""Of the event, whichever agent writes it."""
NAMED = 3            # how many repairs an event names


def message(repaired: Sequence[str]) -> str:
    """One event for all that one look found."""
    more = f"; and {len(repaired) - NAMED} more" if len(repaired) > NAMED else ""
    return f"Put back what was changed by hand: {'; '.join(repaired[:NAMED])}{more}"


def count(number: int, noun: str) -> str:
    """Such as "1 rule", "2 rules", "3 entries"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
