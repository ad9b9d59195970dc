"""`labkit gc`: find forgotten labs, and delete what is yours and expired."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--target", type=click.Choice(["local", "aks"]), help="[default: LABKIT_TARGET, else local]")
@click.option("--subscription", help="[default: AZURE_SUBSCRIPTION_ID, else az's]")
@click.option("--owner", help="Whose labs.  [default: LABKIT_OWNER, else your user's name]")
@click.option("--delete", is_flag=True, help="Ask, then delete what has expired.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
def gc(target: str | None, subscription: str | None, owner: str | None, delete: bool, yes: bool) -> None:
    """List groups that labkit has made; delete what has expired.

    Only --delete and --yes delete, and only what is yours. Anything in doubt is kept, and the reason is said.
    """
    from labkit.azure import gc as collecting
    from labkit.errors import LabNotRunningError
    from labkit.lab import Lab
    from labkit.plan import PrintReporter, run

    try:
        lab = Lab.open(target, subscription=subscription, start=False)
    except LabNotRunningError:
        click.echo("The local lab is not running, and nothing of it costs money. `labkit down` removes what it left "
                   "on this machine; for Azure: `labkit gc --target aks`.")
        return
    verdicts = collecting.find(lab.azure, owner)
    for verdict in verdicts:
        inside = f" [{', '.join(verdict.clusters)}]" if verdict.clusters else ""
        click.echo(f"{'expired' if verdict.delete else 'kept':<8} {verdict.group}{inside}: {verdict.why}")
    if not verdicts:
        click.echo("labkit has made nothing here that is still there.")
    plan = collecting.plan(lab.azure, verdicts, owner)
    if not plan.steps:
        return
    if not (delete or yes):
        click.echo("Nothing was deleted. `labkit gc --delete` asks and deletes what has expired.")
        return
    groups = ", ".join(verdict.group for verdict in verdicts if verdict.delete)
    if not yes and not click.confirm(f"Delete {groups}, and all that is inside?"):
        return
    ok = True
    for step in plan.steps:  # one that fails must not keep the others
        result = run(type(plan)(plan.id, plan.title, (step,)), PrintReporter(verbose=True, write=click.echo))
        for failed in result.steps:
            if failed.error:
                click.echo(str(failed.error), err=True)
        ok = ok and result.ok
    sys.exit(0 if ok else 1)
