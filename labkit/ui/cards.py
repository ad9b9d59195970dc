"""A plan's steps as cards: the HTML that widgets and reports share. Pure."""

from labkit.markup import STATES, Fragment, badge, code, details, escape, prose
from labkit.plan import Evidence, Plan, PlanResult, State, Step, StepResult

__all__ = ["body", "evidence_line", "heading", "log_lines", "plan_head", "result", "step_card"]


def heading(step: Step, number: int, state: str, seconds: float = 0.0) -> str:
    """Return a card's first line: number, title, state, time."""
    took = f'<span class="muted">{seconds:.1f} s</span>' if seconds >= 0.05 else ""
    return f'<div class="lk-title">{number}. {escape(step.title)} {badge(state)} {took}</div>'


def body(step: Step) -> str:
    """Return why the step is there, what breaks without it, and its command."""
    without = details("What breaks without it?", f"<p>{prose(step.without)}</p>") if step.without else ""
    command = details("The same by hand", code(step.command)) if step.command else ""
    return f"<p>{prose(step.why)}</p>{without}{command}"


def evidence_line(evidence: Evidence | None, *, was_done: bool = False) -> str:
    """Return what the check saw."""
    if evidence is None:
        return ""
    word = "seen" if evidence.ok else "no longer" if was_done else "not yet"
    return f'<p><span class="muted">{word}:</span> {escape(evidence.text)}</p>'


def log_lines(lines: tuple[str, ...] | list[str], *, open_: bool = False) -> str:
    """Return the log, folded away."""
    count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
    return details(f"Log ({count})", code("\n".join(lines)), open_=open_) if lines else ""


def step_card(step: Step, number: int, done: StepResult | None) -> Fragment:
    """Return one finished (or never started) step."""
    state = str(done.state if done else State.PENDING)
    error = f"<p><b>{prose(str(done.error))}</b></p>" if done and done.error else ""
    head = heading(step, number, state, done.seconds if done else 0)
    html = (
        f'<div class="lk-card {state.split()[0]}">{head}{body(step)}'
        f"{evidence_line(done.evidence if done else None)}{error}{log_lines(done.log if done else ())}</div>"
    )
    seen = f": {done.evidence.text}" if done and done.evidence else ""
    failed = f"\n    {done.error}" if done and done.error else ""
    took = f" ({done.seconds:.1f} s)" if done else ""
    return Fragment(html, f"{STATES[state][0]} {number}. {step.title} [{state}]{took}{seen}{failed}")


def plan_head(plan: Plan) -> Fragment:
    """Return a plan's title, and what the planner says about its choice."""
    note = f'<p class="muted">{prose(plan.note)}</p>' if plan.note else ""
    html = f'<div class="lk-title">{escape(plan.title)}</div>{note}'
    return Fragment(html, "\n".join(filter(None, (plan.title, plan.note))))


def result(done: PlanResult) -> Fragment:
    """Return a plan that has run, card by card."""
    by_id = {step.step_id: step for step in done.steps}
    parts = [plan_head(done.plan)]
    parts += [step_card(step, n, by_id.get(step.id)) for n, step in enumerate(done.plan.steps, 1)]
    return Fragment("".join(part.html for part in parts), "\n".join(part.text for part in parts))
