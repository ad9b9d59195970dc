"""Predict, measure, compare: a learner who has guessed first remembers the result.

A guess is a literal in the notebook's parameters cell, so a run without a person has one too; in a
front end the learner can change it before they measure.
"""

from dataclasses import dataclass

from labkit.markup import Fragment, escape

__all__ = ["Guess", "Outcome", "Prediction", "compare", "say"]

Guess = float | int | str

#: A guess within this factor of the measurement is called close. Wide on purpose: orders of magnitude are
#: what intuition is for.
CLOSE = 1.5


@dataclass(frozen=True, repr=False)
class Prediction:
    """A question, and what the learner expects."""

    key: str
    question: str
    guess: Guess
    unit: str = ""
    choices: tuple[str, ...] = ()

    def fragment(self) -> Fragment:
        """Return the prediction as a card."""
        html = (
            f'<div class="lk-card"><div class="lk-title">Prediction</div><p>{escape(self.question)}</p>'
            f"<p>You expect: <b>{escape(say(self.guess, self.unit))}</b></p></div>"
        )
        return Fragment(html, f"Prediction: {self.question}\n  You expect: {say(self.guess, self.unit)}")

    def _repr_html_(self) -> str:
        return self.fragment()._repr_html_()

    def __repr__(self) -> str:
        return self.fragment().text


@dataclass(frozen=True, repr=False)
class Outcome:
    """A prediction beside what was measured."""

    prediction: Prediction
    measured: Guess
    verdict: str

    def fragment(self) -> Fragment:
        """Return the comparison as a card."""
        guess = say(self.prediction.guess, self.prediction.unit)
        measured = say(self.measured, self.prediction.unit)
        html = (
            f'<div class="lk-card"><div class="lk-title">Prediction and result</div>'
            f"<p>{escape(self.prediction.question)}</p>"
            f"<p>You expected <b>{escape(guess)}</b>, measured: <b>{escape(measured)}</b>. "
            f"{escape(self.verdict)}</p></div>"
        )
        text = f"{self.prediction.question}\n  expected {guess}, measured {measured}. {self.verdict}"
        return Fragment(html, text)

    def _repr_html_(self) -> str:
        return self.fragment()._repr_html_()

    def __repr__(self) -> str:
        return self.fragment().text


def compare(prediction: Prediction, measured: Guess) -> Outcome:
    """Put a measurement beside its prediction."""
    return Outcome(prediction, measured, _verdict(prediction.guess, measured))


def _verdict(guess: Guess, measured: Guess) -> str:
    if isinstance(measured, str) and not isinstance(guess, str):
        return "So nothing is said of your guess, either way."
    if isinstance(guess, str) or isinstance(measured, str):
        same = str(guess).strip().casefold() == str(measured).strip().casefold()
        return "As you expected." if same else "A surprise: what explains it?"
    if guess == measured:
        return "As you expected."
    if guess > 0 and measured > 0:
        ratio = max(guess / measured, measured / guess)
        if ratio <= CLOSE:
            return "Close."
        return f"{'Less' if measured < guess else 'More'} than you expected, by a factor of {ratio:.1f}."
    return "Less than you expected." if measured < guess else "More than you expected."


def say(value: Guess, unit: str) -> str:
    """Return a value with its unit, in words; words have no unit."""
    if isinstance(value, str):
        return value
    word = f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{word} {unit}".strip()
