"""Find the local lab's daemon, and start it where that needs nothing from the user.

It is the one module of the library that knows `labkit.local`, and it hands over plain data only.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from labkit.errors import LabNotRunningError


def ensure_running(*, start: bool = True) -> dict[str, Any]:
    """What the running daemon says about itself, with "home" added; as root it is started if need be.

    Args:
        start: False for who only looks: looking starts nothing.

    Raises:
        LabNotRunningError: it is not running, and shall not or cannot be started from here.
    """
    from labkit.local.paths import LabPaths
    from labkit.local.server import lifecycle
    from labkit.local.server.errors import LabError as ServerError

    paths = LabPaths.default()
    found = lifecycle.running(paths)
    if found is None and not start:
        raise LabNotRunningError("The local lab is not running.", f"no daemon answers for {paths.home}.",
                                 "start it with `sudo labkit up`, and run this again.")
    if found is None and os.geteuid() != 0:
        raise LabNotRunningError(
            "The local lab is not running.",
            f"no daemon answers for {paths.home}, and only root can start one: it makes network namespaces "
            "and loads eBPF programs.",
            "start it in a terminal with `sudo labkit up`, and run this cell again.")
    try:
        info = found or lifecycle.up(paths)
    except ServerError as error:
        raise LabNotRunningError("The local lab does not start.", error.what, error.fix) from error
    return {**asdict(info), "home": str(paths.home)}
