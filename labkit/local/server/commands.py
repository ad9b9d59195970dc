"""The commands that start, look at and end the local lab."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from pathlib import Path

import click

from labkit import machine
from labkit.local.paths import LabPaths
from labkit.local.server import environment, errors, lifecycle, report

_CLIENT_NAME = re.compile("[a-z][a-z0-9]{0,11}")


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Loopback port; 0 takes any free one. [default: 10443]")
def up(port: int | None) -> None:
    """Start the local lab, or find it running."""
    paths, started = LabPaths.default(), time.monotonic()
    already = lifecycle.running(paths) is not None
    info = lifecycle.up(paths, port=port)
    if already:
        click.echo(f"The lab is running: {info.url}")
    else:
        click.echo(f"The lab is up after {time.monotonic() - started:.1f} s: {info.url}")
    click.echo('Next: `labkit run`, `make lab`, or `eval "$(labkit env)"` for az and kubectl.')


@click.command()
def down() -> None:
    """Stop the local lab and remove what it made; results stay."""
    removed = lifecycle.down(LabPaths.default())
    click.echo(f"Removed: {', '.join(removed)}." if removed else "Nothing of the lab was left.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show clusters, nodes, data planes and what the lab uses."""
    paths = LabPaths.default()
    if not (info := lifecycle.running(paths)):
        raise errors.NotRunningError
    click.echo(report.as_json(paths, info) if as_json else report.as_text(paths, info))


@click.command()
def env() -> None:
    r"""Print what a shell needs: eval "$(labkit env)".

    After it az, kubectl and the SDKs talk to the lab, logged in.
    """
    paths = LabPaths.default()
    if not (info := lifecycle.running(paths)):
        raise errors.NotRunningError
    for line in environment.script(info, paths.home, os.environ, Path(sys.executable).parent):
        click.echo(line)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def client(name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as an outside client: alice, bob, or a new NAME."""
    from labkit.local.fabric import Fabric

    paths = LabPaths.default()
    if not lifecycle.running(paths):
        raise errors.NotRunningError
    if os.geteuid() != 0:
        raise errors.NotRootError(f"labkit client {name} {shlex.join(command)}")
    if not _CLIENT_NAME.fullmatch(name):
        raise errors.LabError(
            f"{name!r} cannot be a client's name: it becomes part of a network namespace's.",
            fix="use up to 12 lower-case letters and digits, such as carol.",
        )
    outside = Fabric(paths).ensure_client(name)
    words = ["nsenter", f"--net=/run/netns/{outside.netns}", "--"]
    if (uid := os.environ.get("SUDO_UID")) and (gid := os.environ.get("SUDO_GID")):
        words += ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--"]
    try:
        os.execvp(words[0], [*words, *command])
    except FileNotFoundError as error:
        lacking = tuple(need for need in machine.needs() if need.name == words[0])
        raise errors.MissingToolError(lacking) from error
