"""The images that nodes have. There is no registry: an image name stands for programs of this machine.

An image gives a container its default command, its environment and the commands that are found in it.
Everything else that the machine has in /usr is there too, read-only.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

TOOLS = "/.labkit/bin"
APPLETS = "/.labkit/busybox"
# Debian's `nc` is a link into /etc, which containers have of their own, and its BusyBox has an `nc` without -u and -z.
_EVERYWHERE = {"nc": (shutil.which("nc.openbsd") or "nc",)}
# Debian's BusyBox is built without wget's time-out: -T ends it with a segmentation fault, --timeout it refuses.
_WGET = """limit=900 next=
for word do
    shift
    if [ "$next" ]; then limit=$word next=; continue; fi
    case $word in
    --timeout=*) limit=${word#*=} ;;
    --timeout | -T) next=limit ;;
    -[!-]*T) next=limit; set -- "$@" "${word%T}" ;;
    -T*) limit=${word#-T} ;;
    *) set -- "$@" "$word" ;;
    esac
done
/usr/bin/timeout "$limit" busybox wget "$@"
code=$?
[ $code = 124 ] || exit $code
echo "wget: download timed out" >&2
exit 1
"""
_BUSYBOX = MappingProxyType({"wget": ("sh", "-c", _WGET, "wget")})
_PYTHON = MappingProxyType({"PYTHONUNBUFFERED": "1"})  # a log shows a line when it is printed
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What an image name stands for.

    Attributes:
        name: how the catalogue lists it.
        pattern: which names match, without registry and tag.
        entrypoint, cmd: as in an image's configuration.
        tools: commands that it brings, by name, as the words that run them.
        env: its environment.
        busybox: whether BusyBox's commands come before the machine's.
    """

    name: str
    pattern: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    busybox: bool = False

    @property
    def path(self) -> str:
        """The PATH of its containers."""
        parts = [TOOLS, APPLETS, _SYSTEM_PATH] if self.busybox else [TOOLS, _SYSTEM_PATH, APPLETS]
        return ":".join(parts)

    def command(self, command: Sequence[str], args: Sequence[str]) -> list[str]:
        """What a container runs, by Kubernetes' rules for `command` and `args`."""
        if command:
            return [*command, *args]
        return [*self.entrypoint, *(args or self.cmd)]

    def scripts(self) -> list[tuple[str, str]]:
        """The files that make its tools commands: (path, text)."""
        tools = _EVERYWHERE | dict(self.tools)
        quoted = {name: " ".join(_quote(word) for word in words) for name, words in tools.items()}
        return [(f"{TOOLS}/{name}", f'#!/bin/sh\nexec {line} "$@"\n') for name, line in quoted.items()]


def _quote(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def _program(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"labkit.local.programs.{module}")


def _system(name: str, pattern: str, module: str, *commands: str) -> Image:
    """An image whose first command is one of our programs, under every name that manifests call it by."""
    tools = {command: _program(module) for command in commands}
    if module in _WRITE_RULES:
        tools |= {f"ip{six}tables{verb}": (f"ip{six}tables-legacy{verb}",)
                  for six in ("", "6") for verb in ("", "-save", "-restore")}
    return Image(name, pattern, entrypoint=(commands[0],), tools=tools, env=_PYTHON)


# Their real images have a wrapper that picks the iptables which holds the node's rules: `iptables-save` in them
# shows what they wrote. Ours write by the legacy one (`dataplane.iptables`).
_WRITE_RULES = ("kube_proxy", "calico_node")


CATALOGUE: tuple[Image, ...] = (
    Image("labkit/tools", r"labkit/[\w-]+", cmd=("sleep", "infinity"), env=_PYTHON),
    _system("kube-proxy", r"(.*/)?kube-proxy(-amd64)?", "kube_proxy", "kube-proxy"),
    _system("calico/node", r"(.*/)?calico/(node|node-fips)", "calico_node", "calico-node", "start_runit"),
    _system("calico/cni", r"(.*/)?calico/cni", "install_cni", "install"),
    _system("calico/kube-controllers", r"(.*/)?calico/kube-controllers", "kube_controllers", "kube-controllers",
            "check-status"),
    _system("tigera/operator", r"(.*/)?tigera/operator", "tigera_operator", "operator"),
    _system("coredns", r"(.*/)?coredns", "coredns", "coredns"),
    _system("metrics-server", r"(.*/)?metrics-server", "metrics_server", "metrics-server"),
    Image("agnhost", r"(.*/)?agnhost", entrypoint=("agnhost",), cmd=("pause",), env=_PYTHON,
          tools={"agnhost": _program("agnhost"), "coredns": _program("coredns"), **_BUSYBOX}),
    _system("echoserver", r"(.*/)?echoserver(-amd64)?", "echoserver", "echoserver"),
    _system("nginx", r"(.*/)?nginx(-unprivileged|-slim)?", "nginx", "nginx"),
    Image("httpd", r"(.*/)?httpd", entrypoint=("httpd-foreground",), env=_PYTHON,
          tools={"httpd-foreground": (*_program("nginx"), "httpd")}),
    Image("pause", r"(.*/)?pause(-amd64)?", entrypoint=("/pause",), tools={"pause": ("sleep", "infinity")}),
    Image("busybox", r"(.*/)?busybox", cmd=("sh",), tools=_BUSYBOX, busybox=True),
    Image("alpine", r"(.*/)?alpine", cmd=("/bin/sh",), tools=_BUSYBOX, busybox=True),
    Image("debian", r"(.*/)?(debian|ubuntu|debian-iptables)", cmd=("bash",)),
    Image("dnsutils", r"(.*/)?(jessie-)?dnsutils", cmd=("sleep", "infinity")),
    Image("python", r"(.*/)?python", cmd=("python3",), env=_PYTHON, tools={"python": ("/usr/bin/python3",)}),
    Image("curlimages/curl", r"(.*/)?curlimages/curl", entrypoint=("curl",)),
    Image("nicolaka/netshoot", r"(.*/)?nicolaka/netshoot", cmd=("bash",)),
    Image("networkstatic/iperf3", r"(.*/)?networkstatic/iperf3", entrypoint=("iperf3",)),
    Image("infrabuilder/bench-iperf3", r"(.*/)?infrabuilder/(bench-iperf3|iperf3)", cmd=("iperf3", "--version")),
    Image("infrabuilder/netbench", r"(.*/)?infrabuilder/netbench", cmd=("iperf3", "-s")),
    _system("infrabuilder/bench-custom-monitor", r"(.*/)?infrabuilder/bench-custom-monitor", "monitor",
            "monit.sh", "stats.sh"),
)


def image_name(reference: str) -> str:
    """A reference without its tag and digest: "a:5000/b/c:v1@sha256:…" is "a:5000/b/c"."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


@cache
def find(reference: str) -> Image | None:
    """The image that a reference stands for; None for one that the catalogue does not have."""
    name = image_name(reference)
    return next((image for image in CATALOGUE if re.fullmatch(image.pattern, name)), None)


def names() -> list[str]:
    """What the catalogue has, for people who asked for something else."""
    return [image.name for image in CATALOGUE]
