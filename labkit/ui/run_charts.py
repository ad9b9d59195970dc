"""Charts and tables of benchmark runs: views, computed from the samples each time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

from labkit.bench.results import Run, Summary
from labkit.charts import Chart, bars, label, lines
from labkit.markup import Fragment, table

__all__ = ["AXES", "axis", "by_case", "chart", "comparison", "said", "with_document"]

_EACH_NODE: Final = "(client % + server %) × 10 ÷ Gbit/s; nodes that are one machine count once"
#: metric -> axis title: the quantity, its unit, and its formula where it is computed.
AXES: Final[Mapping[str, str]] = {
    "gbit_per_s": "throughput at the receiver, Gbit/s",
    "p50_us": "time of connect() on a fresh connection, median, µs",
    "p90_us": "time of connect() on a fresh connection, nine of ten are faster, µs",
    "p99_us": "time of connect() on a fresh connection, slowest of a hundred, µs",
    "cores": "busy vCPU, all nodes",
    "cores_per_10_gbit": "vCPU for 10 Gbit/s = busy vCPU of both nodes × 10 ÷ Gbit/s",
    "cores_per_10_gbit_above_idle": "vCPU for 10 Gbit/s = (busy − idle vCPU of both nodes) × 10 ÷ Gbit/s",
    "node_percent": "busy, % of a node",
    "node_percent_per_10_gbit": f"% of a node for 10 Gbit/s = {_EACH_NODE}",
    "seconds_to_answer": "from creating a service until it answers, s",
}
_UNITS: Final = (("_us", ", µs"), ("_ms", ", ms"), ("_ns", ", ns"), ("_seconds", ", s"), ("_s", ", s"), ("_mb", ", MB"))


def axis(metric: str) -> str:
    """Return how a metric is written on an axis."""
    if metric in AXES:
        return AXES[metric]
    name = metric.removeprefix("node_")
    if name.endswith("_percent_of_core"):
        return f"CPU of {name.removesuffix('_percent_of_core')}, % of one core"
    if "_ms_per_" in name or "_us_per_" in name:
        unit = "ms" if "_ms_per_" in name else "µs"
        what, _, each = name.partition(f"_{'ms' if unit == 'ms' else 'us'}_per_")
        return f"{what.replace('_', ' ').replace('cpu', 'CPU')} for each {each.replace('_', ' ')}, {unit}"
    words = metric.replace("_per_s", " per s")
    for suffix, unit in _UNITS:
        if words.endswith(suffix):
            return words.removesuffix(suffix).replace("_", " ") + unit
    return words.replace("_", " ")


def chart(
    run: Run, metric: str, *, measure: str = "", log_x: bool = False,
    log_y: bool = False,
) -> Chart:  # fmt: skip
    """Draw one metric of a run.

    Lines where something was varied, such as the number of services; bars for cases where there is one number or none.

    Args:
        run: the measurement.
        metric: which of its metrics.
        measure: with which word the cases begin that are drawn, such as "churn"; all by default.
        log_x: whether the horizontal axis is logarithmic; for lines.
        log_y: whether the vertical axis is; for lines.
    """
    rows = [row for row in run.summary(metric) if row.case.startswith(measure)]
    note = said(run, rows)
    name = "-".join(filter(None, (run.kind, measure.replace(" ", "-"), metric)))
    if len({row.x for row in rows} - {None}) > 1:
        points = {
            arm: sorted((float(r.x or 0), r.median, r.low, r.high) for r in rows if r.arm == arm) for arm in run.arms
        }
        drawn = lines(name, run.title, "number of services", axis(metric), points, note=note,
                      log_x=log_x, log_y=log_y)  # fmt: skip
    else:
        drawn = bars(name, run.title, axis(metric), by_case(run.arms, rows), note=note)
    return with_document(drawn, run)


def by_case(arms: Sequence[str], rows: Sequence[Summary]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return medians with their intervals as bars want them: arm -> case -> (median, low, high)."""
    return {arm: {r.case: (r.median, r.low, r.high) for r in rows if r.arm == arm} for arm in arms}


def with_document(drawn: Chart, run: Run) -> Chart:
    """Return the chart with the whole run beside the picture, as an executed notebook keeps it."""
    return replace(drawn, result={"name": run.kind, "document": asdict(run), "csv": run.to_csv()})


def comparison(run: Run, metric: str, measure: str = "") -> Fragment:
    """Return what differs, in words, case by case."""
    found = [c for c in run.compare(metric) if c.case.startswith(measure)]
    medians = {(row.arm, row.case): row.median for row in run.summary(metric)}
    rows = [
        [c.case, label(c.base), medians[c.base, c.case], label(c.other), medians[c.other, c.case], c.verdict]
        for c in found
    ]
    return table(["case", "base", "median", "compared", "median", "verdict"], rows, axis(metric))


def said(run: Run, rows: Sequence[Summary]) -> str:
    """Return what stands under a chart of a run: what is drawn, and what a reader must know."""
    counts = sorted({row.n for row in rows})
    if counts == [1]:
        return " ".join(["One round, so no intervals.", *run.notes])
    rounds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "no"
    return " ".join([f"Medians of {rounds} rounds with 95 % intervals.", *run.notes])
