"""Excerpts of the data plane's C, read from the package as text: it teaches on every target."""

import re
from importlib.resources import files

from labkit.errors import LabError
from labkit.markup import Fragment, code, escape

__all__ = ["excerpt", "source"]


def source(file: str, function: str) -> Fragment:
    """Return one function of the local lab's eBPF programs, with the comment before it.

    Args:
        file: such as ``tc.c``.
        function: its name.

    Raises:
        LabError: there is no such file, or it has no such function.
    """
    folder = files("labkit").joinpath("local", "dataplane", "bpf")
    try:
        start, body = excerpt(folder.joinpath(file).read_text(encoding="utf-8"), function)
    except (OSError, LookupError) as error:
        names = ", ".join(sorted(each.name for each in folder.iterdir() if each.name.endswith((".c", ".h"))))
        raise LabError(f"There is no function {function!r} in {file!r}.", "", f"the files are {names}.") from error
    title = f"{file}, line {start}"
    return Fragment(f'<p class="muted">{escape(title)}</p>{code(body)}', f"{title}\n{body}")


def excerpt(text: str, function: str) -> tuple[int, str]:
    """Return where a C function starts, and its lines.

    Args:
        text: of a C file in kernel style: bodies end with a brace in the first column.
        function: its name.

    Raises:
        LookupError: there is none.
    """
    lines = text.splitlines()
    begins = re.compile(rf"^\w[\w\s*]*\b{re.escape(function)}\(")
    for index, line in enumerate(lines):
        if begins.match(line) and not line.rstrip().endswith(";"):
            end = next(i for i in range(index, len(lines)) if lines[i].startswith("}"))
            first = index
            while first and lines[first - 1].startswith(("SEC(", "/*", " *")):
                first -= 1
            return first + 1, "\n".join(lines[first : end + 1]).expandtabs(4)
    raise LookupError(f"no function {function!r} here")
