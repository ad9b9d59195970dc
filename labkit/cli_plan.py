"""`labkit plan`: what a plan would do on this cluster, and which of it holds already. It does nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from labkit.lab import Lab
    from labkit.plan import Evidence, Plan

_WIDTH = 100


def _plan_of(lab: Lab, what: str) -> Plan:
    makers: dict[str, Callable[[], Plan]] = {
        "enable-ebpf": lab.enable_ebpf, "disable-ebpf": lab.disable_ebpf, "create": lab.create_cluster,
        "clean-up": lab.clean_up,
    }
    return makers[what]()


def lines(plan: Plan, look: Callable[[int], Evidence]) -> Iterator[str]:
    """A plan as text: what for, and for each step whether it holds, why it is there, and its command.

    Args:
        plan: the plan.
        look: says of the step of a number whether its effect is there.
    """
    yield plan.title
    for paragraph in plan.note.splitlines():
        yield from textwrap.wrap(paragraph, _WIDTH)
    for number, step in enumerate(plan.steps):
        seen = look(number)
        yield ""
        yield f"{number + 1}. {step.title}  [{step.id}]"
        yield from textwrap.wrap(f"{'holds already' if seen.ok else 'to do'}: {seen.text}", _WIDTH,
                                 initial_indent="   ", subsequent_indent="     ")
        yield from textwrap.wrap(step.why, _WIDTH, initial_indent="   ", subsequent_indent="   ")
        yield ""
        yield from step.command.splitlines()  # at the margin: a here-document ends only there


@click.command()
@click.argument("what", type=click.Choice(["enable-ebpf", "disable-ebpf", "create", "clean-up"]), default="enable-ebpf")
@click.option("--target", type=click.Choice(["local", "aks", "kind"]), help="[default: LABKIT_TARGET, else local]")
@click.option("--cluster", default="MyCalicoCluster", show_default=True, help="The cluster.")
@click.option("--resource-group", default="CalicoDemoRG", show_default=True, help="Its resource group.")
def plan(what: str, target: str | None, cluster: str, resource_group: str) -> None:
    """Print what a plan would do on this cluster; do nothing.

    The steps are those that are right for this cluster: its versions, its network, who manages what. Each says
    whether its effect is there already. WHAT is enable-ebpf where it is not given.
    """
    from labkit.lab import Lab
    from labkit.plan import check_step

    lab = Lab.open(target, cluster=cluster, resource_group=resource_group, start=False)
    try:
        found = _plan_of(lab, what)
        for line in lines(found, lambda number: check_step(found.steps[number])):
            click.echo(line)
        click.echo("\nNothing was changed.")
    finally:
        lab.close()
