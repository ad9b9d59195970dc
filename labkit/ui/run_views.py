"""What a sceptic wants to see of a run: its claims with intervals, its noise, and what others found."""

from collections.abc import Iterator, Sequence
from typing import Final

from labkit.bench import stats
from labkit.bench.results import Comparison, Run, Sample
from labkit.charts import Chart, Finding, bars, beside, forest, label, lines, published_bars, published_curves, scatter
from labkit.charts.chart import Interval
from labkit.errors import MeasurementError
from labkit.markup import Fragment, escape, table
from labkit.reference import Reference, load
from labkit.ui.run_charts import axis, by_case, chart, said, with_document

__all__ = ["FIRST_PACKETS", "beside_published", "churn", "claims", "figures", "finding", "first_packet", "noise",
           "notes", "programs", "slopes"]

FIRST_PACKET: Final = "first packet"
#: study -> curves that stand beside a learner's own
FIRST_PACKETS: Final = {
    "tigera-2020-connect": ("kube_proxy_iptables", "ipvs", "ebpf"),
    "k8s-2025-first-packet": ("p50",),
}
_IDLE: Final = ("idle", "quiet")
_OF_CORE: Final = "_percent_of_core"


def beside_published(run: Run, metric: str, study: str, columns: Sequence[str]) -> Chart:
    """Draw a run's bars beside those of a published study of the same cases.

    Each has an axis of its own: how high bars stand depends on the machine, how they compare does not.

    Args:
        run: the measurement.
        metric: of the run, in the study's unit.
        study: published figures by name, such as ``article-cpu``.
        columns: which of its columns.
    """
    theirs = load(study)
    cases = [str(case) for case in theirs.column(theirs.columns[0])]
    rows = [row for row in run.summary(metric) if row.case in cases]
    ours = bars(f"{run.kind}-beside-{study}", run.title, axis(metric), by_case(run.arms, rows))
    note = f"Right: {theirs.citation}. {theirs.caveat}"
    both = beside(ours, published_bars(study, theirs, columns), ("measured here", theirs.short), note=note)
    return with_document(both, run)


def first_packet(run: Run, metric: str = "p50_us") -> Chart:
    """Draw the time of a fresh connection over the number of services, beside what others measured.

    Each has axes of its own: a network between machines adds the same to every connection, so compare how lines
    rise, not how high they stand.

    Args:
        run: of suite ``scale``.
        metric: which percentile.
    """
    ours = chart(run, metric, measure=FIRST_PACKET)
    theirs = published_curves("published", "First packets, published", "µs", FIRST_PACKETS, 1000)
    rows = [row for row in run.summary(metric) if row.case.startswith(FIRST_PACKET)]
    sources = " ".join(f"{figures.citation}. {figures.caveat}" for figures in map(load, FIRST_PACKETS))
    note = f"Left: {said(run, rows)} Right: {sources}"
    return beside(ours, theirs, ("measured here, µs", "published, µs"), note=note)


def figures(run: Run) -> Fragment:
    """Return what each figure of a run counts."""
    said = run.provenance["figures"]
    return table(["figure", "what it counts"], [[name, what] for name, what in said.items() if name in run.metrics])


def notes(run: Run) -> Fragment:
    """Return what a run says of itself: how long it was to take, and what a reader of it must know."""
    mtus = sorted({arm["mtu"] for arm in run.provenance["arms"].values()})
    said = [run.provenance["forecast"], *run.notes, f"MTU: {', '.join(map(str, mtus))}."]
    return Fragment("".join(f"<p>{escape(line)}</p>" for line in said), "\n".join(said))


def finding(run: Run, metric: str, case: str, *, base: str = "vanilla", other: str = "ebpf") -> Comparison:
    """Return how two data planes compare in one case.

    Args:
        run: the measurement.
        metric: what to compare.
        case: such as "pod to service, TCP".
        base: what is compared with.
        other: what is compared.

    Raises:
        MeasurementError: the run has not both of them, because it was stopped before.
    """
    for found in run.compare(metric, base=base) if base in run.arms else ():
        if found.case == case and found.other == other:
            return found
    raise MeasurementError(
        f"The run has no samples of {case!r} for both {label(base)} and {label(other)}.",
        "it was stopped before all data planes had their turn",
        "run the cell that measures again, and let it finish one round at least.",
    )


def slopes(run: Run, metric: str = "p50_us") -> dict[str, tuple[float, float]]:
    """Return what one more service costs each data plane: the slope of the line through its medians, and its R².

    A data plane that was measured at one number of services only, because the run was stopped, has none.

    Args:
        run: of suite ``scale``.
        metric: which percentile.
    """
    found = {}
    for arm in run.arms:
        points = [(row.x, row.median) for row in run.summary(metric) if row.arm == arm and row.x is not None]
        if len(points) > 1:
            found[arm] = stats.slope([x for x, _ in points], [y for _, y in points])
    return found


