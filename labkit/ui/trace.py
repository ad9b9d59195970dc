"""A trace as a picture: a column for each place, time downwards, one line for each sighting of the packet. Pure."""

from collections.abc import Sequence

from labkit.markup import Fragment, details, escape, table
from labkit.sourceip import Hop, Trace
from labkit.sourceip.trace_model import Ends, Place, Step
from labkit.sourceip.trace_text import remarks, text, told

__all__ = ["picture"]

_LANE, _ROW, _TOP, _WORDS = 122, 40, 66, 470
_SHORT: dict[Step, str] = {
    "sent": "sent", "answered": "the pod answers", "chosen at connect": "back end chosen in connect()",
    "delivered": "delivered by the load balancer", "left the pod": "out of the pod", "forwarded": "forwarded",
    "DNAT": "DNAT", "SNAT": "SNAT", "DNAT undone": "DNAT undone", "SNAT undone": "SNAT undone",
    "into the tunnel": "into the tunnel", "wrapped": "wrapped in VXLAN", "crossed": "over the network",
    "unwrapped": "unwrapped", "entered the pod": "into the pod", "redirected": "past the node's stack into the pod",
    "received": "received",
}


def picture(traces: Sequence[Trace]) -> Fragment:
    """Return traces one below the other, each with its hops and their evidence in words.

    Args:
        traces: what to draw; at least one.
    """
    html = "".join(_drawn(trace, number) for number, trace in enumerate(traces))
    return Fragment(html, "\n\n".join(text(trace) for trace in traces))


def _drawn(trace: Trace, number: int) -> str:
    lanes = _lanes(trace)
    width, height = len(lanes) * _LANE + _WORDS, _TOP + len(trace.hops) * _ROW + 10
    mark = f"lk-arrow-{number}"
    parts = [_marker(mark), *(_lane(place, x, height) for place, x in lanes.items())]
    y = _TOP
    for way, hops in (("request", trace.request), ("reply", trace.reply)):
        previous: tuple[float, float] | None = None
        if way == "reply":
            y += _ROW // 2
            parts.append(f'<line x1="0" y1="{y - _ROW // 2}" x2="{width}" y2="{y - _ROW // 2}" '
                         'style="stroke:var(--line)"/>')
        for hop in hops:
            at = (lanes[hop.place], float(y))
            parts.append(_hop(hop, previous, at, len(lanes) * _LANE + 8, mark))
            previous, y = at, y + _ROW
    spoken = f"{trace.title}. " + " ".join(_spoken(hop) for hop in trace.hops) + f" {trace.verdict}"
    svg = (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(spoken)}" '
           f'style="width:100%;max-width:{width}px">{"".join(parts)}</svg>')
    key = f'<p class="muted">{escape(_key(trace))}</p>'
    said = "".join(f"<p>{escape(line)}</p>" for line in (trace.verdict, *remarks(trace)))
    return f'<div class="lk-title">{escape(trace.title)}</div>{svg}{key}{said}{_evidence(trace)}'


def _key(trace: Trace) -> str:
    """What the marks mean, of those that are drawn."""
    words = ["Solid: the request's first packet. Dashed: the reply's."]
    if any(hop.rewritten for hop in trace.hops):
        words.append("Filled ◆: an address was rewritten (underlined).")
    if any(hop.outer for hop in trace.hops):
        words.append("Broad: inside a VXLAN packet.")
    if any("redirected" in hop.steps for hop in trace.hops):
        words.append("✗: the pod's interface on the node showed no packet.")
    return " ".join(words)


def _lanes(trace: Trace) -> dict[Place, float]:
    """The places from the client to the pod, and where each column's middle is."""
    order = list(dict.fromkeys(hop.place for hop in (*trace.request, *reversed(trace.reply))))
    return {place: index * _LANE + _LANE / 2 for index, place in enumerate(order)}


def _lane(place: Place, x: float, height: int) -> str:
    name = place.name.rpartition("/")[2] if place.kind != "node" else place.name.rpartition("-")[2]
    name = name if len(name) <= 14 else f"{name[:6]}…{name[-6:]}"
    words = "".join(_text(x, line, said, style, "middle", css) for line, said, style, css in (
        (16, place.kind, "", "m"), (33, name, "font-weight:600", ""), (48, place.address, "", "m")))
    return (f'{words}<line x1="{x}" y1="54" x2="{x}" y2="{height}" style="stroke:var(--line)" stroke-width="2"/>'
            f"<title>{escape(str(place))}</title>")


