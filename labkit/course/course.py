"""`lab.course`: checks, predictions, hints and progress, as a notebook uses them."""

from typing import TYPE_CHECKING, Any

from labkit import mode
from labkit.course import checks, parameters, predictions
from labkit.course.lessons import LESSONS, lesson, next_lesson
from labkit.course.progress import Progress
from labkit.errors import LabError
from labkit.markup import Fragment, escape

if TYPE_CHECKING:
    from labkit.lab import Lab

__all__ = ["ChecksNotPassed", "Course"]


class ChecksNotPassed(AssertionError):  # noqa: N818 - named as the runner reports it
    """Raised only where nobody is there to read a red card, so that a headless run stops."""


class Course:
    """The learner's way through the lessons."""

    def __init__(self, lab: "Lab", progress: Progress | None = None) -> None:
        self._lab = lab
        self.progress = progress or Progress()

    def begin(self, number: str, **counts: object) -> Fragment:
        """Note that a lesson was opened; return one line that says where we are.

        Args:
            number: the lesson's two digits.
            counts: parameters of the notebook that must be whole numbers above zero, or lists of them.

        Raises:
            ParameterError: one of them is not.
        """
        chosen = lesson(number)
        parameters.require_counts(**counts)
        self.progress.record("lessons", number, opened=True)
        done = self._finished()
        line = f"Lesson {number}: {chosen.title}. {len(done)} of {len(LESSONS)} lessons finished."
        return Fragment(f'<p class="muted">{escape(line)}</p>', line)

    def check(self, *ids: str) -> checks.CheckReport:
        """Run checks by id, or all of a lesson by its two digits.

        Raises:
            ChecksNotPassed: a check failed in a run without a front end.
        """
        import labkit.course.library  # noqa: F401 - fills the table of checks; not needed before now

        report = checks.run(self._lab, checks.select(ids))
        for result in report.results:
            self.progress.record("checks", result.check.id, passed=result.passed)
        if not report.passed and not mode.interactive():
            raise ChecksNotPassed(f"checks failed\n{report!r}")
        return report

    def predict(
        self,
        key: str,
        question: str,
        guess: predictions.Guess,
        *,
        unit: str = "",
        choices: tuple[str, ...] = (),
    ) -> predictions.Prediction:
        """Record what the learner expects.

        Args:
            key: lesson and name, such as ``04.tcp``.
            question: what will be measured.
            guess: a number or a word; the notebook's parameters cell holds it.
            unit: of the number.
            choices: the words to choose from, when it is a word.

        What a learner put into the field outlives a second run of the cell, and a later lesson that asks the
        same; a parameter that was changed since wins over it.

        Raises:
            ParameterError: the guess is not a number, or not one of the choices.
        """
        parameter = parameters.guess(guess, choices)
        before = self.progress.entry("predictions", key) or {}
        typed = before.get("typed")
        if mode.interactive() and typed is not None and before.get("parameter") == parameter:
            guess = typed
        else:
            typed = None
        self.progress.record(
            "predictions", key, question=question, guess=guess, unit=unit, parameter=parameter, typed=typed
        )
        return predictions.Prediction(key, question, guess, unit, choices)

    def compare(self, key: str, measured: predictions.Guess) -> predictions.Outcome:
        """Put a measurement beside the prediction of that key.

        Raises:
            LabError: nothing was predicted under that key.
        """
        entry = self.progress.entry("predictions", key)
        if entry is None:
            raise LabError(
                f"There is no prediction {key} yet.",
                "a result is shown beside what you expected.",
                "run the cell above that asks for it, then this one.",
            )
        self.progress.record("predictions", key, measured=measured)
        made = predictions.Prediction(key, entry["question"], entry["guess"], entry.get("unit", ""))
        return predictions.compare(made, measured)

    def finish(self, number: str) -> Fragment:
        """Mark a lesson as finished, if its checks passed; return where the learner stands and what comes next."""
        chosen, following = lesson(number), next_lesson(number)
        recorded: dict[str, Any] = self.progress.read()["checks"]
        mine = {id: entry["passed"] for id, entry in recorded.items() if id.startswith(f"{number}.")}
        open_ = sorted(id for id, passed in mine.items() if not passed)
        self.progress.record("lessons", number, finished=bool(mine) and not open_)
        if open_ or not mine:
            reason = f"{', '.join(open_)} did not pass" if open_ else "its checks did not run"
            line = f"Lesson {number} is not finished: {reason}."
            onward = "Mend it, run the check again, then this cell. You can go on all the same."
            html = f'<div class="lk-card failed"><div class="lk-title">{escape(line)}</div><p>{onward}</p></div>'
            return Fragment(html, f"{line}\n{onward}")
        passed = len(mine)
        done = self._finished()
        line = f"Lesson {number} finished: {chosen.title}. Checks passed: {passed}."
        bar = "".join("■" if item.number in done else "□" for item in LESSONS)
        where = f"{len(done)} of {len(LESSONS)} lessons"
        onward = f"Next: {following.title}" if following else "That was the last one."
        html = (
            f'<div class="lk-card done"><div class="lk-title">{escape(line)}</div>'
            f'<p aria-label="{where}"><span aria-hidden="true">{bar}</span> {where}</p>'
            f"<p>{escape(onward)}</p></div>"
        )
        return Fragment(html, f"{line}\n{bar} {where}\n{onward}")

    def _finished(self) -> set[str]:
        return {key for key, entry in self.progress.read()["lessons"].items() if entry.get("finished")}