def claims(run: Run, metric: str, *, of: str = "ebpf", measure: str = "", studies: Sequence[str] = ()) -> Chart:
    """Draw every claim that a run supports as a ratio with its interval, and what studies say of the same cases.

    Args:
        run: the measurement.
        metric: what to compare.
        of: the arm that is compared with each other one; without it all are compared with the first.
        measure: with which word the cases begin that are drawn; all by default.
        studies: published figures by name, such as ``article-cpu``: drawn as ticks, because they have no interval.
    """
    bases = [arm for arm in run.arms if arm != of] if of in run.arms else run.arms[:1]
    found = [c for base in bases for c in run.compare(metric, base=base)
             if c.case.startswith(measure) and (of not in run.arms or c.other == of)]  # fmt: skip
    findings = []
    for case in dict.fromkeys(c.case for c in found):
        findings += [
            Finding(case, c.other, f"{label(c.other)} ÷ {label(c.base)}", c.ratio, c.low, c.high, c.verdict,
                    c.detectable)
            for c in found if c.case == case
        ]  # fmt: skip
        findings += [f for study in studies if (f := _published(load(study), case)) is not None]
    note = ("Points: ratio of medians, with its 95 % bootstrap interval. Hollow: no claim, because the interval "
            "holds 1 or there are too few rounds.")  # fmt: skip
    if studies:
        note += " Vertical ticks: published, without interval."
    return forest(f"{run.kind}-claims-{metric}", "What the rounds can claim", f"ratio of: {axis(metric)}", findings,
                  note=note)  # fmt: skip


def noise(run: Run, metric: str) -> Chart:
    """Draw how far samples lie from the median of their kind, round by round, and what else the machine did.

    Samples that lie far out are ringed. They count all the same.

    Args:
        run: the measurement.
        metric: what to look at.
    """
    off: dict[str, list[tuple[float | str, float]]] = {}
    far: list[tuple[float, float, str]] = []
    aside = {arm: 0.16 * (index - (len(run.arms) - 1) / 2) for index, arm in enumerate(run.arms)}
    for arm, case, samples in _kinds(run, metric):
        values = [sample.metrics[metric] for sample in samples]
        middle = stats.median(values)
        away = [100 * (value / middle - 1) if middle else 0.0 for value in values]
        off.setdefault(arm, []).extend((s.round + 1 + aside[arm], y) for s, y in zip(samples, away, strict=True))
        far += [(samples[i].round + 1 + aside[arm], away[i], f"{label(arm)}, {case}, round {samples[i].round + 1}")
                for i in stats.outliers(values)]  # fmt: skip
    formula = "left, % = (sample ÷ median of its data plane and case − 1) × 100; right, % of a node, % of the time"
    left = scatter(f"{run.kind}-noise-{metric}", "Noise of this run", formula, off)
    left.layout["yaxis"] |= {"rangemode": "normal", "ticksuffix": " %"}
    left.layout["xaxis"] |= {"title": {"text": "round", "font": {"size": 12}}, "dtick": 1}
    if far:
        left.data.append({
            "type": "scatter", "mode": "markers", "name": "far from the others",
            "x": [x for x, _, _ in far], "y": [y for _, y, _ in far], "hovertext": [what for _, _, what in far],
            "marker": {"symbol": "circle-open", "size": 18, "color": "#D55E00", "line": {"width": 2.5}},
        })  # fmt: skip
    right = lines("background", "Background", "round", "", _background(run))
    right.layout["yaxis"] |= {"ticksuffix": " %"}
    right.layout["xaxis"] |= {"dtick": 1}
    note = _said(run, metric, far)
    heads = ("each sample: distance from the median", "while idle: busy, and stolen")
    return beside(left, right, heads, note=note)


def churn(run: Run) -> Chart:
    """Draw CPU over time while one service changes and while none does, as the article's second chart does.

    All rounds of a data plane stand one after the other; the time between two phases is left out.

    Args:
        run: of suite ``scale``, with its churn.
    """
    most = max((s.x or 0 for s in run.samples if _series(s)), default=0)
    phases = [s for s in run.samples if _series(s) and s.x == most]
    points: dict[str, list[tuple[float, ...]]] = {arm: [] for arm in run.arms}
    bands: list[tuple[float, float, str]] = []
    clock = 0.0
    for number in sorted({s.round for s in phases}):
        for kind in ("quiet", "churn"):
            here = [s for s in phases if s.round == number and s.case.startswith(kind)]
            for sample in here:
                points[sample.arm].extend((clock + t, y) for t, y in _series(sample))
            took = max((t for sample in here for t, _ in _series(sample)), default=0.0)
            if kind == "churn" and took:
                bands.append((clock, clock + took, "one service changes"))
            clock += took
    note = f"With {most:,.0f} services. Shaded: one more comes and goes. CPU of the client's node, in half seconds. " \
           + " ".join(run.notes)
    title = "CPU over time while a service changes"
    return lines(f"{run.kind}-churn", title, "seconds of measuring", axis("node_percent"), points, note=note,
                 bands=bands, dots=False)  # fmt: skip


