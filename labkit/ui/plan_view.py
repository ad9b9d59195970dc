"""A plan as widgets: one card for each step, with buttons to run, check and revert it.

Buttons run in the kernel's own turn: one thing happens at a time, in the order of the clicks, and the log
grows while it does. Nothing waits for a click; cells below a plan look at the cluster, not at the widget.
What other cells and cards change, `refresh` shows on the cards that stand above.
"""

from collections.abc import Callable

import ipywidgets as widgets

from labkit.markup import STYLE, badge, prose
from labkit.plan import Evidence, Plan, Reporter, State, Step, StepResult, changes, check_step, revert_step, run_step
from labkit.ui import cards

__all__ = ["PlanView", "StepView", "refresh"]

_DONE = (State.DONE, State.ALREADY_DONE)
#: The plans that are shown, by title: one that is shown again takes the place of its older view.
_shown: "dict[str, PlanView]" = {}


def refresh(*_: object) -> None:
    """Look again at all plans that are shown, where a step was done since they were looked at."""
    for view in tuple(_shown.values()):
        view.refresh()


class StepView(widgets.VBox):  # type: ignore[misc]
    """The card of one step."""

    def __init__(self, step: Step, number: int, note: Callable[[str, str], None]) -> None:
        self.step, self.number, self._note = step, number, note
        self.state: str = State.PENDING
        self.on_change: Callable[[], object] = lambda: None
        self._log: list[str] = []
        self._head = widgets.HTML()
        self._outcome = widgets.HTML()
        self._guess = widgets.Text(
            placeholder="What will change? What would break without it?",
            layout=widgets.Layout(width="auto", flex="1 1 20rem"),
            description_allow_html=False,
        )
        self.buttons = {
            "predict": _button("Predict", "Keep it, then see what breaks without the step", self._predict),
            "run": _button("Run", f"Do it: {step.title}", _then_refresh(self.run), "primary"),
            "check": _button("Check", "Look whether it took effect; changes nothing", self.check),
            "revert": _button("Revert", "Undo it", _then_refresh(self.revert), disabled=step.revert is None),
        }
        predict = widgets.HBox([self._guess, self.buttons["predict"]])
        row = widgets.HBox([self.buttons[name] for name in ("run", "check", "revert")])
        self._text = widgets.HTML(_wrap(cards.body(step)))
        super().__init__([self._head, self._text, predict, row, self._outcome])
        self.add_class("lk-step")
        self.layout.margin, self.layout.padding = "0 0 8px 0", "4px 10px 8px 10px"
        self.layout.border_left = "4px solid var(--jp-border-color1, #c0c7ce)"
        self._show(State.PENDING)

    def run(self, _: object = None) -> StepResult:
        """Run the step and show how it went."""
        return self._do(run_step)

    def revert(self, _: object = None) -> StepResult:
        """Undo the step and show how it went."""
        return self._do(revert_step)

    def check(self, _: object = None) -> bool:
        """Look whether the step's effect is there."""
        return self._saw(check_step(self.step))

    def refresh(self) -> None:
        """Look again; where nothing has changed, the time and the log of the last run stay."""
        evidence = check_step(self.step)
        if evidence.ok != (self.state in _DONE):
            self._saw(evidence)

    def _saw(self, evidence: Evidence) -> bool:
        was_done = self.state in _DONE
        if evidence.ok:
            self._show(State.DONE if self.state == State.DONE else State.ALREADY_DONE)
        elif was_done:
            self._show(State.PENDING)
        self._outcome.value = _wrap(cards.evidence_line(evidence, was_done=was_done))
        return evidence.ok

    def _do(self, action: Callable[[Step, Reporter], StepResult]) -> StepResult:
        self._log = []
        for button in self.buttons.values():
            button.disabled = True
        self._show(State.RUNNING)
        try:
            done = action(self.step, _Listener(self))
        finally:
            for name, button in self.buttons.items():
                button.disabled = name == "revert" and self.step.revert is None
        error = f"<p><b>{prose(str(done.error))}</b></p>" if done.error else ""
        self._show(str(done.state), done.seconds)
        self._outcome.value = _wrap(cards.evidence_line(done.evidence) + error + cards.log_lines(self._log))
        return done

    def _predict(self, _: object) -> None:
        self._note(self.step.id, self._guess.value)
        opened = cards.body(self.step).replace("<details><summary>What", "<details open><summary>What")
        self._text.value = _wrap(opened)

    def heard(self, line: str) -> None:
        """Add a line to the log while the step runs."""
        self._log.append(line)
        self._outcome.value = _wrap(cards.log_lines(self._log, open_=True))

    def _show(self, state: str, seconds: float = 0.0) -> None:
        self.state = state
        self._head.value = _wrap(cards.heading(self.step, self.number, str(state), seconds))
        colour = {"done": "#2e9e57", "already done": "#2e9e57", "failed": "#cf4034", "running": "#3186d6"}
        self.on_change()
        self.layout.border_left = f"4px solid {colour.get(str(state), 'var(--jp-border-color1, #c0c7ce)')}"


class PlanView(widgets.VBox):  # type: ignore[misc]
    """All cards of a plan, and a button that runs what is left."""

    def __init__(self, plan: Plan, note: Callable[[str, str], None] = lambda step, guess: None) -> None:
        self.plan = plan
        self.steps = [StepView(step, number, note) for number, step in enumerate(plan.steps, 1)]
        self._tally = widgets.HTML()
        run_all = _button(
            "Run what is left", "Run the steps in order; stop at the first that fails", _then_refresh(self.run)
        )
        check_all = _button("Check all", "Look at every step; changes nothing", self.check)
        head = widgets.HTML(STYLE + _wrap(cards.plan_head(plan).html))
        super().__init__([head, widgets.HBox([run_all, check_all, self._tally]), *self.steps])
        for view in self.steps:
            view.on_change = self._count
        self.check()
        self._seen = changes()
        _shown[plan.title] = self

    def run(self, _: object = None) -> bool:
        """Run all steps in order; return whether all are done."""
        for view in self.steps:
            if not view.run().ok:
                break
        return self._count()

    def check(self, _: object = None) -> bool:
        """Look at all steps; return whether all are done."""
        for view in self.steps:
            view.check()
        return self._count()

    def refresh(self) -> None:
        """Look again, where a step was done since."""
        if self._seen != changes():
            for view in self.steps:
                view.refresh()
            self._seen = changes()

    def _count(self) -> bool:
        done = sum(view.state in _DONE for view in self.steps)
        state = "done" if done == len(self.steps) else "pending"
        self._tally.value = _wrap(f"{badge(state)} {done} of {len(self.steps)} steps")
        return done == len(self.steps)


class _Listener(Reporter):
    def __init__(self, view: StepView) -> None:
        self._view = view

    def log(self, step: Step, line: str) -> None:
        self._view.heard(line)


def _then_refresh(act: Callable[[object], object]) -> Callable[[object], None]:
    def clicked(button: object) -> None:
        act(button)
        refresh()

    return clicked


def _button(
    text: str, tooltip: str, act: Callable[[object], object], style: str = "", *, disabled: bool = False
) -> widgets.Button:
    button = widgets.Button(
        description=text,
        tooltip=tooltip,
        button_style=style,
        disabled=disabled,
        layout=widgets.Layout(width="auto"),
    )
    button.on_click(act)
    return button


def _wrap(html: str) -> str:
    return f'<div class="lk">{html}</div>'
