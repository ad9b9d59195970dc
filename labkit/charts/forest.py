"""A forest plot: what each comparison found, as a ratio with its interval, one line each."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from labkit.charts.chart import Chart, layout, words
from labkit.charts.look import INK, label, look
from labkit.markup import text_table

__all__ = ["Finding", "forest"]

_WORDS_FROM: Final = 0.58  # of the width: verdicts stand to the right of it
_WORDS_WIDE: Final = 25  # letters of a verdict's line, which fit beside the axis in a window of 800 pixels


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Args:
        group: the case that it is about; findings of one stand together.
        series: what is compared, which gives it its colour and marker.
        name: of the line, such as "Calico eBPF ÷ kube-proxy".
        ratio: of what is compared to what it is compared with.
        low: lower end of the interval; None where none is known, as for a published figure.
        high: its upper end.
        verdict: in words.
        claimed: whether it may be claimed; otherwise its marker is drawn hollow.
    """

    group: str
    series: str
    name: str
    ratio: float
    low: float | None
    high: float | None
    verdict: str
    claimed: bool


def forest(name: str, title: str, axis: str, findings: Sequence[Finding], *, note: str = "") -> Chart:
    """Draw findings around the line at 1.

    Args:
        name: of the chart.
        title: of the chart.
        axis: what the ratio is of, with its formula.
        findings: in the order of the lines.
        note: stands under the chart.
    """
    groups = list(dict.fromkeys(finding.group for finding in findings))
    places: list[tuple[float, str]] = []
    data: list[dict[str, Any]] = []
    said = []
    row = 0
    for group in groups:
        places.append((row, f"<b>{group}</b>"))
        row += 1
        for finding in (f for f in findings if f.group == group):
            places.append((row, finding.name))
            data.append(_mark(finding, row))
            verdict = "<br>".join(textwrap.wrap(finding.verdict, _WORDS_WIDE))
            said.append(words(
                verdict, yref="y", x=_WORDS_FROM + 0.02, y=row, xanchor="left", yanchor="middle", align="left",
            ))  # fmt: skip
            row += 1
    made = layout(title, "ratio, logarithmic: left of 1 less, right of 1 more", axis, note, rows=row)
    low, high = _reach(findings)
    made["xaxis"] |= {
        "type": "log", "range": [math.log10(low), math.log10(high)], "domain": [0, _WORDS_FROM],
        "tickvals": _ticks(low, high),
    }  # fmt: skip
    made["yaxis"] |= {
        "tickvals": [place for place, _ in places], "ticktext": [text for _, text in places],
        "range": [row - 0.4, -0.6], "showgrid": False, "zeroline": False, "automargin": True,
    }  # fmt: skip
    made["shapes"] = [{
        "type": "line", "xref": "x", "yref": "paper", "x0": 1, "x1": 1, "y0": 0, "y1": 1,
        "line": {"color": INK, "width": 1.5, "dash": "dot"},
    }]  # fmt: skip
    made["annotations"] = [*made.get("annotations", []), *said]
    made["showlegend"] = False
    rows = [[f.group, f.name, f.ratio, f.low, f.high, f.verdict] for f in findings]
    text = text_table(["case", "compared", "ratio", "low", "high", "verdict"], rows, f"{title}\n{axis}")
    return Chart(name, data, made, f"{text}\n{note}" if note else text)


def _mark(finding: Finding, row: int) -> dict[str, Any]:
    drawn = look(finding.series)
    marker = drawn.marker if finding.low is not None else "line-ns"
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "markers", "name": f"{label(finding.series)}: {finding.name}",
        "x": [finding.ratio], "y": [row], "hovertext": [finding.verdict], "cliponaxis": False,
        "marker": {
            "symbol": marker + ("-open" if not finding.claimed else ""), "size": 11,
            "color": drawn.colour, "line": {"color": INK if finding.claimed else drawn.colour, "width": 2},
        },
    }  # fmt: skip
    if finding.low is not None and finding.high is not None:
        trace["error_x"] = {
            "type": "data", "symmetric": False, "color": drawn.colour, "thickness": 2, "width": 5,
            "array": [max(0.0, finding.high - finding.ratio)], "arrayminus": [max(0.0, finding.ratio - finding.low)],
        }  # fmt: skip
    return trace


def _reach(findings: Sequence[Finding]) -> tuple[float, float]:
    """Ends of the axis: all findings, 1, and at least a fifth to both sides, so that noise looks small."""
    ends = [end for f in findings for end in (f.ratio, f.low, f.high) if end]
    return max(0.02, min([0.8, *ends]) / 1.06), min(50.0, max([1.25, *ends]) * 1.06)


def _ticks(low: float, high: float) -> list[float]:
    marks = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50)
    inside = [mark for mark in marks if low <= mark <= high]
    if high / low > 4:  # further apart they would touch
        inside = [mark for mark in inside if mark in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)]
    return inside
