"""The command line: `labkit up`, `run`, `status`, `env`, `client`, `down`."""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar, NoReturn

import click

import labkit


class _Group(click.Group):
    """Loads a command's module when it is used, so that `labkit up` need not import plotly."""

    commands_by_module: ClassVar[dict[str, tuple[str, ...]]] = {
        "labkit.local.server.commands": ("up", "down", "status", "env", "client"),
        "labkit.cli_run": ("run",),
        "labkit.cli_bench": ("bench",),
        "labkit.cli_doctor": ("doctor",),
        "labkit.cli_plan": ("plan",),
        "labkit.cli_gc": ("gc",),
        "labkit.cli_classroom": ("classroom",),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in self.commands_by_module.values() for name in names]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        import importlib

        for module, names in self.commands_by_module.items():
            if name in names:
                command: Any = getattr(importlib.import_module(module), name)
                return command  # type: ignore[no-any-return]
        return None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(labkit.__version__, prog_name="labkit")
def cli() -> None:
    """A course that you run: Calico's eBPF data plane on AKS, with a local lab that needs no cloud."""


def main() -> None:
    """Run a command; what a user can mend is said in words, never as a traceback."""
    from labkit.errors import LabError

    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as error:
        _fail(error)
    except OSError as error:
        _fail(LabError(f"{error.filename or 'The system'}: {error.strerror or error}.", "",
                       "see that the folder exists and is yours to write, and that there is room."))
    except Exception as error:
        if os.environ.get("LABKIT_DEBUG"):
            raise
        _fail(LabError(f"Something that labkit does not expect: {type(error).__name__}: {error}", "",
                       "run it again with LABKIT_DEBUG=1, and report what it prints."))


def _fail(error: Exception) -> NoReturn:
    click.echo(f"labkit: {error}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