def programs(run: Run) -> Chart:
    """Draw whose CPU it was while one service changed and while none did: that of the programs that handle services.

    Args:
        run: of suite ``scale``, with its churn.
    """
    metrics = [name for name in run.metrics if name.endswith(_OF_CORE)]
    rows = [row for metric in metrics for row in run.summary(metric)]
    most = max((row.x or 0 for row in rows), default=0)
    rows = [row for row in rows if row.x == most]
    drawn: dict[str, dict[str, Interval]] = {arm: {} for arm in run.arms}
    for row in rows:
        place = f"{row.metric.removesuffix(_OF_CORE)}, {row.case.partition(',')[0]}"
        drawn[row.arm][place] = (row.median, row.low, row.high)
    title = "CPU by program while a service changes, and while none does"
    note = f"With {most:,.0f} services. {said(run, rows)}"
    return bars(f"{run.kind}-programs", title, "CPU of the program's processes on the client's node, % of one core",
                drawn, note=note)  # fmt: skip


def _series(sample: Sample) -> list[tuple[float, float]]:
    series = sample.detail.get("series") or {}
    return list(zip(series.get("seconds", ()), series.get("node_percent", ()), strict=True))


def _published(figures: Reference, case: str) -> Finding | None:
    """What a study says of a case: its second column is what eBPF is compared with."""
    row = next((row for row in figures.rows if row[0] == case), None)
    if row is None:
        return None
    base = figures.columns[1]
    before, after = row[1], row[figures.columns.index("calico_ebpf")]
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return None
    ratio = after / before
    word = "less" if ratio < 1 else "more"
    return Finding(case, "calico_ebpf", f"{figures.short}", ratio, None, None,
                   f"{abs(1 - ratio) * 100:.0f} % {word} than {label(base)} (published)", False)  # fmt: skip


def _kinds(run: Run, metric: str) -> Iterator[tuple[str, str, list[Sample]]]:
    """Samples that ought to be equal: of one arm and one case, idling left out."""
    for case in run.cases:
        if case.startswith(_IDLE):
            continue
        for arm in run.arms:
            samples = [s for s in run.samples if s.arm == arm and s.case == case and metric in s.metrics]
            if samples:
                yield arm, case, samples


def _background(run: Run) -> dict[str, list[tuple[float, ...]]]:
    """The most idle CPU of each arm in a round, and the most that was stolen in one."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for arm in run.arms:
        idle = [s for s in run.samples if s.arm == arm and s.case.startswith(_IDLE) and "node_percent" in s.metrics]
        if idle:
            busiest: dict[int, float] = {}
            for sample in sorted(idle, key=lambda s: s.round):
                busiest[sample.round] = max(busiest.get(sample.round, 0.0), sample.metrics["node_percent"])
            found[arm] = [(number + 1, busy) for number, busy in busiest.items()]
    stolen: dict[int, float] = {}
    for sample in run.samples:
        if "steal_percent" in sample.metrics:
            stolen[sample.round] = max(stolen.get(sample.round, 0.0), sample.metrics["steal_percent"])
    if stolen:
        found["stolen by the hypervisor, most of each round"] = [(n + 1, stolen[n]) for n in sorted(stolen)]
    return found


def _said(run: Run, metric: str, far: list[tuple[float, float, str]]) -> str:
    spreads = [stats.spread(values) for arm, case, samples in _kinds(run, metric)
               if len(values := [s.metrics[metric] for s in samples]) >= 2]  # fmt: skip
    said = []
    if spreads:
        said.append(f"Between rounds the same measurement scatters by {100 * stats.median(spreads):.1f} % in the "
                    f"middle and {100 * max(spreads):.1f} % at most (standard deviation ÷ mean).")  # fmt: skip
    else:
        said.append("One round only: nothing is known of its noise.")
    if far:
        said.append(f"Far from the others, and counted all the same: {'; '.join(what for _, _, what in far)}.")
    elif spreads:
        said.append("No sample lies far from the others of its kind.")
    return " ".join(said)
