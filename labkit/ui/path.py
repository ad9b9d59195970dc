"""The path of a connection as a picture: who it passes, and which addresses it carries between them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.markup import Fragment, escape

__all__ = ["Hop", "Leg", "Path", "picture"]


@dataclass(frozen=True)
class Hop:
    """A place that the connection passes: a client, a load balancer, a node, a pod."""

    name: str
    address: str = ""
    note: str = ""


@dataclass(frozen=True)
class Leg:
    """What the packet carries between two hops."""

    source: str
    destination: str
    changed: bool = False
    """Whether the source is no longer the client's."""


@dataclass(frozen=True)
class Path:
    """One way of a connection, from the first hop to the last."""

    title: str
    hops: tuple[Hop, ...]
    legs: tuple[Leg, ...]
    verdict: str = ""

    def __post_init__(self) -> None:
        if len(self.legs) != len(self.hops) - 1:
            raise ValueError(f"{len(self.hops)} hops need {len(self.hops) - 1} legs, not {len(self.legs)}")


_BOX, _GAP, _ROW = 176, 140, 150
#: What fits into a box: a Deployment's pod has 21 characters with a name as short as echo.
_LETTERS = 24


def picture(paths: Sequence[Path]) -> Fragment:
    """Return paths one below the other, such as before and after.

    Args:
        paths: what to draw; at least one.
    """
    columns = max(len(path.hops) for path in paths)
    width, height = columns * _BOX + (columns - 1) * _GAP + 4, len(paths) * _ROW
    spoken = " ".join(_spoken(path) for path in paths)
    drawn = "".join(_row(path, index * _ROW) for index, path in enumerate(paths))
    html = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(spoken)}" '
        f'style="width:100%;max-width:{width}px">{_ARROW}{drawn}</svg>'
    )
    return Fragment(html, "\n".join(_spoken(path) for path in paths))


_ARROW = (
    '<defs><marker id="lk-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="context-stroke"/></marker></defs>'
)


def _row(path: Path, top: int) -> str:
    parts = [_text(2, top + 16, path.title, "font-weight:600")]
    for index, hop in enumerate(path.hops):
        left = 2 + index * (_BOX + _GAP)
        parts.append(
            f'<rect x="{left}" y="{top + 30}" width="{_BOX}" height="62" rx="6" '
            f'style="fill:var(--soft);stroke:var(--line)"/>'
        )
        lines = [line for line in (hop.name, hop.address, hop.note) if line]
        for line, words in enumerate(lines):
            text = words if len(words) <= _LETTERS else f"{words[: _LETTERS - 1]}…"
            style, css = ("font-weight:600" if line == 0 else "", "m" if line == 2 else "")
            parts.append(_text(left + _BOX / 2, top + 50 + 17 * line, text, style, "middle", css))
    for index, leg in enumerate(path.legs):
        parts.append(_leg(leg, 2 + index * (_BOX + _GAP) + _BOX, top + 61))
    if path.verdict:
        parts.append(_text(2, top + 116, path.verdict))
    return "".join(parts)


def _leg(leg: Leg, left: float, y: float) -> str:
    colour = "var(--warm)" if leg.changed else "var(--accent)"
    dash = ' stroke-dasharray="5 3"' if leg.changed else ""  # not by colour alone
    middle = left + _GAP / 2
    return (
        f'<line x1="{left + 5}" y1="{y}" x2="{left + _GAP - 5}" y2="{y}" style="stroke:{colour}"'
        f' stroke-width="2"{dash} marker-end="url(#lk-arrow)"/>'
        + _text(middle, y - 8, f"from {leg.source}", "", "middle", "m")
        + _text(middle, y + 18, f"to {leg.destination}", "", "middle", "m")
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{css}" style="{style}">{escape(text)}</text>'


def _spoken(path: Path) -> str:
    words = [f"{path.title}: {_named(path.hops[0])}"]
    for leg, hop in zip(path.legs, path.hops[1:], strict=True):
        replaced = ", source replaced" if leg.changed else ""
        words.append(f"→ [{leg.source} to {leg.destination}{replaced}] → {_named(hop)}")
    return " ".join(words) + (f". {path.verdict}" if path.verdict else "")


def _named(hop: Hop) -> str:
    return f"{hop.name} {hop.address}".strip()
