"""A doctor's report as a table, with the cure of each finding below it."""

from labkit.doctor.report import Finding, Report
from labkit.markup import Fragment, escape, prose

__all__ = ["report"]

_STATES = {"ok": ("passed", "✓ fine"), "warning": ("warning", "! look"), "problem": ("failed", "✗ mend")}


def report(found: Report, *, brief: bool = False) -> Fragment:
    """Return a report; what is well takes a line, what is not takes a card.

    Args:
        found: by the doctor.
        brief: leave out what is well.
    """
    shown = [f for f in found.findings if not brief or f.level != "ok"]
    fine = [f for f in shown if f.level == "ok"]
    cards = "".join(_card(f) for f in shown if f.level != "ok")
    lines = "".join(
        f'<li><span class="lk-badge passed">✓</span> {escape(f.title)}: '
        f'<span class="muted">{escape(f.evidence)}</span></li>'
        for f in fine
    )
    head = f'<div class="lk-title">{escape(found.title)}: {escape(found.verdict)}</div>'
    return Fragment(f"{head}{cards}<ul>{lines}</ul>" if lines else head + cards, found.brief() if brief else str(found))


def _card(f: Finding) -> str:
    css, word = _STATES[f.level]
    parts = [f'<div class="lk-title"><span class="lk-badge {css}">{word}</span> {escape(f.title)}</div>']
    parts += [f"<p>{escape(f.evidence)}</p>"]
    parts += [
        f'<p><span class="muted">{name}:</span> {prose(text)}</p>'
        for name, text in (("symptom", f.symptom), ("cause", f.cause), ("cure", f.cure))
        if text
    ]
    return f'<div class="lk-card {css}">{"".join(parts)}</div>'
