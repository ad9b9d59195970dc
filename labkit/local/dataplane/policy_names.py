"""Which policy each rule of an interface comes from, for `calico-node -bpf policy dump`.

The map of rules has no names, and Calico's has none either: Felix writes them into files, and the command reads those.
Here they are symbolic links in the node's bpffs, one for each direction of an interface, whose text is what they say:
so they live, and go, with the maps that they describe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

FOLDER = "policy"
Names = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
"""By interface: the names of the policies that the rules of its ingress list come from, and of its egress list."""
_LONGEST = 4000          # characters of a link's text


def write(bpffs: Path, names: Names) -> None:
    """Make the links of all interfaces be these."""
    folder = bpffs / FOLDER
    wanted = {f"{interface}-{direction}": text(listed) for interface, lists in names.items()
              for direction, listed in zip(("ingress", "egress"), lists, strict=True)}
    folder.mkdir(exist_ok=True)
    there = {link.name: str(link.readlink()) for link in folder.iterdir() if link.is_symlink()}
    for name in there.keys() - {name for name, said in wanted.items() if there.get(name) == said}:
        (folder / name).unlink()
    for name, said in wanted.items():
        if there.get(name) != said:
            (folder / name).symlink_to(said)


def read(bpffs: Path, interface: str, direction: str) -> list[str]:
    """The name of each rule's policy, by its index; fewer where there was no room for all."""
    try:
        said = str((bpffs / FOLDER / f"{interface}-{direction}").readlink())
    except OSError:
        return []
    return [name for name, times in json.loads(said) for _ in range(times)]


def text(names: tuple[str, ...]) -> str:
    """Names and how often each follows itself, as far as they have room. Pure."""
    runs = [[name, len(list(group))] for name, group in groupby(names)]
    while len(said := json.dumps(runs, separators=(",", ":"))) > _LONGEST:
        runs.pop()
    return said


def shown(name: str) -> tuple[str, str]:
    """Calico's kind and name of a policy that iptables' chains have as "default/knp.default.web". Pure."""
    namespace, slash, short = name.rpartition("/")
    if short.startswith("knp.default."):
        return "KubernetesNetworkPolicy", f"{namespace}/{short.removeprefix('knp.default.')}"
    short = short.removeprefix("default.")
    return ("NetworkPolicy", f"{namespace}/{short}") if slash else ("GlobalNetworkPolicy", short)
