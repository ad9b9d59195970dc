"""Several runs: merged into one where they can be, compared with what differs between them where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from labkit.bench.knb import test_of
from labkit.bench.results import Comparison, Run, Sample
from labkit.errors import ResultsError
from labkit.version import __version__

MACHINE = ("target", "cpu", "kernel", "node_vm_size", "one_machine", "mtu")
"""What must be alike where figures of several runs stand side by side as one measurement."""
_STATE = ("kubernetes", "calico", "operator", "dataplane", "node_count")
_HOW_LONG = ("rounds", "budget")  # parameters that say how often, not what


@dataclass(frozen=True)
class Across:
    """Two runs compared.

    Args:
        comparisons: the second run against the first, case by case.
        differences: what else differs between the two, in words: reasons that are not the data plane's.
    """

    comparisons: tuple[Comparison, ...]
    differences: tuple[str, ...]


def merge(runs: Sequence[Run]) -> Run:
    """Runs of one kind as one: more rounds of an arm that several have, more arms otherwise.

    Rounds are numbered on; a sample that is in several runs, as in two copies of a file, counts once.

    Args:
        runs: at least one.

    Raises:
        ResultsError: they are not one measurement: other kinds, parameters, machines or versions.
    """
    if not runs:
        raise ResultsError("There is nothing to merge.", "", "give two runs or more.")
    for other in runs[1:]:
        if reason := _not_one(runs[0], other):
            raise ResultsError("These runs cannot be merged.", reason, "`labkit bench compare` sets them side by side.")
    samples: list[Sample] = []
    for run in sorted(runs, key=lambda r: r.started):
        samples += _renumbered(run, samples)
    notes = [note for run in runs for note in run.notes]
    if len(runs) > 1:
        notes.append(f"Merged from {len(runs)} runs: the rounds of one are not interleaved with those of another, so "
                     "what drifted between them is in the differences.")
    notes += [f"The run of {run.started or 'unknown time'} was not finished." for run in runs if not run.finished]
    rounds = max((s.round for s in samples), default=-1) + 1
    arms: dict[str, Any] = {}
    for run in runs:
        for arm, facts in run.provenance.get("arms", {}).items():
            arms[arm] = {**arms.get(arm, {}), **facts}
    parameters: dict[str, Any] = {}
    for run in runs:
        for name, value in run.provenance.get("parameters", {}).items():
            more = isinstance(value, list)
            parameters[name] = list(dict.fromkeys([*parameters.get(name, []), *value])) if more else value
    parameters = {name: value for name, value in parameters.items() if name not in _HOW_LONG} | {"rounds": rounds}
    provenance = {
        **runs[0].provenance, "labkit": __version__, "arms": arms, "parameters": parameters,
        "merged": [{"title": run.title, "started": run.started, "finished": run.finished, "samples": len(run.samples),
                    "labkit": run.provenance.get("labkit", "")} for run in runs],
    }
    return replace(runs[0], samples=tuple(samples), provenance=provenance, notes=tuple(dict.fromkeys(notes)),
                   started=min(run.started for run in runs),
                   finished=max(run.finished or run.started for run in runs))


def compare(first: Run, second: Run, metric: str, *, names: tuple[str, str] = ("first", "second"),
            arms: tuple[str, str] | None = None) -> Across:
    """Two runs, also of different machines, days or tools: the second against the first.

    Args:
        first: what is compared with.
        second: what is compared.
        metric: in which.
        names: of the two, for arms that have the same name.
        arms: one of each run; None means every arm that both have, or the only one of each.

    Raises:
        ResultsError: they have no arm, case or metric in common.
    """
    pairs = [arms] if arms else [(arm, arm) for arm in first.arms if arm in second.arms]
    if not pairs and len(first.arms) == len(second.arms) == 1:
        pairs = [(first.arms[0], second.arms[0])]
    if not pairs:
        raise ResultsError("The two runs have no arm in common.",
                           f"{', '.join(first.arms) or 'none'} there, {', '.join(second.arms) or 'none'} here",
                           "name one of each: `labkit bench compare A B --arms vanilla,ebpf`.")
    found: list[Comparison] = []
    differences: list[str] = []
    alike = bool(set(first.cases) & set(second.cases) - {"idle"})  # else a flow may have knb's name in one
    for ours, theirs in pairs:
        for arm, run in ((ours, first), (theirs, second)):
            if arm not in run.arms:
                raise ResultsError(f"There is no arm {arm} in the run.", "", f"it has: {', '.join(run.arms)}.")
        labels = (f"{ours} ({names[0]})", f"{theirs} ({names[1]})") if ours == theirs else (ours, theirs)
        both = Run(first.kind, first.title, tuple(
            replace(s, arm=label, case=s.case if alike else test_of(s.case) or s.case) for arm, run, label in
            ((ours, first, labels[0]), (theirs, second, labels[1])) for s in run.samples if s.arm == arm))
        found += both.compare(metric, labels[0])
        differences += _differences(first, ours, second, theirs)
    if not found:
        raise ResultsError(f"The two runs have no case with {metric} in common.",
                           f"{_offer(first, metric)} there; {_offer(second, metric)} here")
    differences += _between(first, second)
    return Across(tuple(found), tuple(dict.fromkeys(differences)))


def _offer(run: Run, metric: str) -> str:
    return "; ".join(dict.fromkeys(s.case for s in run.samples if metric in s.metrics)) or "none"


def _renumbered(run: Run, taken: Sequence[Sample]) -> list[Sample]:
    """The samples of a run that are not there yet, their rounds numbered on from those that are."""
    same = {(s.arm, s.case, s.at, tuple(s.metrics.items())): s.round for s in taken if s.at}
    free = {arm: max((s.round for s in taken if s.arm == arm), default=-1) + 1 for arm in run.arms}
    numbers = {(s.arm, s.round): same[key] for s in run.samples
               if (key := (s.arm, s.case, s.at, tuple(s.metrics.items()))) in same}
    keys = {(s.arm, s.case, s.round) for s in taken}
    added = []
    for sample in run.samples:
        if (sample.arm, sample.case, sample.at, tuple(sample.metrics.items())) in same:
            continue
        place = (sample.arm, sample.round)
        if place not in numbers or (sample.arm, sample.case, numbers[place]) in keys:
            numbers[place], free[sample.arm] = free[sample.arm], free[sample.arm] + 1
        added.append(replace(sample, round=numbers[place]))
    return added


def _not_one(first: Run, second: Run) -> str:
    """Why two runs are not one measurement; "" if they are."""
    if first.kind != second.kind:
        return f"one is of {first.kind}, the other of {second.kind}"
    there, here = (run.provenance.get("parameters", {}) for run in (first, second))
    for name in sorted({*there, *here} - set(_HOW_LONG)):
        which = isinstance(there.get(name), list) and isinstance(here.get(name), list)  # of cases, of services
        if there.get(name) != here.get(name) and not which:
            return f"the parameter {name} is {there.get(name)} in one, and {here.get(name)} in the other"
    theirs, ours = (run.provenance.get("arms", {}) for run in (first, second))
    for arm in theirs.keys() & ours.keys():
        for name in (*MACHINE, *_STATE):
            if theirs[arm].get(name) != ours[arm].get(name):
                return f"{arm}: {name} is {theirs[arm].get(name)} in one, and {ours[arm].get(name)} in the other"
    for name in MACHINE:
        values = [{facts.get(name) for facts in arms.values()} for arms in (theirs, ours)]
        if all(values) and not values[0] & values[1]:
            return f"{name} is {_said(values[0])} in one, and {_said(values[1])} in the other"
    return ""


def _said(values: set[Any]) -> str:
    return ", ".join(sorted(str(value) for value in values))


def _differences(first: Run, ours: str, second: Run, theirs: str) -> list[str]:
    there, here = (run.provenance.get("arms", {}).get(arm, {}) for run, arm in ((first, ours), (second, theirs)))
    return [f"{name}: {there.get(name, 'unknown')}, {here.get(name, 'unknown')}" for name in (*MACHINE, *_STATE)
            if there.get(name) != here.get(name)]


def _between(first: Run, second: Run) -> list[str]:
    """What differs between two runs as wholes."""
    said = [f"kind: {first.kind}, {second.kind}"] if first.kind != second.kind else []
    there, here = (run.provenance.get("parameters", {}) for run in (first, second))
    said += [f"{name}: {there.get(name, 'unknown')}, {here.get(name, 'unknown')}" for name in sorted({*there, *here})
             if there.get(name) != here.get(name)]
    if first.started[:10] != second.started[:10]:
        said.append(f"day: {first.started[:10] or 'unknown'}, {second.started[:10] or 'unknown'}")
    tools = [run.provenance.get("generator") or f"labkit {run.provenance.get('labkit', '')}".strip()
             for run in (first, second)]
    if tools[0] != tools[1]:
        said.append(f"measured by: {tools[0]}, {tools[1]}")
        said += [note for run in (first, second) if "generator" in run.provenance for note in run.notes]
    return said
