"""`labkit doctor`: check this machine and the target; if there is a cluster, that too."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--target", type=click.Choice(["local", "aks", "kind"]), help="[default: LABKIT_TARGET, else local]")
@click.option("--cluster", default="MyCalicoCluster", show_default=True, help="The cluster to look at.")
@click.option("--resource-group", default="CalicoDemoRG", show_default=True, help="Its resource group.")
@click.option("--all", "everything", is_flag=True, help="Also print checks that found nothing.")
def doctor(target: str | None, cluster: str, resource_group: str, everything: bool) -> None:
    """Check this machine, the target and the cluster; say what is wrong, why, and how to mend it."""
    from labkit.lab import Lab

    lab = Lab.open(target, cluster=cluster, resource_group=resource_group)
    reports = [lab.preflight()]
    if lab.exists():
        reports.append(lab.diagnose())
    else:
        click.echo(f"There is no cluster {cluster} to look at yet.", err=True)
    for report in reports:
        click.echo(str(report) if everything else report.brief())
    sys.exit(0 if all(report.ok for report in reports) else 1)