def _hop(hop: Hop, previous: tuple[float, float] | None, at: tuple[float, float], words: float, mark: str) -> str:
    """One sighting: the way to it, a mark at its place, and beside it what happened and the addresses."""
    colour = "var(--accent)" if hop.way == "request" else "var(--warm)"
    dash = "" if hop.way == "request" else ' stroke-dasharray="6 3"'  # not by colour alone
    x, y = at
    parts = []
    if previous:
        (x0, y0), lean = previous, 7 if previous[0] < x else -7 if previous[0] > x else 0
        start, end = (x0 + lean, y0 + (0 if lean else 7)), (x - lean, y - (0 if lean else 7))
        line = f'x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"'
        if hop.outer and "crossed" in hop.steps:  # the packet in a packet: a pipe around the line
            parts.append(f'<line {line} style="stroke:{colour};opacity:.25" stroke-width="11"/>')
        parts.append(f'<line {line} style="stroke:{colour}" stroke-width="2"{dash} marker-end="url(#{mark})"/>')
        if "redirected" in hop.steps:
            parts.append(_skipped((x0 + x) / 2, (y0 + y) / 2))
    fill = colour if hop.rewritten else "var(--bg)"
    shape = (f'<path d="M{x} {y - 7}L{x + 7} {y}L{x} {y + 7}L{x - 7} {y}z"' if hop.rewritten
             else f'<circle cx="{x}" cy="{y}" r="5"')
    parts.append(f'{shape} style="fill:{fill};stroke:{colour}" stroke-width="2"/>')
    steps = ", ".join(_SHORT[step] for step in hop.steps)
    style = "font-weight:600" if hop.rewritten else ""
    where = f"{hop.where} · " if hop.where else ""
    outer = f'  (in VXLAN {_plain(hop.outer)})' if hop.outer else ""
    parts.append(_text(words, y - 2, where + steps, style))
    parts.append(_addresses(words, y + 13, hop, outer))
    return "".join(parts)


def _skipped(x: float, y: float) -> str:
    """The node's interface that the packet did not pass: a cross in a dotted ring."""
    return (f'<circle cx="{x}" cy="{y}" r="8" style="fill:var(--bg);stroke:var(--muted)" stroke-dasharray="2 2"/>'
            f'<path d="M{x - 4} {y - 4}L{x + 4} {y + 4}M{x + 4} {y - 4}L{x - 4} {y + 4}" '
            'style="stroke:var(--muted)" stroke-width="2"/>')


def _addresses(x: float, y: float, hop: Hop, outer: str) -> str:
    """The two ends; the one that changed on the way here is underlined."""
    ends = []
    for was, now in ((hop.before.source, hop.after.source), (hop.before.destination, hop.after.destination)):
        style = "text-decoration:underline;font-weight:600" if was != now else ""
        ends.append(f'<tspan style="{style}">{escape(now)}</tspan>')
    return (f'<text x="{x}" y="{y}" class="m"><tspan>{ends[0]}</tspan><tspan> → </tspan>'
            f"<tspan>{ends[1]}</tspan><tspan>{escape(outer)}</tspan></text>")


def _plain(ends: Ends) -> str:
    return " → ".join(end.rpartition(":")[0] for end in (ends.source, ends.destination))


def _marker(name: str) -> str:
    return (f'<defs><marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0L8 4L0 8z" fill="context-stroke"/></marker></defs>')


def _text(x: float, y: float, said: str, style: str = "", anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{css}" style="{style}">{escape(said)}</text>'


def _spoken(hop: Hop) -> str:
    outer = f", inside VXLAN {hop.outer}" if hop.outer else ""
    return f"{hop.way.capitalize()} at {hop.place} {hop.where}: {hop.after}{outer}; {told(hop)}."


def _evidence(trace: Trace) -> str:
    rows = [(f"{hop.way}: {hop.place} {hop.where}", record.source, record.text)
            for hop in trace.hops for record in hop.evidence]
    return details("What was captured", table(["hop", "who says so", "what it says"], rows).html)
