"""`labkit doctor`: check this machine and the target; if there is a cluster, that too."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from labkit.doctor import Report


@click.command()
@click.option("--target", type=click.Choice(["local", "aks", "kind"]), help="[default: LABKIT_TARGET, else local]")
@click.option("--cluster", default="MyCalicoCluster", show_default=True, help="The cluster to look at.")
@click.option("--resource-group", default="CalicoDemoRG", show_default=True, help="Its resource group.")
@click.option("--all", "everything", is_flag=True, help="Also print checks that found nothing.")
@click.option("--explain", metavar="ID", help="Say what is known about one check, and look at nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON, for programs.")
def doctor(target: str | None, cluster: str, resource_group: str, everything: bool, explain: str | None,
           as_json: bool) -> None:
    """Say what is wrong, why, and how to mend it.

    Looks at this machine, the target and the cluster. Problems come first, each with its id and its source.
    Exits with 1 when there is one.
    """
    if explain is not None:
        click.echo(_explained(explain))
        return
    reports = _looked(target, cluster, resource_group)
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=1, ensure_ascii=False))
    else:
        for report in reports:
            click.echo(str(report) if everything else report.brief())
    sys.exit(0 if all(report.ok for report in reports) else 1)


def _looked(target: str | None, cluster: str, resource_group: str) -> list[Report]:
    """The reports on this machine and the target, and on the cluster where there is one."""
    from labkit.doctor.preflight import without_a_lab
    from labkit.errors import LabNotRunningError
    from labkit.lab import Lab

    try:
        lab = Lab.open(target, cluster=cluster, resource_group=resource_group, start=False)
    except LabNotRunningError as error:
        return [without_a_lab(error)]
    reports = [lab.preflight()]
    # A cluster that is stopped or failed is looked at too: that is what may be wrong with it.
    own = lab.settings  # with LABKIT_STUDENT the names are the student's
    if lab.target.arm_url is None or (reports[0].ok and lab.azure.cluster(own.resource_group, own.name)):
        reports.append(lab.diagnose())
    elif reports[0].ok:
        click.echo(f"There is no cluster {own.name} to look at yet.", err=True)
    return reports


def _explained(row_id: str) -> str:
    """What the doctor knows of an id.

    Raises:
        ClickException: it knows none of that name.
    """
    import difflib

    from labkit.doctor import rows

    known = {row.id: row for row in rows()}
    if row_id in known:
        return str(known[row_id])
    near = difflib.get_close_matches(row_id, known, cutoff=0.4)
    raise click.ClickException(f"There is no check {row_id!r}.\n  What to do: name one of "
                               f"{', '.join(near or known)}; docs/troubleshooting.md lists all.")
