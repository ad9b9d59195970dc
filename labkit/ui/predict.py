"""A prediction that can still be changed, until the measurement is in."""

import ipywidgets as widgets

from labkit.course.predictions import Prediction, say
from labkit.course.progress import Progress
from labkit.markup import STYLE, escape

__all__ = ["PredictionView"]


class PredictionView(widgets.VBox):  # type: ignore[misc]
    """The question, a field for the guess, and what is recorded."""

    def __init__(self, prediction: Prediction, progress: Progress | None = None) -> None:
        self._prediction, self._progress = prediction, progress or Progress()
        asked = f'<div class="lk"><b>Prediction.</b> {escape(prediction.question)}</div>'
        question = widgets.HTML(STYLE + asked)
        self.field = self._field()
        self._recorded = widgets.HTML(self._said(prediction.guess))
        unit = widgets.Label(prediction.unit)
        super().__init__([question, widgets.HBox([self.field, unit, self._recorded])])
        self.field.observe(self._keep, names="value")

    def _field(self) -> widgets.Widget:
        guess = self._prediction.guess
        if self._prediction.choices:
            return widgets.Dropdown(options=self._prediction.choices, value=str(guess))
        if isinstance(guess, str):
            return widgets.Text(value=guess)
        return widgets.FloatText(value=float(guess), layout=widgets.Layout(width="8rem"))

    def _keep(self, change: dict[str, object]) -> None:
        guess = change["new"]
        self._progress.record("predictions", self._prediction.key, guess=guess, typed=guess)
        self._recorded.value = self._said(guess)

    def _said(self, guess: object) -> str:
        word = say(guess, self._prediction.unit) if isinstance(guess, int | float | str) else ""
        return f'<div class="lk"><span class="muted">recorded: {escape(word)}</span></div>'
