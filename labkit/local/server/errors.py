"""What can go wrong when the lab starts or stops, each with the next thing to do."""

from __future__ import annotations

from labkit import machine
from labkit.errors import LabError

__all__ = [
    "HomeError",
    "LabError",
    "MissingToolError",
    "NotRootError",
    "NotRunningError",
    "PortInUseError",
    "StartFailedError",
    "StartTimeoutError",
]


class NotRootError(LabError):
    """The lab makes namespaces and loads programs, which only root may."""

    def __init__(self, command: str) -> None:
        super().__init__(
            "The local lab needs root: it makes network namespaces and loads eBPF programs.",
            fix=f'run `sudo env PATH="$PATH" {command}`; notebooks and kubectl then work as your own user.',
        )


class MissingToolError(LabError):
    """A program that the lab runs is not on this machine."""

    def __init__(self, tools: tuple[machine.Need, ...]) -> None:
        super().__init__(
            f"Programs that the local lab needs are missing: {', '.join(need.name for need in tools)}.",
            fix=f"`make setup` installs them where it can. {machine.install(tools)}.",
        )


class PortInUseError(LabError):
    """Another program listens where the lab wants to."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Port {port} on 127.0.0.1 is in use by another program, so the lab cannot listen there.",
            fix="choose another with `labkit up --port N` (0 takes any free one), or LABKIT_PORT=N.",
        )


class HomeError(LabError):
    """The lab's folder cannot be made or written."""

    def __init__(self, home: str, reason: str) -> None:
        super().__init__(
            f"The lab cannot keep its things in {home}.", reason,
            "set LABKIT_HOME to a folder that can be written, or unset it for ~/.labkit/local.",
        )


class NotRunningError(LabError):
    """No daemon answers."""

    def __init__(self) -> None:
        super().__init__("The local lab is not running.", fix="start it with `sudo labkit up`.")


class StartTimeoutError(LabError):
    """The daemon runs, but was not ready in time."""

    def __init__(self, seconds: float, log: str) -> None:
        super().__init__(
            f"The lab's daemon was not ready after {seconds:.0f} seconds, so it was stopped again.",
            fix=f"look whether the machine is busy (`uptime`), read {log}, then run `labkit up` again.",
        )


class StartFailedError(LabError):
    """The daemon ended before it was ready."""

    def __init__(self, log: str, tail: str) -> None:
        super().__init__(
            f"The lab's daemon ended before it was ready. The end of its log:\n{tail}",
            fix=f"read {log}; `labkit down` followed by `labkit up` starts from nothing.",
        )
