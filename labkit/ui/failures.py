"""An error that says what to do is shown as that, not as a walk through labkit's modules."""

import asyncio
import sys
import traceback
from types import TracebackType
from typing import Any

from labkit.course.course import ChecksNotPassed
from labkit.errors import LabError
from labkit.ui import interrupts

__all__ = ["install", "lines"]


def install() -> None:
    """Have the kernel show labkit's own errors without the library's frames; nothing without a kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        interrupts.install(shell)
        shell.set_custom_exc(
            (LabError, ChecksNotPassed, NameError, KeyboardInterrupt, asyncio.CancelledError), _show
        )


def lines(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> list[str]:
    """Return the error in words, below the line of the cell that met it."""
    frames = traceback.extract_tb(trace)
    cells = [frame for frame in frames if _is_cell(frame.filename)]
    where = [f"line {cells[-1].lineno} of the cell: {cells[-1].line}"] if cells else []
    if isinstance(error, NameError) and cells and frames[-1] is cells[-1]:
        return [*where, f"NameError: {error}", "  Why: the cell that makes it did not run in this kernel, or failed.",
                "  What to do: run the cells above (Run > Run All Above Selected Cell), then this one."]
    if isinstance(error, KeyboardInterrupt):
        return [*where, "Interrupted.",
                "  What to do: run the cell again; it finds what is done, and does the rest."]
    if isinstance(error, asyncio.CancelledError):  # a cell that awaits a measurement
        return [*where, "Interrupted: what was measured is not kept.",
                "  What to do: run the cell again. Its own Stop ends a run too, and keeps what was measured."]
    return [*where, f"{kind.__name__}: {error}", "(%tb shows where in labkit)"]


def _is_cell(file: str) -> bool:
    # ipykernel compiles cells under /tmp/ipykernel_<pid>/, IPython as <ipython-input-…>.
    return "ipykernel_" in file or file.startswith("<ipython-input")


def _show(
    shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None
) -> None:
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # for %tb
    shell._showtraceback(kind, error, lines(kind, error, trace))
