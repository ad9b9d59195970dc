"""`labkit run`: the course without a person in front of it."""

import sys
from pathlib import Path

import click

__all__ = ["run"]


@click.command()
@click.argument("notebooks", nargs=-1)
@click.option(
    "-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a notebook's parameter."
)
@click.option(
    "-o", "--results", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
    show_default=True, help="A folder named after the time is made in it.",
)  # fmt: skip
def run(notebooks: tuple[str, ...], parameters: tuple[tuple[str, str], ...], results: Path) -> None:
    """Execute NOTEBOOKS, all where none is named, and write a report.

    Name them by number (03), name (03_enable_ebpf) or path. Stops at the first cell that fails, says which and
    what to do, and exits with 1.
    """
    from labkit.headless import NotebookRun, run_course
    from labkit.headless.notebooks import literal

    def start(file: Path) -> None:
        click.echo(f"  {file.stem:<28}", nl=False)

    def end(result: NotebookRun) -> None:
        click.echo(f"{'failed' if result.failure else 'ok':<7}{result.seconds:6.1f} s")

    course = run_course(
        notebooks,
        parameters={name: literal(value) for name, value in parameters},
        results=results,
        on_start=start,
        on_end=end,
    )
    for result in course.notebooks:
        if failure := result.failure:
            click.echo(f"\n{result.name}, cell {failure.cell}:", err=True)
            click.echo("\n".join(f"    {line}" for line in failure.source.splitlines()), err=True)
            click.echo(failure.error, err=True)
            if failure.hint not in failure.error:
                click.echo(f"What to do: {failure.hint}.", err=True)
    count = len(course.notebooks)
    click.echo(f"\n{count} notebook{'s' * (count != 1)} in {course.seconds:.0f} s; report: {course.report}")
    sys.exit(0 if course.ok else 1)
