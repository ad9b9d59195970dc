"""A doctor's report: groups with problems first, a card for each finding that is not well."""

from labkit.doctor.report import MARKS, Finding, Report
from labkit.markup import Fragment, code, escape, prose

__all__ = ["report"]

_STATES = {"ok": ("passed", "fine"), "unknown": ("pending", "not seen"), "warning": ("warning", "look"),
           "problem": ("failed", "mend")}


def report(found: Report, *, brief: bool = False) -> Fragment:
    """Return a report; what is well takes a line, what is not takes a card.

    Args:
        found: by the doctor.
        brief: leave out what is well.
    """
    parts = [f'<div class="lk-title">{escape(found.title)}: {escape(found.verdict)}</div>']
    for group, findings in found.groups():
        shown = [f for f in findings if not brief or f.level != "ok"]
        if shown and group:
            parts.append(f'<p class="muted">{escape(group)}</p>')
        parts += [_card(f) for f in shown if f.level != "ok"]
        if lines := "".join(_line(f) for f in shown if f.level == "ok"):
            parts.append(f"<ul>{lines}</ul>")
    return Fragment("".join(parts), found.brief() if brief else str(found))


def _line(f: Finding) -> str:
    return (f'<li><span class="lk-badge passed">{MARKS["ok"]}</span> {escape(f.title)}: '
            f'<span class="muted">{escape(f.evidence)} [{escape(f.id)}]</span></li>')


def _card(f: Finding) -> str:
    css, word = _STATES[f.level]
    parts = [f'<div class="lk-title"><span class="lk-badge {css}">{MARKS[f.level]} {word}</span> {escape(f.title)} '
             f'<span class="muted">{escape(f.id)}</span></div>', f"<p>{prose(f.evidence)}</p>"]
    for label, text in f.parts:
        parts.append(f'<p><span class="muted">{label}:</span> {prose(text)}</p>')
        if label == "cure" and f.command:
            parts.append(code(f.command))
    return f'<div class="lk-card {css}">{"".join(parts)}</div>'
