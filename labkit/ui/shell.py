"""Commands as a learner would type them, with the lab's environment."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.markup import Fragment, output
from labkit.ui.show import show

if TYPE_CHECKING:
    from labkit.lab import Lab

__all__ = ["sh"]

_INSTALL = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/ (1.31 or later)",
    "az": "https://learn.microsoft.com/cli/azure/install-azure-cli",
}


def sh(lab: "Lab", command: str, *, timeout: float = 60) -> None:
    """Run one command with the lab's KUBECONFIG and Azure settings; show it and what it answers.

    Only for looking: nothing in the course depends on its output, so a machine without the tool loses the
    view and no more. A table wider than the notebook scrolls; it is not broken into lines.

    Args:
        lab: whose environment to use.
        command: such as ``kubectl get nodes``; no shell reads it.
        timeout: seconds.

    Raises:
        LabError: it is empty, or a quotation in it is not closed.
    """
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise LabError(f"This is not a command: {command}", f"{error}.".lower(), "close the quotation.") from error
    if not argv:
        raise LabError("There is no command.", "it is empty.", 'name one, such as "kubectl get nodes".')
    text = f"$ {command}\n{_answer(argv, lab.target.env, timeout)}"
    show(Fragment(output(text), text))


def _answer(argv: list[str], environment: Mapping[str, str], timeout: float) -> str:
    if shutil.which(argv[0]) is None:
        return f"({argv[0]} is not installed here; see {_INSTALL.get(argv[0], 'your distribution')})"
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"(no answer within {timeout:.0f} s)"
    return (done.stdout + done.stderr).strip()
