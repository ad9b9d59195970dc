"""A run that is written as it comes, so that what was measured outlives whatever ends the measuring."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.bench.results import Run, Sample, now
from labkit.errors import ResultsError
from labkit.version import __version__


class Recording:
    """A run under way. The document on disk is whole at every moment.

    Args:
        run: what is measured: kind, title, provenance. Its "parameters" are all that decide what is measured;
            its "arms" name every arm, with {} for one of which nothing is known yet (see `describe`).
        path: where the document goes. If an unfinished run of the same kind, parameters and arms is there,
            this goes on with it. None: nothing is written.

    Raises:
        ResultsError: something else is at the path, or it cannot be written.
    """

    def __init__(self, run: Run, path: str | Path | None) -> None:
        self._path = Path(path) if path is not None else None
        provenance = _as_written({"labkit": __version__, **run.provenance})
        self._run = replace(run, started=run.started or now(), finished="", provenance=provenance)
        if self._path is not None and self._path.exists():
            self._run = _go_on(_found(self._path), self._run, self._path)
        self._taken = {_key(s) for s in self._run.samples}
        self._write()

    @property
    def run(self) -> Run:
        """What there is so far."""
        return self._run

    def has(self, arm: str, case: str, round_: int) -> bool:
        """Whether a sample need not be taken again.

        Args:
            arm: of the sample.
            case: of the sample.
            round_: of the sample, from 0.
        """
        return (arm, case, round_) in self._taken

    def add(self, sample: Sample) -> None:
        """Keep a sample; when this returns, it is on the disk.

        Raises:
            ResultsError: a metric is not a number, the round has been taken, or the disk is full.
        """
        if bad := [name for name, value in sample.metrics.items() if not math.isfinite(value)]:
            raise ResultsError(f"{sample.case}, round {sample.round + 1}: {', '.join(bad)} is not a number.",
                               "it was divided by nothing, or nothing was counted", "measure for longer.")
        if _key(sample) in self._taken:
            raise ResultsError(f"{sample.arm}, {sample.case}, round {sample.round + 1} is in the run already.",
                               "a round must not count twice")
        self._taken.add(_key(sample))
        self._keep(samples=(*self._run.samples, sample))

    def note(self, text: str) -> None:
        """Keep a sentence that a reader must know; the same one is kept once."""
        if text not in self._run.notes:
            self._keep(notes=(*self._run.notes, text))

    def describe(self, arm: str, facts: dict[str, Any]) -> None:
        """Keep what is known of an arm only when its turn comes, such as the version of its data plane.

        Args:
            arm: which.
            facts: as in provenance.

        Raises:
            ResultsError: the run has samples of this arm that were taken on something else.
        """
        facts = _as_written(facts)
        arms: dict[str, Any] = self._run.provenance.get("arms", {})
        old = arms.get(arm, {})
        other = sorted(name for name in facts if name in old and old[name] != facts[name])
        if other and any(s.arm == arm for s in self._run.samples):
            name = other[0]
            raise ResultsError(f"The rounds of {arm} that are in {self._path} were taken elsewhere.",
                               f"{name} was {old[name]}, and is {facts[name]} now", _ELSEWHERE)
        self._keep(provenance={**self._run.provenance, "arms": {**arms, arm: {**old, **facts}}})

    def finish(self) -> Run:
        """Say that nothing is missing. The run with all samples, those of earlier attempts too."""
        self._keep(finished=now())
        return self._run

    def _keep(self, **fields: Any) -> None:
        self._run = replace(self._run, **fields)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            try:
                self._run.save(self._path)
            except OSError as error:
                raise ResultsError(f"{self._path} cannot be written.", error.strerror or str(error),
                                   "give a path in a folder of yours with room.") from error


_ELSEWHERE = "give another path for this run, or delete that file."


def _as_written(facts: dict[str, Any]) -> dict[str, Any]:
    """As the document has it, where a tuple is a list: what is read again must be equal."""
    return json.loads(json.dumps(facts))  # type: ignore[no-any-return]


def _key(sample: Sample) -> tuple[str, str, int]:
    return sample.arm, sample.case, sample.round


def _found(path: Path) -> Run:
    try:
        return Run.load(path)
    except ResultsError as error:
        raise ResultsError(f"{path} is there, and is no run that one could go on with.", error.what,
                           _ELSEWHERE) from error


def _go_on(found: Run, wanted: Run, path: Path) -> Run:
    """The run to go on with: what was found, if it is an attempt at what is wanted."""
    if found.finished:
        raise ResultsError(f"{path} holds a finished run.", "it would be lost", _ELSEWHERE)
    if found.kind != wanted.kind:
        raise ResultsError(f"{path} holds a run of {found.kind}; this one is of {wanted.kind}.", "",
                           _ELSEWHERE)
    if found.provenance["labkit"] != __version__:
        raise ResultsError(f"Another version of labkit began the run in {path}.", f"{found.provenance['labkit']} there,"
                           f" {__version__} here: it may measure otherwise", _ELSEWHERE)
    if found.provenance.get("parameters") != wanted.provenance.get("parameters"):
        raise ResultsError(f"{path} holds an unfinished run with other parameters.",
                           f"there {found.provenance.get('parameters')}, "
                           f"here {wanted.provenance.get('parameters')}", _ELSEWHERE)
    theirs, ours = (run.provenance.get("arms", {}) for run in (found, wanted))
    if missing := sorted(set(theirs) ^ set(ours)):
        raise ResultsError(f"{path} holds an unfinished run of other arms.", f"not in both: {', '.join(missing)}",
                           _ELSEWHERE)
    for arm, facts in ours.items():
        for name, value in facts.items():
            if name in theirs[arm] and theirs[arm][name] != value:
                raise ResultsError(f"The unfinished run in {path} was taken elsewhere.",
                                   f"{arm}: {name} was {theirs[arm][name]}, and is {value} now", _ELSEWHERE)
    note = f"The run was interrupted and went on at {now()}."
    return replace(found, notes=(*found.notes, *(n for n in wanted.notes if n not in found.notes), note))
