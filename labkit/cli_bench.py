"""`labkit bench`: measure without notebooks, and read, compare, merge and export what was measured."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from labkit.bench import Bench, Comparison, Progress, Run, Sample

__all__ = ["bench"]

_SUITES = ("article", "scale", "latency", "knb")
_HEADLINES = ("gbit_per_s", "node_percent_per_10_gbit", "requests_per_s", "connections_per_s", "cpu_us_per_request",
              "cpu_us_per_connection", "p50_us", "p90_us", "p99_us", "seconds_to_answer", "node_percent")
_SHOWN = 3
_FILE = click.Path(path_type=Path)


@click.group()
def bench() -> None:
    """Measure a cluster; show, compare, merge and export results.

    A FILE is a results document, or a .knbdata or JSON file of k8s-bench-suite's knb.
    """


@bench.command()
@click.argument("file", type=_FILE)
@click.option("-m", "--metric", "metrics", multiple=True, help="Instead of the most telling ones; may be repeated.")
def show(file: Path, metrics: tuple[str, ...]) -> None:
    """Print what FILE holds.

    Where it was measured, medians, differences, notes.
    """
    from labkit.bench.budget import outliers
    from labkit.bench.files import load

    run = load(file)
    picked = _metrics(run, metrics)
    click.echo(f"{run.title} ({run.kind}), {run.started or 'at an unknown time'}"
               + ("" if run.finished else ": NOT FINISHED, `labkit bench run` with the same --out goes on"))
    for arm, facts in run.provenance.get("arms", {}).items():
        known = ", ".join(f"{name} {value}" for name, value in facts.items() if value not in (None, "")
                          and not isinstance(value, dict | list))
        click.echo(f"  {arm}: {known}")
    click.echo("")
    rows = [[s.case, s.arm, s.metric, _figure(s.median), f"{_figure(s.low)} to {_figure(s.high)}", str(s.n)]
            for metric in picked for s in run.summary(metric)]
    _table(["case", "arm", "metric", "median", "95 % interval", "rounds"], rows)
    for metric in picked:
        _say(run.compare(metric))
    if forecast := run.provenance.get("forecast"):
        click.echo(f"before it began: {forecast}")
    for note in run.notes:
        click.echo(f"note: {note}")
    for far in outliers(run, picked):
        click.echo(f"far from the others, and counted all the same: {far}")


@bench.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@click.option("-m", "--metric", "metrics", multiple=True, help="Instead of the most telling ones; may be repeated.")
@click.option("--arms", metavar="A,B", help="One arm of each file; without it, all that both have.")
def compare(first: Path, second: Path, metrics: tuple[str, ...], arms: str | None) -> None:
    """Compare SECOND with FIRST, and list what else differs.

    They may be of other machines, days or tools.
    """
    from labkit.bench import together
    from labkit.bench.files import load

    runs = load(first), load(second)
    pair = tuple(arms.split(",")) if arms else None
    if pair is not None and len(pair) != 2:
        raise click.BadParameter("it is two names, such as vanilla,ebpf", param_hint="--arms")
    shared = [name for name in runs[0].metrics if name in runs[1].metrics]
    names = (str(first), str(second)) if first.stem == second.stem else (first.stem, second.stem)
    differences: Sequence[str] = ()
    for metric in metrics or [m for m in _HEADLINES if m in shared][:_SHOWN] or shared[:_SHOWN] or ["gbit_per_s"]:
        found = together.compare(runs[0], runs[1], metric, names=names, arms=pair)
        _say(found.comparisons)
        differences = found.differences
    for difference in differences:
        click.echo(f"differs beside: {difference}")


@bench.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("-o", "--out", required=True, type=_FILE, help="Where the merged document goes.")
def merge(files: tuple[Path, ...], out: Path) -> None:
    """Merge FILES into one document.

    Rounds are numbered on, and a sample that is in two of them counts once.
    """
    from labkit.bench.files import load
    from labkit.bench.together import merge as merged

    run = merged([load(file) for file in files])
    _new(out)
    run.save(out)
    click.echo(f"{out}: {len(run.samples)} samples of {', '.join(run.arms)}")


@bench.command()
@click.argument("file", type=_FILE)
@click.option("--csv", "form", flag_value="csv", help="A line for each sample and metric.")
@click.option("--json", "form", flag_value="json", help="A results document, such as of a file of knb's.")
@click.option("--knb", "form", flag_value="knb", help="A .knbdata, for `knb -fd`; with -o NAME.json, the JSON of knb.")
@click.option("-o", "--out", type=_FILE, help="Where to; --csv and --json print without it.")
@click.option("--arm", help="For --knb, which holds one arm.")
def export(file: Path, form: str | None, out: Path | None, arm: str | None) -> None:
    """Write FILE in another form."""
    from labkit.bench import knb_files
    from labkit.bench.files import load

    if form is None:
        raise click.UsageError("Say which form: --csv, --json or --knb.")
    run = load(file)
    if form == "knb":
        if out is None:
            raise click.UsageError("knb's files are not for a terminal: say where to, with -o FILE.knbdata.")
        _new(out)
        click.echo(knb_files.write(run, out, arm))
        return
    text = run.to_csv() if form == "csv" else run.to_json() + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        _new(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
        click.echo(out)


@bench.command()
@click.argument("suite", type=click.Choice(_SUITES))
@click.option("--rounds", type=int, help="At least five for a claim.")
@click.option("--seconds", type=int, help="Of each measurement.")
@click.option("--budget", type=float, metavar="SECONDS", help="As many rounds as fit, instead of --rounds.")
@click.option("--rate", help="article: a fixed rate such as 500M, to compare CPU at equal work.")
@click.option("--services", help="scale: how many, such as 10,1000,10000.")
@click.option("--planes", help="Of vanilla, iptables, ebpf; the cluster is switched, and vanilla's is made if missing.")
@click.option("--accept-noise", is_flag=True, help="Go on where the machine does not come to rest, and say so.")
@click.option("--out", type=_FILE, help="The document; an unfinished one goes on.  [default: results/SUITE-TIME.json]")
@click.option("--target", type=click.Choice(["local", "aks", "kind"]), help="[default: LABKIT_TARGET, else local]")
@click.option("--kubeconfig", type=_FILE, help="A cluster that labkit did not make, measured as it is.")
@click.option("--context", help="With --kubeconfig: a context of it.")
@click.option("--client-node", help="With --kubeconfig: where the client runs.")
@click.option("--server-node", help="With --kubeconfig: where the server runs.")
@click.option("--arm", default="cluster", show_default=True, help="With --kubeconfig: its name in results.")
def run(suite: str, out: Path | None, target: str | None, kubeconfig: Path | None, context: str | None,
        client_node: str | None, server_node: str | None, arm: str, **asked: Any) -> None:
    """Run SUITE: article, scale, latency or knb. Ctrl-C ends it after the measurement under way.

    What is finished is kept, and the same command with the same --out measures the rest.
    """
    if kubeconfig is None and (context or client_node or server_node):
        raise click.UsageError("--context, --client-node and --server-node go with --kubeconfig.")
    # also a zero that was asked for: the suite says what is wrong with it
    options = {name: value for name, value in asked.items() if value is not None and value is not False}
    for name, of in (("rate", "article"), ("services", "scale")):
        if name in options and suite != of:
            raise click.UsageError(f"--{name} is an option of {of}.")
    if "services" in options:
        options["services"] = _counts(options["services"])
    if "planes" in options:
        if kubeconfig is not None:
            raise click.UsageError("--planes switches clusters of labkit's; with --kubeconfig there is one, as it is.")
        options["planes"] = options["planes"].split(",")
    elif kubeconfig is not None:
        options["planes"] = ()
    document = out or Path("results") / f"{suite}-{datetime.now():%Y%m%d-%H%M%S}.json"
    _measure(_bench(target, kubeconfig, context, client_node, server_node, arm), suite, document, options)


def _measure(measuring: Bench, suite: str, document: Path, options: dict[str, Any]) -> None:
    from labkit.bench.watch import Watch

    class Printer(Watch):
        """Says on standard error what is done, one line for each sample."""

        def sample(self, sample: Sample) -> None:
            figures = ", ".join(f"{name} {_figure(sample.metrics[name])}" for name in _HEADLINES
                                if name in sample.metrics)
            click.echo(f"    {figures or 'done'}", err=True)

        def progress(self, progress: Progress) -> None:
            left = f", {progress.seconds_left:.0f} s left" if progress.seconds_left >= 1 else ""
            click.echo(f"{progress.done}/{progress.total}{left}: {progress.doing}", err=True)

    watch = Printer()

    def stop(*_: object) -> None:
        watch.stopped = True
        signal.signal(signal.SIGINT, before)  # a second time ends it at once
        click.echo("Stopping after the measurement under way.", err=True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        result = getattr(measuring, suite)(path=document, watch=watch, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    if not result.finished:
        click.echo(f"Not finished; the same command with --out {document} goes on.", err=True)
        sys.exit(130)
    click.echo(f"{document}\nNext: `labkit bench show {document}`", err=True)


def _bench(target: str | None, kubeconfig: Path | None, context: str | None, client_node: str | None,
           server_node: str | None, arm: str) -> Bench:
    from labkit.bench import Bench
    from labkit.errors import KubeconfigError, MeasurementError

    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise KubeconfigError(f"{kubeconfig} cannot be read.", "there is no such file",
                                  "give the cluster's kubeconfig, such as ~/.kube/config.")
        return Bench.for_cluster(kubeconfig, context, client_node=client_node, server_node=server_node, name=arm)
    from labkit.lab import Lab

    lab = Lab.open(target)
    if not lab.exists():
        raise MeasurementError("There is no cluster to measure.", "", "create it: `labkit run 01`.")
    return lab.bench


def _metrics(run: Run, asked: Sequence[str]) -> list[str]:
    from labkit.errors import ResultsError

    if unknown := [name for name in asked if name not in run.metrics]:
        raise ResultsError(f"There is no metric {unknown[0]} in this run.", "", f"there are: {', '.join(run.metrics)}.")
    return list(asked) or [m for m in _HEADLINES if m in run.metrics][:_SHOWN] or list(run.metrics[:_SHOWN])


def _counts(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise click.BadParameter("it is numbers, such as 10,1000,10000", param_hint="--services") from error


def _new(path: Path) -> None:
    """Results are never overwritten."""
    from labkit.errors import ResultsError

    if path.exists():
        raise ResultsError(f"{path} is there already.", "results are not overwritten", "give another name with -o.")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _say(comparisons: Sequence[Comparison]) -> None:
    for found in comparisons:
        click.echo(f"{found.case}, {found.metric}: {found.other} against {found.base}: {found.verdict}; "
                   f"ratio of medians {found.ratio:.3g}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        click.echo("  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip())
    click.echo("")
