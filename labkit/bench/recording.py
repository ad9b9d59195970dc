"""A run that is written as it comes, so that what was measured outlives whatever ends the measuring."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from labkit.bench.results import Run, Sample, now
from labkit.errors import ResultsError
from labkit.version import __version__


class Recording:
    """A run under way. The document on disk is whole at every moment, and nobody else writes it until `close`.

    Args:
        run: what is measured: kind, title, provenance. Its "parameters" are all that decide what is measured;
            its "arms" name every arm, with {} for one of which nothing is known yet (see `describe`).
        path: where the document goes. If an unfinished run of the same kind, parameters and arms is there,
            this goes on with it. None: nothing is written.

    Raises:
        ResultsError: something else is at the path, somebody writes it now, or it cannot be written.
    """

    def __init__(self, run: Run, path: str | Path | None) -> None:
        self._path = Path(path) if path is not None else None
        provenance = _as_written({"labkit": __version__, **run.provenance})
        self._run = replace(run, started=run.started or now(), finished="", provenance=provenance)
        self._lock = _lock(self._path) if self._path is not None else None
        try:
            if self._path is not None and self._path.exists():
                self._run = _go_on(_found(self._path), self._run, self._path)
            self._taken = {_key(s) for s in self._run.samples}
            self._write()
        except ResultsError:
            self.close()
            raise

    def __enter__(self) -> Recording:
        """Close it in the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let somebody else go on with the document."""
        if self._lock is not None and not self._lock.closed:
            Path(self._lock.name).unlink(missing_ok=True)  # before it is unlocked: then whoever waits makes a new one
            self._lock.close()

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
        """Say that nothing is missing, and close. The run with all samples, those of earlier attempts too."""
        self._keep(finished=now())
        self.close()
        return self._run

    def _keep(self, **fields: Any) -> None:
        self._run = replace(self._run, **fields)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            try:
                self._run.save(self._path)
            except OSError as error:
                raise _not_written(self._path, error) from error


_ELSEWHERE = "give another path for this run, or delete that file."


def _not_written(path: Path, error: OSError) -> ResultsError:
    return ResultsError(f"{path} cannot be written.", error.strerror or str(error),
                        "give a path in a folder of yours with room.")


def _lock(path: Path) -> TextIO:
    """The file beside a document that says who writes it. The kernel unlocks it when they end, however they do.

    Raises:
        ResultsError: somebody does, or there cannot be such a file.
    """
    place = path.with_name(f".{path.name}.lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = place.open("a+", encoding="utf-8")
        except OSError as error:
            raise _not_written(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            file.close()
            raise ResultsError(f"Another run is being written to {path}.", f"process {who} does, and two would mix",
                               "wait until it ends, stop it, or give another path.") from None
        except OSError:
            return file  # some network disks know no locks: better to measure than not
        with contextlib.suppress(FileNotFoundError):  # whoever had it has taken it away meanwhile
            if os.path.samestat(os.fstat(file.fileno()), place.stat()):
                break
        file.close()
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


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
