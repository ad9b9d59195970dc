"""`labkit classroom`: clusters for a class, made and deleted together."""

from __future__ import annotations

import sys
from typing import Any

import click

_OPTIONS = (
    click.argument("students", nargs=-1),
    click.option("--count", type=click.IntRange(1, 200), help="Students 01, 02 … instead of names."),
    click.option("--target", type=click.Choice(["local", "aks"]), help="[default: LABKIT_TARGET, else local]"),
    click.option("--subscription", help="[default: AZURE_SUBSCRIPTION_ID, else az's]"),
    click.option("--location", default="canadaeast", show_default=True, help="Azure's region."),
)


def _options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def classroom() -> None:
    """Make and delete the clusters of a class.

    Each student has one, in a group of its own, and opens it with LABKIT_STUDENT=07, or
    Lab.open(student="07").
    """


@classroom.command()
@_options
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True,
              help="After which the labs count as forgotten.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def create(students: tuple[str, ...], count: int | None, target: str | None, subscription: str | None,
           location: str, hours: float, yes: bool) -> None:
    """Make a cluster for each of STUDENTS.

    Run again, it makes what is left.
    """
    from labkit.azure.cost import estimate

    room, lab = _classroom(students, count, target, subscription, location)
    number, hourly = len(room.settings), estimate(lab.settings).per_hour
    click.echo(f"{number} clusters of {lab.settings.node_count} × {lab.settings.node_vm_size} in {location}, "
               f"{2 * lab.settings.node_count * number} vCPUs: on Azure about ${number * hourly:.2f} an hour; "
               f"they may go after {hours:g} h.")
    if yes or click.confirm("Make them?"):
        _end(room.create(hours), "labkit classroom delete deletes what is there")


@classroom.command()
@_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(students: tuple[str, ...], count: int | None, target: str | None, subscription: str | None,
           location: str, yes: bool) -> None:
    """Delete their clusters and groups, and see that they are gone."""
    room, _ = _classroom(students, count, target, subscription, location)
    groups = ", ".join(settings.resource_group for settings in room.settings.values())
    if yes or click.confirm(f"Delete {groups} with all that is in them?"):
        _end(room.delete(), "they may still cost money; run it again")


def _classroom(students: tuple[str, ...], count: int | None, target: str | None, subscription: str | None,
               location: str) -> tuple[Any, Any]:
    from labkit.azure.classroom import Classroom
    from labkit.azure.settings import ClusterSettings
    from labkit.lab import Lab

    names = [*students, *(f"{number:02}" for number in range(1, (count or 0) + 1))]
    if not names:
        raise click.UsageError("Name students, or say how many with --count.")
    lab = Lab.open(target, subscription=subscription, location=location)
    return Classroom(lab.azure, ClusterSettings(location=location), names,
                     lambda student, line: click.echo(f"{student:<10} {line}")), lab


def _end(outcomes: list[Any], advice: str) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    click.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} are done.")
    for outcome in failed:
        click.echo(f"{outcome.student}: {outcome.cluster} in {outcome.group}: {outcome.error}", err=True)
    if failed:
        click.echo(f"Not done: {', '.join(outcome.group for outcome in failed)}; {advice}.", err=True)
    sys.exit(1 if failed else 0)
