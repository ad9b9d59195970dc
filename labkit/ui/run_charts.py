"""Charts and tables of benchmark runs: views, computed from the samples each time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from labkit.bench.results import Run
from labkit.charts import Chart, bars, label, lines
from labkit.markup import Fragment, table

__all__ = ["AXES", "axis", "chart", "comparison"]

#: metric -> axis title: the quantity, its unit, and its formula where it is computed.
AXES: Final[Mapping[str, str]] = {
    "gbit_per_s": "throughput at the receiver, Gbit/s",
    "p50_us": "time of connect() on a fresh connection, median, µs",
    "p99_us": "time of connect() on a fresh connection, slowest of a hundred, µs",
    "cores": "busy vCPU, all nodes",
    "cores_per_10_gbit": "vCPU for 10 Gbit/s = busy vCPU of both nodes × 10 ÷ Gbit/s",
    "node_percent_per_10_gbit": "% of a node for 10 Gbit/s = (client % + server %) × 10 ÷ Gbit/s",
}


def axis(metric: str) -> str:
    """Return how a metric is written on an axis."""
    if metric in AXES:
        return AXES[metric]
    words = metric.replace("_per_s", " per s")
    for suffix, unit in (
        ("_us", ", µs"),
        ("_ms", ", ms"),
        ("_ns", ", ns"),
        ("_seconds", ", s"),
        ("_s", ", s"),
    ):
        if words.endswith(suffix):
            return words.removesuffix(suffix).replace("_", " ") + unit
    return words.replace("_", " ")


def chart(
    run: Run, metric: str, *, published: Sequence[dict[str, Any]] = (), log_x: bool = False, log_y: bool = False
) -> Chart:
    """Draw one metric of a run.

    Lines where something was varied, such as the number of services; bars for cases otherwise.

    Args:
        run: the measurement.
        metric: which of its metrics.
        published: published curves to draw behind; for lines.
        log_x: whether the horizontal axis is logarithmic; for lines.
        log_y: whether the vertical axis is; for lines.
    """
    rows = run.summary(metric)
    note = " ".join([f"Medians of {_rounds(rows)} with 95 % intervals.", *run.notes])
    name = f"{run.kind}-{metric}"
    if rows and all(row.x is not None for row in rows):
        points = {
            arm: sorted((float(r.x or 0), r.median, r.low, r.high) for r in rows if r.arm == arm) for arm in run.arms
        }
        drawn = lines(
            name,
            run.title,
            "number of services",
            axis(metric),
            points,
            note=note,
            published=published,
            log_x=log_x,
            log_y=log_y,
        )
    else:
        series = {arm: {r.case: (r.median, r.low, r.high) for r in rows if r.arm == arm} for arm in run.arms}
        drawn = bars(name, run.title, axis(metric), series, note=note)
    return replace(drawn, result={"name": run.kind, "document": asdict(run), "csv": run.to_csv()})


def comparison(run: Run, metric: str) -> Fragment:
    """Return what differs, in words, case by case."""
    found = run.compare(metric)
    medians = {(row.arm, row.case): row.median for row in run.summary(metric)}
    rows = [
        [c.case, label(c.base), medians[c.base, c.case], label(c.other), medians[c.other, c.case], c.verdict]
        for c in found
    ]
    return table(["case", "base", "median", "compared", "median", "verdict"], rows, axis(metric))


def _rounds(rows: Sequence[Any]) -> str:
    counts = sorted({row.n for row in rows})
    return (
        f"{counts[0]} rounds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} rounds" if counts else "no rounds"
    )
