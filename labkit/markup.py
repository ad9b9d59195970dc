"""Small pieces of HTML with a plain-text twin, readable in light and dark, in Jupyter and in a report.

Everything that labkit shows is a `Fragment`: front ends draw its HTML, terminals and logs get its text.
Colour never carries meaning alone: a state also has a sign and a word.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = [
    "STATES",
    "STYLE",
    "Fragment",
    "badge",
    "code",
    "details",
    "escape",
    "output",
    "prose",
    "table",
    "text_table",
]

#: state -> (sign, word). Shared by a plan's steps (`labkit.plan.State`) and by checks.
STATES: Final[dict[str, tuple[str, str]]] = {
    "pending": ("○", "to do"),
    "running": ("◔", "running"),
    "done": ("✓", "done"),
    "already done": ("✓", "already done"),
    "passed": ("✓", "passed"),
    "failed": ("✗", "failed"),
    "reverted": ("↺", "reverted"),
    "nothing to revert": ("–", "nothing to revert"),
}

STYLE: Final = """<style data-labkit>
.lk{--fg:var(--jp-content-font-color1,#1b1f24);--muted:var(--jp-content-font-color2,#57606a);
--bg:var(--jp-layout-color1,#fff);--soft:var(--jp-layout-color2,#f3f5f7);--line:var(--jp-border-color2,#d0d7de);
--ok:#18743a;--bad:#b42318;--accent:#0b5cad;--warm:#9a5b00;color:var(--fg);line-height:1.45;max-width:62rem}
body[data-jp-theme-light="false"] .lk,.lk-dark .lk{--ok:#57c77a;--bad:#ff8b80;--accent:#6cb6ff;--warm:#e0a84a}
.lk p{margin:.3em 0}.lk .muted{color:var(--muted)}
.lk-card{border:1px solid var(--line);border-left:4px solid var(--line);border-radius:6px;padding:.6em .9em;
margin:.4em 0;background:var(--bg)}
.lk-card.done,.lk-card.already,.lk-card.passed{border-left-color:var(--ok)}
.lk-card.failed{border-left-color:var(--bad)}.lk-card.warning{border-left-color:var(--warm)}.lk-card.running{border-left-color:var(--accent)}
.lk-title{font-weight:600;display:flex;gap:.6em;align-items:baseline;flex-wrap:wrap}
.lk-badge{font-size:.85em;font-weight:600;white-space:nowrap;color:var(--muted)}
.lk-badge.done,.lk-badge.already,.lk-badge.passed{color:var(--ok)}.lk-badge.failed{color:var(--bad)}
.lk-badge.running{color:var(--accent)}.lk-badge.warning{color:var(--warm)}
.lk pre.lk-code{background:var(--soft);border-radius:4px;padding:.5em .7em;margin:.4em 0;overflow-x:auto;
white-space:pre-wrap;word-break:break-word;user-select:all;font-size:.88em;color:var(--fg)}
.lk pre.lk-output{overflow-x:auto;white-space:pre;margin:.2em 0;font-size:.86em;color:var(--fg)}
.lk details{margin:.35em 0}.lk summary{cursor:pointer;color:var(--accent)}
.lk table.lk-table{border-collapse:collapse;margin:.4em 0;font-size:.92em}
.lk table.lk-table th,.lk table.lk-table td{border:1px solid var(--line);padding:.25em .6em;text-align:left;
color:var(--fg);background:var(--bg);max-width:44rem}
.lk table.lk-table th{background:var(--soft);font-weight:600}
.lk table.lk-table td.n{text-align:right;font-variant-numeric:tabular-nums}
.lk table.lk-table caption{text-align:left;color:var(--muted);padding:.2em 0}
.jp-OutputArea .jp-OutputArea-output.jp-RenderedText pre{word-break:normal;overflow-wrap:anywhere}
.lk svg text{fill:var(--fg);font:13px system-ui,sans-serif}.lk svg .m{fill:var(--muted);font-size:11.5px}
</style>"""


@dataclass(frozen=True, repr=False)
class Fragment:
    """Something to show: HTML for a front end, text for a terminal, a log or a test."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return f'{STYLE}<div class="lk">{self.html}</div>'

    def __repr__(self) -> str:
        return self.text


def badge(state: str) -> str:
    """Return the HTML of a state: sign, word and colour."""
    sign, word = STATES[state]
    return f'<span class="lk-badge {state.split()[0]}">{sign} {word}</span>'


def code(text: str) -> str:
    """Return a block of code that one click selects whole."""
    return f'<pre class="lk-code">{escape(text)}</pre>'


def prose(text: str) -> str:
    """Return a sentence, with what stands between backticks set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)).replace("\n", "<br>")


def output(text: str) -> str:
    """Return what a program printed: its columns stay columns, and scroll where they are too wide."""
    return f'<pre class="lk-output" tabindex="0">{escape(text)}</pre>'


def details(summary: str, body: str, *, open_: bool = False) -> str:
    """Return a block that opens on click; works without scripts."""
    return f"<details{' open' if open_ else ''}><summary>{escape(summary)}</summary>{body}</details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Fragment:
    """Return a table; numbers are set right-aligned."""
    kept = [list(row) for row in rows]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in kept)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    html = f'<table class="lk-table">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Fragment(html=html, text=text_table(columns, kept, caption))


def _cell(value: object) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=n' if numeric else ''}>{escape(_word(value))}</td>"


def _word(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def text_table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return the table as aligned text."""
    cells = [list(columns), *([_word(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join([caption, *lines] if caption else lines)
