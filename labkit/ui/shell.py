"""Commands as a learner would type them, with the lab's environment."""

import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.lab import Lab

__all__ = ["sh"]

_INSTALL = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/ (1.31 or later)",
    "az": "https://learn.microsoft.com/cli/azure/install-azure-cli",
}


def sh(lab: "Lab", command: str, *, timeout: float = 60) -> None:
    """Run one command with the lab's KUBECONFIG and Azure settings; print it and what it answers.

    Only for looking: nothing in the course depends on its output, so a machine without the tool loses the
    view and no more.

    Args:
        lab: whose environment to use.
        command: such as ``kubectl get nodes``; no shell reads it.
        timeout: seconds.
    """
    print(f"$ {command}")
    argv = shlex.split(command)
    if shutil.which(argv[0]) is None:
        print(f"({argv[0]} is not installed here; see {_INSTALL.get(argv[0], 'your distribution')})")
        return
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **lab.target.env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"(no answer within {timeout:.0f} s)")
        return
    print((done.stdout + done.stderr).rstrip())
