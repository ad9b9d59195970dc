"""Whether a person can click: a front end with widgets, or a run without anybody in front of it."""

import os
import sys

__all__ = ["choose", "interactive"]

_choice: bool | None = None


def choose(interactive: bool | None) -> None:
    """Set what the notebook's parameter says: False never waits for a click, None asks the front end."""
    global _choice
    _choice = interactive


def interactive() -> bool:
    """Return whether widgets can be clicked here.

    Jupyter's server names the session that it starts a kernel for, and VS Code marks its process; papermill,
    nbval and scripts do neither. ``LABKIT_HEADLESS`` settles it for everybody.
    """
    if os.environ.get("LABKIT_HEADLESS", "") not in ("", "0") or _choice is False:
        return False
    return _in_kernel() and ("JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ)


def _in_kernel() -> bool:
    # Asking sys.modules keeps IPython out of `import labkit`.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")
