"""A trace as text: every hop with its addresses, and under it what proves it."""

from __future__ import annotations

from labkit.sourceip.trace_model import MEANINGS, Hop, Trace


def text(trace: Trace, *, evidence: bool = True) -> str:
    """The trace as lines.

    Args:
        trace: what was found.
        evidence: whether each hop is followed by what proves it.
    """
    lines = [trace.title]
    for name, hops in (("Request", trace.request), ("Reply", trace.reply)):
        lines += ["", f"{name} (its first packet)"]
        for number, hop in enumerate(hops, 1):
            lines += _hop(number, hop, evidence=evidence)
    lines += ["", trace.verdict, *remarks(trace)]
    return "\n".join(lines)


def told(hop: Hop) -> str:
    """What happened on the way to a hop, in words."""
    return "; ".join(MEANINGS[step] for step in hop.steps)


def addresses(hop: Hop) -> str:
    """The packet's addresses at a hop, with the VXLAN packet around it where there is one."""
    outer = f" inside VXLAN {hop.outer}" if hop.outer else ""
    was = f" (was {hop.before})" if hop.rewritten else ""
    return f"{hop.after}{was}{outer}"


def remarks(trace: Trace) -> list[str]:
    """What else there is to say: the client's socket, later packets, what was not seen."""
    lines = []
    if trace.peer:
        lines.append(f"The client's socket says that its peer is {trace.peer}.")
    if trace.later_same is not None:
        lines.append("The first packet with data took the same way." if trace.later_same else
                     "The first packet with data took another way than the first packet of all.")
    return [*lines, *trace.notes]


def _hop(number: int, hop: Hop, *, evidence: bool) -> list[str]:
    lines = [f"{number:>2}. {f'{hop.place} {hop.where}'.strip()}: {addresses(hop)}", f"    {told(hop)}"]
    if evidence:
        lines += [f"      {record.source}: {record.text}" for record in hop.evidence]
    return lines
